# SPDX-License-Identifier: Apache-2.0
"""Small JEPA-WM checkpoints whose every number follows from its tensor's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .dino_wm_fixtures import (
    ACTION,
    ACTION_MEAN,
    ACTION_STD,
    BLOCK,
    DIM,
    HEADS,
    STATE,
    STATE_MEAN,
    STATE_STD,
    dinov2_tensors,
    drawn,
)

IMAGE, SIDE = 42, 3
EMBEDDED, LATENT = 4, DIM + 4
PREDICTOR_DIM = DIM + EMBEDDED
PREDICTOR_HEADS = 2
"""18 channels each: 6 turn with time, row and column, rounded down to even."""

SPEC: dict[str, dict[str, Any]] = {
    "model": {
        "encoder": "dinov2",
        "encoder_heads": HEADS,
        "heads": PREDICTOR_HEADS,
        "image_size": IMAGE,
    },
    "state": {"mean": STATE_MEAN, "std": STATE_STD},
    "action": {"block": BLOCK, "mean": ACTION_MEAN, "std": ACTION_STD},
}


def predictor_shapes(dim: int = PREDICTOR_DIM) -> dict[str, tuple[int, ...]]:
    """Shapes of the small AdaLN predictor under upstream's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "predictor_embed.weight": (DIM, DIM),
        "predictor_embed.bias": (DIM,),
        "action_encoder.weight": (dim, ACTION),
        "action_encoder.bias": (dim,),
        "predictor_norm.weight": (dim,),
        "predictor_norm.bias": (dim,),
        "predictor_proj.weight": (DIM, DIM),
        "predictor_proj.bias": (DIM,),
    }
    for i in range(2):
        for name, width, inputs in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("mlp.fc1", 4 * dim, dim),
            ("mlp.fc2", dim, 4 * dim),
            ("adaLN_modulation.1", 6 * dim, dim),
        ):
            shapes[f"predictor_blocks.{i}.{name}.weight"] = (width, inputs)
            shapes[f"predictor_blocks.{i}.{name}.bias"] = (width,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"predictor_blocks.{i}.{name}"] = (dim,)
    return shapes


def state_tensors() -> dict[str, Tensor]:
    """The small encoder of own states, without a prefix."""
    shapes = {"patch_embed.weight": (EMBEDDED, STATE, 1), "patch_embed.bias": (EMBEDDED,)}
    return {name: drawn(f"proprio_encoder.{name}", shape) for name, shape in shapes.items()}


def predictor_tensors(dim: int = PREDICTOR_DIM) -> dict[str, Tensor]:
    """The small predictor, without a prefix. dim: DIM for one without own state."""
    return {
        name: drawn(f"predictor.{name}", shape) for name, shape in predictor_shapes(dim).items()
    }


def jepa_wm_tensors() -> dict[str, Tensor]:
    """The whole small JEPA-WM with names joined, its image encoder under `encoder.`."""
    return {
        **{f"predictor.{name}": tensor for name, tensor in predictor_tensors().items()},
        **{f"proprio_encoder.{name}": tensor for name, tensor in state_tensors().items()},
        **dinov2_tensors("encoder."),
    }


def tiny_jepa_wm_checkpoint(directory: Path) -> Path:
    """Write the small JEPA-WM as released, and its image encoder beside it.

    Returns the file `jepa_wm.pth.tar`; its directory holds config.json and dinov2/ too.
    """
    (directory / "dinov2").mkdir(parents=True, exist_ok=True)
    path = directory / "jepa_wm.pth.tar"
    saved = {
        "predictor": {f"module.{k}": v for k, v in predictor_tensors().items()},
        "proprio_encoder": {f"module.{k}": v for k, v in state_tensors().items()},
        "opt": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "scaler": None,
        "epoch": 50,
    }
    torch.save(saved, path)
    safetensors.torch.save_file(dinov2_tensors(), directory / "dinov2" / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"family": "jepa_wm", **SPEC}))
    return path
