# SPDX-License-Identifier: Apache-2.0
"""One graph to INT8: the better of two quantizers, then what the budget keeps in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.errors import ExportError, MissingDependencyError
from jepa_edge.export.centering import center_gelus
from jepa_edge.export.onnx_graph import fold_scales_into_norms, keep_float, run_model
from jepa_edge.export.profile import check_profile
from jepa_edge.export.quantize import Quantizer, quantize
from jepa_edge.export.sensitivity import LayerSensitivity, keep_sensitive_layers
from jepa_edge.metrics import sqnr_db
from jepa_edge.progress import Progress, silent

Feeds = Mapping[str, NDArray[np.generic]]


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a graph came to fewer bits; all errors on the tuning windows, not on the held-out ones.

    quantizer: whose graph was kept. candidates_db: SQNR with every layer quantized, by quantizer.
    error, all_quantized_error: `latent_error` with kept_float in float, and with no layer so.
    layers: every layer's own contribution.
    """

    quantizer: str
    candidates_db: dict[str, float]
    error: float
    all_quantized_error: float
    kept_float: tuple[str, ...]
    layers: tuple[LayerSensitivity, ...]


def make_int8(
    model: Any,
    calibration: Feeds,
    tuning: Feeds,
    max_error: float,
    *,
    name: str,
    float_layers: tuple[str, ...] = (),
    threads: int = 1,
    progress: Progress = silent,
) -> tuple[Any, QuantizationReport, list[str]]:
    """Quantize a float32 graph within an error budget.

    calibration: inputs that set the activation ranges. tuning: other inputs, for the choices.
    name: what the graph is called in stages and messages. float_layers: that stay in float anyway.
    Returns the graph (within the portable profile), what was done, and warnings.
    Raises ExportError when the budget cannot be met or no quantizer works.
    """
    model = center_gelus(model, calibration, threads)
    expected = run_model(model, tuning, threads)
    candidates: dict[Quantizer, Any] = {}
    ratios: dict[Quantizer, float] = {}
    warnings = []
    for done, quantizer in enumerate(Quantizer):
        progress(f"quantizing the {name}", done, len(Quantizer))
        try:
            candidate = keep_float(quantize(model, calibration, quantizer), model, float_layers)
        except (ExportError, MissingDependencyError) as error:
            warnings.append(f"{name}: {error}; the other quantizer is used")
            continue
        candidates[quantizer] = candidate
        ratios[quantizer] = sqnr_db(expected, run_model(candidate, tuning, threads))
    progress(f"quantizing the {name}", len(Quantizer), len(Quantizer))
    if not candidates:
        raise ExportError(f"no quantizer could quantize the {name}: {'; '.join(warnings)}")
    chosen = max(ratios, key=lambda quantizer: ratios[quantizer])
    found = keep_sensitive_layers(
        candidates[chosen],
        model,
        tuning,
        expected,
        max_error,
        threads=threads,
        stage=name,
        progress=progress,
    )
    fold_scales_into_norms(found.model)
    onnx.checker.check_model(found.model, full_check=True)
    check_profile(found.model)
    report = QuantizationReport(
        quantizer=chosen.value,
        candidates_db={quantizer.value: ratio for quantizer, ratio in ratios.items()},
        error=found.error,
        all_quantized_error=found.all_quantized_error,
        kept_float=tuple(layer.layer for layer in found.layers if layer.kept_float),
        layers=found.layers,
    )
    return found.model, report, warnings
