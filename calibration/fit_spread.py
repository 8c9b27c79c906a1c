# SPDX-License-Identifier: Apache-2.0
"""Calibrates the spread of any sampler against realized error on held-out runs, per horizon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import conformal_quantile
from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.spread import spearman
from jepa_edge.errors import CalibrationError
from jepa_edge.latent_variable import Sampler
from jepa_edge.progress import Progress, silent
from jepa_edge.spread import RECENT, SpreadCalibration, recent_mean

_RECENCIES = np.arange(0.0, 1.0, 0.05)
_ALIKE = 0.01
"""Rank correlations that differ by less count as equal."""
_MINIMUM = 8
"""Fewest windows with a past that a share of recency is fitted on."""


def lengthen(
    windows: Windows,
    extra: int = RECENT,
    pick: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> Windows:
    """Return the windows that have `extra` predecessors, their history reaching back to these.

    windows: as `gather_windows` lays them out: those of an episode in order, one step apart. pick:
    which of these, by the episode of each: all of patch latents would fill the memory.
    Returns histories (W, T + extra, N, D) and actions (W, T + extra - 1 + H, A), or the windows as
    they are where the episodes are so short that none has so many.
    """
    rows = np.flatnonzero(_predecessors(windows) >= extra)
    if not len(rows):
        return windows if pick is None else windows.take(pick(windows.episode))
    if pick is not None:
        rows = rows[pick(windows.episode[rows])]
    older = [rows - k for k in range(extra, 0, -1)]
    first_latents = [windows.history[row, :1] for row in older]
    first_actions = [windows.actions[row, :1] for row in older]
    kept = windows.take(rows)
    return replace(
        kept,
        history=np.concatenate([*first_latents, kept.history], axis=1),
        actions=np.concatenate([*first_actions, kept.actions], axis=1),
    )


def recent_of(windows: Windows) -> NDArray[np.float64]:
    """Squared innovation of late, as `recent_energy`, of windows that lie one step apart: (W,).

    NaN where a window has fewer than RECENT predecessors.
    """
    squared = _squared_error(windows)[:, 0]
    rows = np.flatnonzero(_predecessors(windows) >= RECENT)
    recent = np.full(len(windows), np.nan)
    # The first step that was predicted from the window before ends at this window's newest latent.
    recent[rows] = recent_mean(np.stack([squared[rows - k] for k in range(1, RECENT + 1)]))
    return recent


def sampled_variance(
    sampler: Sampler, windows: Windows, samples: int, seed: int, progress: Progress = silent
) -> NDArray[np.float64]:
    """Aleatoric plus epistemic variance of a sampler's futures: (W, H)."""
    variance = np.empty((len(windows), windows.horizon))
    for row in range(len(windows)):
        futures = sampler.sample(windows.history[row], windows.actions[row], samples, seed)
        variance[row] = futures.aleatoric.astype(np.float64) + futures.epistemic
        progress("sample", row + 1, len(windows))
    return variance


def fit_spread(
    variance: NDArray[np.float64], recent: NDArray[np.float64], windows: Windows
) -> SpreadCalibration:
    """Fit scale and growth by their means, the share of recency by rank correlation.

    A likelihood hardly uses recency: a few large errors decide it. Ranks within a horizon, averaged
    over the horizons, ask what a spread is for, to tell the uncertain windows from the others.

    variance: (W, H), of the sampler. recent: (W,), squared innovation of late, NaN where unknown.
    windows: the same W, which the sampler was not fitted on.
    Raises CalibrationError when a variance or an error is zero or not finite throughout.
    """
    squared = _squared_error(windows)
    scale = squared.mean(axis=0) / np.maximum(variance.mean(axis=0), 1e-300)
    known = np.isfinite(recent)
    growth = np.ones_like(scale)
    if known.any():
        growth = squared[known].mean(axis=0) / max(float(recent[known].mean()), 1e-300)
    if not all(np.isfinite(v).all() and (v > 0.0).all() for v in (scale, growth)):
        raise CalibrationError(
            "a sampler's variance or the model's error is zero or not finite at some horizon; "
            "its spread cannot be calibrated: check the latents and record varied runs"
        )
    fitted = SpreadCalibration(
        scale=scale.astype(np.float32), growth=growth.astype(np.float32), recency=0.0
    )
    if known.sum() < _MINIMUM:
        return fitted
    candidates = [replace(fitted, recency=float(share)) for share in _RECENCIES]
    ranked = []
    for candidate in candidates:
        expected = candidate.spread(variance[known], recent[known]).astype(np.float64)
        steps = range(expected.shape[1])
        ranked.append(np.mean([spearman(expected[:, h], squared[known, h]) for h in steps]))
    # Among shares that rank nominal windows alike, the largest: recency is what tells a shift.
    return candidates[int(np.flatnonzero(np.array(ranked) >= max(ranked) - _ALIKE)[-1])]


def conformalize_spread(
    sampler: Sampler,
    calibration: SpreadCalibration,
    windows: Windows,
    alpha: float,
    *,
    samples: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> SpreadCalibration:
    """Set radius and usual spread per horizon on one random window of each episode.

    A window that is drawn at random from a fresh episode then has its error below the bound with
    probability at least 1 - alpha, and its spread below the usual one with that probability, if
    futures are sampled as here: as many, from a history that is as long. Not every window of an
    episode at once, nor windows that were picked for a reason.
    Every window is sampled with a seed of its own, seed + its row.

    sampler: publishes the spread that `calibration` makes (`CalibratedSampler`). windows: from
    episodes that nothing was fitted on, histories as long as they will be at run time.
    Raises CalibrationError when there are too few episodes for alpha.
    """
    part = windows.take(one_per_episode(windows.episode, seed))
    error, spread = np.sqrt(_squared_error(part)), np.empty((len(part), part.horizon))
    for row in range(len(part)):
        futures = sampler.sample(part.history[row], part.actions[row], samples, seed + row)
        spread[row] = np.maximum(futures.spread.astype(np.float64), 1e-30)
        progress("conformalize spread", row + 1, len(part))
    radius = [conformal_quantile(column, alpha) for column in (error / spread).T]
    usual = [conformal_quantile(column, alpha) for column in spread.T]
    return replace(
        calibration,
        radius=np.array(radius, np.float32),
        usual=np.array(usual, np.float32),
        alpha=alpha,
        samples=samples,
        latents=windows.history.shape[1],
    )


def one_per_episode(episode: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Draw one row of each episode. episode: (W,), owner of every row."""
    rng = np.random.default_rng(seed)
    names = np.unique(episode)
    return np.array([rng.choice(np.flatnonzero(episode == name)) for name in names])


def _squared_error(windows: Windows) -> NDArray[np.float64]:
    """Mean square of observed minus predicted latent: (W, H) float64."""
    parts = []
    for rows in windows.parts():
        residual = (windows.observed[rows] - windows.predicted[rows]).astype(np.float64)
        parts.append(np.mean(residual**2, axis=(2, 3)))
    return np.concatenate(parts)


def _predecessors(windows: Windows) -> NDArray[np.int64]:
    """How many windows right before each one are its episode's, each a step earlier: (W,)."""
    tokens, dim = windows.observed.shape[2:]
    follows = np.zeros(len(windows), bool)
    follows[1:] = windows.episode[1:] == windows.episode[:-1]
    for part in windows.parts():
        later = slice(max(part.start, 1), part.stop)
        before = windows.observed[later.start - 1 : part.stop - 1, 0]
        newest = windows.history[later, -1, :tokens, :dim]
        follows[later] &= np.all(before[: len(newest)] == newest, axis=(1, 2))
    rows = np.arange(len(windows))
    started = np.maximum.accumulate(np.where(follows, 0, rows))
    return np.asarray(rows - started, np.int64)
