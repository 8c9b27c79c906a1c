# SPDX-License-Identifier: Apache-2.0
"""Conformal radii per group of windows: coverage for large motions too, not only on average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import grouped_conformal_quantile, required_episodes
from jepa_edge.calibration.dataset import Windows
from jepa_edge.errors import CalibrationError
from jepa_edge.groups import ActionGroups, GroupRadius, action_sizes, group_of
from jepa_edge.manifest import ActionSpec


def window_sizes(windows: Windows, spec: ActionSpec) -> NDArray[np.float64]:
    """Return the size of the actions that lead to each step of each window: (W, H) float64."""
    ahead = windows.actions[:, -windows.horizon :]
    return action_sizes(ahead, np.array(spec.mean, np.float32), np.array(spec.std, np.float32))


def fit_edges(sizes: NDArray[np.float64], groups: int) -> tuple[tuple[float, ...], ...]:
    """Part sizes (W, H) into `groups` groups with as many windows each, per step.

    The windows must come from other episodes than the radii: edges that know their own scores'
    episodes would make the groups depend on them.
    Raises CalibrationError when the actions are all of one size.
    """
    if groups < 2:
        raise CalibrationError(f"{groups} groups are asked for, expected 2 or more")
    shares = np.arange(1, groups) / groups
    edges = np.quantile(sizes, shares, axis=0).T
    if (np.diff(np.concatenate([sizes.min(axis=0)[:, None], edges], axis=1)) <= 0.0).any():
        raise CalibrationError(
            f"the actions hardly differ in size (from {sizes.min():.3g} to {sizes.max():.3g} "
            f"standard deviations), expected {groups} groups; record varied runs"
        )
    return tuple(tuple(step) for step in edges.tolist())


def fit_group_radii(
    energies: NDArray[np.float64],
    episode: NDArray[np.int64],
    sizes: NDArray[np.float64],
    edges: tuple[tuple[float, ...], ...],
    alphas: Sequence[float],
    required: float | None = None,
) -> ActionGroups:
    """Set conformal radii per group and step, from all windows of the conformal episodes.

    energies, sizes: (W, H), innovation energies and `window_sizes`. episode: (W,), which episode
    each window comes from. edges: from `fit_edges` on other episodes. required: the one of the
    alphas that must be supported; those of the others that a group is too small for are left out.
    None requires all of them.
    Given that a fresh nominal episode has windows in a group, one of them drawn at random lies
    within the group's radius with probability at least 1 - alpha: the episodes that have such
    windows are exchangeable among themselves.
    Raises CalibrationError, saying how many more episodes are needed, when a group has too few.
    Source: Vovk et al. 2005, section 4.5 (Mondrian); Lee, Barber & Willett 2023 (HCP).
    """
    groups = group_of(sizes, edges)
    horizon, count = len(edges), len(edges[0]) + 1
    parts = [
        [_by_episode(energies[:, h], episode, groups[:, h] == g) for h in range(horizon)]
        for g in range(count)
    ]
    total = len(np.unique(episode))
    for alpha in alphas if required is None else (required,):
        _check_enough(parts, total, alpha)
    least = min(len(scores) for row in parts for scores in row)
    alphas = [alpha for alpha in alphas if least >= required_episodes(alpha)]
    return ActionGroups(
        edges=edges,
        radii=tuple(
            GroupRadius(
                alpha=alpha,
                energies=tuple(
                    tuple(grouped_conformal_quantile(scores, alpha) for scores in row)
                    for row in parts
                ),
                episodes=tuple(tuple(len(scores) for scores in row) for row in parts),
            )
            for alpha in alphas
        ),
    )


def _by_episode(
    scores: NDArray[np.float64], episode: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    """Split the chosen scores by episode; episodes without any are left out."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(episode[rows], kind="stable")]
    first = np.flatnonzero(np.diff(episode[rows])) + 1
    return list(np.split(scores[rows], first)) if rows.size else []


def _check_enough(
    parts: Sequence[Sequence[Sequence[NDArray[np.float64]]]], total: int, alpha: float
) -> None:
    """Raise CalibrationError for the group that lacks most episodes."""
    have, group, step = min(
        (len(scores), g, h) for g, row in enumerate(parts) for h, scores in enumerate(row)
    )
    needed = required_episodes(alpha)
    if have >= needed:
        return
    guess = f"about {math.ceil((needed - have) * total / have)}" if have else "many"
    raise CalibrationError(
        f"alpha={alpha:g} needs {needed} episodes with windows in every action group, got {have} "
        f"of {total} in group {group + 1} of {len(parts)} at step {step + 1}: {needed - have} more "
        f"with such actions are needed ({guess} at the present share); record them, raise alpha "
        "or take fewer groups"
    )
