# SPDX-License-Identifier: Apache-2.0
"""JEPA-WM's predictor: AdaLN blocks over frames x patches with 3-D RoPE, in our own torch.

Actions modulate every block, one row of modulations per frame; the robot's own state is extra
channels behind the visual ones. Parameter names are those of the released checkpoints.
Source: Terver et al. 2025 (https://arxiv.org/abs/2512.24497); written from its formulas and shapes.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.export.families.dino_wm_model import MASKED, frame_mask
from jepa_edge.export.families.dinov2_frames import PointEmbedding, Standardize
from jepa_edge.export.families.vit import ViTMlp

LAYER_NORM_EPS = 1e-6
ROPE_THETA = 10_000.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JepaWMConfig:
    """Sizes of a JEPA-WM without its encoder. The defaults are the released PushT model's.

    visual_dim: channels of a DINO token. grid: patches along a frame's side. history: the most
    frames that the predictor is given. embed_dim: visual channels inside the predictor.
    action_dim: A, numbers in an action block. state_dim: S, numbers of the robot's own state, 0
    where the model takes none; state_emb_dim: the channels that it becomes.
    """

    visual_dim: int = 384
    grid: int = 16
    history: int = 2
    embed_dim: int = 384
    action_dim: int = 10
    state_dim: int = 4
    state_emb_dim: int = 16
    depth: int = 6
    heads: int = 16
    mlp_dim: int = 1600

    @property
    def dim(self) -> int:
        """Channels inside the predictor."""
        return self.embed_dim + self.state_emb_dim

    @property
    def latent_dim(self) -> int:
        """Channels that travel from step to step: visual and own state."""
        return self.visual_dim + self.state_emb_dim


class JepaWM(nn.Module):
    """The trained parts beside the frozen image encoder."""

    def __init__(self, config: JepaWMConfig) -> None:
        super().__init__()
        self.config = config
        self.predictor = _Predictor(config)
        self.proprio_encoder = (
            PointEmbedding(config.state_dim, config.state_emb_dim) if config.state_dim else None
        )


class PredictorGraph(nn.Module):
    """History and actions to the next latent. standardize: of raw action blocks."""

    causal: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, model: JepaWM, standardize: Standardize) -> None:
        super().__init__()
        config = model.config
        self.patches, self.visual_dim = config.grid**2, config.visual_dim
        self.embed_dim = config.embed_dim
        self.standardize = standardize
        self.predictor = model.predictor
        later = torch.ones(config.history, config.history).triu(1)
        self.register_buffer("causal", later * MASKED)
        cos, sin = rope_table(config.history, config.grid, config.dim // config.heads)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        """history: (B, T, N, D); actions: (B, T, A) raw. Returns the newest frame's, (B, N, D)."""
        frames, parts = history.shape[1], self.predictor
        x = parts.predictor_embed(history[..., : self.visual_dim])
        x = torch.cat((x, history[..., self.visual_dim :]), dim=-1)
        action: Tensor = parts.action_encoder(self.standardize(actions))
        mask = frame_mask(self.causal, frames, self.patches)
        tokens = frames * self.patches
        cos, sin = self.cos[:tokens], self.sin[:tokens]
        last = len(parts.predictor_blocks) - 1
        for index, block in enumerate(parts.predictor_blocks):
            # Only the newest frame is read after the last block.
            x = block(x, action, mask, cos, sin, newest_only=index == last)
        x = parts.predictor_norm(x[:, -1])
        visual: Tensor = parts.predictor_proj(x[..., : self.embed_dim])
        return torch.cat((visual, x[..., self.embed_dim :]), dim=-1)


def rope_table(frames: int, grid: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of every token, (frames * grid * grid, 3 * width), float32.

    A third of a head's channels, rounded down to an even width, turns with time, row and column
    each. Angles are tiled over the width, not repeated pairwise: the released weights were trained
    so, as V-JEPA 2's.
    """
    width = 2 * (head_dim // 3 // 2)
    omega = ROPE_THETA ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    axes = torch.meshgrid(*(torch.arange(n) for n in (frames, grid, grid)), indexing="ij")
    angles = torch.cat([(axis.reshape(-1, 1) * omega).repeat(1, 2) for axis in axes], dim=-1)
    return angles.cos().float(), angles.sin().float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first channels pairwise; the rest stay. x: (B, heads, tokens, head_dim)."""
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    even, odd = turning[..., 0::2], turning[..., 1::2]
    quarter = torch.stack((-odd, even), dim=-1).flatten(-2)
    return torch.cat((turning * cos + quarter * sin, rest), dim=-1)


class _Predictor(nn.Module):
    def __init__(self, config: JepaWMConfig) -> None:
        super().__init__()
        self.predictor_embed = nn.Linear(config.visual_dim, config.embed_dim)
        self.action_encoder = nn.Linear(config.action_dim, config.dim)
        self.predictor_blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.predictor_norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(config.embed_dim, config.visual_dim)


class _Block(nn.Module):
    def __init__(self, config: JepaWMConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = _Attention(dim, config.heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = ViTMlp(dim=dim, hidden_dim=config.mlp_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(
        self,
        x: Tensor,
        action: Tensor,
        mask: Tensor,
        cos: Tensor,
        sin: Tensor,
        *,
        newest_only: bool,
    ) -> Tensor:
        """x: (B, T, N, dim); action: (B, T, dim). Returns x's shape, T = 1 for newest_only."""
        modulation = self.adaLN_modulation(action).unsqueeze(2)
        shift, scale, gate, *feed = modulation.chunk(6, dim=-1)
        mixed = self.attn(
            self.norm1(x) * (1 + scale) + shift, mask, cos, sin, newest_only=newest_only
        )
        if newest_only:
            x, gate = x[:, -1:], gate[:, -1:]
            feed = [part[:, -1:] for part in feed]
        x = x + gate * mixed
        shift, scale, gate = feed
        out: Tensor = x + gate * self.mlp(self.norm2(x) * (1 + scale) + shift)
        return out


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor, *, newest_only: bool
    ) -> Tensor:
        """x: (B, T, N, dim). Returns the same, T = 1 for newest_only."""
        patches = x.shape[2]
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).flatten(1, 2).chunk(3, dim=-1)
        )
        k = _rotate(k, cos, sin)
        if newest_only:
            q, mask = q[:, :, -patches:], mask[-patches:]
            cos, sin = cos[-patches:], sin[-patches:]
        mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), k, v, attn_mask=mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out.reshape(-1, out.shape[1] // patches, patches, out.shape[2])
