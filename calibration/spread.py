# SPDX-License-Identifier: Apache-2.0
"""Does a sampler's spread tell how wrong the prediction will be? On nominal and shifted runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.records import Correlation, Ratio, SpreadReport
from jepa_edge.latent_variable import Futures, Sampler
from jepa_edge.progress import Progress, silent

NOMINAL = "nominal"
POOLED = "all runs"

_BOOTSTRAPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a sampler published for W windows: spread (W, H), bound (W, H) or None; samples S."""

    spread: NDArray[np.float64]
    bound: NDArray[np.float64] | None
    samples: int


class HeadsOnly:
    """A sampler whose published spread is its epistemic part alone, to compare with."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures, as `Sampler.sample`."""
        futures = self._sampler.sample(history, actions, samples, seed)
        return replace(futures, spread=np.sqrt(futures.epistemic), bound=None)


def pick_windows(windows: Windows, per_episode: int, seed: int) -> Windows:
    """Draw a few windows of each episode at random, without repetition."""
    return windows.take(pick_rows(windows.episode, per_episode, seed))


def pick_rows(episode: NDArray[np.int64], per_episode: int, seed: int) -> NDArray[np.int64]:
    """Draw a few rows of each episode. episode: (W,), owner of every row."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in np.unique(episode):
        own = np.flatnonzero(episode == name)
        rows.append(np.sort(rng.permutation(own)[:per_episode]))
    return np.concatenate(rows)


def evaluate_spread(
    sampler: Sampler,
    windows: Windows,
    name: str = "latent variable",
    *,
    condition: str = NOMINAL,
    samples: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> SpreadReport:
    """Compare the spread that a sampler publishes with the realized error of the prediction.

    windows: histories, actions and what came, whose history may reach further back than the
    model's (`lengthen`). condition: what the runs are. samples: S. seed: of samples and bootstrap.
    The error is that of `windows.predicted`, whatever the sampler's own mean is, so that all
    samplers are asked about the same errors.
    """
    published = publish(sampler, windows, samples, seed, progress, f"spread: {name}")
    return report_spread(published, windows, name, condition=condition, seed=seed)


def compare_spreads(
    samplers: Mapping[str, Sampler],
    conditions: Mapping[str, Windows],
    *,
    samples: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[SpreadReport, ...]:
    """Ask several samplers about the same rollouts, per condition and over all of them together.

    conditions: windows of nominal and of shifted runs, by name; with two or more, `POOLED` follows.
    """
    reports = []
    for name, sampler in samplers.items():
        parts = []
        for condition, windows in conditions.items():
            stage = f"spread: {name}, {condition}"
            parts.append(publish(sampler, windows, samples, seed, progress, stage))
            reports.append(report_spread(parts[-1], windows, name, condition=condition, seed=seed))
        if len(parts) > 1:
            everything = _pooled(list(conditions.values()))
            bounds = [part.bound for part in parts if part.bound is not None]
            pooled = Published(
                spread=np.concatenate([part.spread for part in parts]),
                bound=np.concatenate(bounds) if len(bounds) == len(parts) else None,
                samples=samples,
            )
            reports.append(report_spread(pooled, everything, name, condition=POOLED, seed=seed))
    return tuple(reports)


def publish(
    sampler: Sampler,
    windows: Windows,
    samples: int,
    seed: int,
    progress: Progress = silent,
    stage: str = "spread",
) -> Published:
    """Ask a sampler about every window."""
    spread = np.empty((len(windows), windows.horizon))
    bounds = []
    for row in range(len(windows)):
        futures = sampler.sample(windows.history[row], windows.actions[row], samples, seed)
        spread[row] = futures.spread
        if futures.bound is not None:
            bounds.append(futures.bound.astype(np.float64))
        progress(stage, row + 1, len(windows))
    bound = np.stack(bounds) if len(bounds) == len(windows) else None
    return Published(spread=spread, bound=bound, samples=samples)


def report_spread(
    published: Published, windows: Windows, name: str, *, condition: str, seed: int
) -> SpreadReport:
    """Set what was published beside the realized error; arguments as of `evaluate_spread`."""
    spread, error = published.spread, realized_error(windows)
    risk, oracle = (
        risk_curve(spread.mean(1), error.mean(1)),
        risk_curve(error.mean(1), error.mean(1)),
    )
    kept = np.linspace(0.0, 1.0, len(risk) + 1)[1:]
    shown = np.unique(np.linspace(0, len(risk) - 1, min(100, len(risk))).astype(int))
    horizons = range(windows.horizon)
    bounded = () if published.bound is None else np.mean(error <= published.bound, axis=0).tolist()
    return SpreadReport(
        name=name,
        condition=condition,
        windows=len(windows),
        samples=published.samples,
        overall=correlation(spread, error, windows.episode, seed),
        per_horizon=tuple(
            correlation(spread[:, [h]], error[:, [h]], windows.episode, seed) for h in horizons
        ),
        ratio=tuple(_ratio(spread[:, h], error[:, h], windows.episode, seed) for h in horizons),
        bounded=tuple(bounded),
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


def _pooled(parts: list[Windows]) -> Windows:
    """All windows together; the episodes of different parts stay different."""
    episodes, first = [], 0
    for part in parts:
        episodes.append(part.episode + first)
        first += int(part.episode.max()) + 1
    return Windows(
        history=np.concatenate([part.history for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        observed=np.concatenate([part.observed for part in parts]),
        episode=np.concatenate(episodes),
    )


def _resampled(episode: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Rows of bootstrap samples that draw whole episodes."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(episode == name) for name in np.unique(episode)]
    return [
        np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        for _ in range(_BOOTSTRAPS)
    ]


def correlation(
    spread: NDArray[np.float64],
    error: NDArray[np.float64],
    episode: NDArray[np.int64],
    seed: int,
) -> Correlation:
    """Spearman over all pairs; the interval resamples whole episodes."""
    drawn = [spearman(spread[rows], error[rows]) for rows in _resampled(episode, seed)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Correlation(value=spearman(spread, error), low=float(low), high=float(high))


def _ratio(
    spread: NDArray[np.float64],
    error: NDArray[np.float64],
    episode: NDArray[np.int64],
    seed: int,
) -> Ratio:
    """Root mean square error over root mean square spread; the interval resamples episodes."""

    def ratio(rows: NDArray[np.int64]) -> float:
        published = max(float(np.mean(spread[rows] ** 2)), 1e-300)
        return float(np.sqrt(np.mean(error[rows] ** 2) / published))

    low, high = np.quantile([ratio(rows) for rows in _resampled(episode, seed)], [0.025, 0.975])
    return Ratio(value=ratio(np.arange(len(error))), low=float(low), high=float(high))


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; 0 where one side is constant and ranks say nothing."""
    a, b = stats.rankdata(first.ravel()), stats.rankdata(second.ravel())
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
