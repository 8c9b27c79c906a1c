# SPDX-License-Identifier: Apache-2.0
"""Which recorded frames an export calibrates on, tunes on, and is judged on: never the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import ExportError
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Episode, Recording

ROLLOUT_STEPS = 5
"""Model steps that parity rolls out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """B pieces of episodes, each T history frames and the actions up to 5 steps ahead.

    frames: (B, T, H, W, 3) uint8. actions: (B, T - 1 + 5, A) float32, raw units: action t is taken
    at frame t. episodes: names of the episodes that the pieces come from.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    episodes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def newest_frames(self) -> NDArray[np.uint8]:
        """The last history frame of each window: (B, H, W, 3)."""
        return np.ascontiguousarray(self.frames[:, -1])

    @property
    def step_actions(self) -> NDArray[np.float32]:
        """The actions at the history frames, for a single prediction: (B, T, A)."""
        return np.ascontiguousarray(self.actions[:, : self.frames.shape[1]])

    def head(self, count: int) -> Windows:
        """Return the first windows only."""
        return dataclasses.replace(self, frames=self.frames[:count], actions=self.actions[:count])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportData:
    """Windows of different episodes for quantizing, for choosing and for judging.

    calibration: for activation ranges. tuning: for the choice of quantizer and layers. held_out:
    for parity and golden outputs; its episodes are in neither of the others.
    """

    calibration: Windows
    tuning: Windows
    held_out: Windows


def split_recording(
    recording: Recording,
    history: int,
    *,
    calibration: int,
    tuning: int,
    held_out: int,
    seed: int,
    progress: Progress = silent,
) -> ExportData:
    """Draw windows; a quarter of the episodes is held out, another quarter is for tuning.

    history: T. calibration, tuning, held_out: windows wanted of each; fewer come from a recording
    that is too short for them. With 2 episodes, calibration and tuning share one.
    Raises ExportError when fewer than 2 episodes are long enough.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(recording))
    quarter = max(1, len(order) // 4)
    # Reading an episode costs more than another window of it: take as few as give some variety.
    wanted = {
        "held out": min(quarter, held_out),
        "tuning": min(quarter, tuning),
        "calibration": max(2, calibration // 2),
    }
    length = history - 1 + ROLLOUT_STEPS
    episodes: dict[str, list[Episode]] = {name: [] for name in wanted}
    waiting = list(wanted)
    total = min(len(order), sum(wanted.values()))
    for done, index in enumerate(order):
        if not waiting:
            break
        progress("reading recorded episodes", min(done, total), total)
        episode = recording.load(int(index))
        if len(episode.actions) >= length:
            episodes[waiting[0]].append(episode)
        if len(episodes[waiting[0]]) == wanted[waiting[0]]:
            waiting.pop(0)
    progress("reading recorded episodes", total, total)
    for_tuning = episodes["tuning"]
    for_calibration = episodes["calibration"] or for_tuning
    if not for_calibration:
        raise ExportError(
            f"{recording.path} has {len(episodes['held out'])} episodes of {length} actions or "
            "more, expected at least 2, one to calibrate on and one to judge on; record more or "
            "longer episodes"
        )
    return ExportData(
        calibration=_draw(for_calibration, calibration, history, rng),
        tuning=_draw(for_tuning, tuning, history, rng),
        held_out=_draw(episodes["held out"], held_out, history, rng),
    )


def _draw(episodes: list[Episode], count: int, history: int, rng: np.random.Generator) -> Windows:
    """Draw windows without replacement, evenly over the episodes, in random order."""
    steps = history - 1 + ROLLOUT_STEPS
    starts = [
        (index, int(start))
        for index, episode in enumerate(episodes)
        for start in rng.permutation(len(episode.actions) - steps + 1)[
            : max(1, -(-count // len(episodes)))
        ]
    ]
    picked = [starts[i] for i in rng.permutation(len(starts))[:count]]
    return Windows(
        frames=np.stack([episodes[e].frames[s : s + history] for e, s in picked]),
        actions=np.stack([episodes[e].actions[s : s + steps] for e, s in picked]),
        episodes=tuple(episode.name for episode in episodes),
    )
