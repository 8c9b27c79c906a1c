# SPDX-License-Identifier: Apache-2.0
"""Camera faults against independent computations, as pictures and as streams."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.faults import FAULTS, CameraFilter, FaultKind, Injection, parse_fault

CAMERA = [fault.name for fault in FAULTS.values() if fault.kind is FaultKind.CAMERA]


def _picture(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture with structure at several scales, not symmetric in any way."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    picture = np.kron(coarse, np.ones((height // 6, width // 8, 1))).astype(np.uint8)
    return np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)


def _one(text: str, picture: np.ndarray, seed: int = 0) -> np.ndarray:
    return CameraFilter(parse_fault(text), seed)(picture, 0)


def _numbered(count: int) -> list[np.ndarray]:
    """Frames that say which one they are: every pixel of frame i is 10 i."""
    return [np.full((8, 8, 3), 10 * index, np.uint8) for index in range(count)]


def _shown(text: str, count: int = 12) -> list[int]:
    """The index of the frame that is shown at every step."""
    camera = CameraFilter(parse_fault(text))
    return [int(camera(frame, step)[0, 0, 0]) // 10 for step, frame in enumerate(_numbered(count))]


@pytest.mark.parametrize("share", [0.012, 0.03, 0.1])
def test_blur_is_scipys(share: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    picture = _picture()
    sigma = share * 48
    exact = ndimage.gaussian_filter(
        picture.astype(float), (sigma, sigma, 0), mode="nearest", truncate=6.0
    )
    np.testing.assert_allclose(_one(f"blur:{share}", picture), exact, atol=1.0)
    assert np.abs(picture - exact).max() > 10.0  # the blur is no small thing


@pytest.mark.parametrize("degrees", [0.5, 6.0, 45.0, 90.0, 170.0])
@pytest.mark.parametrize("seed", range(6))
def test_rotation_is_scipys_in_one_of_the_senses(degrees: float, seed: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    picture = _picture(width=48)
    turned = _one(f"rotation:{degrees}", picture, seed).astype(float)
    expected = [
        ndimage.rotate(
            picture.astype(float),
            sense * degrees,
            axes=(1, 0),
            reshape=False,
            order=1,
            mode="nearest",
        )
        for sense in (-1, 1)
    ]
    errors = [np.abs(turned - one).max() for one in expected]
    assert min(errors) <= 1.0
    assert max(errors) > 10.0


def test_rotation_draws_its_sense_and_a_quarter_turn_is_exact() -> None:
    picture = _picture(width=48)
    turned = {_one("rotation:90", picture, seed).tobytes() for seed in range(20)}
    assert turned == {np.rot90(picture, k).tobytes() for k in (1, 3)}


def test_rotation_of_a_wide_frame_keeps_its_center() -> None:
    picture = np.zeros((33, 65, 3), np.uint8)
    picture[16, 32] = 255
    assert _one("rotation:30", picture)[16, 32].min() == 255


def test_shift_is_exact_slicing_in_each_of_four_directions() -> None:
    picture = _picture()
    rows, columns = round(0.1 * 48), round(0.1 * 64)
    moved = []
    for axis, size, distance in ((0, 48, rows), (1, 64, columns)):
        first, last = np.take(picture, [0], axis), np.take(picture, [size - 1], axis)
        moved.append(
            np.concatenate(
                [np.repeat(first, distance, axis), np.take(picture, range(size - distance), axis)],
                axis,
            )
        )
        moved.append(
            np.concatenate(
                [np.take(picture, range(distance, size), axis), np.repeat(last, distance, axis)],
                axis,
            )
        )
    seen = {_one("shift:0.1", picture, seed).tobytes() for seed in range(40)}
    assert seen == {one.tobytes() for one in moved}


@pytest.mark.parametrize("text", ["shift:0.005", "occlusion:0.02"])
def test_no_fault_is_less_than_a_pixel(text: str) -> None:
    small = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert not np.array_equal(_one(text, small), small)


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_salt_hits_the_expected_share_anew_in_every_frame(share: float) -> None:
    picture = np.full((200, 200, 3), 100, np.uint8)
    camera = CameraFilter(parse_fault(f"salt:{share}"), 3)
    first, second = camera(picture, 0), camera(picture, 1)
    white, black = (first == 255).all(-1), (first == 0).all(-1)
    sigma = np.sqrt(share * (1 - share) / white.size)
    assert abs((white | black).mean() - share) < 4 * sigma
    assert abs(white.mean() - share / 2) < 4 * sigma
    assert (first[~(white | black)] == 100).all()
    both = ((first != 100) & (second != 100)).any(-1).mean()
    assert abs(both - share**2) < 4 * np.sqrt(share**2 / white.size)
    np.testing.assert_array_equal(CameraFilter(parse_fault(f"salt:{share}"), 3)(picture, 1), second)
    assert not np.array_equal(CameraFilter(parse_fault(f"salt:{share}"), 4)(picture, 1), second)


@pytest.mark.parametrize("factor", [0.25, 0.75, 1.5, 4.0])
def test_exposure_is_a_clipped_product(factor: float) -> None:
    picture = _picture()
    exact = np.minimum(picture.astype(float) * factor, 255.0)
    np.testing.assert_allclose(_one(f"exposure:{factor}", picture), exact, atol=0.5)


def test_occlusion_hides_the_center_and_nothing_else() -> None:
    picture = _picture() | 64  # nowhere as dark as the patch
    hidden = _one("occlusion:0.5", picture)
    inside = np.zeros((48, 64), bool)
    inside[12:36, 16:48] = True
    assert (hidden[inside] == 24).all()
    np.testing.assert_array_equal(hidden[~inside], picture[~inside])


def test_freeze_repeats_the_last_good_frame() -> None:
    assert _shown("freeze@5") == [0, 1, 2, 3, 4] + [4] * 7
    assert _shown("freeze@0") == [0] * 12
    assert _shown("freeze@1") == [0] * 12


def test_lag_stalls_and_then_runs_late() -> None:
    assert _shown("lag:3@5") == [0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8]
    assert _shown("lag:1@0") == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert _shown("lag:3@1") == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_ghost_blends_the_frame_of_three_steps_ago(weight: float) -> None:
    camera = CameraFilter(parse_fault(f"ghost:{weight}@4"))
    for step, frame in enumerate(_numbered(12)):
        old = max(step - 3, 3) if step >= 4 else step
        expected = (1 - weight) * 10 * step + weight * 10 * old
        assert np.abs(camera(frame, step) - expected).max() <= 0.5


@pytest.mark.parametrize("name", CAMERA)
def test_frames_before_the_onset_are_untouched_and_inputs_always(name: str) -> None:
    frames = [_picture(seed) for seed in range(8)]
    kept = [frame.copy() for frame in frames]
    camera = CameraFilter(parse_fault(f"{name}@4"), 1)
    shown = [camera(frame, step).copy() for step, frame in enumerate(frames)]
    np.testing.assert_array_equal(shown[:4], kept[:4])
    np.testing.assert_array_equal(frames, kept)
    for step in range(4, 8):
        assert shown[step].shape == kept[step].shape
        assert shown[step].dtype == np.uint8
        assert not np.array_equal(shown[step], kept[step])


@pytest.mark.parametrize("name", CAMERA)
def test_a_reused_buffer_does_no_harm(name: str) -> None:
    """Camera drivers hand out the same memory again and again."""
    separate = CameraFilter(parse_fault(f"{name}@2"), 1)
    reusing = CameraFilter(parse_fault(f"{name}@2"), 1)
    buffer = np.empty((48, 64, 3), np.uint8)
    for step in range(7):
        picture = _picture(step)
        buffer[:] = picture
        np.testing.assert_array_equal(reusing(buffer, step).copy(), separate(picture, step))


@pytest.mark.parametrize("name", ["freeze", "lag", "ghost"])
def test_a_frame_that_was_never_passed_is_asked_for(name: str) -> None:
    camera = CameraFilter(parse_fault(f"{name}@5"))
    assert camera.needs_past
    with pytest.raises(InputError, match="pass every frame from step 4 on"):
        camera(_picture(), 5)


def test_what_fits_no_camera_is_refused() -> None:
    with pytest.raises(InputError, match="actuator"):
        CameraFilter(parse_fault("bias"))
    with pytest.raises(InputError, match="seed -1"):
        CameraFilter(parse_fault("salt"), -1)
    camera = CameraFilter(Injection(name="blur", severity=0.02))
    for frame in (_picture().astype(np.float32), _picture()[..., 0], _picture()[None]):
        with pytest.raises(InputError, match="expected uint8"):
            camera(frame, 0)
