# SPDX-License-Identifier: Apache-2.0
"""Which recorded frames an export calibrates on, tunes on, and is judged on: never the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import ExportError
from jepa_edge.export.families.base import LoadedModel
from jepa_edge.manifest import ClipSpec
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Episode, Recording

ROLLOUT_STEPS = 5
"""Model steps that parity rolls out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """B pieces of episodes, each T history frames and the actions up to 5 steps ahead.

    frames: (B, T, *frame shape) uint8. actions: (B, T - 1 + 5, A) float32, raw units: action t is
    taken at frame t; A is 0 for a model without actions, which has T = 1. states: (B, T, S)
    float32, of a model that takes them. episodes: names of the episodes that the pieces come from.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    states: NDArray[np.float32] | None = None
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

    @property
    def newest_states(self) -> NDArray[np.float32] | None:
        """The robot's state at the last history frame of each window: (B, S)."""
        return None if self.states is None else np.ascontiguousarray(self.states[:, -1])

    def head(self, count: int) -> Windows:
        """Return the first windows only."""
        return dataclasses.replace(
            self,
            frames=self.frames[:count],
            actions=self.actions[:count],
            states=None if self.states is None else self.states[:count],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportData:
    """Windows of different episodes for quantizing, for choosing and for judging.

    calibration: for activation ranges. tuning: for the choice of quantizer and layers; both None
    where nothing was recorded. held_out: for parity and golden outputs; its episodes are in neither
    of the others.
    """

    calibration: Windows | None
    tuning: Windows | None
    held_out: Windows


def split_recording(
    recording: Recording,
    history: int,
    *,
    calibration: int,
    tuning: int,
    held_out: int,
    seed: int,
    clip: ClipSpec | None = None,
    progress: Progress = silent,
) -> ExportData:
    """Draw windows; a quarter of the episodes is held out, another quarter is for tuning.

    history: T. calibration, tuning, held_out: windows wanted of each; fewer come from a recording
    that is too short for them. With 2 episodes, calibration and tuning share one. clip: of a model
    that sees clips and takes no actions.
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
    length = history - 1 + ROLLOUT_STEPS if clip is None else clip.span
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
        calibration=_draw(for_calibration, calibration, history, clip, rng),
        tuning=_draw(for_tuning, tuning, history, clip, rng),
        held_out=_draw(episodes["held out"], held_out, history, clip, rng),
    )


def _draw(
    episodes: list[Episode],
    count: int,
    history: int,
    clip: ClipSpec | None,
    rng: np.random.Generator,
) -> Windows:
    """Draw windows without replacement, evenly over the episodes, in random order."""
    steps = history - 1 + ROLLOUT_STEPS if clip is None else clip.span
    starts = [
        (index, int(start))
        for index, episode in enumerate(episodes)
        for start in rng.permutation(len(episode.actions) - steps + 1)[
            : max(1, -(-count // len(episodes)))
        ]
    ]
    picked = [starts[i] for i in rng.permutation(len(starts))[:count]]
    states = [episode.robot_state for episode in episodes]
    return Windows(
        frames=np.stack([_frames(episodes[e], s, history, clip) for e, s in picked]),
        actions=np.stack([episodes[e].actions[s : s + steps] for e, s in picked]),
        states=None
        if any(state is None for state in states)
        else np.stack([states[e][s : s + history] for e, s in picked]),
        episodes=tuple(episode.name for episode in episodes),
    )


def _frames(episode: Episode, start: int, history: int, clip: ClipSpec | None) -> NDArray[np.uint8]:
    """History frames from `start` on, or the one clip that begins there: (T, *frame shape)."""
    if clip is None:
        return episode.frames[start : start + history]
    return episode.frames[start : start + clip.span : clip.stride][None]


def drawn_windows(model: LoadedModel, count: int, seed: int) -> Windows:
    """Draw smooth random pictures and actions: for a model without recorded frames at hand.

    They tell whether graphs compute what torch does, and not how accurate a precision is on what
    the robot will see.
    """
    rng = np.random.default_rng(seed)
    shape = (count, model.history, *model.observation.frame_shape)
    frames = _smooth(rng, shape[-3:-1], int(np.prod(shape[:-3]))).reshape(shape)
    steps = model.history - 1 + ROLLOUT_STEPS
    actions = np.zeros((count, steps, 0), np.float32)
    if model.action is not None:
        drawn = rng.normal(model.action.mean, model.action.std, (count, steps, model.action.dim))
        if model.action.low and model.action.high:
            drawn = np.clip(drawn, model.action.low, model.action.high)
        actions = drawn.astype(np.float32)
    states = None
    if model.state is not None:
        states = rng.uniform(-0.5, 0.5, (count, model.history, model.state.dim)).astype(np.float32)
    return Windows(frames=frames, actions=actions, states=states, episodes=("drawn",))


def _smooth(rng: np.random.Generator, size: tuple[int, ...], count: int) -> NDArray[np.uint8]:
    """Pictures (count, H, W, 3): coarse random colors, scaled up linearly."""
    coarse = rng.uniform(0.0, 255.0, (count, 9, 9, 3)).astype(np.float32)
    for axis, length in zip((1, 2), size, strict=True):
        at = np.linspace(0.0, 8.0, length, dtype=np.float32)
        low = np.minimum(at.astype(int), 7)
        share = (at - low).reshape([-1 if k == axis else 1 for k in range(4)])
        left, right = np.take(coarse, low, axis), np.take(coarse, low + 1, axis)
        coarse = left + (right - left) * share
    return coarse.astype(np.uint8)
