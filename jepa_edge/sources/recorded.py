# SPDX-License-Identifier: Apache-2.0
"""One episode of a recording, replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.recording import Episode, Recording
from jepa_edge.session import Observation


def observations(episode: Episode) -> Iterator[Observation]:
    """Yield an episode frame by frame, each with the action that led to it."""
    for step in range(len(episode.frames)):
        yield Observation(
            stamp_s=float(episode.stamps_s[step]),
            frame=episode.frames[step],
            action=episode.actions[step - 1] if step else None,
        )


def check_recording(recording: Recording, manifest: Manifest) -> None:
    """Raise InputError when a recording's color, action size, rate or frames do not fit a model."""
    info = recording.info
    for name, got, expected in (
        ("color order", info.color, manifest.observation.color),
        ("action dim", info.action_dim, manifest.action.dim),
        ("rate in Hz", info.rate_hz, manifest.observation.rate_hz),
    ):
        if got != expected:
            raise InputError(
                f"{recording.path} has {name} {got}, the model expects {expected}; "
                "record with this robot's settings, or convert the recording"
            )
    manifest.check_frames(recording.load(0).frames)


class RecordedSource:
    """Replays one episode of a recording."""

    def __init__(self, path: Path, manifest: Manifest, episode: int) -> None:
        """Raises InputError when the recording lacks the episode or does not fit the model."""
        recording = Recording(path)
        check_recording(recording, manifest)
        if not 0 <= episode < len(recording):
            raise InputError(
                f"{path} holds episodes 0 to {len(recording) - 1}, got --episode {episode}"
            )
        self.episode = recording.load(episode)
        manifest.check_frames(self.episode.frames)

    def __iter__(self) -> Iterator[Observation]:
        return observations(self.episode)
