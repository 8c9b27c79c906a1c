# SPDX-License-Identifier: Apache-2.0
"""Camera buffers become RGB: packed colors, gray, NV12, YUYV and UYVY."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.errors import InputError

PixelFormat = Literal["rgb", "bgr", "rgba", "bgra", "mono", "nv12", "yuyv", "uyvy"]
PIXEL_FORMATS: tuple[str, ...] = get_args(PixelFormat)


@dataclass(frozen=True, slots=True, kw_only=True)
class YuvSpec:
    """What Y, U and V mean; a buffer does not say so itself.

    matrix: of standard (bt601) or high definition (bt709). full_range: black is 0 and white 255, as
    in JPEG; False: 16 and 235, as most cameras send it.
    """

    matrix: Literal["bt601", "bt709"] = "bt601"
    full_range: bool = False

    def __post_init__(self) -> None:
        if self.matrix not in ("bt601", "bt709"):
            raise InputError(f"matrix is {self.matrix!r}, expected bt601 or bt709")


def to_rgb(
    buffer: NDArray[np.uint8] | bytes | bytearray | memoryview,
    *,
    height: int,
    width: int,
    pixel_format: PixelFormat,
    stride: int | None = None,
    yuv: YuvSpec | None = None,
) -> NDArray[np.uint8]:
    """Return a camera buffer's pixels as RGB, (height, width, 3) uint8.

    buffer: contiguous bytes, row after row; of NV12 the rows of Y, then half as many of U V pairs.
    stride: bytes from one row to the next, None for rows without padding; the last row needs none.
    yuv: for nv12, yuyv and uyvy; None stands for BT.601 in limited range. Pixels that share a U V
    pair all get that very pair: nearest, as OpenCV and libyuv do it; levels differ by at most 1
    from the formulas in real numbers. Alpha is left out, gray is repeated.
    Raises InputError for a format that is not known, sides it cannot have, and a buffer that is
    short, has gaps, holds other numbers than bytes, or is none.
    """
    if pixel_format not in PIXEL_FORMATS:
        raise InputError(
            f"pixel format is {pixel_format!r}, expected one of {', '.join(PIXEL_FORMATS)}"
        )
    data = bytes_of(buffer)
    try:
        converter = _converter(height, width, pixel_format, stride, yuv or YuvSpec())
        return converter.convert(data)
    except (ValueError, TypeError) as error:  # TypeError: sizes below 0 or no integers
        raise InputError(
            f"cannot read a {pixel_format} picture of {height} x {width} pixels with stride "
            f"{stride}: {str(error).splitlines()[0]}"
        ) from error


def bytes_of(buffer: NDArray[np.uint8] | bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """Return a buffer as flat uint8, not copied."""
    if isinstance(buffer, np.ndarray):
        if buffer.dtype != np.uint8 or not buffer.flags.c_contiguous:
            raise InputError(
                f"buffer is an array of {buffer.dtype} with strides {buffer.strides}, expected "
                "contiguous uint8; pass numpy.ascontiguousarray of the camera's bytes"
            )
        return buffer.reshape(-1)
    try:
        view = memoryview(buffer)
    except (TypeError, ValueError, BufferError) as error:  # ValueError: a released memoryview
        raise InputError(
            f"buffer is {type(buffer).__name__} ({error}), expected bytes, a memoryview or a numpy "
            "array of uint8; pass the camera's bytes"
        ) from error
    if view.itemsize != 1 or not view.c_contiguous:
        raise InputError(
            f"buffer has items of {view.itemsize} bytes (format {view.format!r}) with strides "
            f"{view.strides}, expected contiguous bytes; pass bytes(...) of the pixels"
        )
    return np.frombuffer(view, np.uint8)


@lru_cache(maxsize=8)
def _converter(
    height: int, width: int, pixel_format: PixelFormat, stride: int | None, yuv: YuvSpec
) -> _core.ColorConverter:
    form = getattr(_core.PixelFormat, pixel_format.upper())
    return _core.ColorConverter(
        format=form,
        height=height,
        width=width,
        stride=_core.ColorConverter.row_bytes(form, width) if stride is None else stride,
        bt709=yuv.matrix == "bt709",
        full_range=yuv.full_range,
    )
