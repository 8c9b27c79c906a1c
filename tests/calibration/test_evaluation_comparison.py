# SPDX-License-Identifier: Apache-2.0
"""Detectors on traces written by hand: what is counted, and how sure a difference is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.evaluation.bootstrap import (
    accuracy,
    balanced_accuracy,
    interval,
    paired_difference,
    time_weighted_accuracy,
    true_negatives,
    true_positives,
    value,
)
from jepa_edge.calibration.evaluation.outcomes import (
    FaultOutcomes,
    FaultTraces,
    Outcomes,
    Traces,
    common_span,
    operating_curve,
    operating_point,
    outcomes,
    rankings,
)
from jepa_edge.errors import InputError

ONSET, FRAMES = 4, 8


def trace(*alarms: int, frames: int = FRAMES) -> NDArray[np.float64]:
    """Above 1 in these frames, first two not judged."""
    row = np.zeros(frames)
    row[:2] = -np.inf
    row[list(alarms)] = 2.0
    return row


@pytest.fixture
def traces() -> Traces:
    return Traces(
        name="hand",
        threshold=1.0,
        nominal=[trace(), trace(5), trace(), trace(frames=5)],
        cluster=np.arange(4),
        faults={
            "a": FaultTraces(
                onset=ONSET,
                episodes=[trace(4), trace(7), trace(), trace(3, 4)],
                cluster=np.arange(4),
            ),
            "b": FaultTraces(onset=ONSET, episodes=[trace(5), trace(5)], cluster=np.array([0, 9])),
        },
    )


def test_accuracies_by_hand(traces: Traces) -> None:
    """a: two of three fresh ones, worth 1 and 1/4; b: both, worth 3/4 each; 3 of 4 stay quiet."""
    seen = outcomes(traces)
    assert seen.faults["a"].fresh.tolist() == [True, True, True, False]
    assert seen.faults["a"].credit.tolist() == [1.0, 0.25, 0.0, 0.0]
    found = accuracy(seen, seed=0)
    assert found.true_negatives == 0.75
    assert found.true_positives == pytest.approx((2 / 3 + 1.0) / 2)
    assert found.balanced.value == pytest.approx((0.75 + 5 / 6) / 2)
    credit = ((1.25 / 3) + 0.75) / 2
    assert found.time_weighted.value == pytest.approx((0.75 + credit) / 2)
    assert found.balanced.low <= found.balanced.value <= found.balanced.high


def test_operating_points_by_hand(traces: Traces) -> None:
    """Watched until the first alarm: 6 + 4 + 6 + 3 frames. Delays: a 0, 3, 4 (missed); b 1, 1."""
    point = operating_point(traces, 1.0)
    assert (point.run_length.frames, point.run_length.alarms) == (19, 1)
    assert point.run_length.mean == 19.0
    assert point.false_alarms == 0.25
    assert point.delay == pytest.approx((7 / 3 + 1.0) / 2)
    quiet = operating_point(traces, 5.0)
    assert (quiet.detected, quiet.false_alarms, quiet.run_length.mean) == (0.0, 0.0, None)
    assert quiet.delay == 4.0
    thresholds = [row.threshold for row in operating_curve(traces)]
    assert thresholds == [0.0, 2.0]


def test_ranking_looks_only_at_frames_after_the_onset(traces: Traces) -> None:
    found = rankings(traces)
    assert found["b"].auroc == pytest.approx((2 + 0.5) / 3)
    assert found["a"].auroc == pytest.approx((3 * (2 + 0.5) + 2 * 0.5) / 12)


@pytest.mark.parametrize(("nominal_frames", "faulty_frames"), [(12, 60), (60, 12)])
def test_longer_runs_get_no_more_frames_to_alarm_in(
    nominal_frames: int, faulty_frames: int
) -> None:
    """A fault without any effect: the same noise on both sides, whatever the lengths."""
    rng = np.random.default_rng(0)

    def noise(count: int, frames: int) -> list[NDArray[np.float64]]:
        return list(rng.uniform(size=(count, frames)))

    faulty = noise(400, faulty_frames)
    inert = Traces(
        name="noise",
        threshold=0.98,
        nominal=noise(400, nominal_frames),
        cluster=np.arange(400),
        faults={"none": FaultTraces(onset=4, episodes=faulty, cluster=400 + np.arange(400))},
    )
    assert rankings(inert)["none"].auroc == pytest.approx(0.5, abs=0.06)
    fault = outcomes(inert).faults["none"]
    assert fault.detected[fault.fresh].mean() == pytest.approx(1 - 0.98**8, abs=0.06)
    hit = fault.detected
    assert fault.credit[hit].min() >= 1 / 8 - 1e-12
    assert operating_point(inert, 2.0).delay == 8.0


def test_one_short_episode_does_not_decide_for_all() -> None:
    span = common_span(4, [10, 10, 3, 5], [12, 12, 5])
    assert (span.frames, span.compared) == (6, slice(4, 10))
    assert span.nominal.tolist() == [True, True, False, False]
    assert span.faulty.tolist() == [True, True, False]
    for nominal, faulty in (([4], [9]), ([9], [4, 3])):
        with pytest.raises(InputError, match="longer than 4 frames, where the fault begins"):
            common_span(4, nominal, faulty)


def _outcomes(alarmed: NDArray[np.bool_], detected: NDArray[np.bool_]) -> Outcomes:
    n, m = len(alarmed), len(detected)
    return Outcomes(
        name="drawn",
        alarmed=alarmed,
        cluster=np.arange(n),
        faults={
            "f": FaultOutcomes(
                fresh=np.ones(m, bool),
                detected=detected,
                credit=detected * 0.5,
                cluster=n + np.arange(m),
            )
        },
    )


def test_interval_has_the_binomial_width() -> None:
    """A plain proportion: the bootstrap's standard error is sqrt(p q / n)."""
    alarmed = np.arange(400) < 80
    found = interval(true_negatives, [_outcomes(alarmed, np.ones(5, bool))], seed=1, draws=8000)
    half = 1.96 * np.sqrt(0.2 * 0.8 / 400)
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.8 - half, abs=0.005)
    assert found.high == pytest.approx(0.8 + half, abs=0.005)


def test_pairing_cancels_what_both_detectors_share() -> None:
    """The second misses exactly what the first misses, and ten more of 200: McNemar's error."""
    rng = np.random.default_rng(2)
    hard = rng.uniform(size=200) < 0.5
    quiet = np.zeros(100, bool)
    first = _outcomes(quiet, ~hard)
    worse = ~hard
    worse[np.flatnonzero(~hard)[:10]] = False
    second = _outcomes(quiet, worse)
    found = paired_difference(balanced_accuracy, [first], [second], seed=3)
    assert found.value == pytest.approx(0.025)
    half = 1.96 * np.sqrt(0.05 * 0.95 / 200) / 2.0
    assert found.low == pytest.approx(0.025 - half, abs=0.003)
    assert found.high == pytest.approx(0.025 + half, abs=0.003)
    same = paired_difference(time_weighted_accuracy, [first], [first], seed=3)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_interval_covers_a_known_difference_in_most_repetitions() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for repeat in range(200):
        quiet = np.zeros(50, bool)
        both = rng.uniform(size=80)
        first, second = _outcomes(quiet, both < 0.8), _outcomes(quiet, both < 0.6)
        found = paired_difference(balanced_accuracy, [first], [second], seed=repeat, draws=400)
        covered += found.low <= 0.1 <= found.high
    assert covered / 200 > 0.88


def test_seeds_are_resampled_too() -> None:
    """Two seeds that disagree: the interval reaches from one to the other."""
    quiet = np.zeros(50, bool)
    good, bad = _outcomes(quiet, np.ones(50, bool)), _outcomes(quiet, np.zeros(50, bool))
    found = paired_difference(balanced_accuracy, [good, good], [good, bad], seed=0)
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == (0.0, 0.5)


def test_faults_of_one_run_are_drawn_together() -> None:
    """Two faults on the same four runs vary as one does; on different runs they average out."""
    rng = np.random.default_rng(8)
    hit = rng.uniform(size=40) < 0.5

    def made(shift: int) -> Outcomes:
        faults = {
            name: FaultOutcomes(
                fresh=np.ones(40, bool),
                detected=hit,
                credit=hit * 1.0,
                cluster=100 + offset + np.arange(40),
            )
            for name, offset in (("a", 0), ("b", shift))
        }
        return Outcomes(
            name="x", alarmed=np.zeros(100, bool), cluster=np.arange(100), faults=faults
        )

    together = interval(balanced_accuracy, [made(0)], seed=0)
    apart = interval(balanced_accuracy, [made(40)], seed=0)
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(np.sqrt(2.0), rel=0.12)
    assert value(balanced_accuracy, made(0)) == value(balanced_accuracy, made(40))


def _with_source(detected: NDArray[np.bool_], fresh: NDArray[np.bool_]) -> Outcomes:
    """400 quiet nominal runs, and few recorded ones with a fault."""
    made = _outcomes(np.zeros(400, bool), detected)
    return replace(made, faults={"f": replace(made.faults["f"], fresh=fresh)})


@pytest.mark.parametrize("count", [1, 3])
def test_a_draw_without_a_faults_runs_is_no_miss(count: int) -> None:
    """Every one of the few runs is detected: there is nothing that varies."""
    sure = np.ones(count, bool)
    found = accuracy(_with_source(sure, sure), seed=0)
    assert (found.balanced.value, found.balanced.low, found.balanced.high) == (1.0, 1.0, 1.0)


def test_sources_are_drawn_apart_each_in_its_own_number() -> None:
    """The share of 20 recorded runs that are detected varies as a proportion of 20 does."""
    detected = np.arange(20) < 10
    made = _with_source(detected, np.ones(20, bool))
    found = interval(true_positives, [made], seed=0, draws=20_000)
    assert [found.low, found.high] == pytest.approx(stats.binom.ppf([0.025, 0.975], 20, 0.5) / 20)


def test_a_fault_that_always_alarms_early_leaves_the_mean() -> None:
    made = _outcomes(np.zeros(50, bool), np.ones(5, bool))
    early = replace(made.faults["f"], fresh=np.zeros(5, bool), detected=np.zeros(5, bool))
    both = replace(made, faults={**made.faults, "early": early})
    assert value(true_positives, both) == 1.0
    assert interval(balanced_accuracy, [both], seed=0).low == 1.0
    other = replace(both, faults={**made.faults, "early": replace(early, fresh=np.ones(5, bool))})
    gain = paired_difference(balanced_accuracy, [both], [other], seed=0)
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)
    none = replace(made, faults={"early": early})
    assert accuracy(none, seed=0).true_positives == 0.0


def test_detectors_on_different_episodes_are_not_compared(traces: Traces) -> None:
    seen = outcomes(traces)
    other = _outcomes(np.zeros(4, bool), np.ones(4, bool))
    with pytest.raises(InputError, match="different episodes"):
        paired_difference(balanced_accuracy, [seen], [other], seed=0)
    with pytest.raises(InputError, match="seed by seed"):
        paired_difference(balanced_accuracy, [seen], [seen, seen], seed=0)
