# SPDX-License-Identifier: Apache-2.0
"""Which recorded frames an export calibrates on, tunes on, and is judged on: never the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import ExportError, InputError
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Episode, Recording

ROLLOUT_STEPS = 5
"""Model steps that parity rolls out."""

_RATE_TOLERANCE = 0.01


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
        return Windows(
            frames=self.frames[:count], actions=self.actions[:count], episodes=self.episodes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportData:
    """Windows of different episodes for quantizing and for judging.

    calibration: for activation ranges. tuning: other windows, of the same episodes where these are
    few, for the search of layers. held_out: for parity and golden outputs, of episodes of its own.
    """

    calibration: Windows
    tuning: Windows
    held_out: Windows


def check_recording(recording: Recording, observation: ObservationSpec, action: ActionSpec) -> None:
    """Raise InputError where a recording does not fit what the model sees and is told."""
    info, where = recording.info, recording.path
    if info.action_dim != action.dim:
        raise InputError(
            f"{where} has {info.action_dim} numbers per action block, the model takes "
            f"{action.dim}; record with the model's action block"
        )
    if info.color != observation.color:
        raise InputError(
            f"{where} holds {info.color} frames, the model takes {observation.color}; "
            "convert the recording"
        )
    if abs(info.rate_hz / observation.rate_hz - 1.0) > _RATE_TOLERANCE:
        raise InputError(
            f"{where} was recorded at {info.rate_hz:g} Hz, the model steps at "
            f"{observation.rate_hz:g} Hz; record at the model's rate or correct rate_hz in the "
            "checkpoint's config"
        )
    shape, expected = recording.load(0).frames.shape[1:], (observation.height, observation.width, 3)
    if shape != expected:
        raise InputError(
            f"{where} holds frames of shape {shape}, the model takes {expected}; "
            "resize the recording's frames"
        )


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
    """Draw windows; at most a quarter of the episodes, and at least one, is held out.

    history: T. calibration, tuning, held_out: windows wanted of each; fewer come from a recording
    that is too short for them.
    Raises ExportError when the recording has fewer than 2 episodes that are long enough.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(recording))
    length = history + ROLLOUT_STEPS
    held_count = max(1, min(len(order) // 4, held_out))
    # Reading an episode costs more than a window of it: take as few as give some variety.
    fit_count = min(len(order) - held_count, max(2, (calibration + tuning) // 2))
    chosen = [*order[:held_count], *order[held_count : held_count + fit_count]]
    episodes = []
    for done, index in enumerate(chosen):
        progress("reading recorded episodes", done, len(chosen))
        episodes.append(recording.load(int(index)))
    progress("reading recorded episodes", len(chosen), len(chosen))
    held = [e for e in episodes[:held_count] if len(e.actions) >= length - 1]
    fit = [e for e in episodes[held_count:] if len(e.actions) >= length - 1]
    if not held or not fit:
        raise ExportError(
            f"{recording.path} gives {len(fit)} episodes to calibrate on and {len(held)} to judge "
            f"on, expected at least one each, of {length - 1} actions or more; record more or "
            "longer episodes"
        )
    for_fit = _draw(fit, calibration + tuning, history, rng)
    share = min(calibration, max(1, len(for_fit) * calibration // (calibration + tuning)))
    return ExportData(
        calibration=for_fit.head(share),
        tuning=Windows(
            frames=for_fit.frames[share:],
            actions=for_fit.actions[share:],
            episodes=for_fit.episodes,
        ),
        held_out=_draw(held, held_out, history, rng),
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
