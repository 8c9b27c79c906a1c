# SPDX-License-Identifier: Apache-2.0
"""Reading and editing ONNX graphs: what the quantizers and the profile check share."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

WEIGHTED_OPS = ("MatMul", "Gemm", "Conv")
_RUN_BATCH = 16

UNBATCHED = ("visible", "hidden")
"""Inputs of the run-time's graphs that have no batch axis: token indices."""

Feeds = Mapping[str, NDArray[np.generic]]


class GraphIndex:
    """Initializers by name, producers and consumers by tensor. Valid until the graph changes."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {output: node for node in graph.node for output in node.output}
        self.consumers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.outputs = {output.name for output in graph.output}

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return an initializer's values, or None where the tensor is computed."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_weighted(self, node: Any) -> bool:
        """Whether a node multiplies by a trained weight, stored as float or in fewer bits."""
        return self.stored_weight(node) is not None

    def stored_weight(self, node: Any) -> Any | None:
        """Return the initializer that a weighted node multiplies by; None for any other node."""
        if node.op_type not in WEIGHTED_OPS:
            return None
        restored = self.restoring(node.input[1])
        return self.initializers.get(node.input[1] if restored is None else restored.input[0])

    def is_quantized(self, node: Any) -> bool:
        """Whether both operands of a weighted node are restored from fewer bits."""
        return all(self.restoring(name) is not None for name in node.input[:2])

    def restoring(self, name: str) -> Any | None:
        """Return the DequantizeLinear that a tensor comes from, through layout and type changes."""
        source = self.producers.get(name)
        while source is not None and source.op_type in ("Cast", "Reshape", "Transpose"):
            source = self.producers.get(source.input[0])
        return source if source is not None and source.op_type == "DequantizeLinear" else None


def weighted_nodes(model: Any) -> list[Any]:
    """Return the nodes that hold the trained weights, in the order in which they run."""
    index = GraphIndex(model)
    return [node for node in model.graph.node if index.is_weighted(node)]


def layer_names(model: Any) -> tuple[str, ...]:
    """Return the names of the weighted nodes, in the order in which they run."""
    return tuple(node.name for node in weighted_nodes(model))


def keep_float(quantized: Any, reference: Any, layers: Collection[str]) -> Any:
    """Return a copy of quantized in which the named layers are the reference's float ones.

    Weight, input and bias all come from reference, so that nothing of the quantizer's smoothing or
    bias correction stays behind in a layer that is not quantized.
    """
    model = copy.deepcopy(quantized)
    index, original = GraphIndex(model), GraphIndex(reference)
    float_nodes = {node.name: node for node in reference.graph.node if node.name in layers}
    for node in model.graph.node:
        source = float_nodes.get(node.name)
        if source is None:
            continue
        node.input[:] = source.input
        names = [name for name in source.input if name in original.initializers]
        for add in original.consumers[source.output[0]]:
            if add.op_type == "Add":
                names += [name for name in add.input if name in original.initializers]
        for name in names:
            if name in index.initializers:
                index.initializers[name].CopyFrom(original.initializers[name])
            else:
                model.graph.initializer.append(original.initializers[name])
    prune(model)
    return model


def feed_floats_to_other_nodes(model: Any) -> None:
    """Let nodes that hold no weights read the float tensor behind a quantized one, in place.

    ONNX Runtime's quantizer hands a layer's quantized input to every other reader of that tensor.
    """
    index = GraphIndex(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or index.is_weighted(node):
            continue
        for slot, name in enumerate(node.input):
            undo = index.producers.get(name)
            if undo is not None and undo.op_type == "DequantizeLinear":
                quantize = index.producers.get(undo.input[0])
                if quantize is not None:
                    node.input[slot] = quantize.input[0]
    prune(model)


def prune(model: Any) -> None:
    """Remove the nodes and initializers that nothing reads, in place."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    for field, keep in (
        (graph.node, list(reversed(kept))),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
    ):
        del field[:]
        field.extend(keep)
    # Intermediate shapes are only hints, and stale ones make the checker refuse an edited graph.
    del graph.value_info[:]


def sort_nodes(model: Any) -> None:
    """Put producers before consumers, in place; some converters append nodes at the end."""
    index = GraphIndex(model)
    placed: set[str] = set()
    ordered = []
    stack = list(reversed(model.graph.node))
    while stack:
        node = stack[-1]
        sources = [index.producers[name] for name in node.input if name in index.producers]
        missing = [source for source in sources if source.output[0] not in placed]
        if missing and node.output[0] not in placed:
            stack += missing
            continue
        stack.pop()
        if node.output[0] not in placed:
            placed.add(node.output[0])
            ordered.append(node)
    ordered = [copy.deepcopy(node) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def fold_scales_into_norms(model: Any) -> None:
    """Move a constant factor that follows a LayerNormalization into its scale and bias, in place.

    SmoothQuant leaves such factors; folded, they cost nothing at run time.
    """
    index = GraphIndex(model)
    renamed: dict[str, str] = {}
    for norm in list(model.graph.node):
        readers = index.consumers[norm.output[0]] if norm.op_type == "LayerNormalization" else []
        if len(readers) != 1 or readers[0].op_type != "Mul":
            continue
        factors = [index.constant(name) for name in readers[0].input if name != norm.output[0]]
        parameters = [index.constant(name) for name in norm.input[1:]]
        factor = factors[0] if factors else None
        if factor is None or any(values is None for values in parameters):
            continue
        if factor.size != factor.shape[-1] or factor.size != parameters[0].size:  # type: ignore[union-attr]
            continue
        for slot, values in enumerate(parameters, start=1):
            assert values is not None
            name = f"{norm.input[slot]}/{norm.output[0]}/smoothed"
            scaled = (values * factor.reshape(-1)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(scaled, name))
            norm.input[slot] = name
        renamed[readers[0].output[0]] = norm.output[0]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    prune(model)


def unshare_small_initializers(model: Any) -> None:
    """Give each node its own copy of a vector that several read, in place.

    The exporter merges equal biases; a bias correction on one of them must not move the others.
    """
    seen: set[str] = set()
    index = GraphIndex(model)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            tensor = index.initializers.get(name)
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) > 1:
                continue
            if name in seen:
                copied = copy.deepcopy(tensor)
                copied.name = f"{name}/{node.name}.{slot}"
                model.graph.initializer.append(copied)
                node.input[slot] = copied.name
            seen.add(name)


def run_model(model: Any, feeds: Feeds, threads: int = 1) -> NDArray[np.float32]:
    """Run a model held in memory on the CPU, in small batches. Returns its one output."""
    session = make_session(model, threads)
    parts = [session.run(None, part)[0] for part in batches(feeds)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def make_session(model: Any, threads: int = 1) -> Any:
    """Open an ONNX Runtime session on the CPU as the robot does."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if any(t.data_type == onnx.TensorProto.FLOAT8E4M3FN for t in model.graph.initializer):
        # ONNX Runtime's fusions take any QDQ for int8, and then refuse their own graph.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def batches(feeds: Feeds, size: int = _RUN_BATCH) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Cut feeds into pieces along their first axis; those without a batch go whole into each."""
    count = max(len(values) for name, values in feeds.items() if name not in UNBATCHED)
    for start in range(0, count, size):
        yield rows_of(feeds, slice(start, start + size))


def rows_of(feeds: Feeds, rows: slice) -> dict[str, NDArray[np.generic]]:
    """Return some rows of feeds; those without a batch stay whole."""
    return {name: values if name in UNBATCHED else values[rows] for name, values in feeds.items()}
