# SPDX-License-Identifier: Apache-2.0
"""DINOv2: a vision transformer that gives one token per patch, in our own torch.

Parameter names are those of transformers 5 `Dinov2Model` and `Dinov2WithRegistersModel`;
`dinov2_keys` maps the other layouts. CLS and registers take part in attention, and are dropped at
the end: what comes out is `x_norm_patchtokens`.
Source: Oquab et al. 2023 (https://arxiv.org/abs/2304.07193); Darcet et al. 2023 for registers.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.export.families.vit import ViTAttention, ViTMlp

LAYER_NORM_EPS = 1e-6
"""Both upstream and transformers' default."""

HUB_OFFSET = 0.1
"""What torch.hub's models without registers add to the wanted grid before they interpolate."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dinov2Config:
    """Sizes of a DINOv2. The defaults are ViT-S/14's.

    table: side of the grid that positions were learned on. grid: side of the grid in use.
    registers: tokens beside CLS; with them, positions are interpolated with antialiasing, as
    transformers and upstream both do. swiglu: the gated MLP, of ViT-g. offset: added to the grid's
    side where positions are interpolated: 0 is transformers' way, 0.1 that of torch.hub's models
    without registers, on which world models were trained.
    """

    patch_size: int = 14
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_dim: int = 1536
    table: int = 37
    grid: int = 16
    registers: int = 0
    swiglu: bool = False
    offset: float = 0.0

    @property
    def image_size(self) -> int:
        """Side of the square picture, in pixels."""
        return self.grid * self.patch_size


class Dinov2(nn.Module):
    """Pictures to patch tokens. Build on meta, fill, then call `fix_positions`."""

    positions: Tensor

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.layernorm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.register_buffer("positions", torch.zeros(config.grid**2, config.dim), persistent=False)

    @torch.no_grad()
    def fix_positions(self) -> Dinov2:
        """Interpolate the learned positions to the grid in use. Returns self."""
        table = self.embeddings.position_embeddings[0, 1:]
        self.positions = resized_positions(
            table, self.config.grid, offset=self.config.offset, antialias=self.config.registers > 0
        )
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
        return self.config.image_size

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float (B, 3, S, S), normalized. Returns (B, grid * grid, dim), row-major."""
        x = self.embeddings(pixels, self.positions)
        x = self.encoder(x)
        out: Tensor = self.layernorm(x[:, 1 + self.config.registers :])
        return out


def resized_positions(table: Tensor, grid: int, *, offset: float, antialias: bool) -> Tensor:
    """Interpolate positions bicubically, in float32. table: (side * side, dim), square grid.

    Returns (grid * grid, dim). With an offset, torch's scale is (grid + offset) / side, which
    moves every sample a little; without one it is grid / side.
    """
    side = round(table.shape[0] ** 0.5)
    if side == grid:
        return table.float().clone()
    square = table.float().T.reshape(1, -1, side, side)
    if offset:
        scale = (grid + offset) / side
        square = F.interpolate(square, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        square = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=antialias)
    return square.flatten(2)[0].T.contiguous()


class _PatchEmbeddings(nn.Module):
    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        size = config.patch_size
        self.projection = nn.Conv2d(3, config.dim, kernel_size=size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches: Tensor = self.projection(pixels)
        return patches.flatten(2).transpose(1, 2)


class _Embeddings(nn.Module):
    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.table**2 + 1, config.dim))
        self.patch_embeddings = _PatchEmbeddings(config)
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, config.registers, config.dim)) if config.registers else None
        )

    def forward(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """positions: (patches, dim), of the grid in use. Returns CLS, registers, patches."""
        patches = self.patch_embeddings(pixels) + positions
        first = self.cls_token + self.position_embeddings[:, :1]
        if self.register_tokens is not None:
            first = torch.cat((first, self.register_tokens), dim=1)
        return torch.cat((first.expand(patches.shape[0], -1, -1), patches), dim=1)


class _Encoder(nn.Module):
    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class _Layer(nn.Module):
    """Pre-norm attention and MLP, each scaled per channel before its residual is added."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attention = ViTAttention(dim=dim, heads=config.heads)
        self.layer_scale1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp: nn.Module = (_SwiGlu if config.swiglu else ViTMlp)(
            dim=dim, hidden_dim=config.mlp_dim
        )
        self.layer_scale2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        out: Tensor = x + self.layer_scale2(self.mlp(self.norm2(x)))
        return out


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim). Returns the same shape."""
        return x * self.lambda1


class _SwiGlu(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim)
        self.up_proj = nn.Linear(dim, hidden_dim)
        self.down_proj = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out
