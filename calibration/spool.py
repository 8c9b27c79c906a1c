# SPDX-License-Identifier: Apache-2.0
"""Arrays that would fill the memory: they lie in unnamed temporary files that go with them."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jepa_edge.errors import CalibrationError

EPISODE_BYTES = 1 << 18
"""An array of one episode beyond this is of patches, and there may be thousands of episodes."""

FILE_BYTES = 1 << 27
"""Smaller arrays share files of this size: each file takes a descriptor, and those are few."""

SPLIT_BYTES = 1 << 27
"""Windows of one split beyond this go to disk."""

_ALIGNED = 64


def empty(shape: tuple[int, ...], dtype: DTypeLike, limit: int) -> NDArray[np.generic]:
    """Return a new array, on disk where it has more than `limit` bytes.

    Raises CalibrationError when the disk has no room for it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= limit:
        return np.empty(shape, dtype)
    mapped, start = _shared.take(size) if size < FILE_BYTES else (_mapped(size), 0)
    count = int(np.prod(shape))
    return np.frombuffer(mapped, dtype, count=count, offset=start).reshape(shape)


class _Shared:
    """The file that smaller arrays are put into, one after the other. It goes with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # episodes are encoded on several threads
        self._file: weakref.ref[mmap.mmap] | None = None
        self._used = 0

    def take(self, size: int) -> tuple[mmap.mmap, int]:
        """Return a mapped file with `size` bytes that are free, and where they start."""
        with self._lock:
            file = self._file() if self._file is not None else None
            if file is None or self._used + size > FILE_BYTES:
                file = _mapped(FILE_BYTES)
                self._file, self._used = weakref.ref(file), 0
            start = self._used
            self._used += -(-size // _ALIGNED) * _ALIGNED
            return file, start


_shared = _Shared()


def _mapped(size: int) -> mmap.mmap:
    """Map a new file that has no name, and lasts as long as it is mapped."""
    with tempfile.TemporaryFile(prefix="jepa-edge-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would kill the process later
        except OSError as error:
            raise CalibrationError(
                f"{tempfile.gettempdir()} has no room for {size / 1e9:.1f} GB of latents "
                f"({error}); set TMPDIR to a larger disk, or record fewer or shorter episodes"
            ) from error
        return mmap.mmap(file.fileno(), size)


def held(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an episode's array as it is, or a copy on disk where it has many bytes."""
    if array.nbytes <= EPISODE_BYTES:
        return array
    copy = empty(array.shape, np.float32, EPISODE_BYTES)
    copy[...] = array
    return copy.view(np.float32)
