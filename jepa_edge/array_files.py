# SPDX-License-Identifier: Apache-2.0
"""Arrays that a stranger wrote with numpy: read without pickle, refused with a reason."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError


def read_array(path: Path) -> NDArray[np.generic]:
    """Read an `.npy`. Raises InputError when it is none."""
    try:
        with path.open("rb") as stream:
            array = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"{path} is an archive of arrays, expected one array; write it with numpy.save, or "
            "name it .npz where several are taken"
        )
    return array


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read an `.npz`, by name. Raises InputError when it is none."""
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise InputError(f"{path} is one array, expected an archive; name it .npy")
            with archive as arrays:
                return {name: arrays[name] for name in arrays.files}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(f"cannot read {path}: {error}; write it with numpy.savez") from error


def as_floats(name: str, values: NDArray[np.generic], source: Path) -> NDArray[np.float32]:
    """Return real, finite numbers as float32. Raises InputError for anything else."""
    if values.dtype.kind not in "fiub":
        raise InputError(
            f"{source}: {name} are of type {values.dtype}, expected real numbers; write them as "
            "float32"
        )
    with np.errstate(over="ignore"):
        array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise InputError(
            f"{source}: {name} hold NaN, infinity or what is too large for float32, expected "
            "finite numbers"
        )
    return array
