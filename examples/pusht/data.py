# SPDX-License-Identifier: Apache-2.0
"""The recordings that the PushT example learns from and is measured on, and batches of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.recording import Recording
from jepa_edge.sim import record_pusht

log = logging.getLogger(__name__)

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet's, as released LeWorldModels expect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One recording to make: how many episodes, how long, from which seed."""

    episodes: int
    steps: int
    seed: int


SPLITS = {
    "train": Split(episodes=1500, steps=80, seed=100),
    "probe": Split(episodes=400, steps=12, seed=200),
    "val": Split(episodes=60, steps=80, seed=300),
}
"""Seeds share no randomness, so no split sees another's episodes. The probe's are short and many:
frames of one run resemble each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Episodes of equal length, in memory.

    frames: (E, T + 1, H, W, 3) uint8. actions: (E, T, A) float32, simulator pixels.
    states: (E, T + 1, 6) float32, columns as in jepa_edge.sim.pusht.STATE_NAMES.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    states: NDArray[np.float32]


def load_runs(root: Path, name: str, *, workers: int = 2) -> Runs:
    """Read the recording of a split below `root`; record it first where it is missing."""
    split = SPLITS[name]
    path = root / name
    if not path.exists():
        log.info("recording %d episodes into %s", split.episodes, path)
        record_pusht(path, split.episodes, split.steps, split.seed, workers=workers)
    episodes = list(Recording(path))
    states = [episode.state for episode in episodes if episode.state is not None]
    return Runs(
        frames=np.stack([episode.frames for episode in episodes]),
        actions=np.stack([episode.actions for episode in episodes]),
        states=np.stack(states),
    )


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
