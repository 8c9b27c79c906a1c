# SPDX-License-Identifier: Apache-2.0
"""The recordings that an example learns from and is measured on, and batches of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.recording import Recording
from jepa_edge.sim import record
from training.task import Task

log = logging.getLogger(__name__)

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet's, as released LeWorldModels expect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Episodes of equal length, in memory.

    frames: (E, T + 1, H, W, 3) uint8. actions: (E, T, A) float32, raw units.
    states: (E, T + 1, S) float32, true states with columns state_names.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    states: NDArray[np.float32]
    state_names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Runs:
        """Read a recording, whose episodes are equally long and hold the true state."""
        recording = Recording(path)
        episodes = list(recording)
        return cls(
            frames=np.stack([episode.frames for episode in episodes]),
            actions=np.stack([episode.actions for episode in episodes]),
            states=np.stack([e.state for e in episodes if e.state is not None]),
            state_names=tuple(recording.info.state_names),
        )


def load_runs(task: Task, root: Path, name: str, *, workers: int = 2) -> Runs:
    """Read the recording of a split below `root`; record it first where it is missing."""
    split = task.splits[name]
    path = root / name
    if not path.exists():
        log.info("recording %d episodes into %s", split.episodes, path)
        record(
            task.name,
            path,
            split.episodes,
            split.steps,
            split.seed,
            size=task.model.image_size,
            block=task.block,
            workers=workers,
        )
    return Runs.read(path)


def normalize_frames(frames: NDArray[np.uint8]) -> Tensor:
    """frames: (B, H, W, 3) uint8 RGB. Returns (B, 3, H, W) float32, normalized per channel."""
    scale = 1.0 / (255.0 * torch.tensor(PIXEL_STD))
    shift = -torch.tensor(PIXEL_MEAN) / torch.tensor(PIXEL_STD)
    pixels = torch.from_numpy(frames).float() * scale + shift
    return pixels.permute(0, 3, 1, 2).contiguous()


def sample_windows(
    runs: Runs, rng: np.random.Generator, *, batch: int, length: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw windows uniformly over episodes and starts.

    Returns frames (batch, length, H, W, 3) and actions (batch, length - 1, A), action t between
    frames t and t + 1.
    """
    episodes = rng.integers(runs.frames.shape[0], size=batch)
    starts = rng.integers(runs.frames.shape[1] - length + 1, size=batch)
    times = starts[:, None] + np.arange(length)
    return (
        runs.frames[episodes[:, None], times],
        runs.actions[episodes[:, None], times[:, :-1]],
    )
