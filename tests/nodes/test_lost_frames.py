# SPDX-License-Identifier: Apache-2.0
"""What the clips of a camera that loses frames say of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from jepa_edge.bundle import Bundle
from jepa_edge.flags import Reason
from jepa_edge.input_checks import TimeCheck
from jepa_edge.manifest import ClipSpec, Manifest
from jepa_edge.nodes.inputs import InputOptions, Inputs
from jepa_edge.session import Observation

from .test_inputs import _image

T0 = 1_700_000_000 * 10**9
CAMERA = 100_000_000
SHAPES = [
    ClipSpec(frames=2, tubelet=2, hop=2),
    ClipSpec(frames=2, tubelet=2, stride=2, hop=4),
    ClipSpec(frames=2, tubelet=2, hop=8),
    ClipSpec(frames=16, tubelet=2, hop=16),
    ClipSpec(frames=4, tubelet=2, hop=2),
    ClipSpec(frames=4, tubelet=1, stride=3, hop=3),
    ClipSpec(frames=3, tubelet=1, stride=2, hop=12),
]


@dataclass(frozen=True, slots=True)
class Seen:
    """A clip that the session gets: the number of its newest frame, and what it says of gaps."""

    newest: int
    continues: bool
    shown: tuple[int, ...]


def _of(manifest: Manifest, clip: ClipSpec) -> Manifest:
    rate_hz = 10.0 / clip.hop
    observation = msgspec.structs.replace(manifest.observation, clip=clip, rate_hz=rate_hz)
    return msgspec.structs.replace(manifest, observation=observation, action=None)


@pytest.fixture(params=SHAPES, ids=lambda clip: f"{clip.frames}x{clip.stride} hop {clip.hop}")
def clip(request: pytest.FixtureRequest) -> ClipSpec:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def manifest(linear_bundle: Any, clip: ClipSpec) -> Manifest:
    return _of(Bundle.open(linear_bundle).manifest, clip)


def _run(manifest: Manifest, kept: list[int], ends: set[int] | None = None) -> list[Seen]:
    """What comes of these camera frames; ends: of the clips that a replay wants."""
    stamps = None if ends is None else {T0 + k * CAMERA for k in ends}
    inputs = Inputs(manifest, InputOptions(), clip_ends=stamps)
    found = []
    for k in kept:
        picture = np.full((8, 8, 3), k % 251, np.uint8)
        frame = inputs.on_image(_image(T0 + k * CAMERA, picture), T0 + k * CAMERA)
        if frame is not None:
            seen = inputs.observation(frame)
            shown = tuple(seen.frame[:, 0, 0, 0].tolist())
            found.append(Seen(k, seen.continues, shown))
    return found


def _unknown(manifest: Manifest, seen: list[Seen]) -> list[bool]:
    """Whether a session says of each clip that input was missing."""
    observation = manifest.observation
    check = TimeCheck(
        period_s=1.0 / observation.rate_hz,
        max_age_s=9.0,
        min_gap_periods=0.5,
        max_gap_periods=1.75,
        clock=None,
    )
    told = [check.check(0.1 * one.newest, one.continues) for one in seen]
    return [bool(reason & Reason.CLOCK_JUMP) for reason in told]


def test_no_frame_lost_is_no_break(manifest: Manifest, clip: ClipSpec) -> None:
    seen = _run(manifest, list(range(100)))
    assert [one.newest for one in seen] == list(range(clip.span - 1, 100, clip.hop))
    assert all(one.continues for one in seen)
    assert not any(_unknown(manifest, seen))


@pytest.mark.parametrize("every", [3, 5, 7])
def test_a_camera_that_loses_frames_all_the_time_is_hardly_believed(
    manifest: Manifest, clip: ClipSpec, every: int
) -> None:
    lost = set(range(every - 1, 600, every))
    seen = _run(manifest, [k for k in range(600) if k not in lost])
    unknown = _unknown(manifest, seen)
    for (before, one), jump in zip(itertools.pairwise(seen), unknown[1:], strict=True):
        between = range(before.newest - clip.span + 1, one.newest + 1)
        grid = range(before.newest + clip.hop - clip.span + 1, before.newest + clip.hop + 1)
        missing = lost & set(grid if clip.hop > clip.span else between)
        assert jump == bool(missing), (before, one)
    if every == 3 and clip.span > 1:
        assert all(unknown[1:])


def test_lost_frames_are_told_and_in_no_clip(manifest: Manifest, clip: ClipSpec) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        kept = [k for k in range(300) if rng.uniform() > 0.03]
        seen = _run(manifest, kept)
        for one in seen:
            span = range(one.newest - clip.span + 1, one.newest + 1)
            assert set(span) <= set(kept)
            assert one.shown == tuple(k % 251 for k in span[:: clip.stride])
        for before, one in itertools.pairwise(seen):
            if one.continues:
                assert one.newest - before.newest == clip.hop
            else:
                assert set(range(before.newest + 1, one.newest)) - set(kept)


def test_a_replay_says_the_same_of_the_clips_that_were_judged(
    manifest: Manifest, clip: ClipSpec
) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        kept = [k for k in range(300) if rng.uniform() > 0.03]
        seen = _run(manifest, kept)
        assert _run(manifest, kept, {one.newest for one in seen}) == seen


def test_a_break_is_told_though_its_clip_was_replaced_by_a_newer_one(
    manifest: Manifest, clip: ClipSpec
) -> None:
    inputs, handed = Inputs(manifest, InputOptions()), []
    lost = 3 * clip.hop + clip.span - 1
    for k in range(lost + 4 * clip.hop + clip.span):
        stamp = T0 + k * CAMERA
        picture = np.zeros((8, 8, 3), np.uint8)
        frame = None if k == lost else inputs.on_image(_image(stamp, picture), stamp)
        if frame is not None:
            handed.append((k, frame))
    first = next(row for row, (k, _) in enumerate(handed) if k > lost)
    told = [inputs.observation(frame).continues for _, frame in handed[:first]]
    told += [inputs.observation(frame).continues for _, frame in handed[first + 1 :]]
    assert told == [True] * first + [False] + [True] * (len(handed) - first - 2)


def test_the_first_frame_of_all_continues_nothing() -> None:
    check = TimeCheck(
        period_s=0.2, max_age_s=9.0, min_gap_periods=0.5, max_gap_periods=1.75, clock=None
    )
    assert check.check(5.0, False) == Reason(0)
    assert check.check(5.2, True) == Reason(0)
    assert check.check(5.4, False) == Reason.CLOCK_JUMP
    check.restart()
    assert check.check(5.6, False) == Reason(0)
    assert Observation(stamp_s=0.0, frame=np.zeros(3)).continues
