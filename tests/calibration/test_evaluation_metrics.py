# SPDX-License-Identifier: Apache-2.0
"""Ranking, rates and forecasts against scikit-learn, scipy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.evaluation.forecasts import (
    crps,
    energy_score,
    evaluate_forecast,
    randomized_pit,
)
from jepa_edge.calibration.evaluation.metrics import (
    aupr,
    auroc,
    fpr_at_tpr,
    mean_ranking,
    poisson_interval,
    ranking,
    run_length,
    time_credit,
)

# Few different values, so that ties within and between the classes abound.
SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_ranking_is_what_scikit_learn_gives(negatives: list[float], positives: list[float]) -> None:
    low, high = np.array(negatives), np.array(positives)
    labels = np.r_[np.zeros(len(low)), np.ones(len(high))]
    scores = np.r_[low, high]
    assert auroc(low, high) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert aupr(low, high) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert fpr_at_tpr(low, high) == pytest.approx(fpr[tpr >= 0.95 - 1e-12].min(), abs=1e-12)


def test_scores_of_frames_that_nobody_judged_rank_last() -> None:
    row = ranking(np.array([-np.inf, 0.0]), np.array([1.0, np.inf]))
    assert (row.auroc, row.aupr, row.prevalence, row.fpr95) == (1.0, 1.0, 0.5, 0.0)
    other = ranking(np.array([2.0, 0.0]), np.array([1.0, 1.0]))
    assert mean_ranking([row, other]).auroc == pytest.approx(0.75)


@pytest.mark.parametrize(("count", "exposure"), [(0, 2.0), (1, 2.0), (7, 3.5), (40, 1.0)])
def test_poisson_interval_leaves_exact_tails(count: int, exposure: float) -> None:
    low, high = poisson_interval(count, exposure)
    assert stats.poisson.cdf(count, high * exposure) == pytest.approx(0.025, abs=1e-9)
    if count:
        assert stats.poisson.sf(count - 1, low * exposure) == pytest.approx(0.025, abs=1e-9)
    else:
        assert low == 0.0


def test_run_length_is_the_likelihood_estimate_of_censored_waiting_times() -> None:
    """Geometric waiting times cut off after 60 frames, against a numerical maximum."""
    rng = np.random.default_rng(5)
    waits = rng.geometric(1.0 / 150.0, size=400)
    frames, alarmed = np.minimum(waits, 60), waits <= 60
    found = run_length(frames, alarmed)
    hazards = np.linspace(1e-3, 3e-2, 30_001)
    survived = frames.sum() - alarmed.sum()
    likelihood = alarmed.sum() * np.log(hazards) + survived * np.log1p(-hazards)
    assert found.mean == pytest.approx(1.0 / hazards[np.argmax(likelihood)], rel=1e-3)
    assert found.low < 150.0 < (found.high or 0.0)


def test_run_length_interval_covers_the_truth_often_enough() -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(2000):
        waits = rng.geometric(1.0 / 400.0, size=100)
        found = run_length(np.minimum(waits, 40), waits <= 40)
        covered += found.low <= 400.0 <= (found.high or np.inf)
    assert covered / 2000 > 0.94


def test_without_an_alarm_only_a_lower_limit_is_known() -> None:
    found = run_length(np.array([40, 40]), np.array([False, False]))
    assert found.mean is None
    assert found.high is None
    assert found.low == pytest.approx(80 / -np.log(0.025))


def test_credit_falls_from_one_to_the_last_frame() -> None:
    assert [time_credit(delay, 4) for delay in (0, 1, 3, None)] == [1.0, 0.75, 0.25, 0.0]


def _gaussian_crps(mean: float, scale: float, observed: float) -> float:
    z = (observed - mean) / scale
    pdf, cdf = stats.norm.pdf(z), stats.norm.cdf(z)
    return float(scale * (z * (2 * cdf - 1) + 2 * pdf - 1 / np.sqrt(np.pi)))


@pytest.mark.parametrize("count", [2, 3, 20])
def test_crps_of_samples_is_unbiased_for_a_gaussian(count: int) -> None:
    """Gneiting & Raftery 2007, eq. 21; with the biased pairs' mean, 2 samples would be far off."""
    rng = np.random.default_rng(1)
    drawn = rng.normal(0.3, 2.0, size=(count, 400_000))
    found = crps(drawn, np.full(400_000, 1.5)).mean()
    assert found == pytest.approx(_gaussian_crps(0.3, 2.0, 1.5), abs=0.01)


def test_energy_score_in_one_dimension_is_the_crps(rng: np.random.Generator) -> None:
    samples, observed = rng.normal(size=(17, 1)), rng.normal(size=1)
    assert energy_score(samples, observed) == pytest.approx(crps(samples, observed)[0])


def test_energy_score_of_a_gaussian_has_its_closed_form(rng: np.random.Generator) -> None:
    """E|X| - E|X - X'| / 2 with |X| chi-distributed, D = 6, observed at the mean."""
    found = np.mean([energy_score(rng.normal(size=(8, 6)), np.zeros(6)) for _ in range(4000)])
    chi = stats.chi(6).mean()
    assert found == pytest.approx(chi - np.sqrt(2.0) * chi / 2.0, abs=0.01)


def test_pit_is_uniform_with_ties_and_shows_a_bias(rng: np.random.Generator) -> None:
    shape = (9, 20_000)
    honest = randomized_pit(rng.integers(0, 4, shape), rng.integers(0, 4, shape[1]), rng)
    assert stats.kstest(honest, "uniform").pvalue > 0.001
    high = randomized_pit(rng.normal(size=shape), rng.normal(1.0, 1.0, shape[1]), rng)
    assert stats.kstest(high, "uniform").pvalue < 1e-6
    assert high.mean() > 0.6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def _windows(rng: np.random.Generator, scale: NDArray[np.float64]) -> Windows:
    """One-step windows of D = 4 whose observed latent scatters by `scale` around a prediction."""
    count = len(scale)
    predicted = rng.normal(size=(count, 1, 1, 4)).astype(np.float32)
    noise = scale[:, None, None, None] * rng.normal(size=predicted.shape)
    return Windows(
        history=np.repeat(scale[:, None, None, None], 4, axis=3).astype(np.float32),
        actions=np.zeros((count, 1, 2), np.float32),
        predicted=predicted,
        observed=(predicted + noise).astype(np.float32),
        episode=np.arange(count) // 4,
    )


def test_an_honest_sampler_is_recognized_and_a_narrow_one_is_not(rng: np.random.Generator) -> None:
    """The history tells the sampler the true scatter."""
    scale = rng.uniform(0.2, 3.0, 600)
    windows = _windows(rng, scale)
    found = {}
    for name, factor in (("honest", 1.0), ("narrow", 0.3)):
        calls = iter(range(len(windows)))

        def sample(
            history: NDArray[np.float32],
            actions: NDArray[np.float32],
            seed: int,
            factor: float = factor,
            calls: object = calls,
        ) -> NDArray[np.float32]:
            row = next(calls)  # type: ignore[call-overload]
            noise = rng.normal(size=(30, 1, 1, 4)) * history[0, 0, 0] * factor
            return np.asarray(windows.predicted[row] + noise, np.float32)

        found[name] = evaluate_forecast(sample, windows, seed=0)
    honest, narrow = found["honest"], found["narrow"]
    row = honest.horizons[0]
    assert row.pit_distance < 0.03 < 0.1 < narrow.horizons[0].pit_distance
    assert narrow.horizons[0].pit[0] > 0.2
    assert row.crps < narrow.horizons[0].crps < row.error
    # CRPS of N(0, s) is s / sqrt(pi), the mean absolute error s sqrt(2 / pi).
    assert row.skill == pytest.approx(1.0 - 1.0 / np.sqrt(2.0), abs=0.02)
    assert honest.aurc_oracle < honest.aurc < honest.aurc_random
    assert row.correlation.low > 0.7
    assert honest.episodes == 150
