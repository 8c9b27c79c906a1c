# SPDX-License-Identifier: Apache-2.0
"""The encoder graph of world models on DINO features: camera frames and own state to latents.

Source: `VWorldModel.encode_obs` of gaoyuezhou/dino_wm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn


class Vision(Protocol):
    """What this graph needs of an image encoder."""

    @property
    def dim(self) -> int:
        """Channels of a token."""

    @property
    def grid(self) -> int:
        """Patches along a side."""

    @property
    def image_size(self) -> int:
        """Side of the square picture that goes in, in pixels."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S). Returns (B, grid * grid, dim)."""


class PointEmbedding(nn.Module):
    """Embed each step's vector on its own: a linear layer, kept as upstream's Conv1d of width 1."""

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(input_dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., input_dim). Returns (..., dim)."""
        return F.linear(x, self.patch_embed.weight.squeeze(-1), self.patch_embed.bias)

    def as_linear(self) -> nn.Linear:
        """Return the same as a linear layer, which shares the numbers."""
        dim, input_dim, _ = self.patch_embed.weight.shape
        with torch.device("meta"):
            linear = nn.Linear(input_dim, dim)
        linear.weight = nn.Parameter(self.patch_embed.weight.squeeze(-1), requires_grad=False)
        assert self.patch_embed.bias is not None
        linear.bias = nn.Parameter(self.patch_embed.bias, requires_grad=False)
        return linear


class Standardize(nn.Module):
    """Raw numbers to zero mean and unit deviation."""

    mean: Tensor
    inv_std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean)))
        self.register_buffer("inv_std", 1.0 / torch.tensor(list(std), dtype=torch.float64).float())

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., len(mean)). Returns the same shape."""
        return (x - self.mean) * self.inv_std


class StateEmbedding(nn.Module):
    """Raw own state to what every patch gets of it. repeat: how often each patch gets it."""

    def __init__(
        self, embedding: PointEmbedding, mean: Sequence[float], std: Sequence[float], repeat: int
    ) -> None:
        super().__init__()
        self.standardize = Standardize(mean, std)
        self.embedding = embedding.as_linear()
        self.repeat = repeat

    def forward(self, states: Tensor) -> Tensor:
        """states: (B, S) raw. Returns (B, repeat * P)."""
        embedded: Tensor = self.embedding(self.standardize(states))
        return embedded.repeat(1, self.repeat)


class FrameEncoder(nn.Module):
    """Frames, and states where the model has them, to latents: patches x (visual, own state).

    mean, std: per channel, of pixels scaled to [0, 1]. camera_size: side of the frames; where it is
    not the vision model's own, frames are scaled inside, bilinear and antialiased, in floating
    point, as torchvision's Resize does upstream.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor
    resize: Tensor | None

    def __init__(
        self,
        vision: nn.Module,
        *,
        sees: int,
        camera_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        state: StateEmbedding | None,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.state = state
        deviation = torch.tensor(list(std), dtype=torch.float64)
        self.register_buffer("pixel_scale", (1.0 / (255.0 * deviation)).float().reshape(3, 1, 1))
        shift = -torch.tensor(list(mean), dtype=torch.float64) / deviation
        self.register_buffer("pixel_shift", shift.float().reshape(3, 1, 1))
        self.register_buffer("resize", _resize_matrix(camera_size, sees))

    def forward(self, frames: Tensor, states: Tensor | None = None) -> Tensor:
        """frames: uint8 (B, H, W, 3); states: (B, S) raw. Returns (B, N, D)."""
        x = frames.to(torch.float32).permute(0, 3, 1, 2)  # TensorRT casts uint8, no more
        if self.resize is not None:
            x = self.resize @ x @ self.resize.T
        x = x * self.pixel_scale + self.pixel_shift
        tokens: Tensor = self.vision(x)
        if self.state is None or states is None:
            return tokens
        own = self.state(states).unsqueeze(1).expand(-1, tokens.shape[1], -1)
        return torch.cat((tokens, own), dim=-1)


def _resize_matrix(before: int, after: int) -> Tensor | None:
    """Return torch's antialiased bilinear scaling of one axis, (after, before)."""
    if before == after:
        return None
    identity = torch.eye(before)[None, None]
    scaled = F.interpolate(identity, size=(after, before), mode="bilinear", antialias=True)
    return scaled[0, 0]
