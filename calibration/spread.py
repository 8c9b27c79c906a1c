# SPDX-License-Identifier: Apache-2.0
"""Does the spread of sampled futures tell how wrong the prediction will be? For any sampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.records import Correlation, SpreadReport
from jepa_edge.progress import Progress, silent

Sampler = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Maps history (T, N, D) and actions (T - 1 + H, A), raw units, to futures (S, H, N, D)."""

_BOOTSTRAPS = 200


def pick_windows(windows: Windows, per_episode: int, seed: int) -> Windows:
    """Draw a few windows of each episode at random, without repetition."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in np.unique(windows.episode):
        own = np.flatnonzero(windows.episode == name)
        rows.append(np.sort(rng.permutation(own)[:per_episode]))
    return windows.take(np.concatenate(rows))


def evaluate_spread(
    sampler: Sampler,
    windows: Windows,
    name: str = "latent variable",
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> SpreadReport:
    """Compare a sampler's spread with the realized error of the model's prediction.

    windows: histories, actions and what came; give the same ones to every sampler that is to be
    compared. seed: of the bootstrap. The error is that of `windows.predicted`, whatever the
    sampler's own mean is, so that all samplers are asked about the same errors.
    """
    spread = np.empty((len(windows), windows.horizon))
    samples = 0
    for index in range(len(windows)):
        futures = sampler(windows.history[index], windows.actions[index])
        samples = len(futures)
        spread[index] = np.sqrt(futures.var(axis=0, ddof=1, dtype=np.float64).mean(axis=(1, 2)))
        progress(f"spread: {name}", index + 1, len(windows))
    error = realized_error(windows)
    risk, oracle = (
        risk_curve(spread.mean(1), error.mean(1)),
        risk_curve(error.mean(1), error.mean(1)),
    )
    kept = np.linspace(0.0, 1.0, len(risk) + 1)[1:]
    shown = np.unique(np.linspace(0, len(risk) - 1, min(100, len(risk))).astype(int))
    return SpreadReport(
        name=name,
        windows=len(windows),
        samples=samples,
        overall=_correlation(spread, error, windows.episode, seed),
        per_horizon=tuple(
            _correlation(spread[:, [h]], error[:, [h]], windows.episode, seed)
            for h in range(windows.horizon)
        ),
        spread=tuple(spread.mean(axis=0).tolist()),
        error=tuple(error.mean(axis=0).tolist()),
        coverage=tuple(kept[shown].tolist()),
        risk=tuple(risk[shown].tolist()),
        oracle_risk=tuple(oracle[shown].tolist()),
        aurc=float(risk.mean()),
        aurc_random=float(error.mean()),
        aurc_oracle=float(oracle.mean()),
    )


def realized_error(windows: Windows) -> NDArray[np.float64]:
    """Root mean square of observed minus predicted latent: (W, H) float64."""
    residual = (windows.observed - windows.predicted).astype(np.float64)
    return np.asarray(np.sqrt(np.mean(residual**2, axis=(2, 3))))


def risk_curve(uncertainty: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean error of the 1, 2, ... W windows with the least uncertainty: (W,).

    Source: Geifman & El-Yaniv 2017, selective risk; its mean is the AURC.
    """
    ordered = error[np.argsort(uncertainty, kind="stable")]
    return np.cumsum(ordered) / np.arange(1, len(ordered) + 1)


def _correlation(
    spread: NDArray[np.float64],
    error: NDArray[np.float64],
    episode: NDArray[np.int64],
    seed: int,
) -> Correlation:
    """Spearman over all pairs; the interval resamples whole episodes."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(episode == name) for name in np.unique(episode)]
    drawn = []
    for _ in range(_BOOTSTRAPS):
        chosen = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        drawn.append(_spearman(spread[chosen], error[chosen]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Correlation(value=_spearman(spread, error), low=float(low), high=float(high))


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; 0 where one side is constant and ranks say nothing."""
    a, b = stats.rankdata(first.ravel()), stats.rankdata(second.ravel())
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
