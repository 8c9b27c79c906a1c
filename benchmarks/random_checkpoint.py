# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of big models at their true size, with random weights, in upstream's layouts.

    python benchmarks/random_checkpoint.py vjepa2-ac-vitg --out runs/ac.pt
    python benchmarks/random_checkpoint.py vjepa2-vitg --layout safetensors --out runs/vitg

Memory, time and file formats are those of the real model; what it predicts means nothing. Weights
are drawn as upstream draws them before training (truncated normals of 0.02, projections into the
residual stream divided by sqrt(2 layer)), so that activations keep a sane size. Every tensor comes
from its name and the seed alone. One tensor is in memory at a time.
Source of names and shapes: facebookresearch/vjepa2, transformers 5 `VJEPA2Model`.
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STD = 0.02
SHARD_BYTES = 2_000_000_000
ENCODERS = {
    "vjepa2-vitl": (1024, 24, 16, 4096),
    "vjepa2-vith": (1280, 32, 16, 5120),
    "vjepa2-vitg": (1408, 40, 22, 6144),
    "vjepa2-ac-vitg": (1408, 40, 22, 6144),
}
"""Width, depth, heads, MLP width."""
MASK_PREDICTOR = (384, 12, 12, 1536)
AC_PREDICTOR = (1024, 24, 16, 4096)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAFETENSORS_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

Shapes = dict[str, tuple[int, ...]]


def pair(name: str, *shape: int) -> Shapes:
    """A layer's weight and bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def blocks(prefix: str, dim: int, depth: int, mlp: int, *, split: bool = False) -> Shapes:
    """Transformer blocks; split: query, key and value apart, as transformers has them."""
    shapes: Shapes = {}
    for at in (f"{prefix}.{layer}" for layer in range(depth)):
        attention = "attention" if split else "attn"
        shapes |= pair(f"{at}.norm1", dim)
        if split:
            for part in ("query", "key", "value"):
                shapes |= pair(f"{at}.{attention}.{part}", dim, dim)
        else:
            shapes |= pair(f"{at}.{attention}.qkv", 3 * dim, dim)
        shapes |= pair(f"{at}.{attention}.proj", dim, dim)
        shapes |= pair(f"{at}.norm2", dim)
        shapes |= pair(f"{at}.mlp.fc1", mlp, dim) | pair(f"{at}.mlp.fc2", dim, mlp)
    return shapes


def native_shapes(model: str) -> dict[str, Shapes]:
    """State dicts of upstream's own `.pt`, by entry."""
    dim, depth, _, mlp = ENCODERS[model]
    conditioned = "-ac-" in model
    prefix = "module." if conditioned else "module.backbone."
    encoder = pair("patch_embed.proj", dim, 3, 2, 16, 16)
    encoder |= blocks("blocks", dim, depth, mlp) | pair("norm", dim)
    wide, layers, _, wide_mlp = AC_PREDICTOR if conditioned else MASK_PREDICTOR
    predictor = pair("predictor_embed", wide, dim)
    if conditioned:
        predictor |= pair("action_encoder", wide, 7) | pair("state_encoder", wide, 7)
        predictor |= pair("extrinsics_encoder", wide, 6)
    else:
        predictor |= {f"mask_tokens.{token}": (1, 1, wide) for token in range(10)}
    predictor |= blocks("predictor_blocks", wide, layers, wide_mlp)
    predictor |= pair("predictor_norm", wide) | pair("predictor_proj", dim, wide)
    return {
        part: {prefix + name: shape for name, shape in shapes.items()}
        for part, shapes in (("encoder", encoder), ("predictor", predictor))
    }


def transformers_shapes(model: str) -> Shapes:
    """State dict of transformers' `VJEPA2Model`."""
    dim, depth, _, mlp = ENCODERS[model]
    wide, layers, _, wide_mlp = MASK_PREDICTOR
    shapes = pair("encoder.embeddings.patch_embeddings.proj", dim, 3, 2, 16, 16)
    shapes |= blocks("encoder.layer", dim, depth, mlp, split=True) | pair("encoder.layernorm", dim)
    shapes |= {"predictor.embeddings.mask_tokens": (10, 1, 1, wide)}
    shapes |= pair("predictor.embeddings.predictor_embeddings", wide, dim)
    shapes |= blocks("predictor.layer", wide, layers, wide_mlp, split=True)
    return shapes | pair("predictor.layernorm", wide) | pair("predictor.proj", dim, wide)


def draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Draw one tensor from its name and the seed."""
    if len(shape) == 1:
        is_norm = "norm" in name and name.endswith("weight")
        return torch.full(shape, float(is_norm), dtype=dtype)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    tensor = torch.empty(shape)
    torch.nn.init.trunc_normal_(tensor, std=STD, generator=generator)
    if name.endswith(("attn.proj.weight", "attention.proj.weight", "fc2.weight")):
        layer = next(int(word) for word in name.split(".") if word.isdigit())
        tensor /= math.sqrt(2.0 * (layer + 1))
    return tensor.to(dtype)


def write_torch(path: Path, model: str, dtype: torch.dtype, seed: int) -> None:
    """Write upstream's `.pt`: space for every tensor first, then each in its place."""
    parts = native_shapes(model)
    content: dict[str, Any] = {
        # Never touched, so no memory is taken; only sizes are written.
        part: {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        for part, shapes in parts.items()
    }
    with torch.serialization.skip_data():
        torch.save({**content, "epoch": 0, "lr": 0.0}, path)
    del content
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        placed = torch.load(path, mmap=True, weights_only=True)
    for part, shapes in parts.items():
        for name, shape in shapes.items():
            placed[part][name].copy_(draw(f"{part}.{name}", shape, dtype, seed))


def write_safetensors(
    directory: Path, model: str, dtype: torch.dtype, seed: int, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write transformers' layout: shards, their index, and config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    shapes = transformers_shapes(model)
    shards = list(_shards(shapes, dtype, shard_bytes))
    owners = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        owners |= dict.fromkeys(names, file)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            begin, end = end, end + math.prod(shapes[name]) * dtype.itemsize
            header[name] = {
                "dtype": _SAFETENSORS_DTYPES[dtype],
                "shape": list(shapes[name]),
                "data_offsets": [begin, end],
            }
        payload = json.dumps(header).encode()
        payload += b" " * (-len(payload) % 8)
        with (directory / file).open("wb") as out:
            out.write(struct.pack("<Q", len(payload)) + payload)
            for name in names:
                tensor = draw(name, shapes[name], dtype, seed)
                out.write(tensor.view(torch.uint8).numpy())
    total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": owners}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    dim, depth, heads, mlp = ENCODERS[model]
    wide, layers, wide_heads, wide_mlp = MASK_PREDICTOR
    config = {
        "model_type": "vjepa2",
        "crop_size": 256,
        "frames_per_clip": 64,
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "mlp_ratio": mlp / dim,
        "patch_size": 16,
        "tubelet_size": 2,
        "pred_hidden_size": wide,
        "pred_num_hidden_layers": layers,
        "pred_num_attention_heads": wide_heads,
        "pred_mlp_ratio": wide_mlp / wide,
        "pred_num_mask_tokens": 10,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def _shards(shapes: Shapes, dtype: torch.dtype, limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        added = math.prod(shape) * dtype.itemsize
        if names and size + added > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += added
    yield names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", choices=ENCODERS)
    parser.add_argument("--out", type=Path, required=True, help="file.pt, or directory")
    parser.add_argument("--layout", choices=("torch", "safetensors"), default="torch")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dtype = DTYPES[arguments.dtype]
    if arguments.layout == "safetensors":
        if "-ac-" in arguments.model:
            parser.error("transformers has no V-JEPA 2-AC; use --layout torch")
        write_safetensors(arguments.out, arguments.model, dtype, arguments.seed)
    else:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_torch(arguments.out, arguments.model, dtype, arguments.seed)


if __name__ == "__main__":
    main()
