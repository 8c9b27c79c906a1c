# SPDX-License-Identifier: Apache-2.0
"""Recorded episodes as the model sees them: latents, and what else a monitor judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.clip import clips_of
from jepa_edge.errors import InputError
from jepa_edge.manifest import ClipSpec
from jepa_edge.pooling import token_means
from jepa_edge.recording import Episode
from jepa_edge.world_model import WorldModel, encode_frames

MAX_GAP_PERIODS = 1.75
"""Camera periods between two frames; a longer gap has lost a frame, as in nodes/clips.py."""

_BATCH = 8
"""Pictures that are encoded at once, where each is encoded again per mask pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedEpisode:
    """One episode in model steps.

    latents: (T + 1, N, D) float32. actions: (T, A) float32, raw units. Of a model that takes no
    actions: latents (T + 1, 1, D), the token means; actions (T, 0); masked: (T + 1, N) float32,
    the energies of `WorldModel.masked_energy`, None without masks.
    """

    name: str
    latents: NDArray[np.float32]
    actions: NDArray[np.float32]
    masked: NDArray[np.float32] | None = None


def encode_episode(model: WorldModel, episode: Episode) -> EncodedEpisode:
    """Encode one episode with the model, in batches.

    Raises InputError when it does not fit, encodes to non-finite numbers, or, for a model of clips,
    has a gap between its frames.
    """
    manifest = model.manifest
    if manifest.observation.clip is not None:
        _check_gaps(episode, manifest.observation.camera_rate_hz)
    steps = steps_of(len(episode.frames), manifest.observation.clip)
    if steps < 1:
        raise InputError(
            f"episode {episode.name} has {len(episode.frames)} frames, too few for a clip; drop it"
        )
    actions, masked = episode.actions, None
    if model.takes_actions:
        states = episode.robot_state if manifest.state is not None else None
        latents = encode_frames(model, episode.frames, states)
    else:
        latents, masked = _encode_passive(model, episode)
        actions = np.zeros((len(latents) - 1, 0), np.float32)
    if not np.isfinite(latents).all():
        raise InputError(
            f"episode {episode.name} encodes to numbers that are not finite; "
            "drop it or check the exported encoder"
        )
    return EncodedEpisode(name=episode.name, latents=latents, actions=actions, masked=masked)


def _check_gaps(episode: Episode, camera_rate_hz: float) -> None:
    """Raise InputError when frames were lost within an episode: its clips would go over them."""
    gaps = np.diff(episode.stamps_s) * camera_rate_hz
    lost = np.flatnonzero(gaps > MAX_GAP_PERIODS)
    if lost.size:
        first = int(lost[0])
        raise InputError(
            f"episode {episode.name} has {lost.size} gaps between its frames, the first of "
            f"{gaps[first]:.2f} camera periods after frame {first} at {episode.stamps_s[first]:g} "
            f"s, expected at most {MAX_GAP_PERIODS}: a clip would go over it; drop the episode, or "
            "record it again without losing frames"
        )


def steps_of(frames: int, clip: ClipSpec | None) -> int:
    """Return how many model steps so many camera frames hold, 0 where they make no clip."""
    return frames if clip is None else max(0, (frames - clip.span) // clip.hop + 1)


def frame_of(step: int, clip: ClipSpec | None) -> int:
    """Return the newest camera frame of a model step, both counted from 0."""
    return step if clip is None else clip.span - 1 + step * clip.hop


def step_seeing(frame: int, clip: ClipSpec | None) -> int:
    """Return the first model step that shows a camera frame or a later one."""
    return frame if clip is None else max(0, -(-(frame - clip.span + 1) // clip.hop))


def _encode_passive(
    model: WorldModel, episode: Episode
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Token means (T + 1, 1, D) and masked energies (T + 1, N): whole latents fill the memory."""
    pooled, energies = [], []
    compared = model.manifest.latent.compared
    for frames, states in _batches(model, episode):
        latents = model.encode(frames, states)
        pooled.append(token_means(latents, compared, np.float32))
        if model.has_masks:
            energies.append(model.masked_energy(frames, latents, states))
    return np.concatenate(pooled)[:, None], np.concatenate(energies) if energies else None


def _batches(
    model: WorldModel, episode: Episode
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32] | None]]:
    """What the encoder is to see of an episode, with the robot's states where it takes them."""
    manifest = model.manifest
    clip, states = manifest.observation.clip, None
    if manifest.state is not None:
        states = episode.robot_state
    if clip is not None:
        for newest, part in clips_of(episode.frames, clip):
            some = None if states is None else states[newest : newest + 1]
            yield np.ascontiguousarray(part[None]), some
        return
    for start in range(0, len(episode.frames), _BATCH):
        rows = slice(start, start + _BATCH)
        some = None if states is None else states[rows]
        yield np.ascontiguousarray(episode.frames[rows]), some
