# SPDX-License-Identifier: Apache-2.0
"""Half precision for graphs of any size: weights in float16, each layer computed in half.

Only the layers that hold weights change: their input is cast to half and their result back, so
that the residual stream, norms, softmax and positions stay in float32, where half overflows
(TensorRT#2564, #4493). Accelerators compute the layers in half; ONNX Runtime's CPU casts the
weights back once, when it loads the file, so that there the gain is on disk only.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from jepa_edge.errors import ExportError
from jepa_edge.export.big_files import (
    add_weight,
    drop_unread,
    open_model,
    read,
    save_model,
    weighted,
)

MAX_HALF = float(np.finfo(np.float16).max)


def half_weights(source: Path, target: Path) -> dict[str, int]:
    """Write a copy of an ONNX file whose MatMul, Gemm and Conv layers are in float16.

    source, target: as for `weight_only.weight_only`. Inputs and outputs stay as they were.
    Returns the number of weighted layers by precision: {"fp16": n}.
    Raises ExportError when a weight is beyond half's range, or ONNX's checker refuses the result.
    """
    ir = importlib.import_module("onnx_ir")
    model = open_model(source)
    stored: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for node, _, _ in list(weighted(model, operators=("MatMul", "Gemm", "Conv"))):
        for slot, value in enumerate(node.inputs):
            if value is None:
                continue
            if value.is_initializer() and value.const_value.dtype == ir.DataType.FLOAT:
                if value.name not in stored:
                    stored[value.name] = _store(model, value)
                node.replace_input_with(slot, stored[value.name])
            elif not value.is_initializer():
                down = ir.node(
                    "Cast",
                    [value],
                    attributes={"to": ir.DataType.FLOAT16.value},
                    name=f"{node.name}/half.{slot}",
                )
                model.graph.insert_before(node, down)
                node.replace_input_with(slot, down.outputs[0])
        _restore_float(ir, model, node)
        counts["fp16"] = counts.get("fp16", 0) + 1
    drop_unread(model)
    save_model(model, target)
    return counts


def _restore_float(ir: Any, model: Any, node: Any) -> None:
    """Let every reader of a node's output read it cast back to float32."""
    out = node.outputs[0]
    back = ir.node(
        "Cast", [out], attributes={"to": ir.DataType.FLOAT.value}, name=f"{node.name}/float"
    )
    is_output = out.is_graph_output()
    model.graph.insert_after(node, back)
    out.replace_all_uses_with(back.outputs[0], replace_graph_outputs=is_output)
    back.replace_input_with(0, out)
    if is_output:
        back.outputs[0].name, out.name = out.name, f"{out.name}/half"
        back.outputs[0].shape, back.outputs[0].type = out.shape, ir.TensorType(ir.DataType.FLOAT)
    out.type = ir.TensorType(ir.DataType.FLOAT16)


def _store(model: Any, value: Any) -> Any:
    ir = importlib.import_module("onnx_ir")
    tensor, name = value.const_value, value.name

    def make() -> Any:
        values = read(tensor)
        if np.abs(values).max(initial=0.0) > MAX_HALF:
            raise ExportError(
                f"{name} holds a weight beyond {MAX_HALF:g}, the largest in half precision; "
                "leave fp16 out of --precision"
            )
        return ir.Tensor(values.astype(np.float16), name=f"{name}/half")

    shape = tuple(int(size) for size in tensor.shape)
    return add_weight(model, f"{name}/half", ir.DataType.FLOAT16, shape, make)
