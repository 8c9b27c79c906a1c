# SPDX-License-Identifier: Apache-2.0
"""DINO-WM's predictor: a ViT over frames x patches, causal from frame to frame, in our own torch.

Parameter names are those of gaoyuezhou/dino_wm's modules, so that a state dict loads strictly.
Source: Zhou et al. 2024 (https://arxiv.org/abs/2411.04983).
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.export.families.dinov2_frames import PointEmbedding, Standardize

MASKED = -1e4
"""Added to masked attention logits: exp underflows to zero, and FP16 still holds the number."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DinoWMConfig:
    """Sizes of a DINO-WM without its encoder. The defaults are the released PushT model's.

    visual_dim: channels of a DINO token. patches: per frame. frames: that positions were learned
    for. action_dim: A, numbers in an action block. state_dim: S, numbers of the robot's own state,
    0 where the model takes none; *_emb_dim: their embeddings', each of which every patch gets
    *_repeat times. heads, mlp_dim, depth, inner_dim (heads x channels per head): the predictor's.
    """

    visual_dim: int = 384
    patches: int = 196
    frames: int = 3
    action_dim: int = 10
    action_emb_dim: int = 10
    action_repeat: int = 1
    state_dim: int = 4
    state_emb_dim: int = 10
    state_repeat: int = 1
    depth: int = 6
    heads: int = 16
    inner_dim: int = 1024
    mlp_dim: int = 2048

    @property
    def latent_dim(self) -> int:
        """Channels that travel from step to step: visual and own state."""
        return self.visual_dim + self.state_emb_dim * self.state_repeat

    @property
    def dim(self) -> int:
        """Channels inside the predictor: those of the latent, and the action's."""
        return self.latent_dim + self.action_emb_dim * self.action_repeat


class DinoWM(nn.Module):
    """The trained parts beside the frozen image encoder."""

    def __init__(self, config: DinoWMConfig) -> None:
        super().__init__()
        self.config = config
        self.predictor = _Predictor(config)
        self.action_encoder = PointEmbedding(config.action_dim, config.action_emb_dim)
        self.proprio_encoder = (
            PointEmbedding(config.state_dim, config.state_emb_dim) if config.state_dim else None
        )


class PredictorGraph(nn.Module):
    """History and actions to the next latent. standardize: of raw action blocks."""

    causal: Tensor

    def __init__(self, model: DinoWM, standardize: Standardize) -> None:
        super().__init__()
        self.config = model.config
        self.standardize = standardize
        self.action_encoder = model.action_encoder.as_linear()
        self.predictor = model.predictor
        frames = model.config.frames
        later = torch.ones(frames, frames).triu(1)
        self.register_buffer("causal", later * MASKED)

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        """history: (B, T, N, D); actions: (B, T, A) raw. Returns the newest frame's, (B, N, D)."""
        frames, patches = history.shape[1], history.shape[2]
        embedded: Tensor = self.action_encoder(self.standardize(actions))
        embedded = embedded.repeat(1, 1, self.config.action_repeat)
        tiled = embedded.unsqueeze(2).expand(-1, -1, patches, -1)
        x = torch.cat((history, tiled), dim=-1).flatten(1, 2)
        mask = frame_mask(self.causal, frames, patches)
        out: Tensor = self.predictor(x, mask, patches)[..., : self.config.latent_dim]
        return out


def frame_mask(causal: Tensor, frames: int, patches: int) -> Tensor:
    """Return what is added to attention logits, (T * N, T * N), from the same per frame (F, F)."""
    mask = causal[:frames, :frames].reshape(frames, 1, frames, 1)
    return mask.expand(frames, patches, frames, patches).reshape(frames * patches, frames * patches)


class _Predictor(nn.Module):
    def __init__(self, config: DinoWMConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(
            torch.zeros(1, config.frames * config.patches, config.dim)
        )
        self.transformer = _Transformer(config)

    def forward(self, x: Tensor, mask: Tensor, newest: int) -> Tensor:
        """x: (B, T * N, dim). Returns the last `newest` tokens, (B, newest, dim)."""
        out: Tensor = self.transformer(x + self.pos_embedding[:, : x.shape[1]], mask, newest)
        return out


class _Transformer(nn.Module):
    def __init__(self, config: DinoWMConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(
            nn.ModuleList((_Attention(config), _FeedForward(config))) for _ in range(config.depth)
        )

    def forward(self, x: Tensor, mask: Tensor, newest: int) -> Tensor:
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            attention, feed = layer.children()
            # Only the newest frame is read after the last block.
            kept = newest if index == last else 0
            x = (x[:, -kept:] if kept else x) + attention(x, mask, kept)
            x = x + feed(x)
        out: Tensor = self.norm(x)
        return out


class _Attention(nn.Module):
    def __init__(self, config: DinoWMConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim)
        self.to_qkv = nn.Linear(config.dim, 3 * config.inner_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(config.inner_dim, config.dim))

    def forward(self, x: Tensor, mask: Tensor, kept: int) -> Tensor:
        """x: (B, tokens, dim). Returns the last `kept` tokens of the same, 0 for all."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        )
        if kept:
            q, mask = q[:, :, -kept:], mask[-kept:]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(-2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, config: DinoWMConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, config.mlp_dim),
            nn.GELU(),
            nn.Identity(),  # upstream's dropout; it keeps the numbering of the names
            nn.Linear(config.mlp_dim, config.dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out
