# SPDX-License-Identifier: Apache-2.0
"""The portable INT8 profile: what ONNX Runtime runs fast and TensorRT builds alike, and its check.

Opset 20; QuantizeLinear / DequantizeLinear pairs; activations signed, symmetric, one scale per
tensor; weights signed, symmetric, one scale per output channel, stored as int8; only the weight
layers (MatMul, Gemm, Conv); float biases; no quantized outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from jepa_edge.errors import ExportError
from jepa_edge.export.onnx_export import OPSET
from jepa_edge.export.onnx_graph import WEIGHTED_OPS, GraphIndex

_FORBIDDEN_OPS = frozenset(
    ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv")
)


_STORED = {
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.UINT4: "int4",
    onnx.TensorProto.FLOAT8E4M3FN: "fp8",
    onnx.TensorProto.FLOAT4E2M1: "nvfp4",
}


def check_profile(model: Any) -> None:
    """Raise ExportError, naming the first violation, unless a graph is within the profile."""
    problems = profile_violations(model)
    if problems:
        raise ExportError(
            f"the quantized graph leaves the portable INT8 profile in {len(problems)} places, "
            f"first: {problems[0]}; install the versions of the extra `export`"
        )


def profile_violations(model: Any) -> list[str]:
    """Return one line per place where a graph leaves the profile; none means that it is within."""
    index = GraphIndex(model)
    problems = [
        f"opset {opset.domain or 'ai.onnx'} {opset.version}, expected {OPSET}"
        for opset in model.opset_import
        if opset.domain not in ("", "ai.onnx") or opset.version != OPSET
    ]
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in _FORBIDDEN_OPS:
            problems.append(f"{node.name} is a {node.domain or 'ai.onnx'} {node.op_type}")
        elif node.op_type == "QuantizeLinear":
            problems += _check_quantize(index, node)
        elif node.op_type == "DequantizeLinear":
            problems += _check_dequantize(index, node)
        elif node.op_type in WEIGHTED_OPS:
            problems += _check_weighted(index, node)
    return problems


def realized_precisions(model: Any) -> dict[str, int]:
    """Count the weighted nodes by the precision that they compute in.

    int8, fp8, nvfp4: both operands are quantized. fp16, fp32: neither is. Those that only store
    their weights in fewer bits count as int8w, int4w (or fp8w, nvfp4w), and as int4 where they
    compute in half, as TensorRT's kernels for INT4 weights do.
    """
    index = GraphIndex(model)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            bits = next(a.i for a in node.attribute if a.name == "bits")
            counts[f"int{bits}w"] = counts.get(f"int{bits}w", 0) + 1
            continue
        weight = index.stored_weight(node)
        if weight is None:
            continue
        name = _STORED.get(weight.data_type, "fp32")
        if name not in ("fp32", "fp16") and not index.is_quantized(node):
            name = "int4" if name == "int4" and _restored_to_half(index, node) else f"{name}w"
        counts[name] = counts.get(name, 0) + 1
    return counts


def _restored_to_half(index: GraphIndex, node: Any) -> bool:
    restore = index.restoring(node.input[1])
    scale = None if restore is None else index.initializers.get(restore.input[1])
    return scale is not None and scale.data_type == onnx.TensorProto.FLOAT16


def _check_quantize(index: GraphIndex, node: Any) -> list[str]:
    problems = []
    if node.input[0] in index.initializers:
        problems.append(f"{node.name} quantizes a weight at run time, expected it stored as int8")
    readers = index.consumers[node.output[0]]
    if not readers or any(reader.op_type != "DequantizeLinear" for reader in readers):
        problems.append(f"{node.name} is read by something else than DequantizeLinear")
    problems += _check_per_tensor(index, node)
    for reader in readers:
        for slot in (1, 2):
            if not np.array_equal(_slot(index, node, slot), _slot(index, reader, slot)):
                problems.append(f"{reader.name} undoes {node.name} with another scale")
    return problems


def _check_per_tensor(index: GraphIndex, node: Any) -> list[str]:
    """The scale is one positive number and the zero point an int8 zero."""
    scale, zero = _slot(index, node, 1), _slot(index, node, 2)
    problems = []
    if scale is None or scale.size != 1 or not (scale > 0).all():
        problems.append(f"{node.name} is not quantized per tensor with a constant positive scale")
    if zero is None or zero.dtype != np.int8 or zero.any():
        problems.append(f"{node.name} is not signed and symmetric")
    return problems


def _check_dequantize(index: GraphIndex, node: Any) -> list[str]:
    problems = []
    is_weight = node.input[0] in index.initializers
    source = index.producers.get(node.input[0])
    if not is_weight and (source is None or source.op_type != "QuantizeLinear"):
        problems.append(f"{node.name} dequantizes neither a weight nor a quantized activation")
    if node.output[0] in index.outputs:
        problems.append(f"{node.name} quantizes a graph output")
    for reader in index.consumers[node.output[0]]:
        slots = [slot for slot, name in enumerate(reader.input) if name == node.output[0]]
        if reader.op_type not in WEIGHTED_OPS or slots != [1 if is_weight else 0]:
            role = "weight" if is_weight else "activation"
            problems.append(
                f"{reader.name} ({reader.op_type}) reads a quantized {role} at input {slots}"
            )
    if is_weight:
        problems += _check_weight(index, node)
    return problems


def _check_weight(index: GraphIndex, node: Any) -> list[str]:
    values, scale, zero = (_slot(index, node, slot) for slot in range(3))
    problems = []
    if values is None or values.dtype != np.int8 or (zero is not None and zero.any()):
        problems.append(f"{node.name} holds a weight that is not signed and symmetric int8")
        return problems
    readers = index.consumers[node.output[0]]
    channel = _output_channel_axis(readers[0]) if readers else 1
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % values.ndim
    if scale is None or scale.shape != (values.shape[channel],) or axis != channel:
        problems.append(f"{node.name} holds a weight without one scale per output channel")
    return problems


def _check_weighted(index: GraphIndex, node: Any) -> list[str]:
    """Both operands of a layer are quantized, or neither; activations alone never are."""
    quantized = [
        source is not None and source.op_type == "DequantizeLinear"
        for source in (index.producers.get(name) for name in node.input[:2])
    ]
    if quantized[0] != quantized[1]:
        return [f"{node.name} has one quantized and one float operand"]
    return []


def _output_channel_axis(node: Any) -> int:
    """Return which axis of a weighted node's weight counts its output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def _slot(index: GraphIndex, node: Any, slot: int) -> Any:
    return index.constant(node.input[slot]) if slot < len(node.input) else None
