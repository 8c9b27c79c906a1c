# SPDX-License-Identifier: Apache-2.0
"""Fitting a camera's picture to the model, against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jepa_edge import _core
from jepa_edge.errors import InputError
from jepa_edge.image_fit import fit_image

SIZES = [
    ((480, 640), (224, 224)),
    ((64, 64), (224, 224)),
    ((480, 640), (480, 224)),
    ((480, 640), (100, 640)),
    ((7, 5), (9, 9)),
    ((1, 1), (5, 5)),
    ((33, 1000), (1, 1)),
]


def _picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def _pillow(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    scaled = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled)


@pytest.mark.parametrize(("have", "want"), SIZES)
def test_stretching_gives_the_bytes_of_pillow(have: tuple[int, int], want: tuple[int, int]) -> None:
    pixels = _picture(*have)
    np.testing.assert_array_equal(fit_image(pixels, *want, "stretch"), _pillow(pixels, *want))


def test_narrow_and_low_to_wide_differs_from_pillow_by_rounding_alone() -> None:
    pixels = _picture(70, 50)
    ours = fit_image(pixels, 30, 90, "stretch").astype(int)
    assert np.abs(ours - _pillow(pixels, 30, 90)).max() == 1


@pytest.mark.parametrize(
    ("have", "want", "box"),
    [
        ((480, 640), (224, 224), (80, 0, 560, 480)),
        ((640, 480), (224, 224), (0, 80, 480, 560)),
        ((480, 640), (90, 160), (0, 60, 640, 420)),
        ((100, 100), (50, 50), (0, 0, 100, 100)),
    ],
)
def test_cropping_scales_the_middle(
    have: tuple[int, int], want: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    pixels = _picture(*have)
    middle = np.asarray(Image.fromarray(pixels).crop(box))
    np.testing.assert_array_equal(fit_image(pixels, *want, "crop"), _pillow(middle, *want))


@pytest.mark.parametrize("fit", ["exact", "crop", "stretch"])
def test_the_right_size_is_left_alone(fit: str) -> None:
    pixels = _picture(8, 8)
    assert fit_image(pixels, 8, 8, fit) is pixels  # type: ignore[arg-type]


def test_padded_rows_and_swapped_channels_are_read_as_they_are() -> None:
    padded = _picture(48, 70)
    np.testing.assert_array_equal(
        fit_image(padded[:, :64], 20, 20, "stretch"),
        _pillow(np.ascontiguousarray(padded[:, :64]), 20, 20),
    )
    swapped = padded[..., ::-1]
    np.testing.assert_array_equal(
        fit_image(swapped, 20, 20, "stretch"), _pillow(np.ascontiguousarray(swapped), 20, 20)
    )


def test_another_size_is_refused_unless_it_may_be_changed() -> None:
    with pytest.raises(InputError, match=r"480 x 640 pixels .* expected 224 x 224"):
        fit_image(_picture(480, 640), 224, 224, "exact")


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        fit_image(pixels, 4, 4, "stretch")


def test_the_core_checks_sizes_too() -> None:
    with pytest.raises(ValueError, match="side is 0"):
        _core.Resizer(in_height=0, in_width=4, out_height=4, out_width=4)
    resizer = _core.Resizer(in_height=8, in_width=8, out_height=4, out_width=4)
    for wrong in (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)[..., ::-1]):
        with pytest.raises(ValueError, match="expected pixels"):
            resizer.resize(wrong)
