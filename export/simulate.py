# SPDX-License-Identifier: Apache-2.0
"""Graphs that only TensorRT runs, made runnable on ONNX Runtime's CPU for measuring accuracy.

FP8: ONNX Runtime rounds to E4M3 itself; only its fusions, which take E4M3 for int8, must be off.
NVFP4: it knows neither E2M1 weights nor the operator that quantizes activations at run time, so
both are replaced by their definition in float32: weights restored, activations divided by E4M3
block scales and rounded to E2M1's numbers, halves to even. What is not simulated is the order of
sums inside TensorRT's kernels, and float16 in their products.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.export.onnx_graph import GraphIndex, make_session, prune, run_model

Feeds = Mapping[str, NDArray[np.generic]]

_FP4_LARGEST, _FP8_LARGEST = 6.0, 448.0
_DYNAMIC = "TRT_FP4DynamicQuantize"


def what_is_simulated(model: Any) -> str:
    """Return what of a graph ONNX Runtime's CPU cannot run as it is; empty for nothing."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    if TensorProto.FLOAT4E2M1 in kinds:
        return "E2M1 and E4M3 rounding by their definition, products in float32"
    if TensorProto.FLOAT8E4M3FN in kinds:
        return "E4M3 rounding by ONNX Runtime, products in float"
    return ""


def simulated(model: Any) -> Any:
    """Return a graph that ONNX Runtime runs and that computes what `model` is to compute.

    The same graph where nothing is to be replaced. The replacement runs only here: it holds
    restored float weights.
    """
    if not any(t.data_type == TensorProto.FLOAT4E2M1 for t in model.graph.initializer):
        return model
    index = GraphIndex(model)
    done = type(model)()
    done.CopyFrom(model)
    del done.graph.node[:]
    for node in model.graph.node:
        source = index.producers.get(node.input[0]) if node.input else None
        if node.op_type == _DYNAMIC:
            done.graph.node.extend(_quantize_activation(done, index, node))
        elif (
            node.op_type == "DequantizeLinear" and source is not None and source.op_type == _DYNAMIC
        ):
            continue  # what it restores is computed by the nodes above
        elif node.op_type == "DequantizeLinear" and _is_fp4(index, node.input[0]):
            weight = _restored(index, node)
            done.graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        else:
            done.graph.node.append(node)
    prune(done)
    for opset in list(done.opset_import):
        if opset.domain not in ("", "ai.onnx"):
            done.opset_import.remove(opset)
    onnx.checker.check_model(done)
    return done


def run_simulated(model: Any, feeds: Feeds, threads: int = 1) -> NDArray[np.float32]:
    """Run as `run_model` does, what ONNX Runtime lacks being simulated."""
    return run_model(simulated(model), feeds, threads)


class SimulatedGraph:
    """A graph of a file, as `jepa_edge.backends.Graph`; for accuracy, its time says nothing."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Raises whatever ONNX or ONNX Runtime do where the file is no graph."""
        self._session = make_session(simulated(onnx.load(path)), threads)
        self.inputs = frozenset(value.name for value in self._session.get_inputs())

    def __call__(self, feeds: Feeds) -> NDArray[np.float32]:
        """Run on inputs by name. Returns the one output."""
        output: NDArray[np.float32] = self._session.run(None, dict(feeds))[0]
        return output


def _is_fp4(index: GraphIndex, name: str) -> bool:
    tensor = index.initializers.get(name)
    return tensor is not None and tensor.data_type == TensorProto.FLOAT4E2M1


def _restored(index: GraphIndex, node: Any) -> NDArray[np.float32]:
    """What a DequantizeLinear of stored E2M1 gives: value x E4M3 block scale x scale of all."""
    scale_node = index.producers[node.input[1]]
    values, blocks, whole = (
        index.constant(name) for name in (node.input[0], scale_node.input[0], scale_node.input[1])
    )
    assert values is not None
    assert blocks is not None
    assert whole is not None
    scales = blocks.astype(np.float32) * whole.astype(np.float32)
    size = next(a.i for a in node.attribute if a.name == "block_size")
    restored = values.astype(np.float32) * np.repeat(scales, size, axis=-1)
    return np.ascontiguousarray(restored, np.float32)


def _quantize_activation(model: Any, index: GraphIndex, node: Any) -> list[Any]:
    """Nodes for: block scale to E4M3, number to E2M1, and both back, under the restored name."""
    size = next(a.i for a in node.attribute if a.name == "block_size")
    whole = index.constant(node.input[1])
    assert whole is not None
    restore_scale = index.consumers[node.output[1]][0]
    restore = index.consumers[node.output[0]][0]
    assert restore.input[1] == restore_scale.output[0]
    made: list[Any] = []
    prefix = f"{node.name}/simulated"

    def constant(name: str, value: Any) -> str:
        model.graph.initializer.append(
            numpy_helper.from_array(np.asarray(value), f"{prefix}/{name}")
        )
        return f"{prefix}/{name}"

    def add(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        made.append(
            helper.make_node(op, inputs, [name], name=f"{prefix}/{len(made)}", **attributes)
        )
        return name

    def step(op: str, *inputs: str, **attributes: Any) -> str:
        return add(op, list(inputs), f"{prefix}/{len(made)}.out", **attributes)

    one = constant("one", np.float32(1))
    x = step("Cast", node.input[0], to=TensorProto.FLOAT)
    shape = step("Shape", x)
    tail = constant("tail", np.array([-1, size], np.int64))
    head = step("Slice", shape, constant("0", np.array([0])), constant("-1", np.array([-1])))
    blocks = step("Reshape", x, step("Concat", head, tail, axis=0))
    peak = step("ReduceMax", step("Abs", blocks), constant("axes", np.array([-1])), keepdims=1)
    wanted = step("Div", peak, constant("six", np.float32(_FP4_LARGEST) * whole.astype(np.float32)))
    wanted = step("Min", wanted, constant("448", np.float32(_FP8_LARGEST)))
    coded = step("Cast", wanted, to=TensorProto.FLOAT8E4M3FN)
    scale = step("Mul", step("Cast", coded, to=TensorProto.FLOAT), constant("all", whole))
    empty = step("Equal", scale, constant("zero", np.float32(0)))
    scaled = step("Div", blocks, step("Where", empty, one, scale))
    size_of = step("Abs", scaled)
    # E2M1 holds 0 0.5 1 1.5 2 3 4 6: steps of a half below 2, of one below 4, then of two.
    coarse = step(
        "Where",
        step("Less", size_of, constant("4", np.float32(4))),
        one,
        constant("two", np.float32(2)),
    )
    grid = step(
        "Where",
        step("Less", size_of, constant("2", np.float32(2))),
        constant("half", np.float32(0.5)),
        coarse,
    )
    rounded = step("Mul", step("Round", step("Div", scaled, grid)), grid)
    kept = step(
        "Clip",
        rounded,
        constant("low", np.float32(-_FP4_LARGEST)),
        constant("high", np.float32(_FP4_LARGEST)),
    )
    add("Reshape", [step("Mul", kept, scale), shape], restore.output[0])
    return made
