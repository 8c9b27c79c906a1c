# SPDX-License-Identifier: Apache-2.0
"""Small V-JEPA 2 and 2.1 checkpoints whose every number follows from its tensor's name."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.export.families.base import Checkpoint, LoadedModel
from jepa_edge.export.families.vjepa2 import VJepa2Family

SIZE, FRAMES, DIM, HEADS, PREDICTOR_HEADS = 64, 4, 48, 3, 2
TINY_SPEC: dict[str, dict[str, Any]] = {
    "model": {
        "height": SIZE,
        "width": SIZE,
        "clip_frames": FRAMES,
        "heads": HEADS,
        "predictor_heads": PREDICTOR_HEADS,
    }
}
"""What neither shapes nor a config.json say of the small models."""

_PREDICTOR_DIM = 24


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor by the rule of tests/export/vectors/vjepa2.md."""
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    if len(shape) > 1 and max(shape[:-1]) > 1:
        values = draw * 1.5 / np.sqrt(np.prod(shape[1:]))
    elif any(part in name for part in (".norm", "norms_block", "_norm.")):
        values = draw * 0.3 + (1.0 if name.endswith("weight") else 0.0)
    else:
        values = draw * 0.3
    return torch.from_numpy(values.astype(np.float32))


def pictures(name: str, *shape: int) -> NDArray[np.uint8]:
    """Pixels by the same rule."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return rng.integers(0, 256, shape, dtype=np.uint8)


def tiny_vjepa2_checkpoint(
    directory: Path, version: str = "2", layout: str = "original", *, masks: bool = True
) -> Path:
    """Write a checkpoint of dim 48 and return what to export: a file, or a directory.

    layout: "original" is a training file that needs TINY_SPEC; "transformers" (version 2 only) has
    a config.json, and needs model.clip_frames alone. masks: whether it has a mask predictor.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if layout == "transformers":
        tiny_transformers().save_pretrained(directory)
        return directory
    shapes = encoder_shapes(version)
    encoder = {f"module.backbone.{k}": drawn(f"encoder.{k}", v) for k, v in shapes.items()}
    parts: dict[str, Any] = {"target_encoder": encoder, "epoch": 7, "loss": 0.5}
    parts["encoder"] = {name: tensor + 1.0 for name, tensor in encoder.items()}
    if masks:
        shapes = predictor_shapes(version)
        parts["predictor"] = {
            f"module.backbone.{k}": drawn(f"predictor.{k}", v) for k, v in shapes.items()
        }
    path = directory / f"vjepa{version.replace('.', '_')}.pt"
    torch.save(parts, path)
    return path


def encoder_shapes(version: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small encoder as upstream has them; depth 2, or 4 in 2.1."""
    shapes = {"patch_embed.proj.weight": (DIM, 3, 2, 16, 16), "patch_embed.proj.bias": (DIM,)}
    shapes |= _blocks("blocks", 2 if version == "2" else 4, DIM)
    if version == "2":
        return shapes | _norm("norm", DIM)
    for index in range(4):
        shapes |= _norm(f"norms_block.{index}", DIM)
    return shapes | {
        "patch_embed_img.proj.weight": (DIM, 3, 1, 16, 16),
        "patch_embed_img.proj.bias": (DIM,),
        "img_mod_embed": (1, 1, DIM),
        "video_mod_embed": (1, 1, DIM),
    }


def predictor_shapes(version: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small mask predictor as upstream has them."""
    dim = _PREDICTOR_DIM
    shapes: dict[str, tuple[int, ...]] = {f"mask_tokens.{i}": (1, 1, dim) for i in range(3)}
    shapes |= _blocks("predictor_blocks", 2, dim) | _norm("predictor_norm", dim)
    if version == "2":
        return shapes | _linear("predictor_embed", dim, DIM) | _linear("predictor_proj", DIM, dim)
    shapes |= _linear("predictor_embed.0", DIM, 4 * DIM) | _linear("predictor_embed.2", dim, DIM)
    shapes |= _linear("predictor_proj", 4 * DIM, dim)
    shapes |= _linear("predictor_proj_context", 4 * DIM, dim)
    return shapes | {"img_mod_embed": (1, 1, dim), "video_mod_embed": (1, 1, dim)}


def tiny_transformers(wrapped: bool = False) -> Any:
    """A small `VJEPA2Model`, or the `VJEPA2ForVideoClassification` around it."""
    from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

    config = VJEPA2Config(
        crop_size=SIZE,
        frames_per_clip=FRAMES,
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_hidden_layers=2,
        pred_hidden_size=_PREDICTOR_DIM,
        pred_num_attention_heads=PREDICTOR_HEADS,
        pred_num_hidden_layers=2,
        pred_num_mask_tokens=3,
        num_pooler_layers=1,
    )
    return redrawn((VJEPA2ForVideoClassification if wrapped else VJEPA2Model)(config))


def redrawn(model: Any) -> Any:
    """A torch module whose weights are drawn anew, large enough for uneven attention."""
    with torch.no_grad():
        for name, slot in model.state_dict().items():
            slot.copy_(drawn(name, tuple(slot.shape)))
    return model.eval()


def load(
    tensors: Mapping[str, Tensor],
    spec: Mapping[str, dict[str, Any]] = TINY_SPEC,
    config: Mapping[str, Any] | None = None,
    path: str = "checkpoint.pt",
) -> LoadedModel:
    """Load tensors as a checkpoint whose file was read."""
    return VJepa2Family().load(
        Checkpoint(
            path=Path(path),
            weights=Path(path),
            sha256="0" * 64,
            tensors=tensors,
            config=config or {},
            spec=spec,
        )
    )


def indices(model: LoadedModel, pattern: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens of a model, and what a pattern leaves visible and hides."""
    assert model.masks is not None
    return (
        torch.arange(model.latent.tokens),
        torch.from_numpy(model.masks.visible[pattern]),
        torch.from_numpy(model.masks.hidden[pattern]),
    )


def relative_error(ours: Tensor | NDArray[np.float32], theirs: Tensor) -> float:
    """Largest difference over largest magnitude."""
    a, b = torch.as_tensor(ours), theirs
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max() / b.abs().max())


def normalized(clips: NDArray[np.uint8]) -> Tensor:
    """Clips (B, F, H, W, 3) as upstream takes them, channels before height and width."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(clips) / 255.0 - mean) / std).permute(0, 1, 4, 2, 3)


def _linear(name: str, out: int, of: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, of), f"{name}.bias": (out,)}


def _norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _blocks(prefix: str, depth: int, dim: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(depth):
        block = f"{prefix}.{index}"
        shapes |= _norm(f"{block}.norm1", dim) | _norm(f"{block}.norm2", dim)
        shapes |= _linear(f"{block}.attn.qkv", 3 * dim, dim)
        shapes |= _linear(f"{block}.attn.proj", dim, dim)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * dim, dim)
        shapes |= _linear(f"{block}.mlp.fc2", dim, 4 * dim)
    return shapes
