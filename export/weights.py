# SPDX-License-Identifier: Apache-2.0
"""Read tensors from a checkpoint file without ever running code from it."""

from __future__ import annotations

import logging
import pickle
import re
import shlex
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError

_log = logging.getLogger(__name__)

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training frameworks nest the state dict."""

StateDict = dict[str, Tensor]


def read_state_dict(path: Path) -> StateDict:
    """Return the named tensors in a `.safetensors`, `.pt` or `.ckpt` file, on the CPU.

    The kind of file is told by its content, not its name. Pickled code is never run: torch files
    are read with `weights_only=True`.
    Raises CheckpointError when the file is missing, truncated, no checkpoint, or holds objects.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} ({error.strerror}); pass the checkpoint's file or its directory"
        ) from error
    if head.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        return _tensors_of(_load_torch(path), path)
    if head[8:9] == b"{":
        return _load_safetensors(path)
    raise CheckpointError(
        f"{path} starts with {head[:4]!r}, which is neither safetensors nor a torch file; "
        "it may be empty, damaged or a Git LFS pointer, fetch it again"
    )


def _load_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged safetensors file ({error}); fetch it again"
        ) from error


def _load_torch(path: Path) -> Any:
    """Load a torch file as tensors and plain containers."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
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
    name = path.name.removesuffix(".ckpt").removesuffix(".pt").removesuffix("_object")
    name += "_weight.ckpt"
    if path.with_name(name).exists():  # released archives hold both
        return f"export {name} beside it instead"
    script = (
        f"import torch; m = torch.load('{path.name}', map_location='cpu', weights_only=False); "
        f"torch.save(m['state_dict'] if isinstance(m, dict) else m.state_dict(), '{name}')"
    )
    return (
        "if you trust it, convert it in the environment that made it: "
        f'cd {shlex.quote(str(path.parent))} && python -c "{script}", then export {name}'
    )


def _tensors_of(loaded: Any, path: Path) -> StateDict:
    """Find the state dict in what a torch file held."""
    for _ in range(len(_WRAPPERS)):
        if not isinstance(loaded, dict):
            break
        tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and torch.is_tensor(v)}
        if tensors:
            ignored = sorted(str(k) for k in loaded.keys() - tensors.keys())
            if ignored:
                _log.info("%s: ignoring entries that are no tensors: %s", path, ", ".join(ignored))
            return tensors
        inner = next((loaded[key] for key in _WRAPPERS if key in loaded), None)
        if inner is None:
            return _flattened(loaded, path)
        loaded = inner
    kind = type(loaded).__name__
    raise CheckpointError(
        f"{path} holds a {kind}, expected a state dict of named tensors; "
        "save model.state_dict() instead"
    )


def _flattened(loaded: dict[Any, Any], path: Path) -> StateDict:
    """Join one level of nested state dicts, as V-JEPA ships them: {'encoder': {...}, ...}."""
    tensors = {
        f"{part}.{name}": value
        for part, inner in loaded.items()
        if isinstance(inner, dict)
        for name, value in inner.items()
        if torch.is_tensor(value)
    }
    if not tensors:
        entries = ", ".join(map(str, list(loaded)[:6])) or "none"
        raise CheckpointError(
            f"{path} holds no tensors (entries: {entries}), expected a state dict; "
            "save model.state_dict() instead"
        )
    return tensors
