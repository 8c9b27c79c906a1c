# SPDX-License-Identifier: Apache-2.0
"""Recordings: read back what was written, refuse what is damaged, never overwrite."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.recording import Episode, Recording, RecordingInfo, RecordingWriter, check_fits

INFO = RecordingInfo(rate_hz=5.0, action_dim=4)


def _episode(steps: int = 6, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        name="e",
        frames=rng.integers(0, 256, (steps + 1, 8, 8, 3), dtype=np.uint8),
        actions=rng.uniform(0, 512, (steps, 4)).astype(np.float32),
        stamps_s=np.arange(steps + 1) / 5.0,
    )


def test_episodes_come_back_bit_for_bit(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "runs", INFO) as writer:
        for seed in range(3):
            writer.add(_episode(seed=seed))
    recording = Recording(tmp_path / "runs")
    assert len(recording) == 3
    assert recording.info == INFO
    for seed, episode in enumerate(recording):
        expected = _episode(seed=seed)
        assert np.array_equal(episode.frames, expected.frames)
        assert np.array_equal(episode.actions, expected.actions)
        assert np.array_equal(episode.stamps_s, expected.stamps_s)


def test_a_failed_recording_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with RecordingWriter(tmp_path / "runs", INFO) as writer:
            writer.add(_episode())
            raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="camera"):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="exists already"):
        RecordingWriter(tmp_path / "runs", INFO)


@pytest.mark.parametrize("damage", ["truncate", "pickle", "missing", "deflate", "method", "locked"])
def test_a_damaged_episode_is_named(tmp_path: Path, damage: str) -> None:
    with RecordingWriter(tmp_path / "runs", INFO) as writer:
        writer.add(_episode())
    file = tmp_path / "runs" / "episode_00000.npz"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "pickle":
        np.savez(file, frames=np.array([{"a": 1}], dtype=object))
    elif damage == "missing":
        np.savez(file, frames=_episode().frames)
    else:
        whole = bytearray(file.read_bytes())
        local, central = whole.index(b"PK\x03\x04"), whole.index(b"PK\x01\x02")
        if damage == "method":  # a compression of no one
            whole[local + 8] = whole[central + 10] = 77
        elif damage == "locked":
            whole[local + 6] |= 1
            whole[central + 8] |= 1
        else:
            start = local + 30 + whole[local + 26] + whole[local + 28]
            whole[start : start + 8] = b"\xff" * 8
        file.write_bytes(whole)
    with pytest.raises(InputError, match=r"episode_00000\.npz"):
        Recording(tmp_path / "runs").load(0)


def test_misaligned_or_non_finite_episodes_are_refused() -> None:
    good = _episode()
    with pytest.raises(InputError, match="need 7 frames"):
        Episode(name="e", frames=good.frames[1:], actions=good.actions, stamps_s=good.stamps_s)
    with pytest.raises(InputError, match="NaN"):
        Episode(
            name="e",
            frames=good.frames,
            actions=good.actions * np.float32(np.nan),
            stamps_s=good.stamps_s,
        )
    with pytest.raises(InputError, match="float32"):
        Episode(
            name="e",
            frames=good.frames.astype(np.float32),  # type: ignore[arg-type]
            actions=good.actions,
            stamps_s=good.stamps_s,
        )


def test_a_directory_that_is_no_recording_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a recording"):
        Recording(tmp_path)
    (tmp_path / "recording.json").write_text('{"rate_hz": "fast"}')
    with pytest.raises(InputError, match="does not fit"):
        Recording(tmp_path)


@pytest.mark.parametrize(
    ("info", "size", "dim", "message"),
    [
        ({}, 16, 4, r"uint8 with shape \(8, 8, 3\), expected uint8 \(16, 16, 3\)"),
        ({"color": "bgr"}, 8, 4, "holds bgr frames, the model takes rgb"),
        ({"rate_hz": 10.0}, 8, 4, "recorded at 10 Hz, the model takes frames at 5 Hz"),
        ({}, 8, 6, "4 numbers per action block, the model takes 6"),
    ],
)
def test_a_recording_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, info: dict[str, Any], size: int, dim: int, message: str
) -> None:
    changed = RecordingInfo(**{"rate_hz": 5.0, "action_dim": 4, **info})
    with RecordingWriter(tmp_path / "runs", changed) as writer:
        writer.add(_episode())
    seen = ObservationSpec(height=size, width=size, mean=(0.5,) * 3, std=(0.5,) * 3, rate_hz=5.0)
    action = ActionSpec(dim=dim, block=2, mean=(0.0,) * dim, std=(1.0,) * dim)
    with pytest.raises(InputError, match=message):
        check_fits(Recording(tmp_path / "runs"), seen, action)


def test_a_loss_is_kept_and_a_recording_without_one_is_read(tmp_path: Path) -> None:
    loss = np.linspace(0.0, 1.0, 7, dtype=np.float32)
    with RecordingWriter(tmp_path / "runs", INFO) as writer:
        writer.add(_episode())
        writer.add(dataclasses.replace(_episode(), loss=loss))
    recording = Recording(tmp_path / "runs")
    assert recording.load(0).loss is None
    stored = recording.load(1).loss
    assert stored is not None
    assert stored.dtype == np.float32
    assert np.array_equal(stored, loss)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (np.zeros(6, np.float32), r"float32 with shape \(6,\), expected float32 \(7,\)"),
        (np.zeros((7, 1), np.float32), r"shape \(7, 1\)"),
        (np.zeros(7), "loss is float64"),
        (np.full(7, 1.5, np.float32), "between 1.5 and 1.5, expected 0 to 1"),
        (np.full(7, -0.1, np.float32), "expected 0 to 1"),
        (np.full(7, np.nan, np.float32), "expected 0 to 1"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(_episode(), loss=loss)


def test_a_damaged_loss_is_named(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "runs", INFO) as writer:
        writer.add(_episode())
    file = tmp_path / "runs" / "episode_00000.npz"
    arrays = dict(np.load(file))
    np.savez(file, **arrays, loss=np.full(7, 2.0, np.float32))
    with pytest.raises(InputError, match="expected 0 to 1"):
        Recording(tmp_path / "runs").load(0)
