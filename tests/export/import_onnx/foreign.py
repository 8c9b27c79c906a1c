# SPDX-License-Identifier: Apache-2.0
"""A world model as a user has it: a CNN on float pictures, an MLP on what it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.export.quiet import quiet

SIZE, DIM, ACTION, HISTORY = 16, 12, 3, 2
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
ACTION_MEAN, ACTION_STD = (0.1, 0.0, -0.1), (2.0, 1.0, 0.5)


class Encoder(nn.Module):
    """pixels (B, 3, H, W) float, normalized -> (B, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.GELU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(8 * (SIZE // 4) ** 2, DIM),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)  # type: ignore[no-any-return]


class Predictor(nn.Module):
    """emb (B, T, D), act (B, T, A) -> (B, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(HISTORY * (DIM + ACTION), 32), nn.GELU(), nn.Linear(32, DIM)
        )

    def forward(self, emb: Tensor, act: Tensor) -> Tensor:
        joined = torch.cat([emb, act], dim=-1)
        return self.net(joined.flatten(1))  # type: ignore[no-any-return]


def make_models() -> tuple[Encoder, Predictor]:
    """Seeded, in evaluation mode."""
    torch.manual_seed(0)
    return Encoder().eval(), Predictor().eval()


def export(
    module: nn.Module,
    example: dict[str, Tensor],
    path: Path,
    *,
    output: str,
    dynamic: bool = True,
) -> Path:
    """Write a module with torch.onnx as its manual says."""
    batch = torch.export.Dim("batch")
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(example.values()),
            dynamo=True,
            opset_version=18,
            input_names=list(example),
            output_names=[output],
            dynamic_shapes=tuple({0: batch} for _ in example) if dynamic else None,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        program.save(str(path))
    return path


def normalized(frames: NDArray[np.uint8]) -> Tensor:
    """What a user's own data loader makes of pictures (B, H, W, 3)."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255.0
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std


SPEC = f"""
[model]
family = "mine"

[observation]
rate_hz = 5.0
mean = {list(MEAN)}
std = {list(STD)}

[action]
mean = {list(ACTION_MEAN)}
std = {list(ACTION_STD)}
names = ["x", "y", "grip"]

[wrap]
normalize_actions = true
"""
