# SPDX-License-Identifier: Apache-2.0
"""Where training starts: an encoder in which pictures that are nearly all alike still differ."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.export.families.lewm import LeWM
from training.data import normalize_frames


def widen_start(model: LeWM, frames: NDArray[np.uint8]) -> None:
    """Redraw the encoder's first weights so that images differ at its output from the start.

    A table is nearly all one color: with the usual start every patch token, and so the class
    token, is one constant plus a trace of the image. Batch norm blows the trace up, and its
    running statistics cannot follow the constant's drift. So the mean patch is mapped to zero, and
    the filters are the whitened principal components of the patches: smooth ones, to which a rare
    patch with something small in it is as loud as one with something large.

    frames: (B, H, W, 3) uint8, a sample of the training frames.
    """
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
    embeddings = model.encoder.embeddings
    projection = embeddings.patch_embeddings.projection
    size, dim = model.config.patch_size, model.config.encoder_dim
    with torch.no_grad():
        patches = torch.nn.functional.unfold(normalize_frames(frames), size, stride=size)
        flat = patches.transpose(1, 2).flatten(0, 1)
        variances, components = torch.linalg.eigh(torch.cov(flat.T))
        variances, components = variances[-dim:], components[:, -dim:]
        filters = (components / (variances + variances[0]).sqrt()).T
        mixed = torch.linalg.qr(torch.randn(dim, dim)).Q @ filters  # loudness spread over channels
        projection.weight.copy_(mixed.view_as(projection.weight))
        projection.bias.copy_(-mixed @ flat.mean(dim=0))
        embeddings.position_embeddings[0, 1:] = grid_positions(model.config.image_size // size, dim)


def grid_positions(side: int, dim: int) -> Tensor:
    """Return (side * side, dim) sines and cosines of row and column, slow ones first."""
    place = torch.linspace(-1.0, 1.0, side)
    frequency = 0.5 * math.pi * torch.linspace(0.5, side / 2, dim // 4)
    waves = torch.cat(
        [torch.sin(place[:, None] * frequency), torch.cos(place[:, None] * frequency)], 1
    )
    rows = waves[:, None].expand(side, side, -1)
    return torch.cat([rows, rows.transpose(0, 1)], dim=-1).flatten(0, 1)
