# SPDX-License-Identifier: Apache-2.0
"""I-JEPA's image encoder and mask predictor, in our own torch, as the graphs compute them.

Parameter names are the original checkpoints'. A plain vision transformer without a class token: its
positions are added before masked patches are dropped, so a masked picture is encoded from the
visible patches alone.
Source: Assran et al. 2023 (https://arxiv.org/abs/2301.08243).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.loading import small_number, whole_number
from jepa_edge.export.families.pixels import PIXEL_SCALE, patch_linear
from jepa_edge.export.families.vit import ViTMlp


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IJepaConfig:
    """Every size of an I-JEPA. The defaults are ViT-H/14 at 224 pixels.

    height, width, patch_size: pixels; the patch divides both sides. mlp_dim: hidden width of the
    MLPs. norm_eps: of every layer norm. qkv_bias: whether query, key and value have biases.
    predictor_*: of the mask predictor; depth 0 in a checkpoint without one.
    Raises CheckpointError when a size is not positive or two sizes contradict each other.
    """

    height: int = 224
    width: int = 224
    patch_size: int = 14
    dim: int = 1280
    depth: int = 32
    heads: int = 16
    mlp_dim: int = 5120
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    predictor_dim: int = 384
    predictor_depth: int = 0
    predictor_heads: int = 16
    predictor_mlp_dim: int = 1536

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "int":
                least = 0 if field.name == "predictor_depth" else 1
                whole_number(getattr(self, field.name), f"I-JEPA: {field.name}", least)
        small_number(self.norm_eps, "I-JEPA: norm_eps")
        if not isinstance(self.qkv_bias, bool):
            raise CheckpointError(
                f"I-JEPA: qkv_bias is {self.qkv_bias!r}, expected true or false; correct it"
            )
        for divisor, value in (
            ("patch_size", "height"),
            ("patch_size", "width"),
            ("heads", "dim"),
            ("predictor_heads", "predictor_dim"),
        ):
            if divisor == "predictor_heads" and not self.predictor_depth:
                continue
            if getattr(self, value) % getattr(self, divisor):
                raise CheckpointError(
                    f"I-JEPA: {divisor} {getattr(self, divisor)} does not divide {value} "
                    f"{getattr(self, value)}; correct {divisor} in the section model of --spec"
                )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch_size, self.width // self.patch_size

    @property
    def tokens(self) -> int:
        """Patches of a picture."""
        return self.grid[0] * self.grid[1]


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, *, dim: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, tokens, dim). Returns the same shape."""
        head_dim = x.shape[-1] // self.heads
        q, k, v = (
            part.unflatten(-1, (self.heads, head_dim)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        weights = ((q * head_dim**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(-2))
        return out


class Block(nn.Module):
    """One pre-norm block: attention, then MLP, each with a residual."""

    def __init__(
        self, *, dim: int, heads: int, mlp_dim: int, norm_eps: float, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim=dim, heads=heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = ViTMlp(dim=dim, hidden_dim=mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, tokens, dim). Returns the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """Holds the projection of square patches under its upstream name."""

    def __init__(self, *, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)


class IJepaEncoder(nn.Module):
    """A picture's patches to tokens, all of them or the visible ones."""

    def __init__(self, config: IJepaConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size=config.patch_size, dim=config.dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.blocks = nn.ModuleList(
            Block(
                dim=config.dim,
                heads=config.heads,
                mlp_dim=config.mlp_dim,
                norm_eps=config.norm_eps,
                qkv_bias=config.qkv_bias,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(self, patches: Tensor, visible: Tensor | None = None) -> Tensor:
        """patches: (B, N, dim) embedded. visible: (V,) indices, None for all.

        Returns (B, V or N, dim) after the norm.
        """
        x = patches + self.pos_embed
        if visible is not None:
            x = x.index_select(1, visible)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class IJepaPredictor(nn.Module):
    """Visible tokens to what the encoder would give for hidden ones."""

    def __init__(self, config: IJepaConfig) -> None:
        super().__init__()
        dim = config.predictor_dim
        self.predictor_embed = nn.Linear(config.dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.predictor_pos_embed = nn.Parameter(torch.zeros(1, config.tokens, dim))
        self.predictor_blocks = nn.ModuleList(
            Block(
                dim=dim,
                heads=config.predictor_heads,
                mlp_dim=config.predictor_mlp_dim,
                norm_eps=config.norm_eps,
                qkv_bias=config.qkv_bias,
            )
            for _ in range(config.predictor_depth)
        )
        self.predictor_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.predictor_proj = nn.Linear(dim, config.dim)

    def forward(self, context: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """context: (B, V, D) of the tokens visible (V,). hidden: (M,). Returns (B, M, D)."""
        seen = self.predictor_embed(context) + self.predictor_pos_embed.index_select(1, visible)
        asked = self.mask_token + self.predictor_pos_embed.index_select(1, hidden)
        x = torch.cat((seen, asked.expand(seen.shape[0], -1, -1)), dim=1)
        for block in self.predictor_blocks:
            x = block(x)
        out: Tensor = self.predictor_proj(self.predictor_norm(x[:, seen.shape[1] :]))
        return out


class EncoderGraph(nn.Module):
    """Frames to latents, with the pixel normalization inside the patch projection.

    mean, std: per channel, of pixels scaled to [0, 1].
    """

    def __init__(
        self,
        encoder: IJepaEncoder,
        config: IJepaConfig,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.rows, self.columns = config.grid
        self.patch = config.patch_size
        self.patch_embed = patch_linear(encoder.patch_embed.proj, mean, std)
        self.encoder = encoder

    def forward(self, frames: Tensor, visible: Tensor | None = None) -> Tensor:
        """frames: uint8 (B, H, W, 3). visible: int64 (V,). Returns float32 (B, V or N, D)."""
        rows, columns, patch = self.rows, self.columns, self.patch
        x = frames.to(torch.float32) * (1.0 / PIXEL_SCALE) - 1.0
        x = x.reshape(-1, rows, patch, columns, patch, 3).permute(0, 1, 3, 2, 4, 5)
        x = self.patch_embed(x.reshape(-1, rows * columns, patch * patch * 3))
        out: Tensor = self.encoder(x, visible)
        return out
