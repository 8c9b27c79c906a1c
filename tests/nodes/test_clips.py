# SPDX-License-Identifier: Apache-2.0
"""Clips of camera messages: whole, on one grid of time, and never over a gap."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle
from jepa_edge.errors import InputError
from jepa_edge.image_fit import fit_to
from jepa_edge.manifest import ClipSpec, FitSpec, Manifest, StateSpec
from jepa_edge.nodes.clips import ClipGatherer
from jepa_edge.nodes.inputs import InputOptions, Inputs

from .bus import make
from .test_inputs import _array, _image

CAMERA = 100_000_000  # 10 Hz
T0 = 1_700_000_000 * 10**9
SPEC = ClipSpec(frames=4, tubelet=2, hop=2)


@pytest.fixture
def manifest(linear_bundle: Any) -> Manifest:
    """A model of clips without actions: 5 steps a second of a camera of 10 Hz."""
    manifest = Bundle.open(linear_bundle).manifest
    observation = msgspec.structs.replace(manifest.observation, clip=SPEC)
    return msgspec.structs.replace(manifest, observation=observation, action=None)


def _picture(number: int) -> NDArray[np.uint8]:
    return np.full((8, 8, 3), number, np.uint8)


def _clips(
    inputs: Inputs, stamps: list[int], numbers: list[int] | None = None
) -> dict[int, list[int]]:
    """Number of the newest frame to the numbers that its clip shows; [] for what is unusable."""
    found = {}
    for number, stamp in zip(numbers or range(len(stamps)), stamps, strict=True):
        frame = inputs.on_image(_image(stamp, _picture(number)), stamp + 5_000_000)
        if frame is not None:
            observation = inputs.observation(frame)
            assert observation.stamp_s == pytest.approx(1e-9 * stamp, abs=1e-6)
            assert observation.action is None
            assert observation.planned is None
            shown = observation.frame
            found[number] = shown[:, 0, 0, 0].tolist() if shown.ndim == 4 else []
    return found


def _even(count: int) -> list[int]:
    return [T0 + k * CAMERA for k in range(count)]


def test_a_camera_of_the_right_rate_gives_every_clip(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    assert _clips(inputs, _even(9)) == {3: [0, 1, 2, 3], 5: [2, 3, 4, 5], 7: [4, 5, 6, 7]}
    assert inputs.clips_broken == 0


def test_a_camera_three_times_as_fast_gives_the_clips_of_the_right_rate(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    found = _clips(inputs, [T0 + k * CAMERA // 3 for k in range(60)])
    assert len(found) == 9
    assert all(set(np.diff(numbers)) == {3} for numbers in found.values())
    assert inputs.frames_decimated == 40


def test_a_lost_frame_begins_the_next_clip_anew(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs(manifest, InputOptions())
    kept = [k for k in range(14) if k != 6]
    with caplog.at_level(logging.WARNING):
        found = _clips(inputs, [_even(14)[k] for k in kept], kept)
    assert found == {
        3: [0, 1, 2, 3],
        5: [2, 3, 4, 5],
        10: [7, 8, 9, 10],
        12: [9, 10, 11, 12],
    }
    assert inputs.clips_broken == 1
    assert "2.00 camera periods lie between two frames" in caplog.text


def test_a_stamp_that_repeats_or_goes_back_begins_anew(manifest: Manifest) -> None:
    for odd in (T0 + 5 * CAMERA, T0 + 2 * CAMERA):
        inputs = Inputs(manifest, InputOptions())
        stamps = [*_even(6), odd, *_even(12)[6:]]
        found = _clips(inputs, stamps, list(range(13)))
        assert list(found)[:2] == [3, 5]
        assert all(6 not in shown or shown[0] == 6 for shown in found.values())
        assert inputs.clips_broken >= 1


def test_a_camera_that_is_too_slow_is_told_and_makes_no_clip(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs(manifest, InputOptions())
    with caplog.at_level(logging.WARNING):
        found = _clips(inputs, [T0 + k * 140_000_000 for k in range(24)])
    assert found
    assert all(shown == [] for shown in found.values())
    assert "set the camera to 10 Hz" in caplog.text


def test_pictures_of_another_size_are_refused_once_per_model_step(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    for k in range(4):
        inputs.on_image(_image(T0 + k * CAMERA, _picture(k)), T0 + k * CAMERA)
    told = []
    for k in range(4, 12):
        wrong = _image(T0 + k * CAMERA, np.zeros((9, 8, 3), np.uint8))
        frame = inputs.on_image(wrong, T0 + k * CAMERA)
        if frame is not None:
            told.append(k)
            with pytest.raises(InputError):
                manifest.observation.check_frames(inputs.observation(frame).frame[None])
    assert told == [5, 7, 9, 11]


def test_a_new_episode_and_a_clock_set_back_show_nothing_of_before(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    stamps = _even(20)
    _clips(inputs, stamps[:6])
    inputs.restart()
    assert _clips(inputs, stamps[6:11], [6, 7, 8, 9, 10]) == {9: [6, 7, 8, 9]}
    back = [stamp - 10**12 for stamp in stamps]
    found = _clips(inputs, back[:6], list(range(100, 106)))
    assert found == {103: [100, 101, 102, 103], 105: [102, 103, 104, 105]}


def test_pictures_are_fitted_as_the_model_was_trained_and_each_is_decoded_once(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = FitSpec(short_side=10, filter="bicubic")
    observation = msgspec.structs.replace(manifest.observation, fit=fit)
    inputs = Inputs(msgspec.structs.replace(manifest, observation=observation), InputOptions())
    calls = []
    monkeypatch.setattr("jepa_edge.nodes.inputs.fit_to", lambda *a: calls.append(1) or fit_to(*a))
    pictures = np.random.default_rng(2).integers(0, 256, (6, 12, 20, 3), dtype=np.uint8)
    frames = [inputs.on_image(_image(s, p), s) for s, p in zip(_even(6), pictures, strict=True)]
    assert len(calls) == 6
    last = frames[5]
    assert last is not None
    expected = np.stack([fit_to(observation, picture) for picture in pictures[2:]])
    np.testing.assert_array_equal(inputs.observation(last).frame, expected)


def test_commands_and_plans_are_left_to_models_that_take_them(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions(action_fields=("one", "two", "three")))
    inputs.on_action(_array(1.0, 2.0), T0)
    inputs.on_plan(_array(1.0, 2.0), T0)
    inputs.check_fields(make)
    _clips(inputs, _even(6))
    assert inputs.frames_without_action == 0


def test_a_replay_gets_the_clips_that_the_node_had(manifest: Manifest) -> None:
    """The node began at frame 1, so that its clips end at even ones."""
    ends = {T0 + k * CAMERA for k in (4, 6, 8)}
    inputs = Inputs(manifest, InputOptions(), clip_ends=ends)
    assert _clips(inputs, _even(10)) == {4: [1, 2, 3, 4], 6: [3, 4, 5, 6], 8: [5, 6, 7, 8]}


def test_frames_that_a_stride_leaves_out_are_not_decoded() -> None:
    gatherer = ClipGatherer(ClipSpec(frames=2, stride=3, hop=3), CAMERA)
    decoded, ended = [], []

    def picture(number: int) -> NDArray[np.uint8]:
        decoded.append(number)
        return _picture(number)

    for k, stamp in enumerate(_even(10)):
        if gatherer.add(stamp, lambda k=k: picture(k)) is not None:  # type: ignore[misc]
            ended.append(k)
    assert decoded == [0, 3, 6, 9]
    assert ended == [3, 6, 9]


def test_a_picture_of_floats_goes_to_the_session(manifest: Manifest) -> None:
    gatherer = ClipGatherer(SPEC, CAMERA)
    floats = np.zeros((8, 8, 3), np.float32)
    assert gatherer.add(T0, lambda: floats) is floats
    assert gatherer.add(T0 + CAMERA, lambda: floats) is None


def test_a_model_that_takes_the_robots_state_must_be_given_it(manifest: Manifest) -> None:
    taking = msgspec.structs.replace(manifest, state=StateSpec(dim=3))
    with pytest.raises(InputError, match="state_type is empty"):
        Inputs(taking, InputOptions())
    with pytest.raises(InputError, match="names 1 numbers, expected the model's 3"):
        Inputs(
            taking,
            InputOptions(state_type="sensor_msgs/JointState", state_fields=("position[0]",)),
        )
    inputs = Inputs(taking, InputOptions(state_type="std_msgs/Float32MultiArray"))
    frames = [inputs.on_image(_image(s, _picture(0)), s) for s in _even(4)]
    inputs.on_state(_array(1.0, 2.0, 3.0), T0 + 3 * CAMERA)
    assert frames[3] is not None
    state = inputs.observation(frames[3]).state
    assert state is not None
    assert state.tolist() == [1.0, 2.0, 3.0]
