# SPDX-License-Identifier: Apache-2.0
"""From the camera's picture size to the model's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.errors import InputError
from jepa_edge.manifest import ObservationSpec

Fit = Literal["exact", "crop", "stretch"]
Filter = Literal["bilinear", "bicubic"]
Offset = Literal["round", "floor"]
MODEL_FIT, CAMERA_FIT = "model", "camera"
FITS: tuple[str, ...] = (MODEL_FIT, CAMERA_FIT, *get_args(Fit))
"""What a user may choose; "model" is what the manifest says, or "exact" where it says nothing.
"camera" is the same for what comes from a camera: a picture that happens to have the model's size
is not taken for one that was fitted before."""

_MAX_SIDE = 65535
"""Of a picture that the resizer takes or makes (csrc/src/resize.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which part of a picture becomes the model's frame, and at what scale; in pixels.

    crop: top, left, height, width of the part that is scaled. scaled: its height and width then.
    window: top, left, height, width of what is taken of it.
    """

    crop: tuple[int, int, int, int]
    scaled: tuple[int, int]
    window: tuple[int, int, int, int]
    filter: Filter = "bilinear"


def fit_to(
    spec: ObservationSpec,
    pixels: NDArray[np.uint8],
    choice: str = MODEL_FIT,
) -> NDArray[np.uint8]:
    """Return a picture of the model's size, (height, width, 3) uint8, fitted as it was trained.

    pixels: (H, W, 3) uint8; one of the model's size counts as fitted already, as those of
    recordings are, unless the choice is "camera": then a fit by short_side scales and cuts it too,
    as VJEPA2VideoProcessor does with every picture. choice: one of FITS.
    The middle of a fit by short_side begins at round(spare / 2), half to even, as torchvision's
    CenterCrop, or by `fit.offset` at its floor, as transformers' processors: another pixel in a
    fourth of all sizes. The longer side is int(short_side * long / short), as in both. The bytes
    are those of torchvision on Pillow's pictures; on tensors of bytes it differs by one level
    itself.
    Raises InputError for a picture of another type, or of a size that may not be changed.
    """
    _check_picture(pixels)
    return _placed(pixels, placement(spec, pixels.shape[:2], choice))


def fit_image(
    pixels: NDArray[np.uint8], height: int, width: int, fit: Fit, filter: Filter = "bilinear"
) -> NDArray[np.uint8]:
    """Return a picture of the size asked for: (height, width, 3) uint8.

    pixels: (H, W, 3) uint8. fit: "exact" takes no other size than the model's; "crop" cuts the
    middle out, as large as it goes in the model's aspect ratio, and scales that; "stretch" scales
    the whole picture. filter: antialiased, as of Pillow and torchvision.
    Raises InputError for a picture of another type or, with "exact", of another size.
    """
    _check_picture(pixels)
    return _placed(pixels, _fitted(pixels.shape[:2], height, width, fit, filter))


def placement(spec: ObservationSpec, have: tuple[int, int], choice: str = MODEL_FIT) -> Placement:
    """Return what `fit_to` does with a picture of `have` pixels (height, width).

    Raises InputError for a size that may not be changed, or is too large.
    """
    fit, as_camera = spec.fit, choice == CAMERA_FIT
    if as_camera:
        choice = MODEL_FIT
    scaling: Filter = "bilinear" if fit is None else fit.filter
    if choice != MODEL_FIT or fit is None:
        geometry: Fit = "exact" if choice == MODEL_FIT else choice  # type: ignore[assignment]
        return _fitted(have, spec.height, spec.width, geometry, scaling)
    if fit.stretch or fit.short_side is None:
        geometry = "stretch" if fit.stretch else "crop"
        return _fitted(have, spec.height, spec.width, geometry, scaling)
    if have == (spec.height, spec.width) and not as_camera:
        return _untouched(have, scaling)
    return _short_side(have, spec.height, spec.width, fit.short_side, scaling, fit.offset)


def _fitted(have: tuple[int, int], height: int, width: int, fit: Fit, filter: Filter) -> Placement:
    if have == (height, width):
        return _untouched(have, filter)
    if fit == "exact":
        raise InputError(
            f"the picture has {have[0]} x {have[1]} pixels (height x width), "
            f"expected {height} x {width}; set the camera to that size, or image_fit to crop or "
            "stretch, as the training data were made"
        )
    crop = _middle(have, height, width) if fit == "crop" else (0, 0, *have)
    return _scaled(crop, (height, width), (0, 0, height, width), filter)


def _short_side(
    have: tuple[int, int],
    height: int,
    width: int,
    short_side: int,
    filter: Filter,
    offset: Offset,
) -> Placement:
    """Scale until the shorter side is short_side, and cut the middle out."""
    longer = int(short_side * max(have) / min(have))
    scaled = (longer, short_side) if have[0] > have[1] else (short_side, longer)
    if scaled[0] < height or scaled[1] < width:
        raise InputError(
            f"the picture of {have[0]} x {have[1]} pixels (height x width), scaled to a shorter "
            f"side of {short_side}, is {scaled[0]} x {scaled[1]}, less than the model's "
            f"{height} x {width}; set image_fit to crop or stretch, or turn the camera"
        )
    half: Callable[[float], int] = round if offset == "round" else math.floor
    top, left = half((scaled[0] - height) / 2), half((scaled[1] - width) / 2)
    return _scaled((0, 0, *have), scaled, (top, left, height, width), filter)


def _untouched(have: tuple[int, int], filter: Filter) -> Placement:
    whole = (0, 0, *have)
    return Placement(crop=whole, scaled=have, window=whole, filter=filter)


def _scaled(
    crop: tuple[int, int, int, int],
    scaled: tuple[int, int],
    window: tuple[int, int, int, int],
    filter: Filter,
) -> Placement:
    if scaled != crop[2:] and max(*crop[2:], *scaled) > _MAX_SIDE:
        raise InputError(
            f"a picture of {crop[2]} x {crop[3]} pixels (height x width) would be scaled to "
            f"{scaled[0]} x {scaled[1]}, expected sides of at most {_MAX_SIDE}; crop or shrink it "
            "before"
        )
    return Placement(crop=crop, scaled=scaled, window=window, filter=filter)


def _placed(pixels: NDArray[np.uint8], place: Placement) -> NDArray[np.uint8]:
    top, left, height, width = place.crop
    whole = (0, 0, *pixels.shape[:2])
    if place.crop == place.window == whole and place.scaled == (height, width):
        return pixels
    pixels = pixels[top : top + height, left : left + width]
    if place.scaled == (height, width):
        top, left, height, width = place.window
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    resizer = _resizer((height, width), place.scaled, place.filter == "bicubic", place.window)
    return resizer.resize(pixels)


def _check_picture(pixels: NDArray[np.uint8]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(
            f"the picture is {pixels.dtype} with shape {pixels.shape}, expected uint8 (H, W, 3)"
        )


def _middle(have: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """The largest part in the middle that has the aspect ratio of (height, width)."""
    cut_width = min(have[1], max(1, round(have[0] * width / height)))
    cut_height = min(have[0], max(1, round(have[1] * height / width)))
    return (have[0] - cut_height) // 2, (have[1] - cut_width) // 2, cut_height, cut_width


@lru_cache(maxsize=8)
def _resizer(
    have: tuple[int, int], size: tuple[int, int], bicubic: bool, window: tuple[int, int, int, int]
) -> _core.Resizer:
    return _core.Resizer(
        in_height=have[0],
        in_width=have[1],
        out_height=size[0],
        out_width=size[1],
        bicubic=bicubic,
        window=window,
    )
