# SPDX-License-Identifier: Apache-2.0
"""ONNX files whose weights lie in a file of their own: opened by mapping, written tensor by tensor.

Nothing here holds a model's weights in memory. A tensor is mapped from its file when it is read,
changed by a function when it is written, and let go. `NAME.onnx` has its weights in
`NAME.onnx.data` beside it; both move together.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.errors import ExportError
from jepa_edge.export.onnx_export import external_data

SMALL_BYTES = 4096
"""Tensors up to this size stay in the graph's own file, where shape inference reads them."""

_WEIGHT_SLOTS = {"MatMul": 1, "Gemm": 1, "Conv": 1}


def open_model(path: Path) -> Any:
    """Return an ONNX file as an onnx_ir.Model whose external tensors are mapped when read."""
    ir = importlib.import_module("onnx_ir")
    model = ir.load(path)
    for tensor in _external(model):
        if not Path(tensor.path).is_file():
            raise ExportError(
                f"{path} keeps its weights in {tensor.path}, which is missing; copy both files"
            )
    return model


def save_model(model: Any, path: Path) -> None:
    """Write an onnx_ir.Model and its weights, one tensor in memory at a time, and check it.

    path: of the graph; must not be the file that the model was opened from.
    Raises ExportError when ONNX's checker or its shape inference refuses the result.
    """
    ir = importlib.import_module("onnx_ir")
    data = external_data(path)
    if any(Path(tensor.path).resolve() == data.resolve() for tensor in _external(model)):
        raise ExportError(f"{data} would be written while it is read; pass another output path")
    path.parent.mkdir(parents=True, exist_ok=True)

    def let_go(tensor: Any, _: Any) -> None:
        # Called before each tensor: what was mapped for the one before is not needed again.
        for done in written:
            done.release()
        written[:] = [tensor] if isinstance(tensor, ir.ExternalTensor) else []

    written: list[Any] = []
    ir.save(model, path, external_data=data.name, size_threshold_bytes=SMALL_BYTES, callback=let_go)
    proto = onnx.load(path, load_external_data=False)
    # Intermediate shapes are only hints, and stale ones make the checker refuse an edited graph.
    del proto.graph.value_info[:]
    proto.producer_name, proto.producer_version = "jepa-edge", ""
    onnx.save(proto, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{path} is no valid ONNX: {str(error).strip().splitlines()[0]}; "
            "install the versions of the extra `export`, and report it if it stays"
        ) from error


def weighted(model: Any, *, operators: tuple[str, ...]) -> Iterator[tuple[Any, int, Any]]:
    """Yield the nodes that multiply by a stored float weight: node, slot and value of the weight.

    operators: some of MatMul, Gemm, Conv.
    """
    ir = importlib.import_module("onnx_ir")
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    for node in list(model.graph):
        if node.op_type not in operators or node.domain not in ("", "ai.onnx"):
            continue
        slot = _WEIGHT_SLOTS[node.op_type]
        value = node.inputs[slot]
        if value is None or value.const_value is None or not value.is_initializer():
            continue
        if value.const_value.dtype in floats:
            yield node, slot, value


def add_weight(
    model: Any,
    name: str,
    dtype: Any,
    shape: tuple[int, ...],
    make: Callable[[], Any],
) -> Any:
    """Add an initializer that is made by a function when it is written, and return its value.

    dtype: onnx_ir.DataType. make: returns an onnx_ir tensor of that type and shape.
    """
    ir = importlib.import_module("onnx_ir")
    tensor = ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(shape), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def read(tensor: Any) -> NDArray[np.float32]:
    """Return a tensor's values as float32 in memory of their own, and unmap its file."""
    values = np.array(tensor.numpy(), dtype=np.float32)
    if hasattr(tensor, "release"):
        tensor.release()
    return values


def drop_unread(model: Any) -> None:
    """Remove the initializers that no node reads."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def _external(model: Any) -> list[Any]:
    ir = importlib.import_module("onnx_ir")
    tensors = (value.const_value for value in model.graph.initializers.values())
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
