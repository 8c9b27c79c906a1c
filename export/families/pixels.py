# SPDX-License-Identifier: Apache-2.0
"""Pixels as graphs take them: ImageNet's statistics, and the first layer on uint8 pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB scaled to [0, 1], as in every upstream's transforms."""

PIXEL_SCALE = 128.0
"""Pixels enter the first layer as p / 128 - 1, exact in FP16, and in INT8 at scale 1/128."""


def patch_linear(
    conv: nn.Conv2d | nn.Conv3d,
    mean: Sequence[float],
    std: Sequence[float],
    shift: Tensor | None = None,
) -> nn.Linear:
    """Make a patch convolution linear on p / 128 - 1, in ([time,] row, column, channel) order.

    A normalized pixel is (p / 255 - mean) / std = (p / 128 - 1) * 128 / (255 std)
    + (128 / 255 - mean) / std, so that the normalization is a scale and a bias per channel.
    shift: added to every token, (1, 1, D).
    """
    weight = conv.weight.detach().double().movedim(1, -1)
    deviation = torch.tensor(std, dtype=torch.float64)
    ratio = PIXEL_SCALE / 255.0
    offset = (ratio - torch.tensor(mean, dtype=torch.float64)) / deviation
    bias = (weight * offset).sum(dim=tuple(range(1, weight.ndim)))
    if conv.bias is not None:
        bias = bias + conv.bias.detach().double()
    if shift is not None:
        bias = bias + shift.detach().double().reshape(-1)
    return frozen_linear((weight * (ratio / deviation)).flatten(1), bias)


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a float32 linear layer of a weight (out, in) and an optional bias (out,)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
    return linear
