# SPDX-License-Identifier: Apache-2.0
"""Fitting a camera's picture to the model, against Pillow."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from jepa_edge import _core
from jepa_edge.errors import InputError
from jepa_edge.image_fit import FITS, fit_image, fit_to
from jepa_edge.manifest import FitSpec, ObservationSpec

VECTORS = Path(__file__).parent / "vectors" / "image_fit" / "fit.npz"
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

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


def _pillow(pixels: np.ndarray, height: int, width: int, filter: str = "bilinear") -> np.ndarray:
    scaled = Image.fromarray(pixels).resize((width, height), FILTERS[filter])
    return np.asarray(scaled)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(("have", "want"), SIZES)
def test_stretching_gives_the_bytes_of_pillow(
    have: tuple[int, int], want: tuple[int, int], filter: Any
) -> None:
    pixels = _picture(*have)
    np.testing.assert_array_equal(
        fit_image(pixels, *want, "stretch", filter), _pillow(pixels, *want, filter)
    )


@pytest.mark.parametrize("filter", FILTERS)
def test_rows_come_first_even_where_pillow_13_begins_with_columns(filter: Any) -> None:
    pixels = _picture(70, 50)
    rows_first = _pillow(_pillow(pixels, 70, 90, filter), 30, 90, filter)
    ours = fit_image(pixels, 30, 90, "stretch", filter)
    np.testing.assert_array_equal(ours, rows_first)
    if int(PIL.__version__.split(".")[0]) < 13:
        np.testing.assert_array_equal(ours, _pillow(pixels, 30, 90, filter))


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


def _spec(height: int, width: int, fit: FitSpec | None) -> ObservationSpec:
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return ObservationSpec(height=height, width=width, mean=mean, std=std, rate_hz=5.0, fit=fit)


def _rule_picture(kind: str, height: int, width: int) -> NDArray[np.uint8]:
    """Noise, or waves of five lengths with edges; the same in every run."""
    name = f"{kind} {height} {width}"
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width][..., None]
    waves = np.zeros((height, width, 3))
    for pitch in (0.02, 0.05, 0.1, 0.3, 1.0):
        along_x, along_y = rng.normal(0, pitch, 3), rng.normal(0, pitch, 3)
        waves += np.sin(x * along_x + y * along_y + rng.uniform(0, 7, 3)) / pitch**0.5
    waves += 6.0 * (waves > 3.0)
    return np.clip(128 + 12 * waves, 0, 255).astype(np.uint8)


def test_pinned_outputs_of_torchvision_and_of_vjepa2s_processor_are_met() -> None:
    """tests/vectors/image_fit/README.md says how they were made."""
    with np.load(VECTORS) as pinned:
        assert len(pinned.files) == 24
        for key in pinned.files:
            api, scaling, kind, height, width = key.split()
            offset = "floor" if api == "vjepa2" else "round"
            fit = FitSpec(short_side=36, filter=scaling, offset=offset)  # type: ignore[arg-type]
            picture = _rule_picture(kind, int(height), int(width))
            ours = fit_to(_spec(32, 32, fit), picture)
            assert np.abs(ours.astype(int) - pinned[key]).max() <= 1, key


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(
    ("have", "scaled", "box"),
    [  # written down by hand: int(292 x long / short), round(spare / 2) half to even
        ((720, 1280), (292, 519), (132, 18)),
        ((1280, 720), (519, 292), (18, 132)),
        ((480, 640), (292, 389), (66, 18)),
        ((300, 300), (292, 292), (18, 18)),
        ((292, 400), (292, 400), (72, 18)),
        ((100, 130), (292, 379), (62, 18)),
    ],
)
def test_the_short_side_is_scaled_and_the_middle_cut_out(
    have: tuple[int, int], scaled: tuple[int, int], box: tuple[int, int], filter: Any
) -> None:
    pixels = _picture(*have)
    whole = _pillow(pixels, *scaled, filter)
    left, top = box
    ours = fit_to(_spec(256, 256, FitSpec(short_side=292, filter=filter)), pixels)
    np.testing.assert_array_equal(ours, whole[top : top + 256, left : left + 256])


def test_the_offset_of_transformers_differs_where_half_a_pixel_is_left() -> None:
    spec = _spec(256, 256, FitSpec(short_side=292, offset="floor"))
    pixels = _picture(720, 1280)
    whole = _pillow(pixels, 292, 519)
    np.testing.assert_array_equal(fit_to(spec, pixels), whole[18:274, 131 : 131 + 256])


@pytest.mark.parametrize("filter", FILTERS)
def test_other_fits_are_those_of_their_names(filter: Any) -> None:
    pixels = _picture(48, 64)
    crop, stretch = FitSpec(filter=filter), FitSpec(stretch=True, filter=filter)
    middle = np.ascontiguousarray(pixels[:, 8:56])
    cropped, stretched = _pillow(middle, 20, 20, filter), _pillow(pixels, 20, 20, filter)
    np.testing.assert_array_equal(fit_to(_spec(20, 20, crop), pixels), cropped)
    np.testing.assert_array_equal(fit_to(_spec(20, 20, stretch), pixels), stretched)
    # A user's word goes before the bundle's.
    np.testing.assert_array_equal(fit_to(_spec(20, 20, crop), pixels, "stretch"), stretched)
    np.testing.assert_array_equal(fit_to(_spec(20, 20, stretch), pixels, "crop"), cropped)
    with pytest.raises(InputError, match="expected 20 x 20"):
        fit_to(_spec(20, 20, crop), pixels, "exact")


def test_without_a_fit_only_the_models_size_is_taken() -> None:
    assert FITS == ("model", "camera", "exact", "crop", "stretch")
    with pytest.raises(InputError, match=r"48 x 64 pixels .* expected 20 x 20"):
        fit_to(_spec(20, 20, None), _picture(48, 64))
    own = _picture(20, 20)
    for fit in (None, FitSpec(), FitSpec(short_side=23)):
        assert fit_to(_spec(20, 20, fit), own) is own
    assert fit_to(_spec(20, 20, None), _picture(48, 64), "crop").shape == (20, 20, 3)


def test_a_picture_that_cannot_fill_the_models_is_refused() -> None:
    with pytest.raises(InputError, match=r"is 30 x 30, less than the model's 32 x 32"):
        fit_to(_spec(32, 32, FitSpec(short_side=30)), _picture(50, 50))
    with pytest.raises(InputError, match=r"is 40 x 20, less than the model's 20 x 40"):
        fit_to(_spec(20, 40, FitSpec(short_side=20)), _picture(80, 40))
    with pytest.raises(InputError, match="expected uint8"):
        fit_to(_spec(20, 40, FitSpec(short_side=20)), np.zeros((8, 8), np.uint8))


def test_a_picture_that_the_resizer_cannot_take_is_an_input_error() -> None:
    thin, wide = np.zeros((1, 1000, 3), np.uint8), np.zeros((2, 70_000, 3), np.uint8)
    with pytest.raises(InputError, match="scaled to 292 x 292000, expected sides of at most 65535"):
        fit_to(_spec(256, 256, FitSpec(short_side=292)), thin)
    for choice in ("stretch", "model"):
        with pytest.raises(InputError, match="2 x 70000 pixels"):
            fit_to(_spec(20, 20, FitSpec(stretch=True)), wide, choice)


def test_a_cameras_picture_of_the_models_own_size_is_scaled_and_cut_when_asked() -> None:
    fit = FitSpec(short_side=36, filter="bicubic", offset="floor")
    own = _picture(32, 32)
    assert fit_to(_spec(32, 32, fit), own) is own
    scaled = Image.fromarray(own).resize((36, 36), Image.Resampling.BICUBIC)
    expected = np.asarray(scaled)[2:34, 2:34]
    np.testing.assert_array_equal(fit_to(_spec(32, 32, fit), own, "camera"), expected)
    other = _picture(48, 64)
    np.testing.assert_array_equal(
        fit_to(_spec(32, 32, fit), other, "camera"), fit_to(_spec(32, 32, fit), other)
    )
    for spec in (
        _spec(32, 32, None),
        _spec(32, 32, FitSpec()),
        _spec(32, 32, FitSpec(stretch=True)),
    ):
        assert fit_to(spec, own, "camera") is own
    with pytest.raises(InputError, match="expected 32 x 32"):
        fit_to(_spec(32, 32, None), other, "camera")


@pytest.mark.parametrize(
    "window", [(0, 0, 5, 4), (0, 1, 4, 4), (1, 0, 4, 4), (0, 0, 0, 4), (2**63, 0, 4, 4)]
)
def test_a_window_outside_is_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"leaves the scaled picture|side is 0"):
        _core.Resizer(in_height=8, in_width=8, out_height=4, out_width=4, window=window)


def test_the_core_checks_sizes_too() -> None:
    with pytest.raises(ValueError, match="side is 0"):
        _core.Resizer(in_height=0, in_width=4, out_height=4, out_width=4)
    resizer = _core.Resizer(in_height=8, in_width=8, out_height=4, out_width=4)
    for wrong in (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)[..., ::-1]):
        with pytest.raises(ValueError, match="expected pixels"):
            resizer.resize(wrong)
