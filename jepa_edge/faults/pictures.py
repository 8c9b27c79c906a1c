# SPDX-License-Identifier: Apache-2.0
"""What camera faults do to one frame, in numpy."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""(H, W, 3) uint8."""

OCCLUSION_GRAY = 24
"""Gray level of the patch, 0 to 255: dirt or a cable close to the lens, nearly black."""

_TRUNCATE = 4.0  # the Gaussian ends after this many standard deviations


def occlude(frame: Frame, side: float) -> Frame:
    """Hide the center behind a dark patch; side: share of the frame's side, 1 pixel or more."""
    height, width = frame.shape[:2]
    side_y, side_x = max(1, round(height * side)), max(1, round(width * side))
    top, left = (height - side_y) // 2, (width - side_x) // 2
    hidden = np.array(frame, np.uint8)
    hidden[top : top + side_y, left : left + side_x] = OCCLUSION_GRAY
    return hidden


def blur(frame: Frame, sigma: float) -> Frame:
    """Convolve with a Gaussian, edge pixels repeated; sigma: share of the shorter side."""
    pixels = sigma * min(frame.shape[:2])
    radius = max(1, math.ceil(_TRUNCATE * pixels))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / pixels) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    smooth = frame.astype(np.float32)
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (radius, radius)
        padded = np.pad(smooth, pad, mode="edge")
        size = frame.shape[axis]
        smooth = np.zeros(frame.shape, np.float32)
        for tap, weight in enumerate(kernel):
            window = padded[tap : tap + size] if axis == 0 else padded[:, tap : tap + size]
            smooth += weight * window
    return _to_bytes(smooth)


def salt(frame: Frame, share: float, rng: np.random.Generator) -> Frame:
    """Turn a random share of the pixels black or white, half of them each."""
    drawn = rng.random(frame.shape[:2])
    noisy = np.array(frame, np.uint8)
    noisy[drawn < share] = 255
    noisy[drawn < share / 2] = 0
    return noisy


def shift(frame: Frame, share: float, direction: tuple[int, int]) -> Frame:
    """Move the picture by 1 pixel or more, repeating its edge.

    share: of the frame's side. direction: (down, right), one of them 1 or -1.
    """
    rows, columns = (
        np.clip(np.arange(size) - sign * max(1, round(share * size)), 0, size - 1)
        for size, sign in zip(frame.shape[:2], direction, strict=True)
    )
    return np.ascontiguousarray(frame[rows[:, None], columns])


def expose(frame: Frame, factor: float) -> Frame:
    """Multiply all values and clip them to 255."""
    table = _to_bytes(np.arange(256, dtype=np.float32) * np.float32(factor))
    return np.asarray(table[frame], np.uint8)


def rotate(frame: Frame, degrees: float) -> Frame:
    """Turn the picture counterclockwise about its center, bilinear, edge pixels repeated."""
    top, left, down, right = _rotation(frame.shape[0], frame.shape[1], degrees)
    below, beside = (
        np.minimum(index + 1, size - 1)
        for index, size in zip((top, left), frame.shape[:2], strict=True)
    )
    upper = frame[top, left] * (1 - right) + frame[top, beside] * right
    lower = frame[below, left] * (1 - right) + frame[below, beside] * right
    return _to_bytes(upper * (1 - down) + lower * down)


def blend(frame: Frame, older: Frame, weight: float) -> Frame:
    """Mix a frame with an older one of the given weight."""
    mixed = frame.astype(np.float32) * np.float32(1.0 - weight)
    return _to_bytes(mixed + older.astype(np.float32) * np.float32(weight))


@lru_cache(maxsize=8)
def _rotation(
    height: int, width: int, degrees: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Return, per pixel, the upper left source pixel and the way on from it, (H, W, 1), 0 to 1."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width) - (width - 1) / 2
    # Rows count downwards, so that this turns the content counterclockwise as seen.
    source_y = np.clip(cos * y + sin * x + (height - 1) / 2, 0, height - 1)
    source_x = np.clip(-sin * y + cos * x + (width - 1) / 2, 0, width - 1)
    top, left = np.floor(source_y).astype(np.intp), np.floor(source_x).astype(np.intp)
    down = (source_y - top).astype(np.float32)[..., None]
    right = (source_x - left).astype(np.float32)[..., None]
    return top, left, down, right


def _to_bytes(values: NDArray[np.float32]) -> Frame:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
