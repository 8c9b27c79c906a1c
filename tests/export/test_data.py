# SPDX-License-Identifier: Apache-2.0
"""Which windows of a recording calibrate, tune and judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_edge.errors import ExportError
from jepa_edge.export.data import ROLLOUT_STEPS, split_recording
from jepa_edge.recording import Episode, Recording, RecordingInfo, RecordingWriter


def _record(path: Path, lengths: list[int], **info: object) -> Recording:
    """Episodes whose every pixel and action tells where it is from: episode * 20 + step."""
    with RecordingWriter(path, RecordingInfo(**{"rate_hz": 5.0, "action_dim": 4, **info})) as out:  # type: ignore[arg-type]
        for index, length in enumerate(lengths):
            place = index * 20 + np.arange(length + 1)
            frames = np.broadcast_to(place[:, None, None, None], (length + 1, 8, 8, 3))
            actions = np.broadcast_to(place[:-1, None], (length, 4))
            out.add(
                Episode(
                    name=str(index),
                    frames=frames.astype(np.uint8),
                    actions=actions.astype(np.float32),
                    stamps_s=np.arange(length + 1) / 5.0,
                )
            )
    return Recording(path)


def _episodes(frames: np.ndarray) -> set[int]:
    return set((frames[:, 0, 0, 0, 0].astype(int) // 20).tolist())


def test_no_episode_judges_what_it_helped_to_make(tmp_path: Path) -> None:
    recording = _record(tmp_path / "runs", [12] * 12)
    data = split_recording(recording, 3, calibration=40, tuning=20, held_out=20, seed=0)
    assert (len(data.calibration), len(data.tuning), len(data.held_out)) == (36, 18, 18)
    parts = [_episodes(w.frames) for w in (data.calibration, data.tuning, data.held_out)]
    assert [len(part) for part in parts] == [6, 3, 3]
    assert len(set.union(*parts)) == 12
    assert {int(name[8:]) for name in data.held_out.episodes} == parts[2]


def test_windows_align_frames_with_actions(tmp_path: Path) -> None:
    recording = _record(tmp_path / "runs", [12] * 8)
    data = split_recording(recording, 3, calibration=8, tuning=8, held_out=8, seed=1)
    for windows in (data.calibration, data.tuning, data.held_out):
        assert windows.frames.shape[1:] == (3, 8, 8, 3)
        assert windows.actions.shape[1:] == (2 + ROLLOUT_STEPS, 4)
        first = windows.frames[:, 0, 0, 0, 0].astype(float)
        np.testing.assert_array_equal(windows.newest_frames[:, 0, 0, 0], first + 2)
        np.testing.assert_array_equal(windows.actions[:, :, 0], first[:, None] + np.arange(7))
        np.testing.assert_array_equal(windows.step_actions, windows.actions[:, :3])
        assert len({tuple(row) for row in windows.actions[:, :, 0]}) == len(windows)


def test_the_seed_decides(tmp_path: Path) -> None:
    recording = _record(tmp_path / "runs", [12] * 12)
    draws = [
        split_recording(recording, 3, calibration=8, tuning=8, held_out=8, seed=seed)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0].held_out.frames, draws[1].held_out.frames)
    assert not np.array_equal(draws[0].held_out.frames, draws[2].held_out.frames)


@pytest.mark.parametrize("lengths", [[12, 12], [5, 12, 12, 6]])
def test_two_long_episodes_are_enough(tmp_path: Path, lengths: list[int]) -> None:
    recording = _record(tmp_path / "runs", lengths)
    for seed in range(8):
        data = split_recording(recording, 3, calibration=8, tuning=8, held_out=8, seed=seed)
        assert len(data.held_out) == len(data.tuning) == 6
        assert not _episodes(data.held_out.frames) & _episodes(data.calibration.frames)
        assert not _episodes(data.held_out.frames) & _episodes(data.tuning.frames)


@pytest.mark.parametrize("lengths", [[12], [12, 3], [6, 6, 6]])
def test_too_little_is_refused(tmp_path: Path, lengths: list[int]) -> None:
    recording = _record(tmp_path / "runs", lengths)
    with pytest.raises(ExportError, match="of 7 actions or more, expected at least 2"):
        split_recording(recording, 3, calibration=8, tuning=8, held_out=8, seed=0)
