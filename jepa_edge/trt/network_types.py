# SPDX-License-Identifier: Apache-2.0
"""Which precisions a network asks for: of its matrix products and convolutions."""

from __future__ import annotations

from typing import Any

from jepa_edge.trt.library import Library

NAMES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
    "INT4": "int4",
    "FP4": "fp4",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""Our words for TensorRT's data types."""

_WEIGHTED = ("MATRIX_MULTIPLY", "CONVOLUTION")
# Layers that move numbers without computing with them.
_MOVES = ("SHUFFLE", "IDENTITY", "SLICE", "SQUEEZE", "UNSQUEEZE", "CAST")


def layer_precisions(library: Library, network: Any) -> dict[str, int]:
    """Count matrix products and convolutions by the precision of their operands.

    "int8" has both operands quantized; "int8w" only its weight, and computes in float.
    """
    made: dict[str, Any] = {}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    for layer in layers:
        for slot in range(layer.num_outputs):
            made[layer.get_output(slot).name] = layer
    counts: dict[str, int] = {}
    for layer in layers:
        if layer.type.name in _WEIGHTED:
            name = _precision(layer, made)
            counts[name] = counts.get(name, 0) + 1
    return counts


def _precision(layer: Any, made: dict[str, Any]) -> str:
    operands = [_operand(layer.get_input(slot), made) for slot in range(min(layer.num_inputs, 2))]
    if layer.type.name == "CONVOLUTION" and len(operands) == 1:
        return operands[0][0]  # constant weights have the type of what they are applied to
    (first, first_quantized), (second, second_quantized) = operands
    if first_quantized and second_quantized:
        return first
    if second_quantized or first_quantized:
        return f"{second if second_quantized else first}w"
    return first


def _operand(tensor: Any, made: dict[str, Any]) -> tuple[str, bool]:
    """Return the type that an operand is held in, and whether it is dequantized on the way."""
    name = tensor.name
    kind = NAMES.get(tensor.dtype.name, tensor.dtype.name.lower())
    layer = made.get(name)
    for _ in range(16):
        if layer is None:
            break
        if layer.type.name in ("DEQUANTIZE", "DYNAMIC_QUANTIZE"):
            held = layer.get_input(0).dtype.name
            return NAMES.get(held, held.lower()), True
        if layer.type.name not in _MOVES:
            break
        layer = made.get(layer.get_input(0).name)
    return kind, False
