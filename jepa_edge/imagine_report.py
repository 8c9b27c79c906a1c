# SPDX-License-Identifier: Apache-2.0
"""What `jepa-edge imagine` found, as records: printed as JSON, and drawn by the bench."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.energy_landscape import Landscape
from jepa_edge.imagine import INSIDE, Imagined, ellipse
from jepa_edge.latent_map import LatentMap
from jepa_edge.planner import lowest

Numbers = tuple[float, ...]
Rows = tuple[Numbers, ...]


class EllipseReport(msgspec.Struct, frozen=True, kw_only=True):
    """2-sigma ellipse of the sampled futures on the map. angle: radians, of the longer half axis.

    covariance: 2 x 2, row by row. NaN (null in JSON) where a future diverged.
    """

    center: tuple[float, float]
    half_axes: tuple[float, float]
    angle: float
    covariance: tuple[float, float, float, float]


class SequenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence of actions, (H, A) raw units, and where it leads.

    points: on the map, the present first. ellipses and spread are empty without a calibration,
    energies without a goal.
    """

    name: str
    actions: Rows
    points: Rows
    ellipses: tuple[EllipseReport, ...]
    spread: Numbers
    energies: Numbers


class ImagineReport(msgspec.Struct, frozen=True, kw_only=True):
    """All futures of one moment. inside: share of sampled futures that an ellipse stands for.

    explained: share of the recorded latents' variance along each axis of the map. best: name of the
    sequence that ends nearest to the goal, empty without one.
    """

    bundle: str
    variant: str
    source: str
    goal_source: str
    samples: int
    inside: float
    explained: Numbers
    start: Numbers
    goal: Numbers
    best: str
    sequences: tuple[SequenceReport, ...]
    notes: tuple[str, ...]


class LandscapeReport(msgspec.Struct, frozen=True, kw_only=True):
    """Energy over a grid of actions. energies[i][j][k]: values[i] along axes[0], and so on.

    best: the grid's action of lowest energy, along the three axes. units: of the action.
    """

    bundle: str
    variant: str
    source: str
    goal_source: str
    axes: tuple[str, str, str]
    units: str
    values: Numbers
    energies: tuple[tuple[Numbers, ...], ...]
    best: tuple[float, float, float]
    best_energy: float


def report_futures(
    found: Imagined,
    latent_map: LatentMap,
    *,
    bundle: str,
    variant: str,
    source: str,
    goal_source: str,
    samples: int,
    notes: tuple[str, ...],
) -> ImagineReport:
    """Turn arrays into records. samples: 0 where none were drawn."""
    sequences = []
    for path in found.paths:
        ellipses = []
        if path.centers is not None and path.covariances is not None:
            for center, covariance in zip(path.centers, path.covariances, strict=True):
                longer, shorter, angle = ellipse(covariance)
                numbers = covariance.ravel().tolist()
                ellipses.append(
                    EllipseReport(
                        center=(float(center[0]), float(center[1])),
                        half_axes=(longer, shorter),
                        angle=angle,
                        covariance=(numbers[0], numbers[1], numbers[2], numbers[3]),
                    )
                )
        sequences.append(
            SequenceReport(
                name=path.sequence.name,
                actions=_rows(path.sequence.actions),
                points=_rows(path.points),
                ellipses=tuple(ellipses),
                spread=_numbers(path.spread),
                energies=_numbers(path.energies),
            )
        )
    best = found.best
    return ImagineReport(
        bundle=bundle,
        variant=variant,
        source=source,
        goal_source=goal_source,
        samples=samples,
        inside=INSIDE,
        explained=_numbers(latent_map.explained),
        start=_numbers(found.start),
        goal=_numbers(found.goal),
        best="" if best is None else best.sequence.name,
        sequences=tuple(sequences),
        notes=notes,
    )


def report_landscape(
    found: Landscape,
    names: tuple[str, str, str],
    *,
    bundle: str,
    variant: str,
    source: str,
    goal_source: str,
    units: str,
) -> LandscapeReport:
    """Turn a landscape into records. names: of its three axes."""
    return LandscapeReport(
        bundle=bundle,
        variant=variant,
        source=source,
        goal_source=goal_source,
        axes=names,
        units=units,
        values=_numbers(found.values),
        energies=tuple(_rows(plane) for plane in found.energies),
        best=found.best,
        best_energy=float(found.energies.reshape(-1)[lowest(found.energies)]),
    )


def _numbers(values: NDArray[np.floating] | None) -> Numbers:
    return () if values is None else tuple(float(value) for value in values)


def _rows(values: NDArray[np.floating]) -> Rows:
    return tuple(_numbers(row) for row in values)
