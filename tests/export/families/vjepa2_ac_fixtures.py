# SPDX-License-Identifier: Apache-2.0
"""Seeded V-JEPA 2-AC weights and inputs that upstream's code and ours can both be given."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

IMAGE, GRID, FRAMES = 64, 4, 3
ENCODER = {"dim": 64, "depth": 2, "mlp": 279}
PREDICTOR = {"dim": 64, "depth": 2, "mlp": 256}
MODEL = {"image_size": IMAGE, "heads": 2, "predictor_heads": 2}
"""What the shapes do not tell."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def drawn(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers that the name alone decides."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return rng.standard_normal(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A layer's weight keeps variances, a norm's is near 1, a bias is small."""
    numbers = drawn(name, shape)
    if len(shape) > 1:
        numbers = numbers / np.float32(math.sqrt(math.prod(shape[1:])))
    elif name.endswith("weight"):
        numbers = 1 + np.float32(0.1) * numbers
    else:
        numbers = np.float32(0.1) * numbers
    return torch.from_numpy(numbers)


def frames(count: int = FRAMES, image: int = IMAGE) -> NDArray[np.uint8]:
    """Pictures, (count, image, image, 3)."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(b"frames")))
    return rng.integers(0, 256, (count, image, image, 3), dtype=np.uint8)


def states(count: int = FRAMES) -> NDArray[np.float32]:
    """Poses, (count, 7): angles of any size, the gripper between 0 and 1."""
    numbers = drawn("states", (count, 7))
    numbers[:, 6] = 1 / (1 + np.exp(-numbers[:, 6]))
    return numbers


def actions(count: int = FRAMES) -> NDArray[np.float32]:
    """Actions, (count, 7); some drive the gripper beyond its ends."""
    return np.float32(0.3) * drawn("actions", (count, 7))


def shapes(
    latent: int = ENCODER["dim"],
    encoder_depth: int = ENCODER["depth"],
    encoder_mlp: int = ENCODER["mlp"],
    dim: int = PREDICTOR["dim"],
    depth: int = PREDICTOR["depth"],
    mlp: int = PREDICTOR["mlp"],
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint by upstream's name, without "module."."""
    found: dict[str, tuple[int, ...]] = {
        "encoder.patch_embed.proj.weight": (latent, 3, 2, 16, 16),
        "encoder.patch_embed.proj.bias": (latent,),
        **_pair("encoder.norm", latent),
        **_linear("predictor.predictor_embed", latent, dim),
        **_linear("predictor.action_encoder", 7, dim),
        **_linear("predictor.state_encoder", 7, dim),
        **_linear("predictor.extrinsics_encoder", 6, dim),
        **_pair("predictor.predictor_norm", dim),
        **_linear("predictor.predictor_proj", dim, latent),
    }
    for index in range(encoder_depth):
        found |= _block(f"encoder.blocks.{index}", latent, encoder_mlp)
    for index in range(depth):
        found |= _block(f"predictor.predictor_blocks.{index}", dim, mlp)
    return found


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _pair(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _block(name: str, dim: int, mlp: int) -> dict[str, tuple[int, ...]]:
    return {
        **_pair(f"{name}.norm1", dim),
        **_linear(f"{name}.attn.qkv", dim, 3 * dim),
        **_linear(f"{name}.attn.proj", dim, dim),
        **_pair(f"{name}.norm2", dim),
        **_linear(f"{name}.mlp.fc1", dim, mlp),
        **_linear(f"{name}.mlp.fc2", mlp, dim),
    }


def tensors(prefix: str = "module.", **sizes: int) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors, flattened: "encoder.module...." and "predictor.module....".

    sizes: of `shapes`. A tensor's numbers follow from its name without the prefix.
    """
    return {
        name.replace(".", f".{prefix}", 1): weight(name, shape)
        for name, shape in shapes(**sizes).items()
    }


def tiny_vjepa2_ac_checkpoint(directory: Path) -> Path:
    """Write vjepa2-ac-tiny.pt, in upstream's layout, and a config.json beside it; its path."""
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors().items():
        part, rest = name.split(".", 1)
        nested.setdefault(part, {})[rest] = tensor
    nested["target_encoder"] = nested["encoder"]
    path = directory / "vjepa2-ac-tiny.pt"
    torch.save({**nested, "epoch": 3, "loss": 0.5, "batch_size": 8, "world_size": 1}, path)
    (directory / "config.json").write_text(json.dumps({"family": "vjepa2_ac", "model": MODEL}))
    return path
