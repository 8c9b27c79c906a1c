# SPDX-License-Identifier: Apache-2.0
"""Pixels out of a ROS image message."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.pixels import PixelFormat, to_rgb

Order = Literal["rgb", "bgr"]

_ENCODINGS: dict[str, tuple[int, str, Order]] = {
    "rgb8": (3, "u1", "rgb"),
    "bgr8": (3, "u1", "bgr"),
    "rgba8": (4, "u1", "rgb"),
    "bgra8": (4, "u1", "bgr"),
    "mono8": (1, "u1", "rgb"),
    "32FC3": (3, "f4", "rgb"),
}
"""Encoding to channels, number type, channel order. Anything else is refused, never guessed."""

_YUV: dict[str, PixelFormat] = {
    "nv12": "nv12",
    "yuv422": "uyvy",
    "uyvy": "uyvy",
    "yuv422_yuy2": "yuyv",
    "yuyv": "yuyv",
}
"""Encoding to how its bytes lie; of nv12 the message has half as many rows again as its height."""

_MAX_SIDE = 65_535


def decode_image(message: Any) -> tuple[NDArray[np.generic], Order]:
    """Return a sensor_msgs/Image's pixels, (H, W, 3), and the order of their channels.

    uint8; float32 for 32FC3, which no session takes as it is. Alpha is dropped, gray is repeated,
    YUV is taken for BT.601 in limited range, as drivers send it. The pixels are a read-only view of
    the message where that is possible.
    Raises InputError for another encoding, no pixels, a buffer that is not step x rows bytes, and
    sides that the encoding cannot have.
    """
    encoding, height, width = str(message.encoding), int(message.height), int(message.width)
    if encoding not in _ENCODINGS and encoding not in _YUV:
        known = ", ".join((*_ENCODINGS, *_YUV))
        raise InputError(
            f"image encoding is {encoding!r}, expected one of {known}; convert the stream first, "
            "e.g. with image_proc"
        )
    if not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise InputError(f"image is {height} x {width}, expected 1 to {_MAX_SIDE} pixels a side")
    if encoding in _YUV:
        return _decode_yuv(message, encoding, height, width), "rgb"
    channels, kind, order = _ENCODINGS[encoding]
    number = np.dtype(("<", ">")[bool(message.is_bigendian)] + kind)
    row = channels * number.itemsize * width
    step = int(message.step)
    data = _checked_bytes(message, row, height)
    rows = data.reshape(height, step)[:, :row]
    pixels = rows.view(number) if step == row else np.ascontiguousarray(rows).view(number)
    pixels = pixels.reshape(height, width, channels)
    if channels == 1:
        pixels = np.broadcast_to(pixels, (height, width, 3))
    return _read_only(pixels[..., :3]), order


def _decode_yuv(message: Any, encoding: str, height: int, width: int) -> NDArray[np.generic]:
    """Pixels of an encoding whose U and V two or four pixels share."""
    layout = _YUV[encoding]
    rows, row = (height + height // 2, width) if layout == "nv12" else (height, 2 * width)
    data = _checked_bytes(message, row, rows)
    return _read_only(
        to_rgb(data, height=height, width=width, pixel_format=layout, stride=int(message.step))
    )


def _checked_bytes(message: Any, row: int, rows: int) -> NDArray[np.uint8]:
    """The message's buffer. row: bytes that a row needs. Raises InputError for another size."""
    step, data = int(message.step), _bytes(message.data)
    if step < row or data.size != step * rows:
        raise InputError(
            f"image of {message.height} x {message.width} in {message.encoding} with step {step} "
            f"holds {data.size} bytes, expected a step of {row} or more and step x {rows} bytes; "
            "the buffer is short or damaged"
        )
    return np.ascontiguousarray(data)


def _bytes(data: Any) -> NDArray[np.uint8]:
    """The message's buffer as it is: array, array.array or bytes."""
    if isinstance(data, bytes | bytearray | memoryview):
        return np.frombuffer(data, np.uint8)
    return np.asarray(data, np.uint8).reshape(-1)


def _read_only(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    view: NDArray[np.generic] = pixels.view()
    view.flags.writeable = False
    return view
