# SPDX-License-Identifier: Apache-2.0
"""A text head small enough to know by heart, written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def write_head(
    path: Path,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    **changes: Any,
) -> Path:
    """Write `embedding = mean over tokens of latents @ weight + bias` as ONNX.

    changes: input, output: names; shape: of the input; kind: of its numbers.
    """
    given, gives = changes.get("input", "latents"), changes.get("output", "embedding")
    kind = changes.get("kind", TensorProto.FLOAT)
    number = helper.tensor_dtype_to_np_dtype(kind)
    shift = np.zeros(weight.shape[1]) if bias is None else bias
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [given, "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], [gives]),
        ],
        "head",
        [
            helper.make_tensor_value_info(
                given, kind, changes.get("shape", ["B", 1, weight.shape[0]])
            )
        ],
        [helper.make_tensor_value_info(gives, kind, ["B", weight.shape[1]])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            numpy_helper.from_array(weight.astype(number), "weight"),
            numpy_helper.from_array(shift.astype(number), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(path))
    return path
