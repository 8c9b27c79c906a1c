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

from jepa_edge.array_files import as_floats, read_array
from jepa_edge.errors import InputError
from jepa_edge.latent_map import LatentMap
from jepa_edge.latent_variable import Sampler
from jepa_edge.manifest import ActionSpec
from jepa_edge.planner import goal_energy, lowest
from jepa_edge.session_config import MAX_HORIZON
from jepa_edge.world_model import WorldModel

SIGMAS = 2.0
INSIDE = 1.0 - math.exp(-0.5 * SIGMAS**2)
"""Share of a normal distribution in the plane that its 2-sigma ellipse holds: 86.5 %."""

MAX_SAMPLES = 10_000
_MAX_SEQUENCES = 64
_MAX_FLOATS = 2**30
"""Of all futures of one sequence: 4 GiB."""


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
        """The path that ends nearest to the goal, None without one.

        Raises InputError when all of them diverged.
        """
        ends = [path.energies[-1] for path in self.paths if path.energies is not None]
        return None if self.goal is None else self.paths[lowest(np.array(ends, np.float32))]


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
    its latents. sequences: at most 64, of 1 to MAX_HORIZON steps. sampler: draws futures for the
    ellipses. samples: of each sequence, 2 to MAX_SAMPLES. goal: (N, D).
    Raises InputError: a model without actions, a shape that is not the model's, or too much at
    once.
    """
    spec = model.manifest.latent
    width = model.manifest.require_action().dim
    if history.shape != (len(history), spec.tokens, spec.dim) or past_actions.shape != (
        len(history) - 1,
        width,
    ):
        raise InputError(
            f"history has shape {history.shape} and past_actions {past_actions.shape}, expected "
            f"(T, {spec.tokens}, {spec.dim}) and (T - 1, {width})"
        )
    if not sequences or len(sequences) > _MAX_SEQUENCES:
        raise InputError(f"got {len(sequences)} sequences, expected 1 to {_MAX_SEQUENCES}")
    if not np.isfinite(history).all():
        raise InputError("history is not finite; choose another frame, or check the state")
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
        _check_size(len(actions), 0 if sampler is None else samples, spec.size)
        taken = np.concatenate([past_actions, actions]).astype(np.float32)
        latents = model.rollout(history[None], taken[None])[0]
        points = np.concatenate([start[None], latent_map.project(latents, spec)])
        energies = None
        if goal is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                energies = goal_energy(latents[:, None], goal, spec=spec)
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


def _check_size(steps: int, samples: int, floats: int) -> None:
    """Raise InputError for a future that is too long, or more of them than memory is for."""
    if not 1 <= steps <= MAX_HORIZON:
        raise InputError(f"got a sequence of {steps} steps, expected 1 to {MAX_HORIZON}")
    if samples and not 2 <= samples <= MAX_SAMPLES:
        raise InputError(f"samples is {samples}, expected 2 to {MAX_SAMPLES}, or 0 for none")
    if samples * steps * floats > _MAX_FLOATS:
        most = _MAX_FLOATS // (steps * floats)
        raise InputError(
            f"{samples} samples of {steps} latents of {floats} numbers take "
            f"{samples * steps * floats / 2**28:.0f} GiB, expected {_MAX_FLOATS // 2**28} at most; "
            f"ask for {most if most > 1 else 0} samples, or fewer steps"
        )


def ellipse(covariance: NDArray[np.float64]) -> tuple[float, float, float]:
    """Half axes of the 2-sigma ellipse, the longer first, and its angle in radians.

    NaN where the covariance is not finite: a sampled future diverged.
    """
    if not np.isfinite(covariance).all():
        return math.nan, math.nan, math.nan
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
    if not 1 <= horizon <= MAX_HORIZON:
        raise InputError(f"horizon is {horizon}, expected 1 to {MAX_HORIZON} steps")
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
            array = read_array(path)
            if array.ndim != 3:
                raise InputError(f"{path} holds {array.shape}, expected (K, H, A) action blocks")
            named = [(f"sequence {index}", one) for index, one in enumerate(array)]
        elif path.suffix == ".csv":
            named = _read_csv(path)
        else:
            raise InputError(f"{path} is no .npy or .csv; expected (K, H, A) action blocks")
        sequences = [
            ActionSequence(name=name, actions=as_floats(name, one, path)) for name, one in named
        ]
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise InputError(f"cannot read actions from {path}: {error}") from error
    for sequence in sequences:
        shape = sequence.actions.shape
        if len(shape) != 2 or not 1 <= shape[0] <= MAX_HORIZON or shape[1] != action.dim:
            raise InputError(
                f"{path}: {sequence.name} has shape {shape}, expected (steps, {action.dim}) of 1 "
                f"to {MAX_HORIZON} steps: blocks of {action.block} commands, flattened"
            )
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
