# SPDX-License-Identifier: Apache-2.0
"""Pixels come out as they were put in, whatever the encoding; damaged buffers are refused."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.nodes.images import decode_image
from jepa_edge.pixels import to_rgb

from .bus import copied, make

HEIGHT, WIDTH = 5, 7


def _message(data: Any, encoding: str, step: int, **changes: Any) -> Any:
    fields = {"height": HEIGHT, "width": WIDTH, "is_bigendian": 0, **changes}
    return make("sensor_msgs/msg/Image", encoding=encoding, step=step, data=data, **fields)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """Red, green, blue."""
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "planes", "order"),
    [
        ("rgb8", (0, 1, 2), "rgb"),
        ("bgr8", (2, 1, 0), "bgr"),
        ("rgba8", (0, 1, 2, 3), "rgb"),
        ("bgra8", (2, 1, 0, 3), "bgr"),
    ],
)
def test_colors_come_out_in_the_order_that_is_named(
    picture: NDArray[np.uint8], encoding: str, planes: tuple[int, ...], order: str, padding: int
) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 77, np.uint8)
    stored = np.concatenate([picture, alpha], axis=2)[..., planes].reshape(HEIGHT, -1)
    stored = np.pad(stored, ((0, 0), (0, padding)), constant_values=200)
    message = _message(stored.reshape(-1), encoding, stored.shape[1])
    pixels, named = decode_image(copied(message, "sensor_msgs/msg/Image"))
    assert named == order
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(pixels, picture if order == "rgb" else picture[..., ::-1])


def test_gray_is_the_same_in_every_channel(picture: NDArray[np.uint8]) -> None:
    gray = picture[..., 0]
    pixels, _ = decode_image(_message(gray.reshape(-1), "mono8", WIDTH))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], gray)


@pytest.mark.parametrize("bigendian", [0, 1])
def test_floats_stay_floats(bigendian: int) -> None:
    values = np.random.default_rng(2).normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32)
    values[1, 2, 0] = np.nan
    stored = values.astype(">f4" if bigendian else "<f4").tobytes()
    data = np.frombuffer(stored, np.uint8)
    pixels, _ = decode_image(_message(data, "32FC3", 12 * WIDTH, is_bigendian=bigendian))
    np.testing.assert_array_equal(pixels, values)


def test_buffers_of_every_middleware_are_read_without_a_copy(picture: NDArray[np.uint8]) -> None:
    raw = picture.tobytes()
    for data in (np.frombuffer(raw, np.uint8), array.array("B", raw), raw):
        message = SimpleNamespace(
            encoding="rgb8", height=HEIGHT, width=WIDTH, step=21, is_bigendian=0, data=data
        )
        pixels, _ = decode_image(message)
        np.testing.assert_array_equal(pixels, picture)
        assert np.shares_memory(pixels, np.frombuffer(memoryview(data), np.uint8))
        with pytest.raises(ValueError, match="read-only"):
            pixels[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoding": "bayer_rggb8"}, "bayer_rggb8"),
        ({"encoding": ""}, "expected one of rgb8"),
        ({"step": 20}, "step 20"),
        ({"size": 21 * HEIGHT - 1}, "short"),
        ({"size": 21 * HEIGHT + 1}, "damaged"),
        ({"size": 0}, "holds 0 bytes"),
        ({"height": 0, "size": 0}, "0 x 7"),
        ({"width": 0}, "5 x 0"),
        ({"height": 2**32 - 1, "step": 2**32 - 1}, "expected 1 to"),
    ],
)
def test_what_is_damaged_is_refused_with_the_reason(changes: dict[str, Any], told: str) -> None:
    fields = {"encoding": "rgb8", "step": 21, "size": 21 * HEIGHT, **changes}
    data = np.zeros(fields.pop("size"), np.uint8)
    with pytest.raises(InputError, match=told):
        decode_image(_message(data, **fields))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "layout", "rows", "row"),
    [
        ("nv12", "nv12", 6, 6),
        ("yuv422", "uyvy", 4, 12),
        ("uyvy", "uyvy", 4, 12),
        ("yuv422_yuy2", "yuyv", 4, 12),
        ("yuyv", "yuyv", 4, 12),
    ],
)
def test_pixels_that_share_their_color_become_rgb(
    encoding: str, layout: Any, rows: int, row: int, padding: int
) -> None:
    """The formulas themselves: tests/test_pixels.py."""
    data = np.random.default_rng(3).integers(0, 256, (rows, row + padding), dtype=np.uint8)
    message = _message(data.reshape(-1), encoding, row + padding, height=4, width=6)
    pixels, order = decode_image(copied(message, "sensor_msgs/msg/Image"))
    packed = np.ascontiguousarray(data[:, :row])
    expected = to_rgb(packed, height=4, width=6, pixel_format=layout)
    np.testing.assert_array_equal(pixels, expected)
    assert order == "rgb"
    assert not pixels.flags.writeable


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoding": "nv12", "step": 6, "size": 24}, "step x 6 bytes"),  # the colors are missing
        ({"encoding": "nv12", "step": 6, "size": 37}, "damaged"),
        ({"encoding": "nv12", "step": 5, "size": 30}, "a step of 6"),
        ({"encoding": "nv12", "height": 3, "step": 6, "size": 24}, "3 x 6, expected an even"),
        ({"encoding": "yuv422", "step": 6, "size": 24}, "a step of 12"),
        ({"encoding": "yuv422", "width": 5, "step": 10, "size": 40}, "4 x 5, expected an even"),
        ({"encoding": "yuyv", "step": 2**32 - 1, "size": 0}, "holds 0 bytes"),
        ({"encoding": "nv21", "step": 6, "size": 36}, "expected one of rgb8"),
    ],
)
def test_damaged_yuv_is_refused_with_the_reason(changes: dict[str, Any], told: str) -> None:
    fields = {"height": 4, "width": 6, **changes}
    data = np.zeros(fields.pop("size"), np.uint8)
    with pytest.raises(InputError, match=told):
        decode_image(_message(data, **fields))
