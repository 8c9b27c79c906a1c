# SPDX-License-Identifier: Apache-2.0
"""What a model expects of several sequences of actions, from one moment on, on a map of latents."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.latent_map import LatentMap
from jepa_edge.latent_variable import Sampler
from jepa_edge.manifest import ActionSpec
from jepa_edge.planner import goal_energy
from jepa_edge.world_model import WorldModel

SIGMAS = 2.0
INSIDE = 1.0 - math.exp(-0.5 * SIGMAS**2)
"""Share of a normal distribution in the plane that its 2-sigma ellipse holds: 86.5 %."""

_MAX_SEQUENCES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSequence:
    """A name and H action blocks, (H, A) float32, raw units."""

    name: str
    actions: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path2D:
    """One imagined future on the map.

    points: (H + 1, 2) float32, the present first. centers: (H, 2) and covariances: (H, 2, 2)
    float64, of the sampled futures on the map; spread: (H,) float32, the error to expect per latent
    number; None without a sampler. energies: (H,) float32, distance to the goal after each step,
    as the planner counts it; None without a goal.
    """

    sequence: ActionSequence
    points: NDArray[np.float32]
    centers: NDArray[np.float64] | None = None
    covariances: NDArray[np.float64] | None = None
    spread: NDArray[np.float32] | None = None
    energies: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagined:
    """All futures of one moment. start, goal: (2,) float32 on the map."""

    start: NDArray[np.float32]
    goal: NDArray[np.float32] | None
    paths: tuple[Path2D, ...]

    @property
    def best(self) -> Path2D | None:
        """The path that ends nearest to the goal, None without one."""
        ends = [
            float(path.energies[-1]) if path.energies is not None else math.inf
            for path in self.paths
        ]
        return None if self.goal is None else self.paths[int(np.argmin(ends))]


def imagine(
    model: WorldModel,
    latent_map: LatentMap,
    history: NDArray[np.float32],
    past_actions: NDArray[np.float32],
    sequences: Sequence[ActionSequence],
    *,
    sampler: Sampler | None = None,
    samples: int = 64,
    seed: int = 0,
    goal: NDArray[np.float32] | None = None,
) -> Imagined:
    """Roll the model out under each sequence.

    history: (T, N, D) float32, oldest first. past_actions: (T - 1, A) float32, raw units, between
    its latents. sampler: draws futures for the ellipses. samples: of each sequence. goal: (N, D).
    Raises InputError: a model without actions, or a shape that is not the model's.
    """
    spec = model.manifest.latent
    width = model.manifest.require_action().dim
    if not sequences or len(sequences) > _MAX_SEQUENCES:
        raise InputError(f"got {len(sequences)} sequences, expected 1 to {_MAX_SEQUENCES}")
    if goal is not None and goal.shape != (spec.tokens, spec.dim):
        raise InputError(f"goal has shape {goal.shape}, expected {(spec.tokens, spec.dim)}")
    start = latent_map.project(history[-1], spec)
    paths = []
    for sequence in sequences:
        actions = sequence.actions
        if actions.ndim != 2 or actions.shape[1] != width or not np.isfinite(actions).all():
            raise InputError(
                f"sequence {sequence.name!r} has shape {actions.shape}, expected (steps, {width}) "
                "finite numbers, raw units"
            )
        taken = np.concatenate([past_actions, actions]).astype(np.float32)
        latents = model.rollout(history[None], taken[None])[0]
        points = np.concatenate([start[None], latent_map.project(latents, spec)])
        energies = None
        if goal is not None:
            ends = [
                goal_energy(latents[None, : h + 1], goal, spec=spec)[0] for h in range(len(actions))
            ]
            energies = np.array(ends, np.float32)
        centers = covariances = spread = None
        if sampler is not None:
            futures = sampler.sample(history, taken, samples, seed)
            drawn = latent_map.project(futures.latents, spec).astype(np.float64)
            centers = drawn.mean(axis=0)
            apart = drawn - centers
            covariances = np.einsum("shi,shj->hij", apart, apart) / (len(drawn) - 1)
            spread = futures.spread
        paths.append(
            Path2D(
                sequence=sequence,
                points=points,
                centers=centers,
                covariances=covariances,
                spread=spread,
                energies=energies,
            )
        )
    return Imagined(
        start=start,
        goal=None if goal is None else latent_map.project(goal, spec),
        paths=tuple(paths),
    )


def ellipse(covariance: NDArray[np.float64]) -> tuple[float, float, float]:
    """Half axes of the 2-sigma ellipse, the longer first, and its angle in radians."""
    values, vectors = np.linalg.eigh(covariance)
    longer, shorter = (SIGMAS * math.sqrt(max(float(value), 0.0)) for value in values[::-1])
    return longer, shorter, math.atan2(float(vectors[1, 1]), float(vectors[0, 1]))


def builtin_sequences(
    action: ActionSpec, horizon: int, last_action: NDArray[np.float32] | None
) -> list[ActionSequence]:
    """Hold the last command, command zero, and each axis one standard deviation up and down.

    last_action: (A,) float32, raw units, None where nothing was commanded before; there is then
    nothing to hold. Zero is left out where it lies outside of the limits. In a block all commands
    are moved alike. Commands are cut at the limits.
    """
    if horizon < 1:
        raise InputError(f"horizon is {horizon}, expected 1 or more steps")
    mean, std = np.array(action.mean), np.array(action.std)
    low = np.array(action.low) if action.low else np.full(action.dim, -np.inf)
    high = np.array(action.high) if action.high else np.full(action.dim, np.inf)
    found: list[tuple[str, NDArray[np.floating]]] = []
    if last_action is not None:
        found.append(("hold the last command", last_action))
    if ((low <= 0.0) & (high >= 0.0)).all():
        found.append(("zero", np.zeros(action.dim)))
    per_step = action.dim // action.block
    for axis, name in enumerate(axis_names(action)):
        for sign, word in ((1.0, "+"), (-1.0, "-")):
            moved = mean.copy()
            moved[axis::per_step] += sign * std[axis::per_step]
            found.append((f"{name} {word}1 std", np.clip(moved, low, high)))
    return [
        ActionSequence(name=name, actions=np.tile(one.astype(np.float32), (horizon, 1)))
        for name, one in found[:_MAX_SEQUENCES]
    ]


def axis_names(action: ActionSpec) -> list[str]:
    """Names of one environment step's numbers, "action 0" and so on where there are none."""
    per_step = action.dim // action.block
    if len(action.names) >= per_step:
        return list(action.names[:per_step])
    return [f"action {axis}" for axis in range(per_step)]


def read_sequences(path: Path, action: ActionSpec) -> list[ActionSequence]:
    """Read sequences of action blocks.

    path: `.npy` of shape (K, H, A), or `.csv` with a header, one step per row: the name of the
    sequence, then A numbers in raw units; a sequence's rows stand together.
    Raises InputError when the file is neither or its numbers do not fit the model.
    """
    try:
        if path.suffix == ".npy":
            with path.open("rb") as stream:
                array = np.load(stream, allow_pickle=False)
            named = [(f"sequence {index}", one) for index, one in enumerate(array)]
        elif path.suffix == ".csv":
            named = _read_csv(path)
        else:
            raise InputError(f"{path} is no .npy or .csv; expected (K, H, A) action blocks")
        sequences = [
            ActionSequence(name=name, actions=np.asarray(one, np.float32)) for name, one in named
        ]
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise InputError(f"cannot read actions from {path}: {error}") from error
    for sequence in sequences:
        shape = sequence.actions.shape
        if len(shape) != 2 or not shape[0] or shape[1] != action.dim:
            raise InputError(
                f"{path}: {sequence.name} has shape {shape}, expected (steps, {action.dim}): "
                f"blocks of {action.block} commands, flattened"
            )
        if not np.isfinite(sequence.actions).all():
            raise InputError(f"{path}: {sequence.name} holds NaN or infinity")
    if not sequences:
        raise InputError(f"{path} holds no sequences; give one or more")
    return sequences


def _read_csv(path: Path) -> list[tuple[str, NDArray[np.float64]]]:
    steps: dict[str, list[list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.reader(stream)
        next(rows, None)
        last = None
        for row in rows:
            if not row:
                continue
            if row[0] != last and row[0] in steps:
                raise InputError(
                    f"{path}: the rows of {row[0]!r} do not stand together; sort them by sequence"
                )
            last = row[0]
            steps.setdefault(row[0], []).append([float(number) for number in row[1:]])
    return [(name, np.array(values, np.float64)) for name, values in steps.items()]
