# SPDX-License-Identifier: Apache-2.0
"""How far from a goal each action of a grid would end: the energy landscape of V-JEPA 2-AC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.chunks import rows_per_chunk
from jepa_edge.errors import InputError
from jepa_edge.planner import goal_energy, lowest
from jepa_edge.world_model import WorldModel

MAX_STEPS = 50
"""Values per axis: 125000 predictions."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """Energies over a grid of actions.

    energies: (s, s, s) float32; [i, j, k] is that of values[i] along axes[0], values[j] along
    axes[1], values[k] along axes[2], and 0 elsewhere; not finite where the prediction diverged.
    values: (s,) float32, raw action units. axes: which numbers of the action were varied.
    """

    energies: NDArray[np.float32]
    values: NDArray[np.float32]
    axes: tuple[int, int, int]

    @property
    def best(self) -> tuple[float, float, float]:
        """The grid's action of lowest energy, along axes[0], axes[1], axes[2]."""
        i, j, k = np.unravel_index(lowest(self.energies), self.energies.shape)
        return float(self.values[i]), float(self.values[j]), float(self.values[k])


def energy_landscape(
    model: WorldModel,
    history: NDArray[np.float32],
    past_actions: NDArray[np.float32],
    goal: NDArray[np.float32],
    axes: tuple[int, int, int] = (0, 1, 2),
    extent: float = 0.05,
    steps: int = 5,
) -> Landscape:
    """Predict one step under every action of a grid, and hold the results against a goal.

    history: (T, N, D) float32, oldest first. past_actions: (T - 1, A) float32 raw units, between
    the history's latents. goal: (N, D) float32. axes: three numbers of the action, e.g. the
    displacement along x, y and z. extent: the grid reaches from -extent to +extent, raw units, in
    `steps` values, at most 50. The energy is the planner's (`goal_energy`, as the bundle says).
    Raises InputError on other shapes, a grid that is none, a model without actions, or one whose
    predictions all diverged.
    Source: energy_landscape_example.ipynb of facebookresearch/vjepa2 (there extent 0.075, 5 steps).
    """
    manifest = model.manifest
    action_dim, latent = manifest.require_action().dim, manifest.latent
    if len(set(axes)) != 3 or not all(0 <= axis < action_dim for axis in axes):
        raise InputError(
            f"axes are {axes}, expected three different ones from 0 to {action_dim - 1}"
        )
    if not (2 <= steps <= MAX_STEPS and 0.0 < extent <= _LARGEST):
        raise InputError(
            f"extent is {extent} and steps {steps}, expected a positive extent of float32 and 2 to "
            f"{MAX_STEPS} steps"
        )
    if goal.shape != (latent.tokens, latent.dim):
        raise InputError(f"goal has shape {goal.shape}, expected {(latent.tokens, latent.dim)}")
    if history.ndim != 3 or past_actions.shape != (len(history) - 1, action_dim):
        raise InputError(
            f"history has shape {history.shape} and past_actions {past_actions.shape}, expected "
            f"(T, N, D) and (T - 1, {action_dim})"
        )
    values = np.linspace(-extent, extent, steps).astype(np.float32)
    grid = np.zeros((steps**3, action_dim), np.float32)
    grid[:, axes] = np.stack(np.meshgrid(values, values, values, indexing="ij"), -1).reshape(-1, 3)
    history = np.asarray(history, np.float32)
    past_actions = np.asarray(past_actions, np.float32)
    energies = np.empty(len(grid), np.float32)
    rows = rows_per_chunk(history.size)
    for start in range(0, len(grid), rows):
        actions = grid[start : start + rows]
        taken = np.repeat(past_actions[None], len(actions), axis=0)
        predicted = model.predict(
            np.repeat(history[None], len(actions), axis=0),
            np.concatenate([taken, actions[:, None]], axis=1),
        )
        with np.errstate(over="ignore", invalid="ignore"):
            energies[start : start + rows] = goal_energy(predicted[:, None], goal, spec=latent)
    lowest(energies)
    return Landscape(energies=energies.reshape(steps, steps, steps), values=values, axes=axes)
