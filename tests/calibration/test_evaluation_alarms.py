# SPDX-License-Identifier: Apache-2.0
"""Counting of alarms around a fault's onset, on scores that are written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration import FaultReport
from jepa_edge.calibration.conformal import clopper_pearson
from jepa_edge.calibration.evaluation.alarms import FaultScores, count_alarms
from jepa_edge.calibration_file import Thresholds
from jepa_edge.channels import CHANNELS
from jepa_edge.errors import InputError

ONSET, FRAMES, WARM_UP = 6, 12, 3
MOTION = [channel.name for channel in CHANNELS].index("motion")
LIMITS = Thresholds(
    caution=1.0, reject=2.0, caution_alpha=0.7, reject_alpha=0.34, nominal=(1.0, 2.0)
)


def scores(*alarms: int, height: float = 1.5, frames: int = FRAMES) -> NDArray[np.float64]:
    """Scores of an episode that is above the threshold of 1 in these frames, in one channel."""
    rows = np.zeros((frames, len(CHANNELS)))
    rows[:WARM_UP] = np.nan
    rows[list(alarms), MOTION] = height
    return rows


def report_of(
    nominal: Sequence[NDArray[np.float64]],
    faulty: Sequence[NDArray[np.float64]],
    onset: int = ONSET,
) -> FaultReport:
    fault = FaultScores(onset=onset, episodes=faulty, where="runs/fault")
    return count_alarms(nominal, {"fault": fault}, LIMITS, 5.0, "runs/nominal")


def test_an_alarm_before_the_onset_is_no_detection() -> None:
    """Alarmed since before: neither detected nor with a delay of 0."""
    early = [scores(4, 5, 6, 7), scores(3), scores(5, 10)]
    seen = [scores(6), scores(8, 9), scores(11, height=1e9)]
    fault = report_of([scores()], [*early, *seen, scores()]).faults[0]
    assert (fault.early.count, fault.early.trials) == (3, 7)
    assert (fault.detected.count, fault.detected.trials) == (3, 4)
    assert (fault.rejected.count, fault.rejected.trials) == (1, 4)
    assert fault.delay_median == 2.0
    assert fault.delay_p90 == pytest.approx(4.4)
    motion = fault.by_channel["motion"]
    assert (motion.count, motion.trials, motion.value) == (3, 4, 0.75)
    assert (motion.low, motion.high) == pytest.approx(clopper_pearson(3, 4))
    assert fault.by_channel["innovation"].value == 0.0


def test_all_early_leaves_nothing_to_detect() -> None:
    fault = report_of([scores()], [scores(5, 6)] * 3).faults[0]
    assert fault.early.value == 1.0
    assert (fault.detected.count, fault.detected.trials) == (0, 0)
    assert (fault.detected.low, fault.detected.high) == (0.0, 1.0)
    assert fault.delay_median is None
    assert {rate.value for rate in fault.by_channel.values()} == {0.0}


def test_nominal_alarms_after_the_onset_are_counted_as_detections_are() -> None:
    nominal = [scores(4, 8), scores(7), scores(11), scores(), scores(frames=ONSET)]
    report = report_of(nominal, [scores(8)])
    assert (report.false_alarms.count, report.false_alarms.trials) == (3, 5)
    assert report.episodes == 5
    after = report.faults[0].nominal_after_onset
    assert (after.count, after.trials) == (2, 3)
    assert after == report_of([scores()], nominal[:4]).faults[0].detected


def test_faulty_and_nominal_runs_are_counted_over_as_many_frames() -> None:
    """Runs with the fault last twice as long; what they do in the second half shows nothing."""
    late = [scores(20, frames=24), scores(15, 16, frames=24), scores(7, frames=24)]
    fault = report_of([scores(), scores(9)], late).faults[0]
    assert (fault.frames, fault.left_out) == (FRAMES - ONSET, 0)
    assert (fault.detected.count, fault.detected.trials) == (1, 3)
    assert fault.by_channel["motion"].count == 1
    assert fault.delay_p90 == 1.0
    longer = report_of([scores(20, frames=24), scores(7, frames=24)], [scores(8)]).faults[0]
    assert (longer.nominal_after_onset.count, longer.nominal_after_onset.trials) == (1, 2)


def test_alarms_per_hour_leave_the_warm_up_out() -> None:
    """Two episodes of 12 frames at 5 Hz, of which 9 each were judged, and 3 onsets."""
    found = report_of([scores(4, 5, 9), scores(11)], [scores()]).alarms_per_hour
    hours = 18 / 5.0 / 3600.0
    assert (found.count, found.hours) == (3, pytest.approx(hours))
    assert found.value == pytest.approx(3 / hours)
    assert stats.poisson.sf(2, found.low * hours) == pytest.approx(0.025)
    assert stats.poisson.cdf(3, found.high * hours) == pytest.approx(0.025)


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(InputError, match="runs/fault has episodes of fewer than 7 frames"):
        report_of([scores()], [scores(frames=ONSET)])
    with pytest.raises(InputError, match="no episode that outlasts the monitor's warm-up"):
        report_of([scores(frames=WARM_UP)], [scores()])
    with pytest.raises(InputError, match="is -1, expected 0 or more"):
        report_of([scores()], [scores()], onset=-1)
