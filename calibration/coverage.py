# SPDX-License-Identifier: Apache-2.0
"""Held-out coverage: exact counts per horizon and the reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.conformal import (
    acceptance_interval,
    clopper_pearson,
    conformal_rank,
    grouped_conformal_quantile,
    predictive_interval,
)
from jepa_edge.calibration.records import Coverage, GroupCoverage, Rate, Reliability
from jepa_edge.calibration.thresholds import by_episode
from jepa_edge.calibration_file import Radius
from jepa_edge.groups import ActionGroups, group_of

_LEVELS = (*tuple(round(0.05 * k, 2) for k in range(1, 20)), 0.975)


def rate(count: int, trials: int) -> Rate:
    """Return a proportion with its exact 95 % interval; 0 of 0 is 0, anywhere from 0 to 1."""
    if trials == 0:
        return Rate(count=0, trials=0, value=0.0, low=0.0, high=1.0)
    low, high = clopper_pearson(count, trials)
    return Rate(count=count, trials=trials, value=count / trials, low=low, high=high)


def measure_coverage(
    energies: NDArray[np.float64],
    episode: NDArray[np.int64],
    radii: Sequence[Radius],
    conformal_episodes: int,
    seed: int,
) -> tuple[Coverage, ...]:
    """Count held-out windows inside the radii, one random window per episode.

    energies: (W, H) of the test episodes. conformal_episodes: that the radii came from. Windows of
    one episode depend on each other; one per episode makes the count binomial, given the true
    coverage of the radii. That one scatters around 1 - alpha from calibration to calibration.
    """
    groups = by_episode(energies, episode)
    rng = np.random.default_rng(seed)
    drawn = np.stack([group[rng.integers(len(group))] for group in groups])
    return tuple(
        _coverage(
            alpha=radius.alpha,
            horizon=step + 1,
            radius=limit,
            inside=int(np.sum(drawn[:, step] <= limit)),
            trials=len(groups),
            conformal_episodes=conformal_episodes,
            all_windows=float(np.mean([np.mean(g[:, step] <= limit) for g in groups])),
        )
        for radius in radii
        for step, limit in enumerate(radius.energies)
    )


def measure_group_coverage(
    energies: NDArray[np.float64],
    episode: NDArray[np.int64],
    sizes: NDArray[np.float64],
    groups: ActionGroups,
    seed: int,
) -> tuple[GroupCoverage, ...]:
    """Count held-out windows inside the radii of their action group, one per episode and group.

    energies, sizes: (W, H) of the test episodes, sizes from `mondrian.window_sizes`. Episodes
    without a window in a group do not count there.
    """
    rng = np.random.default_rng(seed)
    labels = group_of(sizes, groups.edges)
    rows = []
    for radius in groups.radii:
        for name in range(groups.count):
            for step in range(groups.horizon):
                own = labels[:, step] == name
                parts = by_episode(energies[own, step], episode[own])
                limit = radius.energies[name][step]
                drawn = np.array([part[rng.integers(len(part))] for part in parts])
                covered = [np.mean(part <= limit) for part in parts]
                row = _coverage(
                    alpha=radius.alpha,
                    horizon=step + 1,
                    radius=limit,
                    inside=int(np.sum(drawn <= limit)),
                    trials=len(parts),
                    conformal_episodes=radius.episodes[name][step],
                    all_windows=float(np.mean(covered)) if covered else 0.0,
                )
                rows.append(GroupCoverage(group=name, coverage=row))
    return tuple(rows)


def _coverage(
    *,
    alpha: float,
    horizon: int,
    radius: float,
    inside: int,
    trials: int,
    conformal_episodes: int,
    all_windows: float,
) -> Coverage:
    """Put a count of windows inside a radius beside its exact intervals."""
    low, high = acceptance_interval(trials, 1.0 - alpha)
    least, most = predictive_interval(trials, conformal_episodes, alpha)
    total = max(trials, 1)
    return Coverage(
        alpha=alpha,
        horizon=horizon,
        radius=radius,
        measured=rate(inside, trials),
        accept_low=low / total,
        accept_high=high / total,
        accepted=low <= inside <= high,
        conformal_episodes=conformal_episodes,
        plausible_low=least / total,
        plausible_high=most / total,
        plausible=least <= inside <= most,
        all_windows=all_windows,
    )


def measure_reliability(
    conformal: NDArray[np.float64],
    conformal_episode: NDArray[np.int64],
    test: NDArray[np.float64],
    test_episode: NDArray[np.int64],
    size: int,
) -> tuple[Reliability, ...]:
    """Compare nominal and held-out coverage at many levels, per horizon.

    conformal, test: energies (W, H). size: numbers D over which an energy is averaged, so that
    size * energy is chi-squared if the head's Gaussian were exact.
    """
    groups, held = by_episode(conformal, conformal_episode), by_episode(test, test_episode)
    levels = [v for v in _LEVELS if conformal_rank(len(groups), 1.0 - v) <= len(groups)]
    rows = []
    for step in range(test.shape[1]):
        limits = [grouped_conformal_quantile([g[:, step] for g in groups], 1 - v) for v in levels]
        gaussian = [float(stats.chi2.ppf(v, size)) / size for v in levels]
        rows.append(
            Reliability(
                horizon=step + 1,
                nominal=tuple(levels),
                conformal=tuple(_covered(held, step, limit) for limit in limits),
                gaussian=tuple(_covered(held, step, limit) for limit in gaussian),
            )
        )
    return tuple(rows)


def _covered(groups: Sequence[NDArray[np.float64]], step: int, limit: float) -> float:
    return float(np.mean([np.mean(group[:, step] <= limit) for group in groups]))
