# SPDX-License-Identifier: Apache-2.0
"""Small DINO-WM checkpoints whose every number follows from its tensor's name."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

DIM, HEADS, DEPTH, TABLE, PATCH = 32, 2, 2, 5, 14
"""The image encoder's: channels, attention heads, blocks, side of the position table, pixels."""
IMAGE, SIDE = 48, 3
"""Camera pictures of 48 pixels are scaled to 42, 3 x 3 patches of 14."""
FRAMES, ACTION, BLOCK, STATE, EMBEDDED = 3, 4, 2, 3, 4
INNER, MLP = 128, 64
LATENT = DIM + EMBEDDED

STATE_MEAN, STATE_STD = [200.0, -1.5, 0.0], [90.0, 0.5, 2.0]
ACTION_MEAN, ACTION_STD = [0.1, -0.2], [0.3, 2.0]
SPEC: dict[str, dict[str, Any]] = {
    "model": {"encoder_heads": HEADS, "heads": 2, "image_size": IMAGE},
    "state": {"mean": STATE_MEAN, "std": STATE_STD},
    "action": {"block": BLOCK, "mean": ACTION_MEAN, "std": ACTION_STD},
}

_SCALES = ("gamma", "lambda1", "norm.weight", "norm1.weight", "norm2.weight", "net.0.weight")
_TOKENS = ("token", "pos_embed", "pos_embedding", "position_embeddings")


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor by the rule of tests/export/vectors/dino_wm.md."""
    values = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).normal(size=shape)
    if name.endswith(_TOKENS):
        values *= 0.5
    elif len(shape) == 1:
        values = 0.1 * values + name.endswith(_SCALES)
    else:
        values /= math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def frames(count: int = 3, size: int = IMAGE) -> NDArray[np.uint8]:
    """Pictures by the same rule."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(b"frames")))
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def states(count: int = 3) -> NDArray[np.float32]:
    """Own states by the same rule: normals, scaled and moved by the statistics."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(b"states")))
    raw = rng.normal(size=(count, STATE)) * STATE_STD + STATE_MEAN
    return raw.astype(np.float32)


def actions(count: int = 5, block: int = BLOCK) -> NDArray[np.float32]:
    """Action blocks by the same rule, raw."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(b"actions")))
    raw = rng.normal(size=(count, block, 2)) * ACTION_STD + ACTION_MEAN
    return raw.reshape(count, -1).astype(np.float32)


def dinov2_shapes(table: int = TABLE) -> dict[str, tuple[int, ...]]:
    """Shapes of the small DINOv2 under upstream's original names."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, DIM),
        "pos_embed": (1, 1 + table**2, DIM),
        "mask_token": (1, DIM),
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
    }
    for i in range(DEPTH):
        for name, width, inputs in (
            ("attn.qkv", 3 * DIM, DIM),
            ("attn.proj", DIM, DIM),
            ("mlp.fc1", 4 * DIM, DIM),
            ("mlp.fc2", DIM, 4 * DIM),
        ):
            shapes[f"blocks.{i}.{name}.weight"] = (width, inputs)
            shapes[f"blocks.{i}.{name}.bias"] = (width,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{i}.{name}"] = (DIM,)
        for name in ("ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{i}.{name}"] = (DIM,)
    return shapes


def dinov2_tensors(prefix: str = "") -> dict[str, Tensor]:
    """The small DINOv2 under upstream's original names, behind a prefix."""
    return {prefix + name: drawn(name, shape) for name, shape in dinov2_shapes().items()}


def trained_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of what DINO-WM trains beside the image encoder."""
    dim = LATENT + EMBEDDED
    shapes: dict[str, tuple[int, ...]] = {
        "action_encoder.patch_embed.weight": (EMBEDDED, ACTION, 1),
        "action_encoder.patch_embed.bias": (EMBEDDED,),
        "proprio_encoder.patch_embed.weight": (EMBEDDED, STATE, 1),
        "proprio_encoder.patch_embed.bias": (EMBEDDED,),
        "predictor.pos_embedding": (1, FRAMES * SIDE**2, dim),
        "predictor.transformer.norm.weight": (dim,),
        "predictor.transformer.norm.bias": (dim,),
    }
    for i in range(2):
        layer = f"predictor.transformer.layers.{i}"
        shapes |= {
            f"{layer}.0.norm.weight": (dim,),
            f"{layer}.0.norm.bias": (dim,),
            f"{layer}.0.to_qkv.weight": (3 * INNER, dim),
            f"{layer}.0.to_out.0.weight": (dim, INNER),
            f"{layer}.0.to_out.0.bias": (dim,),
            f"{layer}.1.net.0.weight": (dim,),
            f"{layer}.1.net.0.bias": (dim,),
            f"{layer}.1.net.1.weight": (MLP, dim),
            f"{layer}.1.net.1.bias": (MLP,),
            f"{layer}.1.net.4.weight": (dim, MLP),
            f"{layer}.1.net.4.bias": (dim,),
        }
    return shapes


def trained_tensors() -> dict[str, Tensor]:
    """What DINO-WM trains beside the image encoder."""
    return {name: drawn(name, shape) for name, shape in trained_shapes().items()}


def dino_wm_tensors() -> dict[str, Tensor]:
    """The whole small DINO-WM, its image encoder under `encoder.base_model.`."""
    return {**trained_tensors(), **dinov2_tensors("encoder.base_model.")}


def tiny_dino_wm_checkpoint(directory: Path) -> Path:
    """Write the small DINO-WM, encoder and settings included. Returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(dino_wm_tensors(), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"family": "dino_wm", **SPEC}))
    return directory
