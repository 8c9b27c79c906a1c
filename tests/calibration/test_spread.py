# SPDX-License-Identifier: Apache-2.0
"""Spread, risk and coverage against samplers whose worth is known."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.coverage import measure_coverage, measure_reliability
from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.spread import evaluate_spread, pick_windows, realized_error, risk_curve
from jepa_edge.calibration.thresholds import (
    channel_scores,
    check_varied,
    fit_radii,
    fit_standardization,
    fit_thresholds,
)
from jepa_edge.calibration_file import ChannelScale
from jepa_edge.channels import BASE_CHANNELS, CHANNELS
from jepa_edge.errors import CalibrationError
from jepa_edge.latent_variable import Futures

W, T, H, D, A = 120, 3, 4, 8, 2


@pytest.fixture
def windows() -> Windows:
    """Windows whose error's size is written in their first action."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(0.1, 2.0, (W, T - 1 + H, A)).astype(np.float32)
    growth = np.sqrt(np.arange(1, H + 1))[None, :, None, None]
    error = rng.normal(size=(W, H, 1, D)) * actions[:, :1, :1, None] * growth
    predicted = rng.normal(size=(W, H, 1, D)).astype(np.float32)
    return Windows(
        history=rng.normal(size=(W, T, 1, D)).astype(np.float32),
        actions=actions,
        predicted=predicted,
        observed=(predicted + error).astype(np.float32),
        episode=np.repeat(np.arange(W // 4), 4),
    )


class Informed:
    """A sampler that knows the scale; or, if deaf, takes every action for 1."""

    def __init__(self, deaf: bool = False) -> None:
        self.deaf = deaf

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        rng = np.random.default_rng(1)
        growth = np.sqrt(np.arange(1, H + 1))[None, :, None, None]
        scale = 1.0 if self.deaf else actions[0, 0]
        latents = (rng.normal(size=(samples, H, 1, D)) * scale * growth).astype(np.float32)
        return Futures.of(latents, latents.mean(axis=0))


def test_an_informed_sampler_is_told_from_a_constant_one(windows: Windows) -> None:
    known = evaluate_spread(Informed(), windows, "informed", samples=64)
    flat = evaluate_spread(Informed(deaf=True), windows, "flat", condition="deaf", samples=64)
    assert known.samples == 64
    assert (known.condition, flat.condition) == ("nominal", "deaf")
    assert known.overall.value > 0.8
    assert known.overall.low < known.overall.value < known.overall.high
    error = realized_error(windows)
    for step in range(H):
        expected = stats.spearmanr(windows.actions[:, 0, 0], error[:, step]).statistic
        assert known.per_horizon[step].value == pytest.approx(expected, abs=0.02)
        assert flat.per_horizon[step].value == 0.0
        ratio = np.sqrt(np.mean(error[:, step] ** 2) / np.mean(windows.actions[:, 0, 0] ** 2))
        assert known.ratio[step].value == pytest.approx(ratio / np.sqrt(step + 1), rel=0.12)
        assert known.ratio[step].low < known.ratio[step].value < known.ratio[step].high
    np.testing.assert_allclose(known.spread, known.error, rtol=0.15)
    assert known.bounded == ()
    assert known.aurc_oracle < known.aurc < 0.85 * known.aurc_random
    assert known.risk[-1] == pytest.approx(error.mean())
    assert known.coverage[-1] == 1.0


def test_risk_curve_is_the_running_mean() -> None:
    curve = risk_curve(np.array([3.0, 1.0, 2.0]), np.array([9.0, 1.0, 5.0]))
    np.testing.assert_allclose(curve, [1.0, 3.0, 5.0])


def test_windows_are_drawn_per_episode(windows: Windows) -> None:
    picked = pick_windows(windows, 2, seed=0)
    assert len(picked) == W // 2
    assert (np.bincount(picked.episode) == 2).all()


def exchangeable(seed: int, episodes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Energies (W, H) of windows that share their episode's level."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(4.0, 0.25, (episodes, 1, 1))
    energies = level * rng.gamma(8.0, 0.125, (episodes, 10, H))
    return energies.reshape(-1, H), np.repeat(np.arange(episodes), 10)


def test_coverage_and_reliability_of_exchangeable_episodes() -> None:
    conformal, groups = exchangeable(0, 300)
    radii = fit_radii(conformal, groups, (0.1, 0.05, 0.001))
    assert [radius.alpha for radius in radii] == [0.1, 0.05]
    test, test_groups = exchangeable(1, 100)
    rows = measure_coverage(test, test_groups, radii, conformal_episodes=300, seed=0)
    assert len(rows) == 2 * H
    for row in rows:
        assert row.accepted
        assert row.plausible
        assert row.plausible_low <= row.accept_low <= row.accept_high <= row.plausible_high
        assert row.measured.trials == 100
        assert row.accept_low <= 1.0 - row.alpha <= row.accept_high
        assert row.all_windows == pytest.approx(1.0 - row.alpha, abs=0.05)
    for reliability in measure_reliability(conformal, groups, test, test_groups, D):
        np.testing.assert_allclose(reliability.conformal, reliability.nominal, atol=0.08)


def test_coverage_of_other_episodes_is_not_accepted() -> None:
    conformal, groups = exchangeable(0, 300)
    radii = fit_radii(conformal, groups, (0.1,))
    test, test_groups = exchangeable(1, 300)
    rows = measure_coverage(2.0 * test, test_groups, radii, conformal_episodes=300, seed=0)
    assert not any(row.accepted or row.plausible for row in rows)


def test_only_more_than_the_radii_scatter_is_implausible() -> None:
    """30 conformal episodes: a whole share of honest calibrations is not accepted as binomial."""
    rejected = implausible = 0
    for seed in range(150):
        radii = fit_radii(*exchangeable(2 * seed, 30), (0.1,))
        test = exchangeable(2 * seed + 1, 60)
        rows = measure_coverage(*test, radii, conformal_episodes=30, seed=seed)
        rejected += not rows[0].accepted
        implausible += not rows[0].plausible
    assert rejected >= 4
    assert implausible <= 4


def test_runs_in_which_nothing_happens_are_refused() -> None:
    scales = fit_standardization(nominal_runs(0, 40))
    worst = worst_scores(nominal_runs(1, 40), scales)
    check_varied(scales, worst)
    for name in ("innovation", "motion"):
        still = tuple(
            msgspec.structs.replace(s, high=1e-3) if s.name == name else s for s in scales
        )
        with pytest.raises(CalibrationError, match=rf"channel {name} hardly .* record varied runs"):
            check_varied(still, worst)
    with pytest.raises(CalibrationError, match="all 40 conformal scores tie"):
        check_varied(scales, np.full(40, 0.7))
    with pytest.raises(CalibrationError, match="1 of 40 conformal episodes have a score"):
        check_varied(scales, np.where(np.arange(40) == 3, np.inf, worst))


def worst_scores(
    measured: list[NDArray[np.float64]], scales: tuple[ChannelScale, ...]
) -> NDArray[np.float64]:
    return np.array([channel_scores(episode, scales).max() for episode in measured])


def nominal_runs(seed: int, episodes: int) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    scale = np.linspace(0.2, 5.0, len(BASE_CHANNELS))
    runs = []
    for _ in range(episodes):
        values = rng.standard_t(4, (20, len(BASE_CHANNELS))) * scale + 3.0
        values[:3, 1] = np.nan
        runs.append(values)
    return runs


def test_every_channel_gets_the_same_share_of_the_alarms() -> None:
    scales = fit_standardization(nominal_runs(0, 400))
    assert [scale.name for scale in scales] == [channel.name for channel in CHANNELS]
    fresh = nominal_runs(1, 400)
    worst = np.array([channel_scores(run, scales).max(axis=0) for run in fresh])
    shares = np.mean(worst > 1.0, axis=0)
    for channel, share in zip(CHANNELS, shares, strict=True):
        expected = 0.19 if channel.low_tail else 0.1
        assert share == pytest.approx(expected, abs=0.07), channel.name
    thresholds = fit_thresholds(worst_scores(nominal_runs(2, 400), scales), 0.05)
    alarms = np.mean(worst_scores(fresh, scales) > thresholds.caution)
    assert alarms == pytest.approx(0.05, abs=0.03)
    assert thresholds.reject_alpha == pytest.approx(0.01)
