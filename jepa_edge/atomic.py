# SPDX-License-Identifier: Apache-2.0
"""Replace a directory in one step, so that a crash leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside target; on success it takes target's place, else it goes."""
    target = target.resolve()  # a link keeps pointing at what is replaced
    made = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        for path in [*staging.rglob("*"), staging]:
            _sync(path)
        if target.exists():
            _exchange(staging, target)
        else:
            os.replace(staging, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():
            for path in made:
                with contextlib.suppress(OSError):  # not empty: somebody else uses it
                    path.rmdir()


def write_atomically(path: Path, payload: bytes, *, temporary_in: Path | None = None) -> None:
    """Write a file so that a crash leaves the old one or the new one, readable by all.

    temporary_in: a directory on the same file system for what is half written; path's own if None.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=temporary_in or path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Flush a file's content, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> None:
    """Swap two directories: renameat2(RENAME_EXCHANGE), or two renames where that is missing."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
        if renameat2(*arguments, _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(second))
    aside = first.with_name(first.name + ".old")
    os.replace(second, aside)
    os.replace(first, second)
    os.replace(aside, first)
