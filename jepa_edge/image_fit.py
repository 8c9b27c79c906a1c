# SPDX-License-Identifier: Apache-2.0
"""From the camera's picture size to the model's."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.errors import InputError

Fit = Literal["exact", "crop", "stretch"]
FITS: tuple[str, ...] = get_args(Fit)


def fit_image(pixels: NDArray[np.uint8], height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    """Return a picture of the model's size: (height, width, 3) uint8.

    pixels: (H, W, 3) uint8. fit: "exact" takes no other size than the model's; "crop" cuts the
    middle out, as large as it goes in the model's aspect ratio, and scales that; "stretch" scales
    the whole picture. Scaling is the antialiased bilinear filter of Pillow and torchvision.
    Raises InputError for a picture of another type or, with "exact", of another size.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(
            f"the picture is {pixels.dtype} with shape {pixels.shape}, expected uint8 (H, W, 3)"
        )
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
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    return _resizer(*pixels.shape[:2], height, width).resize(pixels)


def _middle(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The largest part in the middle that has the aspect ratio of (height, width)."""
    have_height, have_width = pixels.shape[:2]
    cut_width = min(have_width, max(1, round(have_height * width / height)))
    cut_height = min(have_height, max(1, round(have_width * height / width)))
    top, left = (have_height - cut_height) // 2, (have_width - cut_width) // 2
    return pixels[top : top + cut_height, left : left + cut_width]


@lru_cache(maxsize=8)
def _resizer(in_height: int, in_width: int, out_height: int, out_width: int) -> _core.Resizer:
    return _core.Resizer(
        in_height=in_height, in_width=in_width, out_height=out_height, out_width=out_width
    )
