# SPDX-License-Identifier: Apache-2.0
"""Conformal radii per group of actions: small motions and large ones are judged apart."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from jepa_edge.errors import CalibrationError


class GroupRadius(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Radii in innovation energy for one alpha: energies[g][h - 1] for group g at step h.

    It holds with probability at least 1 - alpha for a window of the group that is drawn from a
    fresh nominal episode that has one. episodes: how many each radius came from, like energies.
    """

    alpha: Annotated[float, Meta(gt=0.0, lt=1.0)]
    energies: tuple[tuple[float, ...], ...]
    episodes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Raise ValueError when a radius is not a finite number of 0 or more, or has no count."""
        flat = [energy for group in self.energies for energy in group]
        if not flat or not all(0.0 <= energy < float("inf") for energy in flat):
            raise ValueError("energies must hold one or more radii, all finite, none negative")
        if [len(group) for group in self.energies] != [len(group) for group in self.episodes]:
            raise ValueError("episodes must hold one count for each radius in energies")


class ActionGroups(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups by the size of the actions that lead to a step, and their radii.

    feature: "action_rms", see `action_sizes`. edges: per step h the G - 1 sizes that part the
    groups, ascending; a size equal to an edge belongs to the group above it. They were fixed on
    other episodes than the radii.
    """

    feature: Literal["action_rms"] = "action_rms"
    edges: tuple[tuple[float, ...], ...]
    radii: tuple[GroupRadius, ...]

    def __post_init__(self) -> None:
        """Raise ValueError when edges do not rise or radii do not fit them."""
        check_edges(self.edges)
        for radius in self.radii:
            if {len(group) for group in radius.energies} != {len(self.edges)} or len(
                radius.energies
            ) != self.count:
                raise ValueError(
                    f"radii for alpha={radius.alpha:g} must hold {self.count} groups of "
                    f"{len(self.edges)} steps, as edges does"
                )

    @property
    def count(self) -> int:
        """G, the number of groups."""
        return len(self.edges[0]) + 1

    @property
    def horizon(self) -> int:
        """H, the number of steps that have radii."""
        return len(self.edges)

    def radius(self, alpha: float) -> GroupRadius:
        """Return the radii for one alpha. Raises CalibrationError when it was not calibrated."""
        for radius in self.radii:
            if abs(radius.alpha - alpha) < 1e-12:
                return radius
        known = ", ".join(f"{radius.alpha:g}" for radius in self.radii) or "none"
        raise CalibrationError(
            f"no group radius for alpha={alpha:g}, this calibration has {known}; "
            f"run `jepa-edge calibrate` with --alpha {alpha:g}"
        )

    def limits(self, sizes: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
        """Return the radius of every step, (..., H) float64.

        sizes: (..., h) from `action_sizes`, steps 1 to h of the H that have radii.
        Raises CalibrationError when there are more steps than radii, or none for this alpha.
        """
        if sizes.shape[-1] > self.horizon:
            raise CalibrationError(
                f"{sizes.shape[-1]} steps are asked for, radii end at step {self.horizon}; "
                "calibrate with a longer --horizon"
            )
        energies = np.array(self.radius(alpha).energies)
        groups = group_of(sizes, self.edges)
        return np.asarray(energies[groups, np.arange(sizes.shape[-1])], np.float64)


def action_sizes(
    actions: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the size of the actions up to each step, (..., H) float64, in standard deviations.

    actions: (..., H, A) float32, raw units: the blocks that lead to steps 1 to H. mean, std: (A,),
    the manifest's. Root mean square of all standardized numbers of blocks 1 to h.
    """
    standard = (actions.astype(np.float64) - mean) / std
    square = np.mean(standard**2, axis=-1)
    taken = np.arange(1, square.shape[-1] + 1)
    return np.asarray(np.sqrt(np.cumsum(square, axis=-1) / taken), np.float64)


def group_of(sizes: NDArray[np.float64], edges: tuple[tuple[float, ...], ...]) -> NDArray[np.int64]:
    """Return the group, from 0, of sizes (..., h) at steps 1 to h; edges as in `ActionGroups`."""
    steps = sizes.shape[-1]
    return np.asarray(
        np.sum(sizes[..., None] >= np.array(edges[:steps]), axis=-1, dtype=np.int64), np.int64
    )


def check_edges(edges: tuple[tuple[float, ...], ...]) -> None:
    """Raise ValueError unless edges are finite, rise at every step, and are as many at each."""
    if not edges or not edges[0] or len({len(step) for step in edges}) != 1:
        raise ValueError("edges must hold one or more numbers per step, as many at every step")
    for step in edges:
        if not np.isfinite(step).all() or any(low >= high for low, high in pairwise(step)):
            raise ValueError(f"edges {step} must be finite and rise")
