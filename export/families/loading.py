# SPDX-License-Identifier: Apache-2.0
"""Put a checkpoint's tensors into a module, strictly, with errors that name the likely cause."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from jepa_edge.errors import CheckpointError

_SHOWN = 4

M = TypeVar("M", bound=nn.Module)


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
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.is_floating_point() != slot.is_floating_point():
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
