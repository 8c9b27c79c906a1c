# SPDX-License-Identifier: Apache-2.0
"""One episode of a recording, replayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jepa_edge.clip import by_camera_frame
from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.recording import Episode, Recording, check_fits
from jepa_edge.session import Observation
from jepa_edge.sources.clips import clip_observations


def observations(episode: Episode) -> Iterator[Observation]:
    """Yield an episode frame by frame, each with the action that led to it, if any was recorded."""
    acted, states = episode.actions.shape[1] > 0, episode.robot_state
    for step in range(len(episode.frames)):
        yield Observation(
            stamp_s=float(episode.stamps_s[step]),
            frame=episode.frames[step],
            action=episode.actions[step - 1] if step and acted else None,
            state=None if states is None else states[step],
        )


class RecordedSource:
    """Replays one episode of a recording."""

    def __init__(self, path: Path, manifest: Manifest, episode: int) -> None:
        """Raises InputError when the recording lacks the episode or does not fit the model."""
        recording = Recording(path)
        check_fits(recording, manifest.observation, manifest.action, manifest.state)
        if not 0 <= episode < len(recording):
            raise InputError(
                f"{path} holds episodes 0 to {len(recording) - 1}, got --episode {episode}"
            )
        self.episode = recording.load(episode)
        by_camera_frame(manifest).observation.check_frames(self.episode.frames)
        self._manifest = manifest

    def __iter__(self) -> Iterator[Observation]:
        frames = observations(self.episode)
        if self._manifest.action is None:
            frames = (replace(frame, action=None) for frame in frames)
        return clip_observations(frames, self._manifest.observation)
