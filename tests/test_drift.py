# SPDX-License-Identifier: Apache-2.0
"""The drift monitor as a machine: blocks, latch, reset, memory, refusals. Its alpha is tested in
tests/calibration/test_guarantees.py."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.calibration.sequential import fit_drift
from jepa_edge.drift import (
    CAPACITY,
    DriftMonitor,
    DriftReference,
    block_score,
    conformal_p_values,
)
from jepa_edge.errors import CalibrationError, InputError


def reference(**changes: Any) -> DriftReference:
    settings: dict[str, Any] = {
        "nominal": tuple(np.linspace(-2.0, 2.0, 50).tolist()),
        "block_steps": 4,
        "alpha": 0.05,
        "seed": 1,
        "capacity": 100,
    }
    return DriftReference(**{**settings, **changes})


def test_the_first_steps_of_every_episode_become_a_block() -> None:
    stepped, blocked = DriftMonitor(reference()), DriftMonitor(reference())
    rng = np.random.default_rng(0)
    for _ in range(30):
        scores = rng.normal(size=4)
        stepped.start_episode()
        for score in rng.normal(size=3).tolist():  # an episode that is cut short
            stepped.add_step(score)
        stepped.start_episode()
        for score in [*scores.tolist(), *rng.normal(9.0, size=13).tolist()]:  # and a long one
            stepped.add_step(score)
        blocked.add_block(block_score(scores))
        assert stepped.value == blocked.value
        assert stepped.p_value == blocked.p_value
    assert stepped.blocks == blocked.blocks == 30


def test_the_alarm_latches_and_reset_starts_the_same_test_again() -> None:
    monitor = DriftMonitor(reference())
    assert (monitor.value, monitor.p_value, monitor.alarmed) == (1.0, 1.0, False)
    history = []
    while not monitor.add_block(5.0):
        history.append(monitor.value)
        assert monitor.value < 20.0
        assert len(history) < 30
    assert monitor.value >= 20.0
    evidence = monitor.value
    for _ in range(50):
        assert monitor.add_block(-5.0)
        assert monitor.add_step(0.0)
    assert monitor.alarmed
    assert monitor.value == evidence
    monitor.reset()
    assert (monitor.value, monitor.alarmed, monitor.blocks) == (1.0, False, 0)
    again = []
    while not monitor.add_block(5.0):
        again.append(monitor.value)
    assert again == history


def test_the_same_seed_gives_the_same_evidence_another_seed_another() -> None:
    scores = np.random.default_rng(3).normal(size=80).tolist()
    values = []
    for seed in (1, 1, 2):
        monitor = DriftMonitor(reference(seed=seed, capacity=60))
        for score in scores:
            monitor.add_block(score)
        values.append(monitor.value)
    assert values[0] == values[1] != values[2]


def test_a_reset_in_the_middle_of_an_episode_keeps_its_steps() -> None:
    monitor, other = DriftMonitor(reference()), DriftMonitor(reference())
    for index, score in enumerate((0.5, 1.0, 1.5, 2.0)):
        if index == 2:
            monitor.reset()
        monitor.add_step(score)
        other.add_step(score)
    assert monitor.blocks == 1
    assert monitor.p_value == other.p_value


@given(
    st.lists(st.floats(min_value=-1e300, max_value=1e300), min_size=1, max_size=60),
    st.integers(0, 5),
)
def test_any_scores_leave_a_sane_monitor_of_bounded_size(scores: list[float], seed: int) -> None:
    nominal = tuple(float(v) for v in range(10))
    monitor = DriftMonitor(reference(nominal=nominal, capacity=12, seed=seed))
    alarmed = False
    for score in scores:
        now = monitor.add_block(score)
        assert now >= alarmed  # it never falls back
        alarmed = now
        assert 0.0 < monitor.p_value <= 1.0
        assert math.isfinite(monitor.value)
        assert monitor.value > 0.0
        assert len(monitor._scores) <= 12
        assert monitor._scores == sorted(monitor._scores)
        assert alarmed == (monitor.value >= 20.0)


def test_a_thousand_nominal_blocks_keep_capital_for_late_drift() -> None:
    """The value falls like one over the blocks, not exponentially: drift is found afterwards."""
    rng = np.random.default_rng(4)
    nominal = tuple(np.sort(rng.normal(size=200)).tolist())
    monitor = DriftMonitor(reference(nominal=nominal, capacity=CAPACITY))
    for score in rng.normal(size=1000).tolist():
        assert not monitor.add_block(score)
    assert monitor.value > 1e-3
    needed = 0
    while not monitor.add_block(float(rng.normal(2.0))):
        needed += 1
    assert needed < 40


@pytest.mark.parametrize("bad", [float("nan"), -math.inf, math.inf])
def test_a_step_that_was_not_judged_is_refused_and_changes_nothing(bad: float) -> None:
    monitor, other = DriftMonitor(reference()), DriftMonitor(reference())
    for score in (0.1, 0.2, 0.3):
        monitor.add_step(score)
        other.add_step(score)
    with pytest.raises(InputError, match="drift score is"):
        monitor.add_step(bad)
    with pytest.raises(InputError, match="drift score is"):
        monitor.add_block(bad)
    assert monitor.add_step(0.4) == other.add_step(0.4)
    assert monitor.value == other.value


def test_no_block_begins_within_an_episode_that_had_a_gap() -> None:
    monitor = DriftMonitor(reference())
    for score in (0.0, 0.0, 0.0):
        monitor.add_step(score)
    monitor.skip_episode()
    for score in (0.0,) * 9:
        monitor.add_step(score)
    assert monitor.blocks == 0
    monitor.start_episode()
    for score in (0.0,) * 4:
        monitor.add_step(score)
    assert monitor.blocks == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nominal": ()}, "holds 0 scores"),
        ({"nominal": (2.0, 1.0)}, "not ascending"),
        ({"nominal": (1.0, float("nan"))}, "all finite"),
        ({"nominal": (1.0, 2.0, 3.0), "capacity": 2}, "expected capacity 2"),
    ],
)
def test_a_reference_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference(**change)


def test_a_reference_survives_its_file_and_bad_ranges_do_not() -> None:
    stored = msgspec.json.encode(reference())
    assert msgspec.json.decode(stored, type=DriftReference) == reference()
    for key, value in (("alpha", 0.0), ("alpha", 1.0), ("block_steps", 0), ("seed", -1)):
        changed = {**msgspec.json.decode(stored), key: value}
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode(changed), type=DriftReference)


def test_fitting_takes_the_first_steps_of_every_episode() -> None:
    rng = np.random.default_rng(5)
    episodes = [rng.normal(size=length) for length in (9, 6, 30)]
    fitted = fit_drift(episodes, alpha=0.01, seed=7)
    assert fitted.block_steps == 6
    assert fitted.nominal == tuple(sorted(float(np.mean(e[:6])) for e in episodes))
    assert (fitted.alpha, fitted.seed, fitted.capacity) == (0.01, 7, CAPACITY)
    with pytest.raises(CalibrationError, match="0 judged steps in the shortest"):
        fit_drift([np.zeros(4), np.zeros(0)], alpha=0.05, seed=0)
    with pytest.raises(CalibrationError, match="1 of 2 nominal blocks"):
        fit_drift([np.zeros(4), np.array([0.0, np.inf, 0.0, 0.0])], alpha=0.05, seed=0)


def test_plain_p_values_by_counting() -> None:
    nominal = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([[0.0, 2.0], [2.5, 9.0]])
    assert conformal_p_values(nominal, scores).tolist() == [[1.0, 0.8], [0.4, 0.2]]
    smoothed = conformal_p_values(nominal, scores, np.array([[0.5, 0.5], [0.25, 0.5]]))
    assert smoothed.tolist() == [[0.9, 0.5], [0.25, 0.1]]


def test_smoothed_p_values_are_mapies() -> None:
    martingales = pytest.importorskip("mapie.exchangeability_testing.martingales")
    rng = np.random.default_rng(6)
    nominal = rng.integers(0, 20, 60).astype(np.float64)
    scores = rng.integers(-2, 22, 100).astype(np.float64)
    oracle = martingales.OnlineMartingaleTest(random_state=11)
    expected = [oracle.compute_p_value(score, nominal) for score in scores]
    smooth = np.random.default_rng(11).uniform(size=100)
    found = conformal_p_values(nominal, scores, smooth)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-15)
