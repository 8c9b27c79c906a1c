# SPDX-License-Identifier: Apache-2.0
"""One graph to FP8, INT4 or NVFP4: Model-Optimizer quantizes, the budget keeps layers in half.

What is left of the graph is float16 with float32 norms, as TensorRT's strongly typed networks need
it: FP8 and NVFP4 products, and those of INT4 weights, are of half operands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.errors import ExportError
from jepa_edge.export.centering import center_gelus
from jepa_edge.export.int8 import QuantizationReport
from jepa_edge.export.modelopt import quantize_with_modelopt
from jepa_edge.export.onnx_graph import (
    GraphIndex,
    keep_float,
    layer_names,
    run_model,
    weighted_nodes,
)
from jepa_edge.export.quantize import to_fp16
from jepa_edge.export.sensitivity import keep_sensitive_layers, quantized_layers
from jepa_edge.export.simulate import run_simulated
from jepa_edge.metrics import sqnr_db
from jepa_edge.progress import Progress, silent

Feeds = Mapping[str, NDArray[np.generic]]

INT4_BLOCK = 32
"""Inputs per scale; TensorRT takes whole blocks only."""
_BLOCKS = {"fp8": 1, "int4": INT4_BLOCK, "nvfp4": 16}


def make_low_bits(
    model: Any,
    calibration: Feeds,
    tuning: Feeds,
    max_error: float,
    mode: str,
    *,
    name: str,
    float_layers: tuple[str, ...] = (),
    threads: int = 1,
    progress: Progress = silent,
) -> tuple[Any, QuantizationReport, list[str]]:
    """Quantize a float32 graph within an error budget. mode: fp8, int4 or nvfp4.

    Other arguments, and what is returned, as for `int8.make_int8`; layers that are not quantized
    compute in float16.
    Raises MissingDependencyError without Model-Optimizer's environment, ExportError when it fails,
    no layer can be quantized, or the budget cannot be met.
    """
    layers = tuple(layer for layer in _layers(model, mode) if layer not in float_layers)
    refusal = ExportError(
        f"no layer of the {name} can be {mode}, which takes layers whose number of inputs is a "
        f"multiple of {_BLOCKS[mode]}; leave {mode} out of --precision"
    )
    if not layers:
        raise refusal
    expected = run_model(model, tuning, threads)
    # The exporter of NVFP4 packs the weights of a float16 graph; the other two are lowered after.
    source = to_fp16(model) if mode == "nvfp4" else model
    if mode == "fp8":
        source = center_gelus(source, calibration, threads)
    progress(f"quantizing the {name} to {mode}", 0, 1)
    made = quantize_with_modelopt(source, mode, calibration, layers, block=INT4_BLOCK)
    progress(f"quantizing the {name} to {mode}", 1, 1)
    quantized = keep_float(made.model, source, float_layers)
    if not quantized_layers(quantized, source):
        raise refusal
    all_db = sqnr_db(expected, run_simulated(quantized, tuning, threads))
    found = keep_sensitive_layers(
        quantized,
        source,
        tuning,
        expected,
        max_error,
        threads=threads,
        stage=f"{name} {mode}",
        precision=mode,
        run=run_simulated,
        progress=progress,
    )
    graph = found.model if mode == "nvfp4" else to_fp16(found.model)
    onnx.checker.check_model(graph)
    kept = tuple(layer.layer for layer in found.layers if layer.kept_float)
    warnings = []
    weights = sum(layer.weights for layer in found.layers)
    half = sum(layer.weights for layer in found.layers if layer.kept_float)
    if 2 * half > weights:
        warnings.append(
            f"{half / weights:.0%} of the {name}'s weights stay in fp16 in the variant {mode}: the "
            "budget allows no more; int8_fp16 may be the better choice"
        )
    who = f"Model-Optimizer {made.versions.get('nvidia-modelopt', '')}".strip()
    report = QuantizationReport(
        quantizer=who,
        candidates_db={who: min(all_db, 200.0)},
        error=found.error,
        all_quantized_error=found.all_quantized_error,
        kept_float=kept,
        layers=found.layers,
    )
    return graph, report, warnings


def _layers(model: Any, mode: str) -> tuple[str, ...]:
    """Return the layers that can be quantized: those of whole blocks."""
    if mode == "fp8":
        return layer_names(model)
    index = GraphIndex(model)
    stored = ((node.name, index.stored_weight(node)) for node in weighted_nodes(model))
    return tuple(
        name
        for name, weight in stored
        if weight is not None and len(weight.dims) == 2 and weight.dims[0] % _BLOCKS[mode] == 0
    )
