# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2-AC's action-conditioned predictor in our own torch.

Parameter names are upstream's, so a checkpoint's `predictor` part loads strictly.
Source: Assran et al. 2025 (https://arxiv.org/abs/2506.09985), section 3; layout of
facebookresearch/vjepa2, src/models/ac_predictor.py.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.errors import InputError
from jepa_edge.export.families.vit import ViTMlp
from jepa_edge.export.families.vjepa2_ac_pose import POSE_DIM, compose_pose
from jepa_edge.export.families.vjepa2_model import VJepa2Config, rope_table, rotate

NORM_EPS = 1e-6
TARGET_EPS = 1e-5
"""Of the layer norm without scale and shift behind encoder and predictor (torch's default)."""
CONDITION_TOKENS = 2
"""Before a frame's patches: its action, then its pose."""
LONGEST = 8
"""Frames in a window, as in training."""
_PATCH = 16
# Added to the score of what must not be seen; float16 holds it, and its exponential is 0.
_HIDDEN = -1e4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictorConfig:
    """Sizes of the predictor. The defaults are the released model's: 305.2 million values.

    latent_dim: D of the patches. grid: patches along a side. extrinsics: whether the unused
    `extrinsics_encoder` is there.
    Raises InputError when the heads do not divide dim into heads of even size.
    """

    latent_dim: int = 1408
    grid: int = 16
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    extrinsics: bool = True

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % (2 * self.heads) or self.dim // self.heads < 6:
            raise InputError(
                f"V-JEPA 2-AC: predictor_heads {self.heads} does not divide the predictor's "
                f"dimension {self.dim} into heads of an even size of 6 or more; correct "
                "model.predictor_heads in the --spec file"
            )
        if self.latent_dim < POSE_DIM:
            raise InputError(
                f"V-JEPA 2-AC: latent_dim is {self.latent_dim}, expected {POSE_DIM} or more, so "
                "that a token can hold the pose"
            )

    @property
    def patches(self) -> int:
        """Patch tokens of a frame."""
        return self.grid * self.grid


def rope_by_frame(config: PredictorConfig) -> Tensor:
    """Return `rope_table` for a window of LONGEST frames: (4, LONGEST, tokens of a frame, half).

    Actions and poses are rotated by time alone, as a patch at row 0 and column 0.
    """
    clip = VJepa2Config(
        version="2",
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
        mlp_dim=config.mlp_dim,
        height=_PATCH * config.grid,
        width=_PATCH * config.grid,
        frames=LONGEST,
        patch=_PATCH,
        tubelet=1,
    )
    table = rope_table(clip, config.dim // config.heads, rescale=False)
    table = table.reshape(4, LONGEST, config.patches, -1)
    return torch.cat([*CONDITION_TOKENS * [table[:, :, :1]], table], dim=2)


class Attention(nn.Module):
    """Multi-head attention over the tokens of all frames of a window."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None, newest: int | None) -> Tensor:
        """x: (B, N, dim); rope: (4, N, head size / 2); mask: (N, N), added to the scores.

        newest: only so many tokens at the end ask; they see all, and mask is not used.
        Returns (B, N or newest, dim).
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(q, rope), rotate(k, rope)
        if newest is not None:
            q, mask = q[:, :, -newest:], None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out


class Block(nn.Module):
    """A transformer block, norms first."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = ViTMlp(dim=dim, hidden_dim=mlp_dim)

    def forward(
        self,
        x: Tensor,
        rope: Tensor,
        mask: Tensor | None,
        newest: int | None = None,
    ) -> Tensor:
        """x: (B, N, dim). Returns (B, N or newest, dim); see `Attention`."""
        mixed = self.attn(self.norm1(x), rope, mask, newest)
        x = (x if newest is None else x[:, -newest:]) + mixed
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Predictor(nn.Module):
    """Patches, poses and actions of a window to the patches of the frame that follows."""

    rope: Tensor

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.predictor_embed = nn.Linear(config.latent_dim, dim)
        self.action_encoder = nn.Linear(POSE_DIM, dim)
        self.state_encoder = nn.Linear(POSE_DIM, dim)
        if config.extrinsics:
            self.extrinsics_encoder = nn.Linear(POSE_DIM - 1, dim)
        self.predictor_blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_dim) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.predictor_proj = nn.Linear(dim, config.latent_dim)

    def make_tables(self) -> Predictor:
        """Compute what is not in the checkpoint; call it once the weights are in place."""
        self.register_buffer("rope", rope_by_frame(self.config), persistent=False)
        return self

    def forward(self, patches: Tensor, poses: Tensor, actions: Tensor) -> Tensor:
        """patches: (B, T, P, D); poses, actions: (B, T, 7). Returns (B, P, D), not normed."""
        frames = torch.arange(patches.shape[1], device=patches.device)
        x = torch.cat(
            [
                self.action_encoder(actions)[:, :, None],
                self.state_encoder(poses)[:, :, None],
                self.predictor_embed(patches),
            ],
            dim=2,
        ).flatten(1, 2)
        # Gathered, not sliced: torch.export would bound the window by the table's length.
        rope = self.rope.index_select(1, frames).flatten(1, 2)
        per_frame = CONDITION_TOKENS + self.config.patches
        frame = frames[:, None].expand(-1, per_frame).flatten().to(x.dtype)
        mask = (frame[None, :] - frame[:, None]).clamp(0.0, 1.0) * _HIDDEN
        *blocks, last = self.predictor_blocks
        for block in blocks:
            x = block(x, rope, mask)
        x = last(x, rope, None, newest=self.config.patches)
        out: Tensor = self.predictor_proj(self.predictor_norm(x))
        return out


class PredictorGraph(nn.Module):
    """The predictor on latents: patches and a pose token in, those of the next frame out."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        """history: (B, T, P + 1, D); actions: (B, T, 7) raw. Returns (B, P + 1, D)."""
        patches, poses = history[:, :, :-1], history[:, :, -1, :POSE_DIM]
        predicted = normed(self.predictor(patches, poses, actions))
        pose = compose_pose(poses[:, -1], actions[:, -1])
        return with_pose(predicted, pose)


def normed(x: Tensor) -> Tensor:
    """Layer norm over the channels, without scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=TARGET_EPS)


def with_pose(patches: Tensor, pose: Tensor) -> Tensor:
    """Append a token to patches (B, P, D): the pose (B, 7), then zeros."""
    token = F.pad(pose, (0, patches.shape[-1] - POSE_DIM))
    return torch.cat([patches, token[:, None]], dim=1)
