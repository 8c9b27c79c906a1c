# SPDX-License-Identifier: Apache-2.0
"""Lower precisions of an ONNX graph: FP16, and static INT8 in the portable profile.

The quantizers are NNCF's and ONNX Runtime's; this module configures them, and checks what they
made against `jepa_edge.export.profile`.
"""

from __future__ import annotations

import copy
import enum
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.errors import ExportError, MissingDependencyError
from jepa_edge.export.onnx_graph import (
    GraphIndex,
    batches,
    feed_floats_to_other_nodes,
    layer_names,
    prune,
    sort_nodes,
)
from jepa_edge.export.profile import check_profile
from jepa_edge.export.quiet import quiet

Feeds = Mapping[str, NDArray[np.generic]]

_FLOAT32_OPS = ("LayerNormalization", "Softmax")
"""Kept in float32 in an FP16 graph: their sums overflow half precision (TensorRT#2564, #4493)."""

_SMOOTH_QUANT_ALPHA = 0.5
"""Half of the outliers to the weights, as in the paper; NNCF's 0.95 costs 4 dB on PushT."""


class Quantizer(str, enum.Enum):
    """Who quantizes."""

    NNCF = "nncf"
    ONNXRUNTIME = "onnxruntime"


def to_fp16(model: Any) -> Any:
    """Return a copy in FP16 whose inputs and outputs stay as they were."""
    with quiet():
        float16 = importlib.import_module("onnxruntime.transformers.float16")
        converted = float16.convert_float_to_float16(
            copy.deepcopy(model),
            keep_io_types=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPS],
        )
    del converted.graph.value_info[:]
    sort_nodes(converted)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def to_int8_fp16(model: Any) -> Any:
    """Return a copy of a graph within the INT8 profile whose float rest is FP16, with FP16 scales.

    TensorRT's strongly typed networks take the type of an activation from its scale. A layer whose
    scales half precision cannot hold (below 2^-14) leaves INT8 for FP16.
    """
    model = copy.deepcopy(model)
    index = GraphIndex(model)
    for node in model.graph.node:
        if not index.is_weighted(node):
            continue
        activation, weight = (index.restoring(name) for name in node.input[:2])
        if activation is None or weight is None:
            continue
        scales = [index.constant(pair.input[1]) for pair in (activation, weight)]
        if all(_holds_in_half(scale) for scale in scales):
            continue
        node.input[0] = index.producers[activation.input[0]].input[0]
        node.input[1] = f"{node.name}.weight/restored"
        restored = _restored(index.constant(weight.input[0]), scales[1], weight)
        model.graph.initializer.append(onnx.numpy_helper.from_array(restored, node.input[1]))
    prune(model)
    half = to_fp16(model)
    check_profile(half)
    return half


def _holds_in_half(scale: NDArray[Any] | None) -> bool:
    return scale is not None and bool((scale >= np.finfo(np.float16).tiny).all())


def _restored(
    values: NDArray[Any] | None, scale: NDArray[Any] | None, node: Any
) -> NDArray[np.float32]:
    """What a DequantizeLinear of a stored weight gives, one scale per output channel."""
    assert values is not None
    assert scale is not None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % values.ndim
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    return np.asarray(values.astype(np.float32) * scale.reshape(shape), np.float32)


def quantize(model: Any, feeds: Feeds, quantizer: Quantizer) -> Any:
    """Return a statically quantized copy, every weighted node in INT8.

    model: a float32 graph of `export_module`. feeds: calibration inputs by name, batch first.
    Raises MissingDependencyError without NNCF where it is asked for, ExportError when the
    quantizer fails or its graph leaves the portable profile.
    """
    run = _quantize_nncf if quantizer is Quantizer.NNCF else _quantize_onnxruntime
    try:
        with quiet():
            quantized = run(model, feeds)
    except MissingDependencyError:
        raise
    except Exception as error:  # both raise types of their own, without a common base
        line = str(error).strip().splitlines()[:1]
        raise ExportError(
            f"{quantizer.value} cannot quantize the graph: {type(error).__name__}"
            f"{': ' + line[0] if line else ''}; install the versions of the extra `export`"
        ) from error
    feed_floats_to_other_nodes(quantized)
    onnx.checker.check_model(quantized, full_check=True)
    check_profile(quantized)
    index = GraphIndex(quantized)
    for node in quantized.graph.node:
        if index.is_weighted(node) and not index.is_quantized(node):
            raise ExportError(f"{quantizer.value} left the layer {node.name} in float, unasked")
    return quantized


def _quantize_nncf(model: Any, feeds: Feeds) -> Any:
    """SmoothQuant, min-max ranges, fast bias correction."""
    with _without_telemetry():
        try:
            nncf = importlib.import_module("nncf")
            advanced = importlib.import_module("nncf.quantization.advanced_parameters")
        except ImportError as error:
            raise MissingDependencyError(
                "nncf is needed for its quantizer; pip install 'jepa-edge[export]'"
            ) from error
    layers = set(layer_names(model))
    samples = list(batches(feeds))
    quantized = nncf.quantize(
        copy.deepcopy(model),
        nncf.Dataset(samples),
        subset_size=len(samples),
        preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric activations
        model_type=nncf.ModelType.TRANSFORMER,  # turns SmoothQuant on
        ignored_scope=nncf.IgnoredScope(
            names=[node.name for node in model.graph.node if node.name not in layers],
            validate=False,
        ),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(matmul=_SMOOTH_QUANT_ALPHA)
        ),
    )
    del quantized.metadata_props[:]  # paths and options of this machine
    return quantized


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Import NNCF as if its telemetry package were missing: it then sends and stores nothing."""
    package, switch = "openvino_telemetry", "NNCF_CI"
    before = sys.modules.get(package)
    known = switch in os.environ
    sys.modules[package] = None  # type: ignore[assignment]
    os.environ.setdefault(switch, "1")  # nncf.telemetry's own switch, read at import
    try:
        yield
    finally:
        if not known:
            del os.environ[switch]
        if before is None:
            del sys.modules[package]
        else:
            sys.modules[package] = before


def _quantize_onnxruntime(model: Any, feeds: Feeds) -> Any:
    """Min-max ranges."""
    quantization = importlib.import_module("onnxruntime.quantization")
    samples = batches(feeds)
    reader = type(
        "_Reader",
        (quantization.CalibrationDataReader,),
        {"get_next": lambda self: next(samples, None)},
    )()
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "float.onnx"), Path(directory, "int8.onnx")
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=list(layer_names(model)),
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm", "Conv"],
            },
        )
        return onnx.load(target)
