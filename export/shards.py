# SPDX-License-Identifier: Apache-2.0
"""Which files a checkpoint consists of: one, or the shards that an index names.

The index is transformers' (`model.safetensors.index.json`):

    {"metadata": {...}, "weight_map": {"encoder.norm.bias": "model-00002-of-00002.safetensors"}}
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.bundle import sha256_file
from jepa_edge.errors import CheckpointError

INDEX_SUFFIX = ".index.json"
_AGAIN = "fetch the index and every shard again, into one directory"


def is_index(path: Path) -> bool:
    """Whether a path is named like the index of a sharded checkpoint."""
    return path.name.endswith(INDEX_SUFFIX)


def find_index(directory: Path) -> Path | None:
    """Return the index of the sharded checkpoint in a directory, or None where there is none.

    Raises CheckpointError where there are several, safetensors' coming before others.
    """
    found = sorted(path for path in directory.iterdir() if is_index(path))
    found = [path for path in found if ".safetensors." in path.name] or found
    if len(found) > 1:
        raise CheckpointError(
            f"{directory} holds {len(found)} indices ({', '.join(p.name for p in found)}), "
            "expected one; pass the index itself"
        )
    return found[0] if found else None


def weights_files(path: Path) -> tuple[Path, ...]:
    """Return every file that a checkpoint's tensors come from, by name; an index is one of them.

    path: a weights file, an index, or a directory that holds an index.
    Raises CheckpointError as `read_index`, or when a directory holds no index.
    """
    index = find_index(path) if path.is_dir() else path
    if index is None:
        raise CheckpointError(f"{path} holds no *{INDEX_SUFFIX}; pass the weights file itself")
    if not is_index(index):
        return (index,)
    names = {index.name, *read_index(index).values()}
    return tuple(index.with_name(name) for name in sorted(names))


def weights_sha256(path: Path) -> str:
    """Return the sha256 of a weights file; of a sharded checkpoint, that of its files' digests.

    The latter is what `sha256sum` prints for the files in order of their names, digested:
    `LC_ALL=C sha256sum model-*.safetensors model.safetensors.index.json | sha256sum`.
    """
    files = weights_files(path)
    if len(files) == 1:
        return sha256_file(files[0])
    lines = "".join(f"{sha256_file(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_index(path: Path) -> dict[str, str]:
    """Return which file holds each tensor, by name. The files lie beside the index, and exist.

    Raises CheckpointError when the index is unreadable, names a file elsewhere, or one is missing.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        owners = msgspec.convert(content.get("weight_map"), dict[str, str])
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}); {_AGAIN}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is no index of a sharded checkpoint ({error}), expected JSON with a table "
            f'"weight_map" from tensor to file; {_AGAIN}'
        ) from error
    if not owners:
        raise CheckpointError(f"{path} lists no tensors; {_AGAIN}")
    files = sorted(set(owners.values()))
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(
                f"{path} places tensors in {name!r}, expected the name of a file beside it; "
                "do not use an index that points elsewhere"
            )
        if is_index(Path(name)):
            raise CheckpointError(f"{path} places tensors in {name!r}, an index; {_AGAIN}")
    if missing := [name for name in files if not path.with_name(name).is_file()]:
        raise CheckpointError(
            f"{path.parent} lacks {len(missing)} of {len(files)} shards, the first {missing[0]}; "
            "fetch the missing shards"
        )
    return owners
