# SPDX-License-Identifier: Apache-2.0
"""Small I-JEPA checkpoints whose every number follows from its tensor's name."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

SIZE, PATCH, DIM, DEPTH, HEADS, MLP = 64, 8, 48, 2, 4, 192
PREDICTOR_DIM, PREDICTOR_DEPTH, PREDICTOR_MLP = 24, 2, 96
TOKENS = (SIZE // PATCH) ** 2
SPEC = {"model": {"heads": HEADS}}
"""What neither shapes nor a config.json say of the small model."""


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor by the rule of tests/export/vectors/ijepa.md."""
    values = 0.1 * np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).normal(
        size=shape
    )
    if "norm" in name and name.endswith(".weight"):
        values = values + 1.0
    return torch.from_numpy(values.astype(np.float32))


def frames(count: int = 2, size: int = SIZE) -> NDArray[np.uint8]:
    """Pictures by the same rule."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(b"frames")))
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def block_shapes(prefix: str, depth: int, dim: int, mlp: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a stack of transformer blocks under their original names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(depth):
        shapes |= {
            f"{prefix}.{block}.norm1.weight": (dim,),
            f"{prefix}.{block}.norm1.bias": (dim,),
            f"{prefix}.{block}.attn.qkv.weight": (3 * dim, dim),
            f"{prefix}.{block}.attn.qkv.bias": (3 * dim,),
            f"{prefix}.{block}.attn.proj.weight": (dim, dim),
            f"{prefix}.{block}.attn.proj.bias": (dim,),
            f"{prefix}.{block}.norm2.weight": (dim,),
            f"{prefix}.{block}.norm2.bias": (dim,),
            f"{prefix}.{block}.mlp.fc1.weight": (mlp, dim),
            f"{prefix}.{block}.mlp.fc1.bias": (mlp,),
            f"{prefix}.{block}.mlp.fc2.weight": (dim, mlp),
            f"{prefix}.{block}.mlp.fc2.bias": (dim,),
        }
    return shapes


def encoder_tensors(salt: str = "") -> dict[str, Tensor]:
    """The small encoder under its original names. salt: goes before the name that is drawn from."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, TOKENS, DIM),
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
        **block_shapes("blocks", DEPTH, DIM, MLP),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
    }
    return {name: drawn(salt + name, shape) for name, shape in shapes.items()}


def predictor_tensors() -> dict[str, Tensor]:
    """The small mask predictor under its original names."""
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (1, 1, PREDICTOR_DIM),
        "predictor_pos_embed": (1, TOKENS, PREDICTOR_DIM),
        "predictor_embed.weight": (PREDICTOR_DIM, DIM),
        "predictor_embed.bias": (PREDICTOR_DIM,),
        **block_shapes("predictor_blocks", PREDICTOR_DEPTH, PREDICTOR_DIM, PREDICTOR_MLP),
        "predictor_norm.weight": (PREDICTOR_DIM,),
        "predictor_norm.bias": (PREDICTOR_DIM,),
        "predictor_proj.weight": (DIM, PREDICTOR_DIM),
        "predictor_proj.bias": (DIM,),
    }
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def tiny_ijepa_checkpoint(directory: Path, layout: str = "original") -> Path:
    """Write a small checkpoint and return what to pass to the exporter.

    layout: "original" (encoder, target encoder and predictor in one .pth.tar), "encoder" (a plain
    state dict) or "transformers" (model.safetensors and config.json, without a predictor).
    """
    directory.mkdir(parents=True, exist_ok=True)
    if layout == "original":

        def wrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {f"module.{name}": tensor for name, tensor in tensors.items()}

        path = directory / "tiny.pth.tar"
        torch.save(
            {
                "encoder": wrapped(encoder_tensors("online ")),
                "predictor": wrapped(predictor_tensors()),
                "target_encoder": wrapped(encoder_tensors()),
                "opt": {"state": {}, "param_groups": [{"lr": 1e-3}]},
                "scaler": None,
                "epoch": 3,
                "loss": 0.1,
                "batch_size": 2,
                "world_size": 1,
                "lr": 1e-3,
            },
            path,
        )
        return path
    if layout == "encoder":
        path = directory / "encoder.safetensors"
        safetensors.torch.save_file(encoder_tensors(), path)
        return path
    if layout != "transformers":
        raise ValueError(layout)
    safetensors.torch.save_file(
        transformers_names(encoder_tensors()), directory / "model.safetensors"
    )
    config = {
        "model_type": "ijepa",
        "hidden_size": DIM,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": MLP,
        "image_size": SIZE,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-6,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def transformers_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as transformers 5 saves them."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name.replace("pos_embed", "embeddings.position_embeddings")
        new = new.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        new = new.replace(".attn.proj.", ".attention.o_proj.").replace("blocks.", "layers.")
        new = new.replace(".norm1.", ".layernorm_before.").replace(".norm2.", ".layernorm_after.")
        new = new.replace("norm.", "layernorm.", 1) if new.startswith("norm.") else new
        if ".attn.qkv." in new:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                key = new.replace(".attn.qkv.", f".attention.{letter}_proj.")
                named[key] = part.contiguous()
        else:
            named[new] = tensor
    return named
