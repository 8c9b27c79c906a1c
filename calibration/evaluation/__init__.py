# SPDX-License-Identifier: Apache-2.0
"""What a calibrated monitor sees and what it misses, measured, compared and written up."""

from jepa_edge.calibration.evaluation.alarms import evaluate_faults
from jepa_edge.calibration.evaluation.driver import evaluate
from jepa_edge.calibration.evaluation.options import EvaluateOptions
from jepa_edge.calibration.evaluation.records import EvaluationReport, FaultReport, FaultResult

__all__ = [
    "EvaluateOptions",
    "EvaluationReport",
    "FaultReport",
    "FaultResult",
    "evaluate",
    "evaluate_faults",
]
