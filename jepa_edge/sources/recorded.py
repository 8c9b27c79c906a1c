# SPDX-License-Identifier: Apache-2.0
"""One episode of a recording, replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.recording import Episode, Recording, check_fits
from jepa_edge.session import Observation


def observations(episode: Episode) -> Iterator[Observation]:
    """Yield an episode frame by frame, each with the action that led to it."""
    for step in range(len(episode.frames)):
        yield Observation(
            stamp_s=float(episode.stamps_s[step]),
            frame=episode.frames[step],
            action=episode.actions[step - 1] if step else None,
        )


class RecordedSource:
    """Replays one episode of a recording."""

    def __init__(self, path: Path, manifest: Manifest, episode: int) -> None:
        """Raises InputError when the recording lacks the episode or does not fit the model."""
        recording = Recording(path)
        check_fits(recording, manifest.observation, manifest.action)
        if not 0 <= episode < len(recording):
            raise InputError(
                f"{path} holds episodes 0 to {len(recording) - 1}, got --episode {episode}"
            )
        self.episode = recording.load(episode)
        manifest.observation.check_frames(self.episode.frames)

    def __iter__(self) -> Iterator[Observation]:
        return observations(self.episode)
