# SPDX-License-Identifier: Apache-2.0
"""DINOv2's weights in every released layout, brought to transformers 5's names, and their sizes.

Layouts: transformers 5 (in memory), transformers 4 (the files on the hub), and the original
(`dinov2_vits14_pretrain.pth`), each with or without the prefix of a wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.dinov2 import HUB_OFFSET, Dinov2, Dinov2Config
from jepa_edge.export.families.loading import depth_of, fill, plain_tensor, shape_of, unwrapped

HEAD_DIM = 64
"""Channels per attention head in every released DINOv2 and DINOv3; shapes do not tell it."""

POSITIONS = ("dinov2", "transformers")
"""Whose interpolation of the position table: torch.hub's, or transformers'."""

_PREFIXES = ("dinov2_with_registers.", "dinov2.", "module.", "base_model.", "backbone.")
_UNUSED = ("embeddings.mask_token", "mask_token")

_RENAMES_4 = (
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".mlp.weights_out.", ".mlp.down_proj."),
)
_RENAMES_ORIGINAL = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^register_tokens$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(?:\d+\.)?(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.w3\.", ".mlp.down_proj."),
)
_QKV = re.compile(r"(.*)\.attn\.qkv\.(weight|bias)$")
_GATED = re.compile(r"(.*)\.mlp\.(?:weights_in|w12)\.(weight|bias)$")
_PATCH = "embeddings.patch_embeddings.projection.weight"
_TABLE = "embeddings.position_embeddings"
_REGISTERS = "embeddings.register_tokens"


def without_prefix(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors without the wrappers' prefixes that all of their names share.

    Those of torch.compile go wherever they are.
    """
    found = {unwrapped(name, ()): tensor for name, tensor in tensors.items()}
    while found:
        prefix = next((p for p in prefixes if all(n.startswith(p) for n in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def canonical_dinov2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a DINOv2's tensors under transformers 5's names; what is unknown keeps its name.

    Fused projections are split; no other tensor is copied.
    Raises CheckpointError where one cannot be split.
    """
    found = without_prefix(tensors, _PREFIXES)
    original = "pos_embed" in found
    renamed: dict[str, Tensor] = {}
    for old, tensor in found.items():
        if old in _UNUSED:
            continue
        name = old
        if original:
            for pattern, new in _RENAMES_ORIGINAL:
                name = re.sub(pattern, new, name)
        for before, after in _RENAMES_4:
            name = name.replace(before, after)
        if match := _QKV.match(name):
            parts: tuple[str, ...] = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
        elif match := _GATED.match(name):
            parts = ("mlp.gate_proj", "mlp.up_proj")
        if match:
            if not plain_tensor(tensor) or not tensor.ndim or tensor.shape[0] % len(parts):
                raise CheckpointError(
                    f"tensor {old!r} is {tensor.layout} of shape {tuple(tensor.shape)}, expected "
                    f"plain numbers in {len(parts)} equal parts; pass a DINOv2's whole, "
                    "unquantized weights"
                )
            for part, chunk in zip(parts, tensor.chunk(len(parts)), strict=True):
                renamed[f"{match[1]}.{part}.{match[2]}"] = chunk
        else:
            renamed[name] = tensor
    return renamed


def is_dinov2(tensors: Mapping[str, Tensor]) -> bool:
    """Whether canonical names are a DINOv2's."""
    return _TABLE in tensors and _PATCH in tensors and "encoder.layer.0.norm1.weight" in tensors


def dinov2_config(
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    grid: int,
    heads: int | None = None,
    positions: str = "transformers",
) -> Dinov2Config:
    """Read the sizes of a DINOv2 from its tensors, in canonical names.

    grid: patches along a side of the pictures that it will see. heads: None for 64 channels each.
    Raises CheckpointError when the tensors are no DINOv2's.
    """
    if not is_dinov2(tensors):
        raise CheckpointError(
            f"{where} holds no DINOv2 (it lacks {_TABLE!r} or {_PATCH!r}; its first names are "
            f"{', '.join(sorted(tensors)[:3]) or 'none'}); pass the weights of "
            "facebook/dinov2-small or its larger kin"
        )
    dim, _, patch, _ = shape_of(tensors, _PATCH, 4, where)
    rows = shape_of(tensors, _TABLE, 3, where)[1] - 1
    side = round(rows**0.5)
    swiglu = "encoder.layer.0.mlp.gate_proj.weight" in tensors
    hidden = f"encoder.layer.0.mlp.{'gate_proj' if swiglu else 'fc1'}.weight"
    mlp_dim, _ = shape_of(tensors, hidden, 2, where)
    registers = 0
    if _REGISTERS in tensors:
        registers = shape_of(tensors, _REGISTERS, 3, where)[1]
    heads = heads or max(dim // HEAD_DIM, 1)
    if side**2 != rows or not side or dim % heads:
        raise CheckpointError(
            f"{where}: a DINOv2 of {dim} channels, {heads} heads and {rows} positions does not "
            "add up (heads divide channels, positions make a square); pass the whole, unedited file"
        )
    hub = positions == "dinov2" and not registers
    return Dinov2Config(
        patch_size=patch,
        dim=dim,
        depth=depth_of(tensors, "encoder.layer", where),
        heads=heads,
        mlp_dim=mlp_dim,
        table=side,
        grid=grid,
        registers=registers,
        swiglu=swiglu,
        offset=HUB_OFFSET if hub else 0.0,
    )


def load_dinov2(tensors: Mapping[str, Tensor], where: str, **sizes: Any) -> Dinov2:
    """Build a DINOv2 from tensors in any layout. sizes: as `dinov2_config` takes them.

    Raises CheckpointError for another model, and for missing, misshapen or extra tensors.
    """
    found = canonical_dinov2(tensors)
    config = dinov2_config(found, where, **sizes)
    with torch.device("meta"):
        model = Dinov2(config)
    fill(model, found, where, cause="pass a DINOv2 in transformers' or the original layout")
    return model.fix_positions()
