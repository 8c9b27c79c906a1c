# SPDX-License-Identifier: Apache-2.0
"""Read tensors from a checkpoint without ever running code from it, nor copying them to memory.

Tensors are views of the mapped file wherever its format allows: pages come from disk when they are
read, and the system may drop them again. Do not write to a checkpoint while it is in use.
"""

from __future__ import annotations

import logging
import pickle
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.shards import find_index, is_index, read_index

_log = logging.getLogger(__name__)

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training frameworks nest the state dict."""

_TRAINER = frozenset(
    (
        "callbacks",
        "loops",
        "lr_scheduler",
        "lr_schedulers",
        "opt",
        "optimizer",
        "optimizer_state_dict",
        "optimizer_states",
        "optimizers",
        "rng_state",
        "scaler",
        "scheduler",
    )
)
"""Entries of a training checkpoint beside its weights; an optimizer's are twice their size."""

_MAX_NESTING = 4

_CONVERT = (
    "import sys, torch; "
    "m = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "torch.save(m.state_dict() if hasattr(m, 'state_dict') else m['state_dict'] "
    "if 'state_dict' in m else {p: x.state_dict() for p, x in m.items() "
    "if isinstance(x, torch.nn.Module)}, sys.argv[2])"
)
"""Writes the weights of a pickled module, or of a dict of modules and what else a trainer keeps."""

StateDict = dict[str, Tensor]


def read_state_dict(path: Path) -> StateDict:
    """Return the named tensors of a checkpoint, on the CPU; names of nested dicts joined by ".".

    path: a `.safetensors`, `.pt`, `.pth.tar` or `.ckpt` file, the index of a sharded checkpoint
    (`model.safetensors.index.json`), or a directory that holds one. The kind of file is told by its
    content, not its name. Pickled code is never run: torch files are read with `weights_only=True`.
    Tensors are mapped from the file, except those of torch's format from before 1.6.
    Raises CheckpointError when the file is missing, truncated, no checkpoint, or holds objects, or
    when a shard does not hold what the index says.
    """
    index = find_index(path) if path.is_dir() else path if is_index(path) else None
    if index is not None:
        return _read_sharded(index)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} ({error.strerror}); pass the checkpoint's file or its directory"
        ) from error
    if head.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        return _tensors_of(_load_torch(path, mapped=head.startswith(_ZIP_MAGIC)), path)
    if head[8:9] == b"{":
        return _load_safetensors(path)
    raise CheckpointError(
        f"{path} starts with {head[:4]!r}, which is neither safetensors nor a torch file; "
        "it may be empty, damaged or a Git LFS pointer, fetch it again"
    )


def _read_sharded(index: Path) -> StateDict:
    """Join the shards of an index, each tensor from where the index says that it is."""
    owners = read_index(index)
    tensors: StateDict = {}
    for file in sorted(set(owners.values())):
        shard = read_state_dict(index.with_name(file))
        missing = [name for name, owner in owners.items() if owner == file and name not in shard]
        if missing:
            raise CheckpointError(
                f"{index.with_name(file)} lacks {missing[0]!r} and {len(missing) - 1} more that "
                f"{index.name} places there; index and shards are of different saves, fetch all "
                "of them again"
            )
        strange = [name for name in shard if owners.get(name) != file]
        if strange:
            where = f"places in {owners[strange[0]]}" if strange[0] in owners else "does not list"
            raise CheckpointError(
                f"{index.with_name(file)} holds {strange[0]!r} and {len(strange) - 1} more that "
                f"{index.name} {where}; index and shards are of different saves, fetch all of "
                "them again"
            )
        tensors.update(shard)
    return tensors


def _load_safetensors(path: Path) -> StateDict:
    try:
        # Views of the mapped file: safetensors copies only for other devices.
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged safetensors file ({error}); fetch it again"
        ) from error


def _load_torch(path: Path, *, mapped: bool) -> Any:
    """Load a torch file as tensors and plain containers."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        objects = _pickled_objects(path, error)
        if not objects:
            # torch's own advice here is to load without weights_only: not for a damaged file.
            raise _damaged(path, "its index cannot be decoded") from error
        raise CheckpointError(
            f"{path} holds pickled Python objects ({objects}), not only weights, and loading "
            f"them would run code from the file; {_way_out(path)}"
        ) from error
    except Exception as error:  # a damaged pickle stream fails anywhere, in any way
        raise _damaged(path, str(error) or type(error).__name__) from error


def _damaged(path: Path, reason: str) -> CheckpointError:
    first_line = re.split(r"\n|\. ", reason.strip(), maxsplit=1)[0][:120]
    return CheckpointError(
        f"{path} is a truncated or damaged torch file ({first_line}); fetch it again"
    )


def _pickled_objects(path: Path, error: Exception) -> str:
    """Name what a torch file would have to import, or return '' when it is merely damaged."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # old torch format, or damaged: the loader's message has to do
        names = re.findall(r"GLOBAL (\S+)", str(error))[:1]
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def _way_out(path: Path) -> str:
    """Say how to get from a pickled module to its weights."""
    name = re.sub(r"(_object)?(\.ckpt|\.pt|\.pth|\.pth\.tar)?$", "", path.name, count=1)
    name += "_weight.ckpt"
    if path.with_name(name).exists():  # released archives hold both
        return f"export {name} beside it instead"
    given, made = shlex.quote(f"./{path.name}"), shlex.quote(f"./{name}")
    return (
        "if you trust it, convert it in the environment that made it: "
        f'cd {shlex.quote(str(path.parent))} && python -c "{_CONVERT}" {given} {made}, '
        f"then export {name}"
    )


def _tensors_of(loaded: Any, path: Path) -> StateDict:
    """Find the state dict in what a torch file held, and join its levels.

    V-JEPA ships {"encoder": {...}, "predictor": {...}, "opt": ..., "epoch": ...}.
    """
    for _ in range(len(_WRAPPERS)):
        if not isinstance(loaded, dict):
            break
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}, expected a state dict of named tensors; "
            "save model.state_dict() instead"
        )
    tensors: StateDict = {}
    for name, value in _walk(loaded, _MAX_NESTING):
        if name in tensors:
            raise CheckpointError(
                f"{path} holds {name!r} both nested and flat, expected one; save the state dict "
                "again"
            )
        tensors[name] = value
    if not tensors and loaded:
        entries = ", ".join(map(str, list(loaded)[:6]))
        raise CheckpointError(
            f"{path} holds no tensors (entries: {entries}), expected a state dict; "
            "save model.state_dict() instead"
        )
    used = {name.split(".", 1)[0] for name in tensors} | tensors.keys()
    if ignored := sorted(str(key) for key in loaded if key not in used):
        _log.info("%s: ignoring entries that are no weights: %s", path, ", ".join(ignored))
    return tensors


def _walk(level: dict[Any, Any], depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield what is a tensor in nested dicts; a pickle may nest a dict in itself, hence depth."""
    for key, value in level.items():
        if not isinstance(key, str) or key in _TRAINER:
            continue
        if torch.is_tensor(value):
            yield key, value
        elif isinstance(value, dict) and depth > 1:
            for name, tensor in _walk(value, depth - 1):
                yield f"{key}.{name}", tensor
