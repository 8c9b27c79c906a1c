# SPDX-License-Identifier: Apache-2.0
"""Spread calibration against worlds whose noise is known: per horizon, of late, shifted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import predictive_interval
from jepa_edge.calibration.dataset import EncodedEpisode, Windows, make_windows
from jepa_edge.calibration.fit_spread import (
    conformalize_spread,
    fit_spread,
    lengthen,
    recent_of,
    sampled_variance,
)
from jepa_edge.calibration.spread import (
    POOLED,
    HeadsOnly,
    compare_spreads,
    evaluate_spread,
    pick_windows,
)
from jepa_edge.errors import CalibrationError
from jepa_edge.futures import CalibratedSampler, recent_energy
from jepa_edge.latent_variable import Futures
from jepa_edge.rollout import roll
from jepa_edge.spread import RECENT, SpreadCalibration

D, A, T, H = 4, 2, 2, 4
DECAY = 0.9


class Decaying:
    """z' = 0.9 z + a summed: the exact mean; the noise is the episode's."""

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Predict (B, 1, D)."""
        return np.float32(DECAY) * history[:, -1] + actions[:, -1].sum(axis=1)[:, None, None]


class Blunt:
    """Futures whose variance is right up to a factor of 9 and has its own, wrong growth."""

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures as `Sampler.sample`."""
        mean = roll(Decaying().predict, history[None, -T:], actions[None, len(history) - T :])[0]
        noise = np.random.default_rng(seed).normal(0.0, 3.0, (samples, *mean.shape))
        noise = (noise - noise.mean(axis=0)) / noise.std(axis=0, ddof=1) * 3.0
        # The second action number makes the world loud; the sampler knows.
        loud = np.exp(actions[len(history) - 1 :, 1])[:, None, None]
        return Futures.of((mean + loud * noise).astype(np.float32), mean)


def episodes(
    count: int, seed: int, *, levels: float = 0.0, shift: float = 1.0
) -> list[EncodedEpisode]:
    """Runs of 24 steps. levels: log-normal scatter of the episodes' own noise. shift: factor."""
    rng = np.random.default_rng(seed)
    runs = []
    for index in range(count):
        level = shift * math.exp(levels * rng.normal())
        actions = rng.normal(0.0, 0.3, (24, A)).astype(np.float32)
        latents = np.zeros((25, 1, D), np.float32)
        latents[0] = rng.normal(size=(1, D))
        for step, action in enumerate(actions):
            noise = level * math.exp(action[1]) * rng.normal(size=(1, D))
            latents[step + 1] = DECAY * latents[step] + action.sum() + noise
        runs.append(EncodedEpisode(name=str(index), latents=latents, actions=actions))
    return runs


def windows(count: int, seed: int, *, levels: float = 0.0, shift: float = 1.0) -> Windows:
    return make_windows(Decaying(), episodes(count, seed, levels=levels, shift=shift), T, H)


def calibrated(levels: float, count: int = 60) -> SpreadCalibration:
    runs = windows(count, 1, levels=levels)
    recent = recent_of(runs)
    rows = np.flatnonzero(np.isfinite(recent))
    part = runs.take(rows)
    return fit_spread(sampled_variance(Blunt(), part, 16, 0), recent[rows], part)


def test_lengthened_windows_reach_back_in_their_own_episode() -> None:
    runs = episodes(3, 0)
    long = lengthen(make_windows(Decaying(), runs, T, H))
    per_episode = 25 - T - H + 1 - RECENT
    assert len(long) == 3 * per_episode
    for row in (0, per_episode - 1, per_episode + 2):
        owner, start = divmod(row, per_episode)
        episode = runs[owner]
        assert long.episode[row] == owner
        reach = T + RECENT
        np.testing.assert_array_equal(long.history[row], episode.latents[start : start + reach])
        np.testing.assert_array_equal(
            long.actions[row], episode.actions[start : start + reach - 1 + H]
        )
        np.testing.assert_array_equal(
            long.observed[row], episode.latents[start + reach : start + reach + H]
        )
    short = make_windows(Decaying(), runs, T, 22)
    assert lengthen(short) is short


def test_recent_energy_is_the_fading_mean_of_the_last_innovations() -> None:
    runs = windows(3, 0)
    long = lengthen(runs)
    recent = recent_of(runs)
    assert np.isnan(recent[:RECENT]).all()
    ours = recent_energy(Decaying(), long.history, long.actions, T)
    np.testing.assert_allclose(ours, recent[np.isfinite(recent)], rtol=1e-5)
    history, actions = long.history[5].astype(np.float64), long.actions[5].astype(np.float64)
    squared = [
        np.mean(
            (history[-1 - k] - DECAY * history[-2 - k] - actions[T + RECENT - 2 - k].sum()) ** 2
        )
        for k in range(RECENT)
    ]
    assert ours[5] == pytest.approx(np.dot(squared, [16 / 21, 4 / 21, 1 / 21]), rel=1e-4)


def test_every_horizon_is_calibrated_on_held_out_runs() -> None:
    sampler = CalibratedSampler(Decaying(), Blunt(), calibrated(0.0), T)
    held_out = pick_windows(lengthen(windows(80, 2)), 4, 0)
    raw = evaluate_spread(Blunt(), held_out, "raw", samples=16)
    fitted = evaluate_spread(sampler, held_out, "calibrated", samples=16)
    for step in range(H):
        low, high = fitted.ratio[step].low, fitted.ratio[step].high
        assert fitted.ratio[step].value == pytest.approx(1.0, abs=0.12)
        assert low < fitted.ratio[step].value < high < 1.35 * low
    # Sampled as 3 at every step, while the error is 1 and grows with the AR(1) sum of squares.
    growth = np.sqrt(np.cumsum(DECAY ** (2 * np.arange(H))))
    np.testing.assert_allclose([r.value for r in raw.ratio], growth / 3.0, rtol=0.12)
    np.testing.assert_allclose(fitted.spread, fitted.error, rtol=0.15)


def test_constant_noise_needs_no_memory_and_changing_noise_does() -> None:
    white, wandering = calibrated(0.0), calibrated(0.8)
    assert white.recency <= 0.25  # the sampler's variance is not perfect either
    assert wandering.recency >= 0.7
    # An AR(1) error grows as the sum of its powers, over the innovation itself.
    expected = np.cumsum(DECAY ** (2 * np.arange(H)))
    np.testing.assert_allclose(white.growth, expected, rtol=0.1)


def test_a_shifted_world_is_told_by_its_recent_innovations() -> None:
    """The sampler's variance cannot tell a world that got 4 x as loud; the innovations can."""
    fitted = calibrated(0.5)
    sampler = CalibratedSampler(Decaying(), Blunt(), fitted, T)
    conditions = {
        "nominal": pick_windows(lengthen(windows(30, 3, levels=0.5)), 4, 0),
        "loud": pick_windows(lengthen(windows(30, 4, levels=0.5, shift=4.0)), 4, 0),
    }
    reports = {
        (r.name, r.condition): r
        for r in compare_spreads(
            {"plain": Blunt(), "calibrated": sampler, "heads": HeadsOnly(Blunt())},
            conditions,
            samples=16,
        )
    }
    assert len(reports) == 9
    plain, ours = reports["plain", POOLED], reports["calibrated", POOLED]
    assert ours.windows == 240
    assert ours.overall.value > plain.overall.value + 0.3
    assert all(c.value > 0.5 for c in ours.per_horizon)
    assert ours.aurc_oracle < ours.aurc < plain.aurc < 1.05 * plain.aurc_random
    assert reports["heads", "nominal"].overall.value == 0.0
    short = {name: w.history[:, -T:] for name, w in conditions.items()}
    futures = sampler.sample(
        short["loud"][0], conditions["loud"].actions[0, RECENT:], samples=16, seed=0
    )
    variance = futures.aleatoric.astype(np.float64)
    np.testing.assert_allclose(futures.spread, np.sqrt(variance * fitted.scale), rtol=1e-5)


def test_the_conformal_bound_holds_per_horizon() -> None:
    fitted = calibrated(0.5)
    sampler = CalibratedSampler(Decaying(), Blunt(), fitted, T)
    assert sampler.sample(*_first(windows(1, 0)), 4).bound is None
    radii = conformalize_spread(
        sampler, fitted, lengthen(windows(300, 5, levels=0.5)), 0.1, samples=16
    )
    assert radii.alpha == 0.1
    bounded = CalibratedSampler(Decaying(), Blunt(), radii, T)
    fresh = evaluate_spread(
        bounded, pick_windows(lengthen(windows(400, 6, levels=0.5)), 1, 0), samples=16
    )
    low, high = predictive_interval(400, 300, 0.1, 0.999)
    assert all(low <= round(400 * share) <= high for share in fresh.bounded)
    # The same promise of the spread itself: fresh nominal windows rarely pass the usual one.
    drawn = pick_windows(lengthen(windows(400, 6, levels=0.5)), 1, 0)
    below = np.zeros(H, int)
    for row in range(len(drawn)):
        futures = bounded.sample(drawn.history[row], drawn.actions[row], 16, row)
        assert futures.usual is not None
        below += futures.spread <= futures.usual
    assert all(low <= count <= high for count in below)
    with pytest.raises(CalibrationError, match="needs at least 9 scores, got 5"):
        conformalize_spread(sampler, fitted, lengthen(windows(5, 7)), 0.1, samples=4)


def test_every_window_of_the_radius_is_sampled_with_a_seed_of_its_own() -> None:
    seeds: list[int] = []

    class Noting(Blunt):
        def sample(
            self,
            history: NDArray[np.float32],
            actions: NDArray[np.float32],
            samples: int,
            seed: int = 0,
        ) -> Futures:
            seeds.append(seed)
            return super().sample(history, actions, samples, seed)

    conformalize_spread(Noting(), calibrated(0.0), windows(12, 3), 0.1, samples=8, seed=5)
    assert seeds == list(range(5, 17))


def test_what_cannot_be_calibrated_is_refused() -> None:
    runs = windows(3, 0)
    with pytest.raises(CalibrationError, match="cannot be calibrated"):
        fit_spread(np.full((len(runs), H), np.inf), recent_of(runs), runs)
    still = Windows(
        history=runs.history,
        actions=runs.actions,
        predicted=runs.observed,
        observed=runs.observed,
        episode=runs.episode,
    )
    with pytest.raises(CalibrationError, match="cannot be calibrated"):
        fit_spread(np.ones((len(runs), H)), recent_of(still), still)


def _first(runs: Windows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return runs.history[0], runs.actions[0]
