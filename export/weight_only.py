# SPDX-License-Identifier: Apache-2.0
"""Integer weights, float arithmetic: int8 and int4 variants that need no calibration data.

Standard ONNX on disk: a DequantizeLinear between the stored integers and the layer that reads
them, signed and symmetric. ONNX Runtime turns each pair into its MatMulNBits kernel when it loads
the file; other runtimes read the same nodes.

bits 8: one scale per output channel, opset 20. bits 4: one scale per `block` inputs of an output
channel, opset 21, quantized by ONNX Runtime's own kernel.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.export.big_files import (
    add_weight,
    drop_unread,
    open_model,
    read,
    save_model,
    weighted,
)

BLOCKS = (32, 64, 128)
MIN_WEIGHTS = 4096
"""Layers smaller than this stay in float: nothing to save, and accuracy to lose."""

_OPSET_OF_BLOCKS, _IR_OF_INT4 = 21, 10


def weight_only(
    source: Path,
    target: Path,
    bits: int,
    *,
    block: int = 32,
    exclude: Collection[str] = (),
) -> dict[str, int]:
    """Write a copy of an ONNX file whose MatMul and Gemm weights are stored as integers.

    source: float graph, of any size, with or without external data. target: another path; its
    weights go to `external_data(target)`. One layer is in memory at a time. bits: 8 or 4. block:
    inputs per scale with 4 bits. exclude: names of nodes that stay in float.
    Returns the number of weighted layers by what they are now: "int8w" or "int4w", and "fp32".
    Raises InputError: bits, block or a name in exclude is not known. ExportError: ONNX's checker
    refuses the result.
    """
    if bits not in (4, 8):
        raise InputError(f"bits is {bits}, expected 4 or 8")
    if block not in BLOCKS:
        raise InputError(f"block is {block}, expected one of {', '.join(map(str, BLOCKS))}")
    ir = importlib.import_module("onnx_ir")
    model = open_model(source)
    layers = list(weighted(model, operators=("MatMul", "Gemm", "Conv")))
    if unknown := set(exclude) - {node.name for node, _, _ in layers}:
        raise InputError(
            f"exclude names {sorted(unknown)[0]!r}, expected the names of layers such as "
            f"{', '.join(repr(node.name) for node, _, _ in layers[:3])}"
        )
    stored: dict[str, tuple[Any, Any, dict[str, int]]] = {}
    counts: dict[str, int] = {}
    for node, slot, value in layers:
        if node.name in exclude or not _fits(node, value, bits, block):
            counts["fp32"] = counts.get("fp32", 0) + 1
            continue
        if value.name not in stored:
            stored[value.name] = _store(model, value, node, bits, block)
        integers, scales, attributes = stored[value.name]
        restore = ir.node(
            "DequantizeLinear",
            [integers, scales],
            attributes=attributes,
            name=f"{node.name}/dequantize",
        )
        # One for each reader: ONNX Runtime merges it into the layer only then.
        model.graph.insert_before(node, restore)
        node.replace_input_with(slot, restore.outputs[0])
        counts[f"int{bits}w"] = counts.get(f"int{bits}w", 0) + 1
    drop_unread(model)
    if bits == 4:
        # Opset 21 widens types and adds blocks; of our operators it changes no meaning.
        model.opset_imports[""] = max(model.opset_imports[""], _OPSET_OF_BLOCKS)
        model.ir_version = max(model.ir_version, _IR_OF_INT4)
    save_model(model, target)
    return counts


def _fits(node: Any, value: Any, bits: int, block: int) -> bool:
    shape = tuple(value.const_value.shape)
    if node.op_type == "Conv" or len(shape) != 2 or shape[0] * shape[1] < MIN_WEIGHTS:
        return False
    # Whole blocks only: TensorRT refuses a last one that is shorter.
    return bits == 8 or (not _transposed(node) and shape[0] % block == 0 and shape[1] % 2 == 0)


def _transposed(node: Any) -> bool:
    return (
        node.op_type == "Gemm"
        and "transB" in node.attributes
        and node.attributes["transB"].as_int() == 1
    )


def _store(
    model: Any, value: Any, node: Any, bits: int, block: int
) -> tuple[Any, Any, dict[str, int]]:
    """Add the integers and the scales of a weight, both computed when they are written."""
    ir = importlib.import_module("onnx_ir")
    weight, name = value.const_value, value.name
    shape = tuple(int(size) for size in weight.shape)
    axis = 0 if _transposed(node) else 1  # of the output channels

    @lru_cache(maxsize=1)
    def quantized() -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        values = read(weight)
        return _int8(values, axis) if bits == 8 else _int4(values, block)

    def integers() -> Any:
        made = quantized()[0]
        if bits == 8:
            return ir.Tensor(made, name=f"{name}/int8")
        return ir.PackedTensor(made, ir.DataType.INT4, shape=shape, name=f"{name}/int4")

    def scales() -> Any:
        made = quantized()[1]
        quantized.cache_clear()  # written last
        return ir.Tensor(made, name=f"{name}/scale")

    kind = ir.DataType.INT8 if bits == 8 else ir.DataType.INT4
    scale_shape = (shape[axis],) if bits == 8 else (-(-shape[0] // block), shape[1])
    attributes = {"axis": axis} if bits == 8 else {"axis": 0, "block_size": block}
    return (
        add_weight(model, f"{name}/int{bits}", kind, shape, integers),
        add_weight(model, f"{name}/scale", ir.DataType.FLOAT, scale_shape, scales),
        attributes,
    )


def _int8(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric, the largest magnitude of each output channel at 127."""
    scale = np.abs(values).max(axis=1 - axis, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    values /= scale
    return np.rint(values, out=values).astype(np.int8), scale.reshape(-1)


def _int4(values: NDArray[np.float32], block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Symmetric, in blocks of inputs (rows); two integers per byte, low half first."""
    library = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    config = library.DefaultWeightOnlyQuantConfig(
        block_size=block, is_symmetric=True, bits=4, quant_format=library.QuantFormat.QDQ
    )
    packed, scale, _ = library.DefaultWeightOnlyQuantizer(config).qbits_block_quant(values)
    return packed, scale
