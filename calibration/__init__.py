# SPDX-License-Identifier: Apache-2.0
"""Bench side: recorded runs in, latent variable, thresholds and report out. Needs torch, scipy."""

from jepa_edge.calibration.calibrate import calibrate_bundle, calibrate_model
from jepa_edge.calibration.evaluation import (
    EvaluateOptions,
    EvaluationReport,
    FaultReport,
    evaluate,
    evaluate_faults,
)
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.records import (
    CalibrationReport,
    SpreadReport,
    VariantReport,
)
from jepa_edge.calibration.spread import compare_spreads, evaluate_spread

__all__ = [
    "CalibrateOptions",
    "CalibrationReport",
    "EvaluateOptions",
    "EvaluationReport",
    "FaultReport",
    "SpreadReport",
    "VariantReport",
    "calibrate_bundle",
    "calibrate_model",
    "compare_spreads",
    "evaluate",
    "evaluate_faults",
    "evaluate_spread",
]
