# SPDX-License-Identifier: Apache-2.0
"""Bench side: recorded runs in, latent variable, thresholds and report out. Needs torch, scipy."""

from jepa_edge.calibration.calibrate import calibrate_bundle, calibrate_model
from jepa_edge.calibration.evaluate import evaluate_faults
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.records import (
    CalibrationReport,
    FaultReport,
    SpreadReport,
    VariantReport,
)
from jepa_edge.calibration.spread import Sampler, evaluate_spread

__all__ = [
    "CalibrateOptions",
    "CalibrationReport",
    "FaultReport",
    "Sampler",
    "SpreadReport",
    "VariantReport",
    "calibrate_bundle",
    "calibrate_model",
    "evaluate_faults",
    "evaluate_spread",
]
