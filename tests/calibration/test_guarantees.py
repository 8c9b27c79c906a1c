# SPDX-License-Identifier: Apache-2.0
"""Every guarantee on synthetic exchangeable draws, and that the check rejects what breaks it.

Each check allows 4 standard deviations of a binomial count. A wrong method has to fail the same
check that the right one passes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.conformal import (
    conformal_quantile,
    conformal_rank,
    functional_band,
    grouped_conformal_quantile,
    required_episodes,
)
from jepa_edge.calibration.mondrian import fit_group_radii
from jepa_edge.calibration.risk import fixed_sequence, hoeffding_bentkus, learn_threshold
from jepa_edge.drift import DriftMonitor, DriftReference, conformal_p_values

DRAWS = 10_000
SIGMAS = 4.0
SMALL = [(19, 0.05), (20, 0.05), (39, 0.05), (59, 0.05), (19, 0.1), (20, 0.1), (29, 0.1)]

Array = NDArray[np.float64]


def check_at_most(hits: int, probability: float, trials: int = DRAWS) -> None:
    """Fail when a count is too high for a probability of at most this."""
    limit = trials * probability + SIGMAS * math.sqrt(trials * probability * (1 - probability))
    assert hits <= limit, f"{hits} of {trials}, at most {limit:.1f} expected"


def check_equal(hits: int, probability: float, trials: int = DRAWS) -> None:
    """Fail when a count is too far from this probability, on either side."""
    check_at_most(hits, probability, trials)
    check_at_most(trials - hits, 1.0 - probability, trials)


def autoregressive(rng: np.random.Generator, shape: tuple[int, ...], steps: int) -> Array:
    """Stationary sequences (*shape, steps), lag-1 correlation 0.9, with an offset per sequence."""
    noise = rng.normal(size=(steps, *shape))
    out = np.empty_like(noise)
    out[0] = noise[0]
    for step in range(1, steps):
        out[step] = 0.9 * out[step - 1] + math.sqrt(1 - 0.81) * noise[step]
    return np.asarray(np.moveaxis(out + 0.5 * rng.normal(size=shape), 0, -1))


# Split conformal


@pytest.mark.parametrize(("count", "alpha"), SMALL)
def test_split_conformal_misses_as_often_as_its_rank_says(count: int, alpha: float) -> None:
    rng = np.random.default_rng(count)
    scores = rng.standard_exponential((DRAWS, count + 1))
    thresholds = np.array([conformal_quantile(row[:-1], alpha) for row in scores])
    exact = (count + 1 - conformal_rank(count, alpha)) / (count + 1)
    assert alpha - 1 / (count + 1) < exact <= alpha
    check_equal(int(np.sum(scores[:, -1] > thresholds)), exact)
    wrong = np.quantile(scores[:, :-1], 1 - alpha, axis=1)
    with pytest.raises(AssertionError):
        check_at_most(int(np.sum(scores[:, -1] > wrong)), alpha)


@pytest.mark.parametrize(("count", "alpha"), SMALL)
def test_coverage_given_the_calibration_is_beta(count: int, alpha: float) -> None:
    """For uniform scores the threshold is its own coverage."""
    scores = np.random.default_rng(count).random((DRAWS, count))
    coverage = np.array([conformal_quantile(row, alpha) for row in scores])
    missed = math.floor((count + 1) * alpha + 1e-9)
    law = stats.beta(count + 1 - missed, missed)
    assert stats.kstest(coverage, law.cdf).pvalue > 1e-4
    wrong = np.quantile(scores, 1 - alpha, axis=1)
    assert stats.kstest(wrong, law.cdf).pvalue < 1e-12


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.05), (39, 0.05), (20, 0.1)])
def test_episode_maximum_over_correlated_steps_and_channels(count: int, alpha: float) -> None:
    """Three channels that share a part, strongly autocorrelated, heavy-tailed."""
    rng = np.random.default_rng(7)
    worst = np.empty((DRAWS, count + 1))
    step_wise = np.empty(DRAWS, bool)
    for start in range(0, DRAWS, 1000):
        common = autoregressive(rng, (1000, count + 1, 1), 20)
        scores = np.sinh(common + 0.6 * autoregressive(rng, (1000, count + 1, 3), 20))
        rows = slice(start, start + 1000)
        worst[rows] = scores.max(axis=(2, 3))
        largest = scores.max(axis=2)
        steps = np.quantile(largest[:, :-1].reshape(1000, -1), 1 - alpha, axis=1)
        step_wise[rows] = (largest[:, -1] > steps[:, None]).any(axis=1)
    thresholds = np.array([conformal_quantile(row[:-1], alpha) for row in worst])
    exact = (count + 1 - conformal_rank(count, alpha)) / (count + 1)
    check_equal(int(np.sum(worst[:, -1] > thresholds)), exact)
    with pytest.raises(AssertionError):
        check_at_most(int(np.sum(step_wise)), alpha)


# Windows of episodes


def windows(rng: np.random.Generator) -> Array:
    """Scores of one episode: high ones come in short episodes, so windows are not exchangeable."""
    level = rng.normal()
    return np.asarray(2.0 * level + 0.3 * rng.normal(size=int(np.clip(12 - 5 * level, 1, 25))))


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.05), (20, 0.1), (39, 0.05)])
def test_grouped_radius_covers_dependent_windows(count: int, alpha: float) -> None:
    rng = np.random.default_rng(count)
    missed = pooled_missed = 0
    for _ in range(DRAWS):
        episodes = [windows(rng) for _ in range(count)]
        fresh = rng.choice(windows(rng))
        missed += bool(fresh > grouped_conformal_quantile(episodes, alpha))
        pooled_missed += bool(fresh > conformal_quantile(np.concatenate(episodes), alpha))
    check_at_most(missed, alpha)
    check_at_most(DRAWS - missed, min(1 - alpha + 2 / (count + 1), 1.0))
    with pytest.raises(AssertionError):
        check_at_most(pooled_missed, alpha)


def test_mondrian_radii_cover_in_every_group() -> None:
    """Small actions are in every episode, large ones in some; errors grow with the action."""
    alpha, count, length, edges = 0.1, 39, 6, ((1.0, 2.0),)
    rng = np.random.default_rng(3)
    episode = np.repeat(np.arange(count), length)
    missed, pooled, trials = np.zeros(3, int), np.zeros(3, int), np.zeros(3, int)
    for _ in range(DRAWS):
        reach = 1.6 + 2.0 * rng.random((count + 1, 1))
        sizes = reach * rng.random((count + 1, length))
        level = np.exp(0.5 * rng.normal(size=(count + 1, 1)))
        energies = level * sizes**2 * rng.standard_exponential(sizes.shape)
        known = (energies[:-1].reshape(-1, 1), episode, sizes[:-1].reshape(-1, 1))
        groups = fit_group_radii(*known, edges, (alpha,))
        limits = groups.limits(sizes[-1, :, None], alpha)[:, 0]
        overall = grouped_conformal_quantile(list(energies[:-1]), alpha)
        own = np.digitize(sizes[-1], edges[0])
        for group in np.unique(own):
            row = rng.choice(np.flatnonzero(own == group))
            trials[group] += 1
            missed[group] += energies[-1, row] > limits[row]
            pooled[group] += energies[-1, row] > overall
    assert trials.min() > 0.3 * DRAWS
    for hits, tried in zip(missed.tolist(), trials.tolist(), strict=True):
        check_at_most(hits, alpha, tried)
        assert hits > 0.3 * alpha * tried  # no hiding behind wide radii
    with pytest.raises(AssertionError):
        check_at_most(int(pooled[2]), alpha, int(trials[2]))


@pytest.mark.parametrize(("count", "alpha"), [(38, 0.05), (39, 0.05), (40, 0.1)])
def test_functional_band_is_left_as_often_as_its_rank_says(count: int, alpha: float) -> None:
    rng = np.random.default_rng(count)
    steps = 15
    growth = np.linspace(0.2, 2.0, steps)
    left = wrong = 0
    for _ in range(DRAWS // 1000):
        curves = growth * (1.0 + autoregressive(rng, (1000, count + 1), steps))
        for curve in curves:
            band = functional_band(curve[:-1], alpha, seed=1)
            left += bool((curve[-1] > band.mean + band.quantile * band.modulation).any())
            # The same halves, but np.quantile in place of the rank.
            ranked = curve[np.random.default_rng(1).permutation(count)[count // 2 :]]
            excess = ((ranked - band.mean) / band.modulation).max(axis=1)
            low = band.mean + np.quantile(excess, 1 - alpha) * band.modulation
            wrong += bool((curve[-1] > low).any())
    half = count - count // 2
    check_equal(left, (half + 1 - conformal_rank(half, alpha)) / (half + 1))
    with pytest.raises(AssertionError):
        check_at_most(wrong, alpha)


# Conformal p-values and the drift monitor


@pytest.mark.parametrize("count", [5, 19, 59])
def test_p_values_are_uniform_smoothed_and_conservative_plain(count: int) -> None:
    rng = np.random.default_rng(count)
    scores = rng.integers(0, 8, (DRAWS, count + 1)).astype(np.float64)  # with many ties
    smooth = 1.0 - rng.random(DRAWS)
    exact = [
        conformal_p_values(row[:-1], row[-1:], u)[0] for row, u in zip(scores, smooth, strict=True)
    ]
    plain = np.array([conformal_p_values(row[:-1], row[-1:])[0] for row in scores])
    assert stats.kstest(exact, "uniform").pvalue > 1e-4
    for level in (0.05, 0.1, 0.3):
        check_at_most(int(np.sum(plain <= level)), level)
    ties_forgotten = (1 + np.sum(scores[:, :-1] > scores[:, -1:], axis=1)) / (count + 1)
    with pytest.raises(AssertionError):
        check_at_most(int(np.sum(ties_forgotten <= 0.2)), 0.2)


def run_monitors(
    nominal: Array, blocks: Array, alpha: float, capacity: int
) -> tuple[NDArray[np.bool_], Array]:
    """Run one drift monitor per row: whether each ever alarmed, and its p-values, (runs, B)."""
    alarmed = np.zeros(len(blocks), bool)
    p_values = np.full(blocks.shape, np.nan)
    for run, (reference, row) in enumerate(zip(np.sort(nominal, axis=1), blocks, strict=True)):
        monitor = DriftMonitor(
            DriftReference(
                nominal=tuple(reference.tolist()),
                block_steps=1,
                alpha=alpha,
                seed=run,
                capacity=capacity,
            )
        )
        for index, score in enumerate(row.tolist()):
            alarmed[run] = monitor.add_block(score)
            p_values[run, index] = monitor.p_value
            if alarmed[run]:
                break
    return alarmed, p_values


def capital_of(p_values: Array) -> Array:
    """The monitor's value after every block, (runs, B): written as one sum over the onset."""
    runs, blocks = p_values.shape
    asleep = 19.0 / (19.0 + np.arange(blocks + 1))  # share that is asleep after b blocks
    value = np.zeros((runs, blocks))
    for power in (0.1, 0.25, 0.5, 0.75):
        growth = np.cumsum(math.log(power) + (power - 1.0) * np.log(p_values), axis=1)
        before = np.concatenate([np.zeros((runs, 1)), growth[:, :-1]], axis=1)
        share = (asleep[:-1] - asleep[1:]) / 4.0
        value += np.exp(growth) * np.cumsum(share * np.exp(-before), axis=1)
    return value + asleep[1:]


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.05), (59, 0.05), (20, 0.1)])
def test_drift_alarm_is_false_with_probability_alpha_at_any_time(count: int, alpha: float) -> None:
    """220 blocks, the alarm at any of them; the arithmetic is the monitor's, see below."""
    rng = np.random.default_rng(count)
    scores = rng.standard_cauchy((DRAWS, count + 220))
    smooth = 1.0 - rng.random((DRAWS, 220))
    above = [
        np.sum(scores[:, :n] > scores[:, n : n + 1], axis=1) for n in range(count, count + 220)
    ]
    p_values = (np.stack(above, axis=1) + smooth) / (count + 1.0 + np.arange(220))
    alarmed = int(np.sum(capital_of(p_values).max(axis=1) >= 1.0 / alpha))
    check_at_most(alarmed, alpha)
    assert alarmed > 0.1 * alpha * DRAWS  # the bets are real


@pytest.mark.parametrize(("count", "alpha", "capacity"), [(20, 0.05, 4096), (39, 0.1, 45)])
def test_the_monitor_itself_keeps_its_alpha(count: int, alpha: float, capacity: int) -> None:
    """With all scores kept, and with few: 2000 robots, 220 blocks."""
    rng = np.random.default_rng(count)
    scores = rng.standard_cauchy((2000, count + 220))
    alarmed, p_values = run_monitors(scores[:, :count], scores[:, count:], alpha, capacity)
    check_at_most(int(alarmed.sum()), alpha, 2000)
    assert alarmed.mean() > 0.1 * alpha
    for block in (0, 1, 10):
        known = p_values[~np.isnan(p_values[:, block]), block]
        assert known.size > 1900
        assert stats.kstest(known, "uniform").pvalue > 1e-4


def test_ranks_among_the_reference_alone_are_refuted() -> None:
    """All of them share one draw of 39 nominal blocks: the same bets alarm far too often."""
    rng = np.random.default_rng(5)
    scores = rng.standard_cauchy((2000, 39 + 220))
    smooth = 1.0 - rng.random((2000, 220))
    fixed = np.stack(
        [conformal_p_values(row[:39], row[39:], u) for row, u in zip(scores, smooth, strict=True)]
    )
    with pytest.raises(AssertionError):
        check_at_most(int(np.sum(capital_of(fixed).max(axis=1) >= 20.0)), 0.05, 2000)


def test_steps_in_place_of_blocks_are_refuted() -> None:
    """Lag-1 correlation 0.9 from step to step: the monitor, fed steps, alarms far too often."""
    rng = np.random.default_rng(6)
    nominal = rng.normal(size=(1000, 39)) * math.sqrt(1.25)
    steps = autoregressive(rng, (1000,), 220)
    alarmed, _ = run_monitors(nominal, steps, 0.05, 4096)
    with pytest.raises(AssertionError):
        check_at_most(int(alarmed.sum()), 0.05, 1000)


def test_forgetting_at_random_keeps_p_values_independent_forgetting_the_oldest_does_not() -> None:
    rng = np.random.default_rng(8)
    scores = rng.normal(size=(DRAWS, 2 + 8))
    _, p_values = run_monitors(scores[:, :2], scores[:, 2:], 1e-9, 2)
    band = SIGMAS / math.sqrt(DRAWS)
    for lag in (1, 2, 3):
        for block in range(8 - lag):
            pair = np.corrcoef(p_values[:, block], p_values[:, block + lag])[0, 1]
            assert abs(pair) < band
    for block in range(8):
        assert stats.kstest(p_values[:, block], "uniform").pvalue > 1e-4
    sliding = [np.mean(scores[:, b : b + 2] > scores[:, b + 2 : b + 3], axis=1) for b in (0, 1)]
    assert abs(np.corrcoef(sliding[0], sliding[1])[0, 1]) > 2 * band


def test_the_monitors_value_is_the_sum_over_onsets() -> None:
    rng = np.random.default_rng(9)
    nominal = np.sort(rng.normal(size=30))
    blocks = rng.normal(size=60)
    monitor = DriftMonitor(
        DriftReference(
            nominal=tuple(nominal.tolist()), block_steps=1, alpha=1e-9, seed=3, capacity=500
        )
    )
    values, p_values = [], []
    for score in blocks.tolist():
        monitor.add_block(score)
        values.append(monitor.value)
        p_values.append(monitor.p_value)
    smooth = 1.0 - np.random.default_rng(3).random(60)
    every = np.concatenate([nominal, blocks])
    ranks = [
        conformal_p_values(every[: 30 + b], blocks[b : b + 1], smooth[b])[0] for b in range(60)
    ]
    assert p_values == pytest.approx(ranks, abs=1e-12)
    assert values == pytest.approx(capital_of(np.array([ranks]))[0].tolist(), rel=1e-9)


@pytest.mark.parametrize(
    ("onset", "shift", "slope", "least"),
    [(0, 1.5, 0.0, 0.95), (50, 1.5, 0.0, 0.95), (150, 2.0, 0.0, 0.95), (20, 0.0, 0.04, 0.9)],
)
def test_drift_is_found(onset: int, shift: float, slope: float, least: float) -> None:
    """100 nominal blocks, then a step or a ramp, in standard deviations of a block's score."""
    rng = np.random.default_rng(11)
    scores = rng.normal(size=(300, 100 + 220))
    late = np.maximum(np.arange(220) - onset, 0)
    scores[:, 100:] += shift * (np.arange(220) >= onset) + slope * late
    alarmed, _ = run_monitors(scores[:, :100], scores[:, 100:], 0.05, 4096)
    assert alarmed.mean() > least


# Learn then Test


TRUE_RISK = np.linspace(0.01, 0.25, 25)


def risk_draws(rng: np.random.Generator, episodes: int, binary: bool) -> Array:
    """Mean losses (DRAWS, Q) with means TRUE_RISK: of one latched alarm, so monotone."""
    chance = rng.random((DRAWS, episodes, 1))
    means = np.zeros((DRAWS, TRUE_RISK.size))
    for index in range(episodes):
        lost = chance[:, index] < TRUE_RISK * (1.0 if binary else 2.0)
        means += lost * (1.0 if binary else rng.random((DRAWS, 1)))
    return means / episodes


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("episodes", "max_risk", "delta"), [(39, 0.1, 0.1), (59, 0.05, 0.05), (200, 0.1, 0.05)]
)
def test_learnt_threshold_keeps_the_risk(
    episodes: int, max_risk: float, delta: float, binary: bool
) -> None:
    rng = np.random.default_rng(episodes)
    means = risk_draws(rng, episodes, binary)
    passed = fixed_sequence(hoeffding_bentkus(means, episodes, max_risk), delta)
    chosen = np.where(passed > 0, TRUE_RISK[passed - 1], 0.0)
    check_at_most(int(np.sum(chosen > max_risk + 1e-9)), delta)
    naive = np.sum(np.cumprod(means <= max_risk, axis=1), axis=1)
    too_bold = np.where(naive > 0, TRUE_RISK[naive - 1], 0.0) > max_risk + 1e-9
    with pytest.raises(AssertionError):
        check_at_most(int(np.sum(too_bold)), delta)
    if episodes == 200:
        assert np.median(chosen) >= 0.3 * max_risk  # it does not only refuse


def test_learn_threshold_is_the_sequence_of_p_values() -> None:
    rng = np.random.default_rng(2)
    thresholds = np.arange(25.0)
    for _ in range(50):
        chance = rng.random((200, 1))
        losses = (chance < TRUE_RISK).astype(np.float64)
        passed = int(fixed_sequence(hoeffding_bentkus(losses.mean(axis=0), 200, 0.1), 0.05))
        if passed:
            learnt = learn_threshold(losses, thresholds, 0.1, 0.05)
            assert learnt.threshold == passed - 1
            assert learnt.risk == pytest.approx(losses.mean(axis=0)[passed - 1])


@pytest.mark.parametrize("episodes", [20, 59, 100])
def test_p_value_of_a_risk_at_its_limit_is_conservative(episodes: int) -> None:
    """True risk = max_risk: the p-value falls below delta with probability at most delta."""
    rng = np.random.default_rng(episodes)
    means = rng.binomial(episodes, 0.1, DRAWS) / episodes
    p_values = hoeffding_bentkus(means, episodes, 0.1)
    for delta in (0.05, 0.1, 0.3):
        check_at_most(int(np.sum(p_values <= delta)), delta)
    strict = stats.binom.cdf(
        np.round(means * episodes) - 1, episodes, 0.1
    )  # its own count left out
    with pytest.raises(AssertionError):
        check_at_most(int(np.sum(strict <= 0.1)), 0.1)


def test_required_episodes_are_those_of_the_rank() -> None:
    for alpha in (0.05, 0.1, 0.01):
        least = required_episodes(alpha)
        assert conformal_rank(least, alpha) <= least
        assert conformal_rank(least - 1, alpha) > least - 1
