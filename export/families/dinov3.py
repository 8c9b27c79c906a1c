# SPDX-License-Identifier: Apache-2.0
"""DINOv3 (S, B, L): a vision transformer with 2-D RoPE and register tokens, in our own torch.

Parameter names are those of the files that transformers' `DINOv3ViTModel` reads. CLS and registers
take part in attention, unturned, and are dropped at the end.
Source: Simeoni et al. 2025 (https://arxiv.org/abs/2508.10104).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.dinov2 import LayerScale
from jepa_edge.export.families.dinov2_keys import HEAD_DIM, without_prefix
from jepa_edge.export.families.loading import depth_of, fill, shape_of

LAYER_NORM_EPS = 1e-5
ROPE_THETA = 100.0

_PATCH = "embeddings.patch_embeddings.weight"
_REGISTERS = "embeddings.register_tokens"
_UNUSED = ("embeddings.mask_token",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dinov3Config:
    """Sizes of a DINOv3. The defaults are ViT-L/16's. grid: patches along a side, in use."""

    patch_size: int = 16
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    registers: int = 4
    grid: int = 16


class Dinov3(nn.Module):
    """Pictures to patch tokens. Build on meta, fill, then call `fix_positions`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Dinov3Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        tokens, width = 1 + config.registers + config.grid**2, config.dim // config.heads
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.zeros(tokens, width), persistent=False)

    def fix_positions(self) -> Dinov3:
        """Compute the rotations of every token; CLS and registers turn by nothing."""
        config = self.config
        width = config.dim // config.heads
        centres = (torch.arange(config.grid) + 0.5) / config.grid * 2 - 1
        places = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).flatten(0, 1)
        omega = ROPE_THETA ** -torch.arange(0, 1, 4 / width)
        angles = (2 * math.pi * places[:, :, None] * omega).flatten(1).tile(2)
        first = torch.zeros(1 + config.registers, width)
        angles = torch.cat((first, angles))
        self.cos, self.sin = angles.cos(), angles.sin()
        return self

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.config.dim

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.config.grid

    @property
    def image_size(self) -> int:
        """Side of the square picture that goes in, in pixels."""
        return self.config.grid * self.config.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float (B, 3, S, S), normalized. Returns (B, grid * grid, dim), row-major."""
        x = self.embeddings(pixels)
        for layer in self.layer:
            x = layer(x, self.cos, self.sin)
        out: Tensor = self.norm(x[:, 1 + self.config.registers :])
        return out


class _Embeddings(nn.Module):
    def __init__(self, config: Dinov3Config) -> None:
        super().__init__()
        size = config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, config.dim))
        self.patch_embeddings = nn.Conv2d(3, config.dim, kernel_size=size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embeddings(pixels).flatten(2).transpose(1, 2)
        first = torch.cat((self.cls_token, self.register_tokens), dim=1)
        return torch.cat((first.expand(patches.shape[0], -1, -1), patches), dim=1)


class _Layer(nn.Module):
    def __init__(self, config: Dinov3Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.attention = _Attention(config.dim, config.heads)
        self.layer_scale1 = LayerScale(config.dim)
        self.norm2 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.mlp = _Mlp(config.dim, config.mlp_dim)
        self.layer_scale2 = LayerScale(config.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.layer_scale1(self.attention(self.norm1(x), cos, sin))
        out: Tensor = x + self.layer_scale2(self.mlp(self.norm2(x)))
        return out


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(dim, hidden_dim)
        self.down_proj = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.gelu(self.up_proj(x)))
        return out


def canonical_dinov3(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a DINOv3's tensors as published, from there or from transformers 5's memory."""
    found = without_prefix(tensors, ("module.", "backbone."))
    return {
        re.sub(r"^model\.layer\.", "layer.", name): tensor
        for name, tensor in found.items()
        if name not in _UNUSED and not name.startswith("rope_embeddings.")
    }


def is_dinov3(tensors: Mapping[str, Tensor]) -> bool:
    """Whether canonical names are a DINOv3's."""
    return _PATCH in tensors and _REGISTERS in tensors and "layer.0.norm1.weight" in tensors


def load_dinov3(
    tensors: Mapping[str, Tensor], where: str, *, grid: int, heads: int | None = None
) -> Dinov3:
    """Build a DINOv3 from transformers' layout. grid, heads: as `dinov2_config` takes them.

    Raises CheckpointError for another model, and for missing, misshapen or extra tensors.
    """
    found = canonical_dinov3(tensors)
    if not is_dinov3(found):
        raise CheckpointError(
            f"{where} holds no DINOv3 in transformers' layout (it lacks {_PATCH!r} or "
            f"{_REGISTERS!r}); pass the weights of facebook/dinov3-vitl16-pretrain-lvd1689m"
        )
    dim, _, patch, _ = shape_of(found, _PATCH, 4, where)
    hidden, _ = shape_of(found, "layer.0.mlp.up_proj.weight", 2, where)
    config = Dinov3Config(
        patch_size=patch,
        dim=dim,
        depth=depth_of(found, "layer", where),
        heads=heads or max(dim // HEAD_DIM, 1),
        mlp_dim=hidden,
        registers=shape_of(found, _REGISTERS, 3, where)[1],
        grid=grid,
    )
    if dim % config.heads or dim // config.heads % 4:
        raise CheckpointError(
            f"{where}: {config.heads} heads on {dim} channels, expected heads of 4 channels or a "
            "multiple; correct [model] encoder_heads"
        )
    with torch.device("meta"):
        model = Dinov3(config)
    fill(model, found, where, cause="gated MLPs (ViT-H+, 7B) are not supported")
    return model.fix_positions()
