# SPDX-License-Identifier: Apache-2.0
"""FP8, INT4 and NVFP4 graphs in the layout that Model-Optimizer gives them, without it.

Rounding to nearest, with ml_dtypes: good enough for a parser and a compiler, and as an independent
reading of the formats.
"""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.export.onnx_graph import GraphIndex, prune, sort_nodes
from jepa_edge.export.quantize import to_fp16
from jepa_edge.export.weight_only import weight_only

ml_dtypes = importlib.import_module("ml_dtypes")


def fp8(int8: Any) -> Any:
    """From an int8 graph: every QuantizeLinear and stored weight to E4M3, the rest to float16."""
    model = copy.deepcopy(int8)
    index = GraphIndex(model)
    done: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for slot, name in enumerate(node.input):
            tensor = index.initializers.get(name)
            if tensor is None or name in done:
                continue
            values = numpy_helper.to_array(tensor)
            if slot == 1:
                values = (values * 127 / 448).astype(np.float32)
            elif tensor.data_type == TensorProto.INT8:
                values = (values.astype(np.float32) * 448 / 127).astype(ml_dtypes.float8_e4m3fn)
            done.add(name)
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    return to_fp16(model)


def int4(float32: Path, place: Path) -> Any:
    """From an fp32 file: MatMul weights in INT4 blocks, the rest in float16."""
    weight_only(float32, place, 4)
    return to_fp16(onnx.load(place))


def nvfp4(float32: Any) -> Any:
    """From an fp32 graph: E2M1 weights and activations, E4M3 scales in blocks of 16."""
    model = to_fp16(float32)
    index = GraphIndex(model)
    shapes = onnx.shape_inference.infer_shapes(model).graph
    known = (*shapes.value_info, *shapes.input)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in known}
    for node in list(model.graph.node):
        weight = index.constant(node.input[1]) if len(node.input) > 1 else None
        if node.op_type != "MatMul" or weight is None or weight.ndim != 2:
            continue
        if weight.shape[0] % 16 or weight.shape[1] % 2:
            continue
        _to_nvfp4(model, node, weight.T.astype(np.float32), ranks[node.input[0]] > 3)
    model.opset_import[0].version = 23
    model.opset_import.append(helper.make_opsetid("trt", 1))
    sort_nodes(model)
    prune(model)
    return model


def _to_nvfp4(model: Any, node: Any, weight: Any, flat: bool) -> None:
    name, source = node.name, node.input[0]
    blocks = weight.reshape(len(weight), -1, 16)
    whole = np.float32(max(np.abs(weight).max(), 1e-6) / 6 / 448)
    scales = (np.abs(blocks).max(axis=-1) / 6 / whole).astype(ml_dtypes.float8_e4m3fn)
    used = np.maximum(scales.astype(np.float32) * whole, 1e-12)
    packed = (blocks / used[..., None]).reshape(weight.shape).astype(ml_dtypes.float4_e2m1fn)
    stored = {
        "w4": packed,
        "w8": scales,
        "w32": whole,
        "a32": np.float32(4.0 / 6 / 448),
        "columns": np.array([-1, weight.shape[1]]),
    }
    for key, values in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(values, f"{name}.{key}"))
    block = {"axis": -1, "block_size": 16}
    dequantize, half = "DequantizeLinear", {"to": TensorProto.FLOAT16}
    rows: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        (dequantize, ["w8", "w32"], ["ws"], {}),
        (dequantize, ["w4", "ws"], ["w"], block),
        ("Transpose", ["w"], ["wt"], {"perm": [1, 0]}),
        ("Cast", ["wt"], ["wh"], half),
        (
            "TRT_FP4DynamicQuantize",
            ["flat" if flat else "", "a32"],
            ["x4", "x8"],
            {**block, "scale_type": TensorProto.FLOAT8E4M3FN, "domain": "trt"},
        ),
        (dequantize, ["x8", "a32"], ["xs"], {}),
        (dequantize, ["x4", "xs"], ["rows" if flat else "x"], block),
        ("Cast", ["x"], ["xh"], half),
    ]
    if flat:  # TensorRT quantizes two or three axes
        rows += [
            ("Shape", [""], ["shape"], {}),
            ("Reshape", ["", "columns"], ["flat"], {}),
            ("Reshape", ["rows", "shape"], ["x"], {}),
        ]
    for op, inputs, outputs, attributes in rows:
        model.graph.node.append(
            helper.make_node(
                op,
                [f"{name}.{key}" if key else source for key in inputs],
                [f"{name}.{key}" for key in outputs],
                name=f"{name}.{outputs[0]}",
                **attributes,
            )
        )
    node.input[0], node.input[1] = f"{name}.xh", f"{name}.wh"
