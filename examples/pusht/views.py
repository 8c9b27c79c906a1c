# SPDX-License-Identifier: Apache-2.0
"""What the demo draws from the model: futures read back into pixels, and an energy landscape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.dataset import EncodedEpisode
from jepa_edge.monitor import Monitor
from jepa_edge.planner import goal_energy
from jepa_edge.recording import Recording
from jepa_edge.world_model import WorldModel
from planning import Task

HORIZON = 5
_GRID = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureView:
    """Futures of one held-out window in simulator pixels: agent x, y, block x, y.

    frame: (H, W, 3) uint8, the last observed. futures: (S, H + 1, 4). truth: (H + 1, 4), read from
    the observed latents by the same probe. probe_rmse: of that probe, pixels.
    """

    frame: NDArray[np.uint8]
    futures: NDArray[np.float32]
    truth: NDArray[np.float32]
    probe_rmse: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """Goal energy over the held target position: axis (K,) pixels, energy (K, K), rows are y."""

    task: Task
    axis: NDArray[np.float32]
    energy: NDArray[np.float32]


def future_view(
    model: WorldModel, monitor: Monitor, recording: Recording, encoded: Sequence[EncodedEpisode]
) -> FutureView:
    """Sample futures where the block moves most, and read positions out with a linear probe.

    The probe is fitted on the first half of the episodes; the window comes from the second half.
    """
    episodes = [recording.load(index) for index in range(len(recording))]
    half = len(episodes) // 2
    states = [np.asarray(episode.state)[:, :4] for episode in episodes]
    inputs = _probe_inputs(np.concatenate([e.latents for e in encoded[:half]]))
    weights, *_ = np.linalg.lstsq(inputs, np.concatenate(states[:half]), rcond=None)
    held_out = _probe_inputs(np.concatenate([e.latents for e in encoded[half:]]))
    rmse = np.sqrt(np.mean((held_out @ weights - np.concatenate(states[half:])) ** 2))
    history = model.manifest.history
    best, index, start = -1.0, half, 0
    for candidate in range(half, len(episodes)):
        block = states[candidate][:, 2:4]
        moved = np.linalg.norm(block[HORIZON:] - block[:-HORIZON], axis=1)[history - 1 :]
        if moved.max() > best:
            best, index, start = float(moved.max()), candidate, int(moved.argmax())
    now = start + history - 1
    latents, actions = encoded[index].latents, encoded[index].actions
    futures = monitor.sample_futures(
        latents[start : now + 1], actions[start : now + HORIZON], samples=32
    ).latents
    first = np.broadcast_to(latents[now], (len(futures), 1, *latents[now].shape))
    paths = np.concatenate([first, futures], axis=1)
    flat = _probe_inputs(paths.reshape(-1, *paths.shape[2:])) @ weights
    return FutureView(
        frame=episodes[index].frames[now],
        futures=flat.reshape(*paths.shape[:2], 4).astype(np.float32),
        truth=(_probe_inputs(latents[now : now + HORIZON + 1]) @ weights).astype(np.float32),
        probe_rmse=float(rmse),
    )


def energy_landscape(model: WorldModel, task: Task) -> Landscape:
    """Hold every target position of a grid for the whole horizon and take the goal energy."""
    from jepa_edge.sim import PushTSim

    sim = PushTSim()
    sim.reset(0, task.start)
    latents = model.encode(np.stack([sim.frame, task.goal_frame]))
    history, block = model.manifest.history, model.manifest.action.block
    axis = np.linspace(0.0, 512.0, _GRID, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    held = np.tile(np.stack([x.ravel(), y.ravel()], axis=1), (1, block))
    standing = np.tile(task.start[:2], block)
    actions = np.concatenate(
        [
            np.broadcast_to(standing, (len(held), history - 1, len(standing))),
            np.repeat(held[:, None], HORIZON, axis=1),
        ],
        axis=1,
    ).astype(np.float32)
    start = np.broadcast_to(latents[0], (len(held), history, *latents[0].shape))
    energy = goal_energy(model.rollout(start, actions), latents[1])
    return Landscape(task=task, axis=axis, energy=energy.reshape(_GRID, _GRID))


def _probe_inputs(latents: NDArray[np.float32]) -> NDArray[np.float64]:
    flat = latents.reshape(len(latents), -1).astype(np.float64)
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
