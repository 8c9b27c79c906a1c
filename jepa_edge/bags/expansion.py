# SPDX-License-Identifier: Apache-2.0
"""Checks what compressed parts of a bag expand to before rosbags writes or holds all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jepa_edge.errors import InputError

_ALWAYS_BYTES = 64 * 1024**2
_MOST_TIMES = 1000
_STEP_BYTES = 1024**2


def expand_message(data: bytes, path: Path) -> bytes:
    """Return a zstd message of a bag. Raises InputError when it is too large to be one."""
    return b"".join(_expanded([data], _most(len(data)), path))


def check_file(path: Path) -> None:
    """Raise InputError when a zstd file expands beyond all measure."""
    with path.open("rb") as file:
        for _ in _expanded(
            iter(lambda: file.read(_STEP_BYTES), b""), _most(path.stat().st_size), path
        ):
            pass


def check_chunks(storage: Any, path: Path) -> None:
    """Raise InputError when a zstd chunk of an opened MCAP expands beyond all measure.

    storage: rosbags' McapReader. Chunks of a file without an index are not looked at.
    """
    for chunk in getattr(storage, "chunks", ()):
        if chunk.compression != "zstd":
            continue
        # Opcode and length, then times, size, checksum and the compression's name.
        storage.bio.seek(chunk.chunk_start_offset + 9 + 40 + len(chunk.compression))
        data = storage.bio.read(chunk.compressed_size)
        for _ in _expanded([data], _most(len(data)), path):
            pass


def _most(compressed: int) -> int:
    return max(_ALWAYS_BYTES, _MOST_TIMES * compressed)


def _expanded(parts: Iterable[bytes], most: int, path: Path) -> Iterator[bytes]:
    """Yield what zstd frames expand to, a little at a time, up to `most` bytes in all."""
    from rosbags.rosbag2.reader import zstd

    total = 0
    decompressor = zstd.ZstdDecompressor()
    for part in parts:
        left = part
        while left or not (decompressor.needs_input or decompressor.eof):
            if decompressor.eof:
                decompressor = zstd.ZstdDecompressor()
            found = decompressor.decompress(left, max_length=_STEP_BYTES)
            total += len(found)
            if total > most:
                raise InputError(
                    f"{path} expands to more than {most} bytes where {_MOST_TIMES} times its size "
                    "is the most that is taken; decompress it yourself if you trust it"
                )
            yield found
            left = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise ValueError("a zstd frame is cut off")
