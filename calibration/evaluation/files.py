# SPDX-License-Identifier: Apache-2.0
"""An evaluation on disk: evaluation.html and evaluation.json."""

from __future__ import annotations

import os
from pathlib import Path

from jepa_edge.calibration.evaluation.page import write_evaluation
from jepa_edge.calibration.evaluation.records import EvaluationReport
from jepa_edge.json_text import json_bytes


def write_files(directory: Path, report: EvaluationReport) -> None:
    """Write both files, each whole or not at all; other files in the directory stay."""
    directory.mkdir(parents=True, exist_ok=True)
    page, data = directory / "evaluation.html", directory / "evaluation.json"
    staged = [directory / f".{page.name}.part", directory / f".{data.name}.part"]
    try:
        write_evaluation(staged[0], report)
        staged[1].write_bytes(json_bytes(report))
        os.replace(staged[1], data)
        os.replace(staged[0], page)
    finally:
        for path in staged:
            path.unlink(missing_ok=True)
