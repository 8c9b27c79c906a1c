# SPDX-License-Identifier: Apache-2.0
"""The torch modules of this benchmark as ONNX files, with fixed shapes, made once and shared."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from jepa_edge.export.quiet import quiet

Inputs = Mapping[str, NDArray[np.float32]]


class OnnxFiles:
    """Exported files in a directory; a file that is there is used as it is.

    folder: a fresh directory, or one kept from an earlier run of the same seed and code.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def float32(self, name: str, module: Callable[[], nn.Module], inputs: Inputs) -> Path:
        """Export a module for inputs of exactly these shapes."""
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            path.write_bytes(_export(module(), inputs).SerializeToString())
        return path

    def int8(self, name: str, module: Callable[[], nn.Module], inputs: Inputs) -> Path:
        """Export, then quantize as ONNX Runtime does it: int8 weights per channel, dynamic."""
        source = self.float32(name, module, inputs)
        path = self.folder / f"{name}.int8.onnx"
        if not path.exists():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            with quiet():
                quantize_dynamic(
                    source, path, per_channel=True, reduce_range=False, weight_type=QuantType.QInt8
                )
        return path


def _export(module: nn.Module, inputs: Inputs) -> onnx.ModelProto:
    import onnxslim

    names = [name for name in inspect.signature(module.forward).parameters if name in inputs]
    example = tuple(torch.from_numpy(inputs[name]) for name in names)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=20,
            input_names=names,
            output_names=["out"],
            external_data=False,
            verbose=False,
        )
        assert program is not None
        model = onnxslim.slim(program.model_proto)
    del model.graph.value_info[:]
    _transpose_gemm_weights(model)
    _share_equal_weights(model)
    return model


def _transpose_gemm_weights(model: onnx.ModelProto) -> None:
    """Store every Gemm's weight as (in, out).

    ONNX Runtime's quantizer transposes a Gemm's weight in place, once per Gemm that uses it: a
    weight that an even number of unrolled steps share would come out the wrong way around.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        turned = next((a for a in node.attribute if a.name == "transB" and a.i == 1), None)
        if node.op_type != "Gemm" or turned is None or node.input[1] not in weights:
            continue
        name = f"{node.input[1]}.T"
        if name not in weights:
            values = numpy_helper.to_array(weights[node.input[1]])
            weights[name] = numpy_helper.from_array(np.ascontiguousarray(values.T), name)
            model.graph.initializer.append(weights[name])
        node.input[1], turned.i = name, 0
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _share_equal_weights(model: onnx.ModelProto) -> None:
    """Keep one copy of equal initializers: unrolling and transposing leaves one per use."""
    kept: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    for tensor in model.graph.initializer:
        digest = hashlib.sha256(tensor.raw_data).digest()
        key = (tensor.data_type, tuple(tensor.dims), digest) if tensor.raw_data else (tensor.name,)
        renamed[tensor.name] = kept.setdefault(key, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    unique = [tensor for tensor in model.graph.initializer if renamed[tensor.name] == tensor.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(unique)
