# SPDX-License-Identifier: Apache-2.0
"""Put a checkpoint's tensors into a module, strictly, with errors that name the likely cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from jepa_edge.errors import CheckpointError

WRAPPERS = ("module.", "backbone.")
"""What DistributedDataParallel and upstream's own wrappers put before names."""
LARGEST = 1 << 16
"""Beyond it, a size that someone wrote down is a mistake."""

_SHOWN = 4
_COMPILED = "_orig_mod."

M = TypeVar("M", bound=nn.Module)


def unwrapped(name: str, prefixes: Collection[str] = WRAPPERS, parts: Collection[str] = ()) -> str:
    """Return a tensor's name without the prefixes in front, and without torch.compile's anywhere.

    prefixes: each with its dot; taken off in any order, as often as they are there. parts: names,
    such as "encoder", behind which they are taken off as well.
    """
    name = re.sub(rf"(^|\.){re.escape(_COMPILED)}", r"\1", name)
    prefix = next((p for p in prefixes if name.startswith(p)), None)
    if prefix is not None:
        return unwrapped(name.removeprefix(prefix), prefixes, parts)
    part, dot, rest = name.partition(".")
    return f"{part}.{unwrapped(rest, prefixes)}" if dot and part in parts else name


def strip(
    tensors: Mapping[str, Tensor],
    where: str,
    prefixes: Collection[str] = WRAPPERS,
    parts: Collection[str] = (),
) -> dict[str, Tensor]:
    """Return the tensors by `unwrapped` names.

    Raises CheckpointError when two of them get the same name: which is the model's is not known.
    """
    return renamed(tensors, lambda name: unwrapped(name, prefixes, parts), where)


def renamed(
    tensors: Mapping[str, Tensor], rename: Callable[[str], str], where: str
) -> dict[str, Tensor]:
    """Return the tensors by other names. Raises CheckpointError when two get the same one."""
    taken: dict[str, str] = {}
    for given in tensors:
        name = rename(given)
        if taken.setdefault(name, given) != given:
            raise CheckpointError(
                f"{where} has {taken[name]!r} and {given!r}, which both are the model's {name!r}, "
                "expected one of them; save one of the two models alone"
            )
    return {name: tensors[given] for name, given in taken.items()}


def shape_of(
    tensors: Mapping[str, Tensor], name: str, ndim: int, where: str, cause: str = ""
) -> tuple[int, ...]:
    """Return the shape of a tensor that sizes are read from; every size is 1 or more.

    cause: what is likely wrong, and what to pass, as the end of a sentence.
    Raises CheckpointError when it is missing, has not ndim axes, or has one of size 0.
    """
    hint = cause or "the file is incomplete or another model's, pass a complete checkpoint"
    if name not in tensors:
        raise CheckpointError(f"{where} lacks the tensor {name!r} of {ndim} axes; {hint}")
    shape = tuple(tensors[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(
            f"{where}: tensor {name!r} has shape {shape}, expected {ndim} axes of 1 or more; {hint}"
        )
    return shape


def depth_of(tensors: Collection[str], name: str, where: str) -> int:
    """Return the length of a list of modules or tensors, such as "blocks".

    Raises CheckpointError unless it has the entries 0, 1, 2, ... without a gap, and has one.
    """
    found = {int(m[1]) for n in tensors if (m := re.match(rf"{re.escape(name)}\.(\d+)(\.|$)", n))}
    if not found or found != set(range(len(found))):
        raise CheckpointError(
            f"{where} has {name!r} with the numbers {sorted(found)}, expected 0, 1, 2, ... without "
            "a gap; the file is incomplete, save it or fetch it again"
        )
    return len(found)


def whole_number(value: Any, told: str, least: int = 1, most: int = LARGEST) -> int:
    """Return a number that --spec or a config.json says. told: what the message calls it.

    Raises CheckpointError unless it is a whole number from least to most.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise CheckpointError(
            f"{told} is {value!r}, expected a whole number from {least} to {most}; correct it"
        )
    return value


def small_number(value: Any, told: str) -> float:
    """Return a layer norm's epsilon that a config.json says; else raise CheckpointError."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not plain or not 0 < value < 1:
        raise CheckpointError(
            f"{told} is {value!r}, expected a small positive number such as 1e-6; correct it"
        )
    return float(value)


def plain_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is of numbers side by side in memory: not sparse, not quantized."""
    return tensor.layout == torch.strided and not tensor.is_quantized


def joined(parts: Mapping[str, Tensor], where: str) -> Tensor:
    """Return query, key and value, by their names in the file, as one tensor, in this order.

    Raises CheckpointError unless they are plain float tensors of one shape.
    """
    (first, like), *_ = parts.items()
    for name, tensor in parts.items():
        if not plain_tensor(tensor) or not tensor.is_floating_point() or tensor.itemsize < 2:
            raise CheckpointError(
                f"{where}: tensor {name!r} is {tensor.dtype} ({tensor.layout}), expected floats of "
                "16 bits or more; pass the plain, unquantized weights"
            )
        if not tensor.ndim or tensor.shape != like.shape:
            raise CheckpointError(
                f"{where}: tensor {name!r} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(like.shape)} as {first!r}, of one axis or more; the file is damaged, "
                "fetch it again"
            )
    return torch.cat(list(parts.values()))


def fill(
    model: M,
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    ignored: Collection[str] = (),
    counters: Collection[str] = (),
    cause: str = "",
) -> M:
    """Load every tensor of a module, each checked by name, shape, type and value.

    model: built under `torch.device("meta")`; buffers that are not part of its state dict must be
    made by its own methods afterwards. ignored: names that the checkpoint may hold beside the
    model's. counters: names that may be missing and are zero then. cause: what is likely wrong
    where names or shapes do not fit, as the end of a sentence.
    Returns the module in evaluation mode, float32, without gradients. Tensors that are float32
    already are not copied.
    Raises CheckpointError naming the keys that are missing, misshapen or left over.
    """
    expected = model.state_dict()
    hint = cause or "pass the config that belongs to these weights"
    missing = [n for n in expected if n not in tensors and n not in counters]
    left_over = sorted(tensors.keys() - expected.keys() - set(ignored))
    if missing:
        shape = tuple(expected[missing[0]].shape)
        beside = (
            f", and has {_named(left_over)} that the model has no place for" if left_over else ""
        )
        raise CheckpointError(
            f"{where} lacks {_named(missing)} (the first has shape {shape}){beside}; {hint}"
        )
    if left_over:
        raise CheckpointError(
            f"{where} has {_named(left_over)} that the model has no place for; {hint}"
        )
    weights: dict[str, Tensor] = {}
    for name, slot in expected.items():
        if name not in tensors:
            weights[name] = torch.zeros(slot.shape, dtype=slot.dtype)
            continue
        weights[name] = _checked(name, tensors[name], slot, where, hint)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _named(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}, {shown}{more}"


def _checked(name: str, tensor: Tensor, slot: Tensor, where: str, hint: str) -> Tensor:
    if tensor.shape != slot.shape:
        raise CheckpointError(
            f"{where}: tensor {name!r} has shape {tuple(tensor.shape)}, expected "
            f"{tuple(slot.shape)}; {hint}"
        )
    if not plain_tensor(tensor) or tensor.is_floating_point() != slot.is_floating_point():
        raise CheckpointError(
            f"{where}: tensor {name!r} is {tensor.dtype} ({tensor.layout}), expected "
            f"{slot.dtype}; pass the plain, unquantized weights"
        )
    tensor = tensor.to(slot.dtype)
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(
            f"{where}: tensor {name!r} holds NaN or infinity; training diverged or the file "
            "is damaged, pass an earlier checkpoint"
        )
    return tensor
