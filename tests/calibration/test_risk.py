# SPDX-License-Identifier: Apache-2.0
"""Learn then Test: losses by brute force, p-values and sequences against MAPIE, refusals."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.calibration.risk import (
    episode_losses,
    fixed_sequence,
    hoeffding_bentkus,
    learn_threshold,
    required_risk_episodes,
)
from jepa_edge.errors import CalibrationError
from jepa_edge.risk import RiskThreshold


def test_episode_losses_are_those_of_a_latched_alarm() -> None:
    """Step through each episode: act until the first score above the threshold, then stop."""
    rng = np.random.default_rng(0)
    thresholds = np.linspace(-1.0, 3.0, 15)
    scores, losses = [], []
    for length in (1, 5, 20, 31):
        score = rng.normal(size=length)
        score[: length // 4] = np.nan if length % 2 else -np.inf
        score[length // 2 : length // 2 + 1] = thresholds[7]  # equal is not above
        scores.append(score)
        losses.append(rng.random(length).astype(np.float32))
    scores.append(np.array([0.0, np.inf, 0.0]))
    losses.append(np.ones(3, np.float32))
    found = episode_losses(scores, losses, thresholds)
    for row, (score, loss) in enumerate(zip(scores, losses, strict=True)):
        for column, threshold in enumerate(thresholds):
            total, acting = 0.0, True
            for value, lost in zip(score, loss, strict=True):
                acting = acting and not value > threshold
                total += float(lost) * acting
            assert found[row, column] == pytest.approx(total / len(loss), abs=1e-9)
    assert (np.diff(found, axis=1) >= 0.0).all()
    with pytest.raises(CalibrationError, match=r"scores of shape \(3,\) and losses of shape \(4,"):
        episode_losses([np.zeros(3)], [np.zeros(4, np.float32)], thresholds)


@pytest.mark.parametrize("episodes", [1, 19, 59, 300])
@pytest.mark.parametrize("max_risk", [0.01, 0.05, 0.1, 0.5])
def test_p_values_are_mapies(episodes: int, max_risk: float) -> None:
    methods = pytest.importorskip("mapie.risk_control.methods")
    rng = np.random.default_rng(episodes)
    risk = np.concatenate([[0.0, 0.9], rng.random(200) * 0.9, max_risk * rng.random(200)])
    expected = methods.compute_hoeffding_bentkus_p_value(risk, episodes, max_risk)[:, 0]
    np.testing.assert_allclose(hoeffding_bentkus(risk, episodes, max_risk), expected, rtol=1e-12)


def test_a_count_beside_an_integer_is_that_integer() -> None:
    """29 losses in 100 episodes: 100 * 0.29 is 28.999999999999996, and 100 * 0.07 is above 7."""
    exact = math.e * sum(math.comb(100, k) * 0.15**k * 0.85 ** (100 - k) for k in range(8))
    assert 100 * 0.07 > 7
    assert hoeffding_bentkus(np.array([0.07]), 100, 0.15)[0] <= exact * (1 + 1e-9)


@pytest.mark.parametrize("delta", [0.05, 0.1])
def test_fixed_sequence_is_mapies(delta: float) -> None:
    fwer = pytest.importorskip("mapie.risk_control.fwer_control")
    rng = np.random.default_rng(1)
    rows = np.sort(rng.random((200, 12)) ** 3, axis=1) * rng.uniform(0.5, 1.5, (200, 12))
    for row, passed in zip(rows, fixed_sequence(rows, delta), strict=True):
        expected = fwer.control_fwer(row, delta, "fixed_sequence")
        assert list(expected) == list(range(passed))


def test_the_largest_threshold_of_the_sequence_is_learnt() -> None:
    thresholds = np.array([1.0, 2.0, 3.0, 4.0])
    losses = np.zeros((100, 4))
    losses[:1, 1], losses[:50, 2] = 0.5, 1.0  # the fourth is harmless again, but out of reach
    learnt = learn_threshold(losses, thresholds, 0.05, 0.05)
    assert learnt == RiskThreshold(
        threshold=2.0,
        max_risk=0.05,
        delta=0.05,
        episodes=100,
        risk=0.005,
        p_value=float(hoeffding_bentkus(np.array([0.005]), 100, 0.05)[0]),
        candidates=4,
        passed=2,
    )
    assert msgspec.json.decode(msgspec.json.encode(learnt), type=RiskThreshold) == learnt


@pytest.mark.parametrize(
    ("max_risk", "delta", "needed"), [(0.05, 0.05, 59), (0.01, 0.05, 299), (0.1, 0.1, 22)]
)
def test_the_number_of_lossless_episodes_needed(max_risk: float, delta: float, needed: int) -> None:
    """(1 - R)^n <= delta: the 59 and 299 of the safety literature."""
    assert needed == math.ceil(math.log(delta) / math.log(1 - max_risk))
    assert required_risk_episodes(0.0, max_risk, delta) == needed
    thresholds = np.array([0.5, 1.0])
    learn_threshold(np.zeros((needed, 2)), thresholds, max_risk, delta)
    with pytest.raises(CalibrationError, match=rf"{needed} episodes .* record 3 more"):
        learn_threshold(np.zeros((needed - 3, 2)), thresholds, max_risk, delta)


def test_a_risk_that_cannot_be_shown_is_refused() -> None:
    thresholds = np.array([0.5, 1.0])
    with pytest.raises(CalibrationError, match="no number of episodes would"):
        learn_threshold(np.full((100, 2), 0.2), thresholds, 0.1, 0.05)
    assert required_risk_episodes(0.1, 0.1, 0.05) is None
    some = required_risk_episodes(0.02, 0.05, 0.05, 100)
    assert some is not None
    assert hoeffding_bentkus(np.array([0.02]), some, 0.05) <= 0.05
    assert hoeffding_bentkus(np.array([0.02]), some - 1, 0.05) > 0.05


@pytest.mark.parametrize(
    ("losses", "thresholds", "max_risk", "delta", "message"),
    [
        (np.zeros((60, 2)), [1.0, 1.0], 0.1, 0.05, "must be finite and rise"),
        (np.zeros((60, 2)), [2.0, 1.0], 0.1, 0.05, "must be finite and rise"),
        (np.zeros((60, 2)), [1.0, np.inf], 0.1, 0.05, "must be finite and rise"),
        (np.zeros((60, 3)), [1.0, 2.0], 0.1, 0.05, "2 thresholds, expected"),
        (np.zeros((0, 2)), [1.0, 2.0], 0.1, 0.05, "one episode or more"),
        (np.full((60, 2), 1.5), [1.0, 2.0], 0.1, 0.05, "outside 0 to 1"),
        (np.full((60, 2), np.nan), [1.0, 2.0], 0.1, 0.05, "outside 0 to 1"),
        (np.zeros((60, 2)), [1.0, 2.0], 0.0, 0.05, "max_risk is 0"),
        (np.zeros((60, 2)), [1.0, 2.0], 0.1, 1.0, "delta is 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    losses: NDArray[np.float64],
    thresholds: list[float],
    max_risk: float,
    delta: float,
    message: str,
) -> None:
    with pytest.raises(CalibrationError, match=message):
        learn_threshold(losses, np.array(thresholds), max_risk, delta)


def test_a_stored_threshold_must_hold_together() -> None:
    good: dict[str, Any] = {
        "max_risk": 0.1,
        "delta": 0.05,
        "episodes": 60,
        "risk": 0.0,
        "candidates": 4,
    }
    with pytest.raises(ValueError, match="expected delta"):
        RiskThreshold(threshold=1.0, p_value=0.06, passed=1, **good)
    with pytest.raises(ValueError, match="candidates"):
        RiskThreshold(threshold=1.0, p_value=0.01, passed=5, **good)
    with pytest.raises(ValueError, match="finite"):
        RiskThreshold(threshold=float("nan"), p_value=0.01, passed=1, **good)
