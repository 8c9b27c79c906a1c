# SPDX-License-Identifier: Apache-2.0
"""The image encoders that JEPA-WMs were released with: DINOv2 and DINOv3, by their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.dino_wm_specs import ModelSettings
from jepa_edge.export.families.dinov2 import Dinov2
from jepa_edge.export.families.dinov2_keys import canonical_dinov2, is_dinov2, load_dinov2
from jepa_edge.export.families.dinov3 import Dinov3, canonical_dinov3, is_dinov3, load_dinov3
from jepa_edge.export.families.loading import shape_of

RELEASED_GRID = 16
"""224 pixels in patches of 14, or 256 in patches of 16."""


def load_vision(
    tensors: Mapping[str, Tensor], where: str, settings: ModelSettings
) -> Dinov2 | Dinov3:
    """Build the image encoder. Raises CheckpointError when it is neither, or does not fit."""
    if any(".attn.qkv." in name for name in tensors) and any(
        name.endswith("storage_tokens") for name in tensors
    ):
        raise CheckpointError(
            f"{where} is a DINOv3 in its original layout, expected transformers'; pass the weights "
            "of facebook/dinov3-vitl16-pretrain-lvd1689m"
        )
    second = canonical_dinov2(tensors)
    third = {} if is_dinov2(second) else canonical_dinov3(tensors)
    if is_dinov3(third):
        patch = shape_of(third, "embeddings.patch_embeddings.weight", 4, where)[-1]
        return load_dinov3(
            third, where, grid=_grid(settings, patch, where), heads=settings.encoder_heads
        )
    conv = "embeddings.patch_embeddings.projection.weight"
    patch = shape_of(second, conv, 4, where)[-1] if conv in second else 14
    return load_dinov2(
        second,
        where,
        grid=_grid(settings, patch, where),
        heads=settings.encoder_heads,
        positions=settings.positions,
    )


def _grid(settings: ModelSettings, patch: int, where: str) -> int:
    size = settings.image_size or RELEASED_GRID * patch
    if size % patch:
        raise CheckpointError(
            f"[model] image_size is {size}, expected a multiple of the patch of {where}, {patch} "
            "pixels; correct --spec"
        )
    return size // patch
