# SPDX-License-Identifier: Apache-2.0
"""Camera buffers against the ITU's formulas in float64; damaged ones are refused."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.pixels import PIXEL_FORMATS, YuvSpec, to_rgb

SPECS = [
    YuvSpec(matrix=matrix, full_range=full)  # type: ignore[arg-type]
    for matrix in ("bt601", "bt709")
    for full in (False, True)
]


def _itu(y: Any, u: Any, v: Any, spec: YuvSpec) -> NDArray[np.float64]:
    """Red, green and blue in real numbers, clipped: BT.601-7 2.5, BT.709-6 3, solved for R G B."""
    red, blue = (0.299, 0.114) if spec.matrix == "bt601" else (0.2126, 0.0722)
    green = 1.0 - red - blue
    luma = (np.asarray(y, float) - (0 if spec.full_range else 16)) / (
        255 if spec.full_range else 219
    )
    cb, cr = ((np.asarray(c, float) - 128) / (255 if spec.full_range else 224) for c in (u, v))
    r = luma + 2 * (1 - red) * cr
    b = luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / green
    return np.clip(255.0 * np.stack([r, g, b], axis=-1), 0.0, 255.0)


def _stored(
    y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8], pixel_format: str
) -> NDArray[np.uint8]:
    """Rows of a buffer, unpadded. y (H, W); u, v (H, W / 2), or (H / 2, W / 2) for nv12."""
    if pixel_format == "nv12":
        return np.concatenate([y, np.stack([u, v], axis=-1).reshape(len(u), -1)])
    order = (
        [y[:, ::2], u, y[:, 1::2], v] if pixel_format == "yuyv" else [u, y[:, ::2], v, y[:, 1::2]]
    )
    return np.stack(order, axis=-1).reshape(len(y), -1)


def _padded(rows: NDArray[np.uint8], stride: int) -> NDArray[np.uint8]:
    return np.pad(rows, ((0, 0), (0, stride - rows.shape[1])), constant_values=99)


@pytest.mark.parametrize("spec", SPECS)
def test_every_y_u_v_is_within_half_a_level_and_a_bit_of_the_formula(spec: YuvSpec) -> None:
    """All 2^24 colors on a grid of odd steps, edges included: two pixels with one U V pair."""
    y = np.arange(0, 256, 1, dtype=np.uint8)
    u = np.unique(np.r_[np.arange(0, 256, 5), 127, 128, 255]).astype(np.uint8)
    pairs = np.stack(np.meshgrid(u, u, indexing="ij"), -1).reshape(-1, 2)
    rows = np.empty((len(pairs), 128, 4), np.uint8)
    rows[..., 0], rows[..., 2] = y[::2], y[1::2]
    rows[..., 1], rows[..., 3] = pairs[:, :1], pairs[:, 1:]
    got = to_rgb(rows, height=len(pairs), width=256, pixel_format="yuyv", yuv=spec)
    exact = _itu(y[None], pairs[:, :1], pairs[:, 1:], spec)
    assert np.abs(got - exact).max() <= 0.55


@pytest.mark.parametrize("padding", [0, 1, 64])
@pytest.mark.parametrize("pixel_format", ["nv12", "yuyv", "uyvy"])
def test_pixels_that_share_a_pair_get_that_very_pair(pixel_format: Any, padding: int) -> None:
    rng = np.random.default_rng(4)
    height, width = 10, 14
    chroma = (height // 2 if pixel_format == "nv12" else height, width // 2)
    y = rng.integers(0, 256, (height, width), dtype=np.uint8)
    u, v = rng.integers(0, 256, (2, *chroma), dtype=np.uint8)
    rows = _stored(y, u, v, pixel_format)
    stride = rows.shape[1] + padding
    buffer = _padded(rows, stride)
    got = to_rgb(buffer, height=height, width=width, pixel_format=pixel_format, stride=stride)
    repeats = height // chroma[0]
    whole_u, whole_v = (c.repeat(repeats, 0).repeat(2, 1) for c in (u, v))
    assert np.abs(got - _itu(y, whole_u, whole_v, YuvSpec())).max() <= 0.55
    # The last row needs no padding; any kind of buffer will do.
    short = buffer.tobytes()[: buffer.size - padding]
    for data in (short, bytearray(short), memoryview(short)):
        again = to_rgb(data, height=height, width=width, pixel_format=pixel_format, stride=stride)
        np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("pixel_format", "planes"),
    [
        ("rgb", (0, 1, 2)),
        ("bgr", (2, 1, 0)),
        ("rgba", (0, 1, 2, 3)),
        ("bgra", (2, 1, 0, 3)),
        ("mono", (0,)),
    ],
)
def test_packed_colors_are_put_in_order(
    pixel_format: Any, planes: tuple[int, ...], padding: int
) -> None:
    picture = np.random.default_rng(5).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rows = picture[..., planes].reshape(5, -1)
    stride = rows.shape[1] + padding
    got = to_rgb(_padded(rows, stride), height=5, width=7, pixel_format=pixel_format, stride=stride)
    expected = picture[..., [0, 0, 0] if pixel_format == "mono" else [0, 1, 2]]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"buffer": bytes(95)}, "95 bytes, expected 96"),
        ({"buffer": b""}, "0 bytes, expected 96"),
        ({"stride": 9, "buffer": bytes(106)}, "106 bytes, expected 107"),
        ({"stride": 7}, "stride is 7 bytes, expected a row's 8"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": -8}, "cannot read"),
        ({"stride": 2**40}, "stride is 1099511627776"),
        ({"stride": 2**70}, "cannot read"),
        ({"height": 0}, "side is 0"),
        ({"height": -2}, "cannot read"),
        ({"height": 65_536}, "side is 65536"),
        ({"height": 7}, "7 x 8, expected an even number"),
        ({"width": 7}, "8 x 7, expected an even number"),
        ({"pixel_format": "yuyv", "width": 3}, "8 x 3, expected an even number"),
        ({"pixel_format": "i420"}, "'i420', expected one of rgb, bgr"),
        ({"buffer": np.zeros(96, np.int8)}, "array of int8"),
        ({"buffer": np.zeros(192, np.uint8)[::2]}, "expected contiguous"),
        ({"buffer": memoryview(bytes(192))[::2]}, r"strides \(2,\), expected contiguous bytes"),
        ({"buffer": memoryview(np.zeros(24, np.float32))}, "items of 4 bytes .format 'f'"),
        ({"buffer": array("H", bytes(96))}, "items of 2 bytes"),
        ({"buffer": [0] * 96}, "buffer is list"),
        ({"buffer": "0" * 96}, "buffer is str"),
        ({"buffer": None}, "buffer is NoneType"),
    ],
)
def test_hostile_buffers_are_refused(changes: dict[str, Any], told: str) -> None:
    given_: dict[str, Any] = {"height": 8, "width": 8, "pixel_format": "nv12", **changes}
    buffer = given_.pop("buffer", bytes(96))
    with pytest.raises(InputError, match=told):
        to_rgb(buffer, **given_)


def test_a_released_buffer_is_refused() -> None:
    view = memoryview(bytes(96))
    view.release()
    with pytest.raises(InputError, match="released"):
        to_rgb(view, height=8, width=8, pixel_format="nv12")


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="'bt2020', expected bt601 or bt709"):
        YuvSpec(matrix="bt2020")  # type: ignore[arg-type]


@given(
    pixel_format=st.sampled_from(PIXEL_FORMATS),
    height=st.integers(-1, 9),
    width=st.integers(-1, 9),
    stride=st.none() | st.integers(-1, 40),
    size=st.integers(0, 400),
)
def test_any_layout_gives_pixels_or_an_input_error(
    pixel_format: Any, height: int, width: int, stride: int | None, size: int
) -> None:
    try:
        got = to_rgb(
            bytes(size), height=height, width=width, pixel_format=pixel_format, stride=stride
        )
    except InputError:
        return
    assert got.shape == (height, width, 3)
    assert size >= got.size / 3
