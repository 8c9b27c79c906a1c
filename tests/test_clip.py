# SPDX-License-Identifier: Apache-2.0
"""Clips of a stream, against indices counted by hand and against slices of the whole run."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jepa_edge.clip import ClipBuffer, clips_of
from jepa_edge.errors import InputError
from jepa_edge.manifest import ClipSpec


def _numbered(count: int) -> NDArray[np.uint8]:
    """Frames (T, 2, 3, 3) whose every pixel is the frame's number."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 3, 3)
    ).copy()


def _shown(spec: ClipSpec, count: int) -> dict[int, list[int]]:
    """Index of the newest frame to the numbers of the frames that its clip shows."""
    buffer, shown = ClipBuffer(spec), {}
    for index, frame in enumerate(_numbered(count)):
        clip = buffer.push(frame)
        if clip is not None:
            shown[index] = clip[:, 0, 0, 0].tolist()
    return shown


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ClipSpec(frames=1), {0: [0], 1: [1], 2: [2], 3: [3], 4: [4], 5: [5], 6: [6], 7: [7]}),
        (ClipSpec(frames=4, tubelet=2, hop=2), {3: [0, 1, 2, 3], 5: [2, 3, 4, 5], 7: [4, 5, 6, 7]}),
        (ClipSpec(frames=2, tubelet=2, hop=2), {1: [0, 1], 3: [2, 3], 5: [4, 5], 7: [6, 7]}),
        (ClipSpec(frames=2, tubelet=1, hop=3), {1: [0, 1], 4: [3, 4], 7: [6, 7]}),
        (ClipSpec(frames=3, stride=2, hop=2), {4: [0, 2, 4], 6: [2, 4, 6]}),
        (ClipSpec(frames=2, tubelet=2, stride=2, hop=4), {2: [0, 2], 6: [4, 6]}),
        (ClipSpec(frames=1, stride=1, hop=5), {0: [0], 5: [5]}),
        (ClipSpec(frames=16), {}),
    ],
)
def test_a_clip_comes_every_hop_frames_once_the_first_is_whole(
    spec: ClipSpec, expected: dict[int, list[int]]
) -> None:
    assert _shown(spec, 8) == expected
    of_run = {newest: clip[:, 0, 0, 0].tolist() for newest, clip in clips_of(_numbered(8), spec)}
    assert of_run == expected


@given(
    frames=st.integers(1, 5),
    tubelet=st.integers(1, 3),
    stride=st.integers(1, 4),
    hops=st.integers(1, 3),
    count=st.integers(0, 60),
)
def test_buffer_and_run_give_the_same_and_all_tubelets_lie_on_one_grid(
    frames: int, tubelet: int, stride: int, hops: int, count: int
) -> None:
    spec = ClipSpec(
        frames=frames * tubelet, tubelet=tubelet, stride=stride, hop=hops * tubelet * stride
    )
    shown = _shown(spec, count)
    run = _numbered(count)
    assert shown == {newest: c[:, 0, 0, 0].tolist() for newest, c in clips_of(run, spec)}
    assert len(shown) == max(0, -(-(count - spec.span + 1) // spec.hop))
    for newest, numbers in shown.items():
        assert numbers[-1] == newest
        assert set(np.diff(numbers)) <= {stride}
        # The first picture of every tubelet of every clip: multiples of tubelet x stride.
        assert all(number % (tubelet * stride) == 0 for number in numbers[::tubelet])


def test_a_clip_is_left_alone_by_later_frames_and_by_the_callers_array() -> None:
    buffer = ClipBuffer(ClipSpec(frames=2))
    frame = np.zeros((2, 2, 3), np.uint8)
    buffer.push(frame)
    frame[:] = 1
    clip = buffer.push(frame)
    assert clip is not None
    for number in range(2, 9):
        frame[:] = number
        buffer.push(frame)
    assert clip[:, 0, 0, 0].tolist() == [0, 1]
    clip[:] = 200  # nor does the buffer see what is written into it
    later = buffer.push(frame)
    assert later is not None
    assert later.max() == 8


def test_after_a_reset_nothing_of_before_is_seen() -> None:
    spec = ClipSpec(frames=4, tubelet=2, hop=2)
    buffer = ClipBuffer(spec)
    run = _numbered(20)
    for frame in run[:5]:
        buffer.push(frame)
    buffer.reset()
    clips = [buffer.push(frame) for frame in run[10:16]]
    assert [None if c is None else c[:, 0, 0, 0].tolist() for c in clips] == [
        *(None,) * 3,
        [10, 11, 12, 13],
        None,
        [12, 13, 14, 15],
    ]


def test_frames_that_no_clip_shows_are_known_beforehand() -> None:
    buffer = ClipBuffer(ClipSpec(frames=2, stride=3, hop=3))
    fits = []
    for frame in _numbered(7):
        fits.append(buffer.fits_next)
        buffer.push(frame)
    assert fits == [True, False, False, True, False, False, True]


def test_frames_that_no_clip_shows_may_be_skipped() -> None:
    spec = ClipSpec(frames=2, stride=3, hop=3)
    buffer, shown = ClipBuffer(spec), {}
    for index, frame in enumerate(_numbered(10)):
        if not buffer.fits_next:
            buffer.skip()
        elif (clip := buffer.push(frame)) is not None:
            shown[index] = clip[:, 0, 0, 0].tolist()
    assert shown == {3: [0, 3], 6: [3, 6], 9: [6, 9]}
    buffer.reset()
    with pytest.raises(InputError, match="push it"):
        buffer.skip()


def test_a_push_allocates_the_clip_alone() -> None:
    side = 64
    buffer = ClipBuffer(ClipSpec(frames=8, hop=8))
    frame = np.zeros((side, side, 3), np.uint8)
    for _ in range(8):
        buffer.push(frame)
    tracemalloc.start()
    try:
        for _ in range(7):
            assert buffer.push(frame) is None
        without = tracemalloc.get_traced_memory()[1]
        assert buffer.push(frame) is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert without < frame.nbytes
    assert peak < 8 * frame.nbytes + frame.nbytes


def test_clips_of_a_run_cannot_be_written_into() -> None:
    run = _numbered(4)
    _, clip = next(clips_of(run, ClipSpec(frames=2)))
    with pytest.raises(ValueError, match="read-only"):
        clip[0] = 1


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_what_is_no_camera_frame_is_refused(frame: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"expected uint8 \(H, W, 3\)"):
        ClipBuffer(ClipSpec(frames=2)).push(frame)


def test_another_size_is_refused_and_changes_nothing() -> None:
    buffer = ClipBuffer(ClipSpec(frames=2))
    buffer.push(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"\(4, 5, 3\), those before have \(4, 4, 3\)"):
        buffer.push(np.zeros((4, 5, 3), np.uint8))
    assert buffer.push(np.ones((4, 4, 3), np.uint8)) is not None


def test_a_run_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected uint8 \(T, H, W, 3\)"):
        next(clips_of(np.zeros((4, 4, 3), np.uint8), ClipSpec(frames=2)))
