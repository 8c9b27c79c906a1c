# SPDX-License-Identifier: Apache-2.0
"""What stands between a run-time tensor and a foreign graph's: each step as numpy and as ONNX.

The numpy form prepares inputs for the untouched file, which is the reference of the imported one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operator. value: dtype of a Cast, constant of Mul, Sub and Div, permutation of a
    Transpose, shape of a Reshape (0 keeps an axis), index along axis 1 of a Gather."""

    op: Literal["Cast", "Mul", "Sub", "Div", "Transpose", "Reshape", "Gather"]
    value: Any

    def apply(self, array: Array) -> Array:
        """Do it in numpy."""
        if self.op == "Cast":
            return np.asarray(array.astype(self.value))
        if self.op == "Transpose":
            return np.transpose(array, self.value)
        if self.op == "Gather":
            return np.asarray(np.take(array, self.value, axis=1))
        if self.op == "Reshape":
            kept = [array.shape[i] if n == 0 else n for i, n in enumerate(self.value)]
            return array.reshape(kept)
        constant = np.asarray(self.value, np.float32)
        calculate = {"Mul": np.multiply, "Sub": np.subtract, "Div": np.divide}[self.op]
        result: Array = calculate(array, constant)
        return result

    def told(self) -> str:
        """The step in a few words."""
        value = self.value
        if self.op == "Cast":
            return f"cast to {np.dtype(value)}"
        if self.op == "Gather":
            return "newest step only" if value == -1 else f"step {value} only"
        if self.op in ("Transpose", "Reshape"):
            numbers = ", ".join(
                "same" if n == 0 and self.op == "Reshape" else str(n) for n in value
            )
            return f"{self.op.lower()} to ({numbers})"
        words = {"Mul": "multiply by", "Sub": "subtract", "Div": "divide by"}
        numbers = ", ".join(f"{n:.6g}" for n in np.ravel(value)[:4])
        more = ", ..." if np.size(value) > 4 else ""
        return f"{words[self.op]} {numbers}{more}"

    def emit(self, graph: Any, source: str, target: str) -> None:
        """Append the node, and its constant, to an ONNX graph."""
        constant = f"{target}/constant"
        if self.op == "Cast":
            to = helper.np_dtype_to_tensor_dtype(np.dtype(self.value))
            node = helper.make_node("Cast", [source], [target], to=to)
        elif self.op == "Transpose":
            node = helper.make_node("Transpose", [source], [target], perm=list(self.value))
        elif self.op == "Gather":
            _constant(graph, constant, np.array(self.value, np.int64))
            node = helper.make_node("Gather", [source, constant], [target], axis=1)
        else:
            dtype = np.int64 if self.op == "Reshape" else np.float32
            _constant(graph, constant, np.asarray(self.value, dtype))
            node = helper.make_node(self.op, [source, constant], [target])
        node.name = target
        graph.node.append(node)


def _constant(graph: Any, name: str, value: Array) -> None:
    graph.initializer.append(numpy_helper.from_array(value, name))


def apply_steps(steps: Iterable[Step], array: Array) -> Array:
    """Apply all steps in numpy; the result is contiguous."""
    for step in steps:
        array = step.apply(array)
    return np.ascontiguousarray(array)


def wrap_input(model: Any, inner: str, value: Any, steps: Sequence[Step]) -> None:
    """Put steps in front of the input `inner`, in place; `value` (ValueInfo) takes its place."""
    graph = model.graph
    nodes = list(graph.node)
    del graph.node[:]
    _chain(graph, value.name, inner, steps)
    graph.node.extend(nodes)
    position = next(i for i, old in enumerate(graph.input) if old.name == inner)
    graph.input[position].CopyFrom(value)


def wrap_output(model: Any, inner: str, value: Any, steps: Sequence[Step]) -> None:
    """Put steps behind the output `inner`, in place; `value` becomes the only output."""
    _chain(model.graph, inner, value.name, steps)
    del model.graph.output[:]
    model.graph.output.append(value)


def _chain(graph: Any, source: str, target: str, steps: Sequence[Step]) -> None:
    if not steps:
        graph.node.append(helper.make_node("Identity", [source], [target], name=f"{target}/named"))
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        # Names with the run-time name in them: two chains of one graph never collide.
        following = target if last else f"{source.split('//')[0]}//{index}.{step.op}"
        step.emit(graph, source, following)
        source = following


def rename_tensor(graph: Any, old: str, new: str) -> None:
    """Rename a tensor everywhere in a graph and in the graphs inside it, in place."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if value.name == old:
            value.name = new
    for sparse in graph.sparse_initializer:
        if sparse.values.name == old:
            sparse.values.name = new
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for inner in subgraphs(node):
            rename_tensor(inner, old, new)


def subgraphs(node: Any) -> list[Any]:
    """Return the graphs in a node's attributes: bodies of If, Loop and Scan."""
    found = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            found += list(attribute.graphs)
    return found


def all_nodes(graph: Any) -> Iterable[Any]:
    """Yield all nodes, those of inner graphs too."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def tensor_names(graph: Any) -> set[str]:
    """Return every tensor name that occurs, inner graphs included."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in all_nodes(graph):
        names.update(node.input, node.output)
    return names
