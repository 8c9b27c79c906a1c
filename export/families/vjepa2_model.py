# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2 and 2.1 in our own torch: the encoder's and the mask predictor's parameters and blocks.

Parameter names are those of Meta's own checkpoints. Positions are rotations of queries and keys
(3-D RoPE: time, row, column), so that nothing but a token's index says where it lies. Attention
has no order otherwise: upstream's sorting of tokens before the predictor changes rounding only.
Source: Assran et al. 2025 (https://arxiv.org/abs/2506.09985); facebookresearch/vjepa2, MIT,
src/models and app/vjepa_2_1/models.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.export.families.vit import ViTMlp

Version = Literal["2", "2.1"]

TRAINED_PIXELS = 256
"""2.1 rescales rows and columns of any picture to the positions of one of this size."""
ROPE_THETA = 10000.0
"""Base of the wave lengths of rotations."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VJepa2Config:
    """Every size of a V-JEPA 2 or 2.1.

    frames: pictures of a clip; 1 takes the image path of 2.1. tubelet: pictures under one token.
    levels: 2.1, the blocks whose outputs its layer norms read, the last one last; () in 2.
    modality, image_path: 2.1, whether there are embeddings of the kind of input, and a patch
    embedding for single images. predictor_depth: 0 without a mask predictor.
    predictor_levels: levels of the encoder that the mask predictor takes and predicts.
    rescale_predictor: whether positions inside the mask predictor are rescaled as in the encoder.
    predictor_dim_out: channels that it predicts.
    """

    version: Version
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    height: int
    width: int
    frames: int
    patch: int = 16
    tubelet: int = 2
    norm_eps: float = 1e-6
    levels: tuple[int, ...] = ()
    modality: bool = False
    image_path: bool = False
    predictor_dim: int = 0
    predictor_depth: int = 0
    predictor_heads: int = 1
    predictor_mlp_dim: int = 0
    predictor_levels: int = 1
    predictor_dim_out: int = 0
    predictor_modality: bool = False
    mask_tokens: int = 0
    rescale_predictor: bool = False

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens in time, rows and columns."""
        times = 1 if self.frames == 1 else self.frames // self.tubelet
        return times, self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        """N, tokens of a clip."""
        times, rows, columns = self.grid
        return times * rows * columns


class PatchEmbed(nn.Module):
    """The weights of the patch embedding, as upstream keeps them: a 3-D convolution."""

    def __init__(self, dim: int, tubelet: int, patch: int) -> None:
        super().__init__()
        size = (tubelet, patch, patch)
        self.proj = nn.Conv3d(3, dim, kernel_size=size, stride=size)


class Attention(nn.Module):
    """Multi-head attention over all tokens, with rotated queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """x: (B, V, dim). rope: (4, V, head_dim / 2), of `rope_table`. Returns x's shape."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope), v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out


class Block(nn.Module):
    """Attention, then an MLP, each behind its layer norm and beside a skip connection."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = ViTMlp(dim=dim, hidden_dim=mlp_dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """x: (B, V, dim). rope: (4, V, head_dim / 2). Returns x's shape."""
        x = x + self.attn(self.norm1(x), rope)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VJepa2Encoder(nn.Module):
    """The encoder's parameters under upstream's names; `vjepa2_graphs.EncoderGraph` runs them."""

    def __init__(self, config: VJepa2Config) -> None:
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.patch_embed = PatchEmbed(dim, config.tubelet, config.patch)
        if config.image_path:
            self.patch_embed_img = PatchEmbed(dim, 1, config.patch)
        if config.modality:
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_dim, eps) for _ in range(config.depth)
        )
        if config.version == "2":
            self.norm = nn.LayerNorm(dim, eps=eps)
        else:
            self.norms_block = nn.ModuleList(nn.LayerNorm(dim, eps=eps) for _ in config.levels)


class VJepa2Predictor(nn.Module):
    """The mask predictor's parameters; `vjepa2_graphs.MaskPredictorGraph` runs them."""

    def __init__(self, config: VJepa2Config) -> None:
        super().__init__()
        dim, wide = config.predictor_dim, config.predictor_levels * config.dim
        self.predictor_embed: nn.Module = (
            nn.Linear(wide, dim)
            if config.predictor_levels == 1
            else nn.Sequential(nn.Linear(wide, config.dim), nn.GELU(), nn.Linear(config.dim, dim))
        )
        self.mask_tokens = nn.ParameterList(
            nn.Parameter(torch.empty(1, 1, dim)) for _ in range(config.mask_tokens)
        )
        if config.predictor_modality:
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
        self.predictor_blocks = nn.ModuleList(
            Block(dim, config.predictor_heads, config.predictor_mlp_dim, config.norm_eps)
            for _ in range(config.predictor_depth)
        )
        self.predictor_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.predictor_proj = nn.Linear(dim, config.predictor_dim_out)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels; even channels first, then odd ones.

    The new order is the same in queries and keys, so that their products do not see it.
    x: (B, heads, V, head_dim). rope: (4, V, head_dim / 2), of `rope_table`. Returns x's shape.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    cos_even, sin_even, cos_odd, sin_odd = rope.unbind(0)
    return torch.cat((even * cos_even - odd * sin_even, odd * cos_odd + even * sin_odd), dim=-1)


def rope_table(config: VJepa2Config, head_dim: int, *, rescale: bool) -> Tensor:
    """Cosines and sines of the angles of every token: (4, N, head_dim / 2) float32.

    In order: cos and sin of even channels, cos and sin of odd ones. A third of the channels, made
    even, turns with time, the next with the row, the next with the column; the rest stays (angle
    0). Version 2 lays the frequencies of a third out as f0 f1 ... f0 f1 ..., so that the two
    channels of a pair turn by different angles: a bug, but the weights were trained with it. 2.1
    has f0 f0 f1 f1 ...
    rescale: rows and columns span 0 to 15, as of a 256-pixel picture, whatever their number (2.1).
    """
    times, rows, columns = config.grid
    grid = torch.meshgrid(
        torch.arange(times, dtype=torch.float64),
        _places(rows, config.patch, rescale),
        _places(columns, config.patch, rescale),
        indexing="ij",
    )
    third = 2 * ((head_dim // 3) // 2)
    frequencies = ROPE_THETA ** (-torch.arange(third // 2, dtype=torch.float64) / (third / 2))
    laid_out = frequencies.repeat(2) if config.version == "2" else frequencies.repeat_interleave(2)
    angles = torch.zeros(config.tokens, head_dim, dtype=torch.float64)
    for index, places in enumerate(grid):
        angles[:, index * third : (index + 1) * third] = places.reshape(-1, 1) * laid_out
    even, odd = angles[:, 0::2], angles[:, 1::2]
    return torch.stack((even.cos(), even.sin(), odd.cos(), odd.sin())).float()


def _places(count: int, patch: int, rescale: bool) -> Tensor:
    places = torch.arange(count, dtype=torch.float64)
    if rescale and count > 1:
        places *= (TRAINED_PIXELS // patch - 1) / (count - 1)
    return places
