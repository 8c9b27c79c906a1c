# SPDX-License-Identifier: Apache-2.0
"""From the camera's picture size to the model's."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    fit, as_camera = spec.fit, choice == CAMERA_FIT
    if as_camera:
        choice = MODEL_FIT
    scaling: Filter = "bilinear" if fit is None else fit.filter
    if choice != MODEL_FIT or fit is None:
        geometry: Fit = "exact" if choice == MODEL_FIT else choice  # type: ignore[assignment]
        return fit_image(pixels, spec.height, spec.width, geometry, scaling)
    if fit.stretch or fit.short_side is None:
        geometry = "stretch" if fit.stretch else "crop"
        return fit_image(pixels, spec.height, spec.width, geometry, scaling)
    _check_picture(pixels)
    if pixels.shape[:2] == (spec.height, spec.width) and not as_camera:
        return pixels
    return _scale_and_cut(pixels, spec.height, spec.width, fit.short_side, scaling, fit.offset)


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
    if pixels.shape[:2] == (height, width):
        return pixels
    if fit == "exact":
        raise InputError(
            f"the picture has {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), "
            f"expected {height} x {width}; set the camera to that size, or image_fit to crop or "
            "stretch, as the training data were made"
        )
    if fit == "crop":
        pixels = _middle(pixels, height, width)
    return _scaled(pixels, (height, width), filter, (0, 0, height, width))


def _scale_and_cut(
    pixels: NDArray[np.uint8],
    height: int,
    width: int,
    short_side: int,
    filter: Filter,
    offset: Offset,
) -> NDArray[np.uint8]:
    """Scale until the shorter side is short_side, and cut the middle out."""
    have = pixels.shape[:2]
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
    if scaled == have:
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return _scaled(pixels, scaled, filter, (top, left, height, width))


def _scaled(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    filter: Filter,
    window: tuple[int, int, int, int],
) -> NDArray[np.uint8]:
    """The window (top, left, height, width) of the picture scaled to (height, width)."""
    have = pixels.shape[:2]
    if max(*have, *size) > _MAX_SIDE:
        raise InputError(
            f"a picture of {have[0]} x {have[1]} pixels (height x width) would be scaled to "
            f"{size[0]} x {size[1]}, expected sides of at most {_MAX_SIDE}; crop or shrink it "
            "before"
        )
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    return _resizer(have, size, filter == "bicubic", window).resize(pixels)


def _check_picture(pixels: NDArray[np.uint8]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(
            f"the picture is {pixels.dtype} with shape {pixels.shape}, expected uint8 (H, W, 3)"
        )


def _middle(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The largest part in the middle that has the aspect ratio of (height, width)."""
    have_height, have_width = pixels.shape[:2]
    cut_width = min(have_width, max(1, round(have_height * width / height)))
    cut_height = min(have_height, max(1, round(have_width * height / width)))
    top, left = (have_height - cut_height) // 2, (have_width - cut_width) // 2
    return pixels[top : top + cut_height, left : left + cut_width]


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
