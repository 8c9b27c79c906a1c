# SPDX-License-Identifier: Apache-2.0
"""Arrays that would fill the memory: they lie in unnamed temporary files that go with them."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jepa_edge.errors import CalibrationError

EPISODE_BYTES = 1 << 22
"""Latents of one episode beyond this are patches, and there are hundreds of episodes."""

SPLIT_BYTES = 1 << 27
"""Windows of one split beyond this go to disk."""


def empty(shape: tuple[int, ...], dtype: DTypeLike, limit: int) -> NDArray[np.generic]:
    """Return a new array, on disk where it has more than `limit` bytes.

    Raises CalibrationError when the disk has no room for it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= limit:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="jepa-edge-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would kill the process later
        except OSError as error:
            raise CalibrationError(
                f"{tempfile.gettempdir()} has no room for {size / 1e9:.1f} GB of latents "
                f"({error}); set TMPDIR to a larger disk, or record fewer or shorter episodes"
            ) from error
        # The file has no name; it lasts as long as it is mapped.
        return np.asarray(np.memmap(file, dtype=dtype, mode="r+", shape=shape))


def held(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an episode's array as it is, or a copy on disk where it has many bytes."""
    if array.nbytes <= EPISODE_BYTES:
        return array
    copy = empty(array.shape, np.float32, EPISODE_BYTES)
    copy[...] = array
    return copy.view(np.float32)
