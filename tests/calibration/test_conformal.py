# SPDX-License-Identifier: Apache-2.0
"""Quantiles and intervals against brute force, scipy and simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from jepa_edge.calibration.conformal import (
    acceptance_interval,
    clopper_pearson,
    conformal_quantile,
    conformal_rank,
    functional_band,
    grouped_conformal_quantile,
    predictive_interval,
    required_episodes,
)
from jepa_edge.errors import CalibrationError


@pytest.mark.parametrize("alpha", ["0.5", "0.2", "0.1", "0.05", "0.025", "0.01"])
def test_rank_is_exact_where_floating_point_is_not(alpha: str) -> None:
    exact = Fraction(alpha)
    for count in range(1, 400):
        assert conformal_rank(count, float(alpha)) == math.ceil((count + 1) * (1 - exact))
    assert required_episodes(float(alpha)) == math.ceil(1 / exact) - 1


@pytest.mark.parametrize(("count", "alpha"), [(3, 0.25), (4, 0.4), (5, 0.2), (5, 0.5)])
def test_quantile_covers_over_all_orders(count: int, alpha: float) -> None:
    """All orders of n + 1 distinct scores are equally likely: count them."""
    covered = total = 0
    for order in itertools.permutations(range(count + 1)):
        threshold = conformal_quantile(np.array(order[:-1], dtype=np.float64), alpha)
        covered += order[-1] <= threshold
        total += 1
    assert Fraction(covered, total) >= 1 - Fraction(alpha)
    assert Fraction(covered, total) <= 1 - Fraction(alpha) + Fraction(1, count + 1)


def test_small_sample_false_alarms_are_what_the_rank_says() -> None:
    """n = 20, alpha = 0.05: 4.8 % by the conformal rank, 8.9 % by np.quantile."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 21))
    conformal = np.array([conformal_quantile(row, 0.05) for row in scores[:, :20]])
    wrong = np.quantile(scores[:, :20], 0.95, axis=1)
    assert np.mean(scores[:, 20] > conformal) == pytest.approx(1 / 21, abs=0.006)
    assert np.mean(scores[:, 20] > wrong) > 0.08


def test_too_few_scores_are_refused_with_the_number_needed() -> None:
    with pytest.raises(CalibrationError, match=r"alpha=0.05 needs at least 19 scores, got 18"):
        conformal_quantile(np.zeros(18), 0.05)
    assert conformal_quantile(np.arange(19.0), 0.05) == 18.0
    with pytest.raises(CalibrationError, match=r"at least 19 episodes, got 5"):
        grouped_conformal_quantile([np.zeros(3)] * 5, 0.05)


def test_one_score_per_group_is_the_plain_quantile() -> None:
    scores = np.random.default_rng(1).normal(size=57)
    for alpha in (0.5, 0.1, 0.05, 0.02):
        grouped = grouped_conformal_quantile([np.array([s]) for s in scores], alpha)
        assert grouped == conformal_quantile(scores, alpha)


def test_grouped_quantile_covers_dependent_windows_and_scatters_less() -> None:
    """Windows share their episode's level; episodes differ in length."""
    rng = np.random.default_rng(2)
    covered, grouped_radii, single_radii = [], [], []
    for _ in range(3000):
        groups = [rng.normal() * 0.5 + rng.normal(size=rng.integers(3, 12)) for _ in range(30)]
        radius = grouped_conformal_quantile(groups, 0.1)
        fresh = rng.normal() * 0.5 + rng.normal()
        covered.append(fresh <= radius)
        grouped_radii.append(radius)
        single_radii.append(conformal_quantile(np.array([g[0] for g in groups]), 0.1))
    low, high = clopper_pearson(int(np.sum(covered)), len(covered), 0.999)
    assert high >= 0.9
    assert low <= 0.9 + 2 / 31
    assert np.std(grouped_radii) < 0.7 * np.std(single_radii)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (5, 10), (10, 10), (57, 60)])
def test_clopper_pearson_is_scipys(successes: int, trials: int) -> None:
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    low, high = clopper_pearson(successes, trials)
    assert low == pytest.approx(interval.low, abs=1e-9)
    assert high == pytest.approx(interval.high, abs=1e-9)


@pytest.mark.parametrize(("trials", "probability"), [(20, 0.95), (60, 0.9), (60, 0.95), (7, 0.5)])
def test_acceptance_interval_is_the_exact_one(trials: int, probability: float) -> None:
    low, high = acceptance_interval(trials, probability)
    mass = [
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(trials + 1)
    ]
    assert sum(mass[:low]) <= 0.005 < sum(mass[: low + 1])
    assert sum(mass[high + 1 :]) <= 0.005 < sum(mass[high:])


@pytest.mark.parametrize(
    ("trials", "conformal", "alpha"), [(60, 28, 0.1), (60, 140, 0.05), (12, 19, 0.05)]
)
def test_predictive_interval_holds_over_calibrations(
    trials: int, conformal: int, alpha: float
) -> None:
    """Draw threshold and tests anew many times: the interval holds, the binomial one does not."""
    rng = np.random.default_rng(5)
    counts = np.empty(20_000, np.int64)
    for index in range(counts.size):
        threshold = conformal_quantile(rng.random(conformal), alpha)
        counts[index] = np.sum(rng.random(trials) <= threshold)
    low, high = predictive_interval(trials, conformal, alpha)
    below, above = np.mean(counts < low), np.mean(counts > high)
    assert below <= 0.0065
    assert above <= 0.0065
    assert np.mean(counts <= low) > 0.0035  # one narrower would not hold
    low, high = acceptance_interval(trials, 1.0 - alpha)
    assert np.mean((counts < low) | (counts > high)) > 2 * (below + above)


def test_predictive_interval_needs_a_finite_threshold() -> None:
    with pytest.raises(CalibrationError, match="at least 19 scores, got 18"):
        predictive_interval(20, 18, 0.05)
    wide, sharp = predictive_interval(100, 19, 0.05), predictive_interval(100, 10**7 - 1, 0.05)
    assert wide[0] < sharp[0]
    assert sharp == acceptance_interval(100, 0.95)


@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.1, 0.05, 0.01])
def test_quantile_is_mapies_interval(alpha: float) -> None:
    """Public interface: a regressor that says 0, absolute scores, half-width of its interval."""
    regression = pytest.importorskip("mapie.regression")
    dummy = pytest.importorskip("sklearn.dummy")
    rng = np.random.default_rng(4)
    for count in (9, 19, 20, 39, 59, 99, 100, 299, 300):
        if count < 1 / alpha:  # MAPIE refuses 1 / alpha - 1 here, which the rank supports
            continue
        targets = rng.normal(size=count)
        features = np.zeros((count, 1))
        model = dummy.DummyRegressor(strategy="constant", constant=0.0).fit(features, targets)
        split = regression.SplitConformalRegressor(
            model, confidence_level=1.0 - alpha, conformity_score="absolute", prefit=True
        )
        split.conformalize(features, targets)
        _, interval = split.predict_interval(np.zeros((1, 1)))
        threshold = conformal_quantile(np.abs(targets), alpha)
        assert interval[0, 1, 0] == threshold
        assert interval[0, 0, 0] == -threshold


def test_quantile_is_mapies_at_every_small_count() -> None:
    """MAPIE's own function takes as few scores as the rank supports."""
    mapie = pytest.importorskip("mapie.utils")
    scores = np.random.default_rng(5).normal(size=400)
    for alpha in (0.2, 0.1, 0.05):
        for count in range(required_episodes(alpha), 400):
            theirs = mapie._compute_regression_quantile(scores[:count, None], np.array([1 - alpha]))
            assert conformal_quantile(scores[:count], alpha) == theirs.item()


def test_nan_is_never_a_threshold() -> None:
    """A comparison with NaN is false: such a threshold would never alarm."""
    scores = np.arange(19.0)
    scores[3] = np.nan
    with pytest.raises(CalibrationError, match="1 of 19 scores are NaN"):
        conformal_quantile(scores, 0.05)
    with pytest.raises(CalibrationError, match="1 of 19 scores are NaN"):
        grouped_conformal_quantile([np.array([s]) for s in scores], 0.05)
    with pytest.raises(CalibrationError, match="2 of 20 episodes have no scores"):
        grouped_conformal_quantile([np.zeros(3)] * 18 + [np.zeros(0)] * 2, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_alpha_must_be_a_probability(alpha: float) -> None:
    with pytest.raises(CalibrationError, match="expected a number between 0 and 1"):
        conformal_quantile(np.arange(50.0), alpha)
    with pytest.raises(CalibrationError, match="expected a number between 0 and 1"):
        required_episodes(alpha)


def test_functional_band_by_hand() -> None:
    """Diquigiovanni et al.'s formulas, written out, on the split that the seed gives."""
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(41, 7)) * np.arange(1, 8) + 3.0
    band = functional_band(scores, 0.1, seed=2)
    order = np.random.default_rng(2).permutation(41)
    first, second = scores[order[:20]], scores[order[20:]]
    mean = np.array([np.mean(first[:, t]) for t in range(7)])
    far = sorted((max(abs(row - mean)), i) for i, row in enumerate(first))
    kept = [i for _, i in far[: math.ceil(21 * 0.9)]]
    modulation = np.array([max(abs(first[i, t] - mean[t]) for i in kept) for t in range(7)])
    excess = sorted(max((row - mean) / modulation) for row in second)
    assert band.mean == pytest.approx(mean)
    assert band.modulation == pytest.approx(modulation)
    assert band.quantile == pytest.approx(excess[math.ceil(22 * 0.9) - 1])


def test_a_band_needs_two_halves_of_finite_scores() -> None:
    with pytest.raises(CalibrationError, match=r"at least 38 episodes for a band.*record 1 more"):
        functional_band(np.zeros((37, 5)), 0.05, seed=0)
    with pytest.raises(CalibrationError, match="all finite"):
        functional_band(np.full((40, 5), np.nan), 0.05, seed=0)
    flat = functional_band(np.zeros((40, 5)), 0.05, seed=0)
    assert (flat.mean, flat.quantile) == (pytest.approx(np.zeros(5)), 0.0)
    assert (flat.modulation > 0.0).all()  # a step that never varies divides by no zero
