# SPDX-License-Identifier: Apache-2.0
"""Do sampled futures scatter as the world does? PIT, CRPS, energy score, and the risk curve."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.evaluation.records import Forecast, HorizonForecast
from jepa_edge.calibration.spread import correlation, realized_error, risk_curve
from jepa_edge.progress import Progress, silent

Sampler = Callable[[NDArray[np.float32], NDArray[np.float32], int], NDArray[np.float32]]
"""Maps history (T, N, D), actions (T - 1 + H, A), raw units, and a seed to futures (S, H, N, D)."""

_BINS = 10
_DIRECTIONS = 8
_CURVE = 100


def crps(samples: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Continuous ranked probability score of samples (S, ...) against observed (...): (...).

    mean |X - y| - sum_ij |X_i - X_j| / (2 S (S - 1)): unbiased for any S of at least 2 if the
    samples are independent. Ours are not quite: their noise is shifted and scaled to mean 0 and
    variance 1 over the S samples, which lowers the score while S is small; take 32 or more.
    Source: Gneiting & Raftery 2007, eq. 21; Ferro 2014 (fair version).
    """
    count = len(samples)
    ordered = np.sort(samples, axis=0)
    weights = (2.0 * np.arange(1, count + 1) - count - 1.0) / (count * (count - 1.0))
    return np.asarray(
        np.abs(samples - observed).mean(axis=0) - np.tensordot(weights, ordered, axes=(0, 0))
    )


def energy_score(samples: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    """Energy score of samples (S, D) against observed (D,); for D = 1 it is the CRPS.

    Source: Gneiting & Raftery 2007, eq. 22, with the pairs' mean over S (S - 1), as in `crps`.
    """
    count = len(samples)
    squares = np.sum(samples**2, axis=1)
    gaps = np.maximum(squares[:, None] + squares[None] - 2.0 * samples @ samples.T, 0.0)
    np.fill_diagonal(gaps, 0.0)
    near = float(np.linalg.norm(samples - observed, axis=1).mean())
    return near - float(np.sqrt(gaps).sum()) / (2.0 * count * (count - 1.0))


def randomized_pit(
    samples: NDArray[np.float64], observed: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Rank of observed (...) among samples (S, ...), spread evenly within its place: (...).

    Uniform on [0, 1] if observed and samples are exchangeable, ties included.
    Source: Czado, Gneiting & Held 2009.
    """
    below = np.sum(samples < observed, axis=0)
    ties = np.sum(samples == observed, axis=0)
    place = below + rng.uniform(size=np.shape(below)) * (ties + 1)
    return np.asarray(place / (len(samples) + 1))


def evaluate_forecast(
    sampler: Sampler, windows: Windows, seed: int, progress: Progress = silent
) -> Forecast:
    """Compare sampled futures with what came, on nominal windows.

    PIT and ranks look along a few random directions of the latent, the same for all windows.
    CRPS is per latent number. Every window is sampled with a seed of its own, seed + its row: with
    one for all, the windows' ranks would move together. Windows of one episode depend on each
    other all the same, and so do directions: no p-value is attached to the PIT.
    """
    rng = np.random.default_rng(seed)
    count, horizon = len(windows), windows.horizon
    size = int(np.prod(windows.observed.shape[2:]))
    axes = rng.normal(size=(size, _DIRECTIONS))
    axes /= np.linalg.norm(axes, axis=0)
    pit = np.empty((count, horizon, _DIRECTIONS))
    scores = np.empty((3, count, horizon))  # CRPS, absolute error, energy score
    spread = np.empty((count, horizon))
    samples = 0
    for row in range(count):
        drawn = sampler(windows.history[row], windows.actions[row], seed + row)
        samples = len(drawn)
        futures = drawn.astype(np.float64).reshape(samples, horizon, size)
        came = windows.observed[row].reshape(horizon, size).astype(np.float64)
        guess = windows.predicted[row].reshape(horizon, size)
        spread[row] = np.sqrt(futures.var(axis=0, ddof=1).mean(axis=1))
        pit[row] = randomized_pit(futures @ axes, came @ axes, rng)
        scores[0, row] = crps(futures, came).mean(axis=1)
        scores[1, row] = np.abs(guess - came).mean(axis=1)
        for step in range(horizon):
            scores[2, row, step] = energy_score(futures[:, step], came[step])
        progress("forecasts", row + 1, count)
    error = realized_error(windows)
    curve = risk_curve(spread.mean(1), error.mean(1))
    oracle = risk_curve(error.mean(1), error.mean(1))
    shown = np.unique(np.linspace(0, count - 1, min(_CURVE, count)).astype(int))
    mean = scores.mean(axis=1)
    return Forecast(
        windows=count,
        episodes=len(np.unique(windows.episode)),
        samples=samples,
        directions=_DIRECTIONS,
        horizons=tuple(
            HorizonForecast(
                horizon=step + 1,
                pit=_histogram(pit[:, step]),
                pit_distance=_distance(pit[:, step]),
                crps=float(mean[0, step]),
                error=float(mean[1, step]),
                skill=float(1.0 - mean[0, step] / max(mean[1, step], 1e-30)),
                energy_score=float(mean[2, step]),
                spread=float(spread[:, step].mean()),
                correlation=correlation(spread[:, step], error[:, step], windows.episode, seed),
            )
            for step in range(horizon)
        ),
        coverage=tuple(((shown + 1) / count).tolist()),
        risk=tuple(curve[shown].tolist()),
        oracle_risk=tuple(oracle[shown].tolist()),
        aurc=float(curve.mean()),
        aurc_random=float(error.mean()),
        aurc_oracle=float(oracle.mean()),
    )


def _histogram(pit: NDArray[np.float64]) -> tuple[float, ...]:
    counts, _ = np.histogram(pit, bins=_BINS, range=(0.0, 1.0))
    return tuple((counts / pit.size).tolist())


def _distance(pit: NDArray[np.float64]) -> float:
    """Largest gap between the distribution of values in [0, 1] and the uniform one."""
    return float(stats.kstest(pit.ravel(), "uniform").statistic)
