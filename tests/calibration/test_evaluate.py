# SPDX-License-Identifier: Apache-2.0
"""Counting of alarms around a fault's onset, on scores that are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.calibration import FaultReport, evaluate, evaluate_faults
from jepa_edge.channels import CHANNELS
from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Recording
from jepa_edge.world_model import WorldModel

from .conftest import Calibrated, record

ONSET, FRAMES, WARM_UP = 6, 12, 3

Evaluate = Callable[..., FaultReport]


def scores(*alarms: int, height: float = 1.5, frames: int = FRAMES) -> NDArray[np.float64]:
    """Scores of an episode that is above the threshold of 1 in these frames, in one channel."""
    rows = np.zeros((frames, len(CHANNELS)))
    rows[:WARM_UP] = np.nan
    rows[list(alarms), 2] = height
    return rows


@pytest.fixture
def report_of(calibrated: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Runs the evaluation with given scores in place of the monitor's."""
    model = WorldModel.load(calibrated.bundle)
    monitor = Monitor.load(model)
    runs = Recording(record(tmp_path / "runs", 1, seed=0))
    limits = monitor.calibration.thresholds

    def placed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(rows > 0.0, limits.caution + 1e-6 * (rows - 1.0), rows)

    def run(
        nominal: list[NDArray[np.float64]], faulty: list[NDArray[np.float64]], onset: int = ONSET
    ) -> FaultReport:
        scaled = {
            "nominal": [placed(rows) for rows in nominal],
            "fault": [placed(rows) for rows in faulty],
        }
        monkeypatch.setattr(
            evaluate, "_scores", lambda model, monitor, recording, progress, stage: scaled[stage]
        )
        return evaluate_faults(model, monitor, runs, {"fault": runs}, onset)

    return run


def test_an_alarm_before_the_onset_is_no_detection(report_of: Evaluate) -> None:
    """Alarmed since before: neither detected nor with a delay of 0."""
    early = [scores(4, 5, 6, 7), scores(3), scores(5, 10)]
    seen = [scores(6), scores(8, 9), scores(11, height=1e9)]
    fault = report_of([scores()], [*early, *seen, scores()]).faults[0]
    assert (fault.early.count, fault.early.trials) == (3, 7)
    assert (fault.detected.count, fault.detected.trials) == (3, 4)
    assert (fault.rejected.count, fault.rejected.trials) == (1, 4)
    assert fault.delay_median == 2.0
    assert fault.delay_p90 == pytest.approx(4.4)
    assert fault.by_channel["motion"] == 0.75
    assert fault.by_channel["innovation"] == 0.0


def test_all_early_leaves_nothing_to_detect(report_of: Evaluate) -> None:
    fault = report_of([scores()], [scores(5, 6)] * 3).faults[0]
    assert fault.early.value == 1.0
    assert (fault.detected.count, fault.detected.trials) == (0, 0)
    assert (fault.detected.low, fault.detected.high) == (0.0, 1.0)
    assert fault.delay_median is None
    assert set(fault.by_channel.values()) == {0.0}


def test_nominal_alarms_after_the_onset_are_counted_as_detections_are(report_of: Evaluate) -> None:
    nominal = [scores(4, 8), scores(7), scores(11), scores(), scores(frames=ONSET)]
    report = report_of(nominal, [scores(8)])
    assert (report.false_alarms.count, report.false_alarms.trials) == (3, 5)
    after = report.false_alarms_after_onset
    assert (after.count, after.trials) == (2, 3)
    as_fault = report_of([scores()], nominal[:4]).faults[0]
    assert after == as_fault.detected


def test_alarms_per_hour_leave_the_warm_up_out(report_of: Evaluate) -> None:
    """Two episodes of 12 frames at 5 Hz, of which 9 each were judged, and 3 onsets."""
    report = report_of([scores(4, 5, 9), scores(11)], [scores()])
    assert report.alarms_per_hour == pytest.approx(3 / (18 / 5.0 / 3600.0))


def test_what_cannot_be_evaluated_is_refused(report_of: Evaluate) -> None:
    with pytest.raises(InputError, match="the fault never begins"):
        report_of([scores()], [scores(frames=ONSET)])
    with pytest.raises(InputError, match="no episode that outlasts the monitor's warm-up"):
        report_of([scores(frames=WARM_UP)], [scores()])
    with pytest.raises(InputError, match="onset is -1"):
        report_of([scores()], [scores()], onset=-1)
