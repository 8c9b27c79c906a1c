# SPDX-License-Identifier: Apache-2.0
"""Bring every I-JEPA layout to the original parameter names, and read sizes from shapes.

Layouts: the original checkpoint ({"encoder", "predictor", "target_encoder", ...}, "module."
prefixes); a state dict of its encoder alone; transformers 4 and 5 `IJepaModel`, alone or inside
`IJepaForImageClassification`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.ijepa_model import IJepaConfig

PARTS = ("target_encoder", "encoder")
POSITIONS = "embeddings.position_embeddings"

_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
"""Attention heads of the sizes that upstream defines; ViT-g has 16 here, 22 in V-JEPA 2."""

_RENAMED = (  # transformers 4 to 5, then 5 to the original
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(?<!attention)\.output\.dense\.", ".mlp.fc2."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (r"^layers\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^layers\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^layers\.", "blocks."),
    (r"^layernorm\.", "norm."),
)
_HF_EXTRAS = re.compile(r"^(classifier|pooler)\.|^embeddings\.mask_token$")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A checkpoint's tensors under the original names. predictor: {} without one."""

    encoder: dict[str, Tensor]
    predictor: dict[str, Tensor]


def is_ijepa(names: Collection[str], config: Mapping[str, Any]) -> bool:
    """Whether names and config.json are an I-JEPA's, in one of the layouts above."""
    if config.get("model_type") is not None:
        return bool(config["model_type"] == "ijepa")
    plain = {_plain(name) for name in names}
    if any(name.startswith("action_encoder.") or "cls_token" in name for name in plain):
        return False
    if any(name.startswith(("backbone.", "mask_tokens.")) for name in plain):
        return False  # V-JEPA
    if {"mask_token", "predictor_pos_embed"} <= plain:
        return True
    original = {"pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"}
    transformers = any(name.endswith(POSITIONS) for name in names)
    return original <= plain or transformers


def original_names(tensors: Mapping[str, Tensor], part: str, where: str) -> Weights:
    """Return the tensors of an encoder and, if there is one, of a mask predictor.

    part: "target_encoder" or "encoder", where the checkpoint holds both.
    Raises CheckpointError when there is no encoder among them.
    """
    if any(name.endswith(POSITIONS) for name in tensors):
        return Weights(encoder=_from_transformers(tensors, where), predictor={})
    predictor: dict[str, Tensor] = {}
    encoders: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        if head == "predictor":
            predictor[rest.removeprefix("module.")] = tensor
        elif head in PARTS:
            encoders.setdefault(head, {})[rest.removeprefix("module.")] = tensor
    if not encoders:
        alone = {n.removeprefix("module."): t for n, t in tensors.items()}
        if "mask_token" in alone and "pos_embed" not in alone:
            raise CheckpointError(
                f"{where} holds a mask predictor without its encoder ({len(alone)} tensors such as "
                "'mask_token'), expected both; pass the whole checkpoint"
            )
        if not predictor:
            return Weights(encoder=alone, predictor={})
    if part not in encoders:
        raise CheckpointError(
            f"{where} has {', '.join(sorted(encoders)) or 'a predictor but no encoder'}, expected "
            f"{part!r}; pass the whole checkpoint, or name the part in --spec, [model] part"
        )
    return Weights(encoder=encoders[part], predictor=predictor)


def config_of(
    weights: Weights, config: Mapping[str, Any], spec: Mapping[str, Any], where: str
) -> tuple[IJepaConfig, list[str]]:
    """Return the sizes that shapes, transformers' config.json and --spec say, and what was assumed.

    spec: fields of IJepaConfig, which override the rest.
    Raises CheckpointError when a tensor that sizes are read from is missing, and for a field that
    there is not.
    """
    known = {field.name for field in dataclasses.fields(IJepaConfig)}
    unknown = sorted(spec.keys() - known)
    if unknown:
        raise CheckpointError(
            f"--spec, [model] has the unknown key {unknown[0]!r}, expected part or one of "
            f"{', '.join(sorted(known))}; correct it"
        )
    assumed: list[str] = []
    conv = _shape(weights.encoder, "patch_embed.proj.weight", 4, where)
    dim, patch = conv[0], conv[2]
    tokens = _shape(weights.encoder, "pos_embed", 3, where)[1]
    values: dict[str, Any] = {
        "patch_size": patch,
        "dim": dim,
        "depth": _depth(weights.encoder, "blocks", where),
        "mlp_dim": _shape(weights.encoder, "blocks.0.mlp.fc1.weight", 2, where)[0],
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights.encoder,
    }
    side = math.isqrt(tokens)
    if side * side == tokens:
        values |= {"height": side * patch, "width": side * patch}
    if config:
        values |= _said(config, where)
    values |= spec
    if "heads" not in values:
        values["heads"] = _HEADS.get(dim, max(1, dim // 64))
        if dim not in _HEADS:
            assumed.append("model.heads")
    if weights.predictor:
        width = _shape(weights.predictor, "predictor_embed.weight", 2, where)[0]
        values |= {
            "predictor_dim": width,
            "predictor_depth": _depth(weights.predictor, "predictor_blocks", where),
            "predictor_mlp_dim": _shape(
                weights.predictor, "predictor_blocks.0.mlp.fc1.weight", 2, where
            )[0],
            # Upstream gives the predictor the encoder's number of heads.
            "predictor_heads": values["heads"],
        } | dict(spec)
    if not {"height", "width"} <= values.keys():
        raise CheckpointError(
            f"{where}: its position table has {tokens} places, which is no square grid; give the "
            "picture's height and width in --spec, [model]"
        )
    return IJepaConfig(**values), assumed


def _said(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what transformers' config.json says beyond the shapes."""
    act = config.get("hidden_act", "gelu")
    if act != "gelu":
        raise CheckpointError(f"{where}: hidden_act is {act!r}, expected 'gelu'")
    values: dict[str, Any] = {}
    size = config.get("image_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        values |= {"height": height, "width": width}
    if "num_attention_heads" in config:
        values["heads"] = config["num_attention_heads"]
    # transformers' own default, which the released files override with 1e-6.
    values["norm_eps"] = config.get("layer_norm_eps", 1e-12)
    return values


def _from_transformers(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    split: dict[str, dict[str, Tensor]] = {}
    for given, tensor in tensors.items():
        name = given.removeprefix("ijepa.")
        if _HF_EXTRAS.search(name):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        match = re.fullmatch(r"(blocks\.\d+)\.attention\.([qkv])_proj\.(weight|bias)", name)
        if match:
            block, letter, kind = match.groups()
            split.setdefault(f"{block}.attn.qkv.{kind}", {})[letter] = tensor
        else:
            renamed[name] = tensor
    for name, parts in split.items():
        missing = sorted(set("qkv") - parts.keys())
        if missing:
            raise CheckpointError(
                f"{where} lacks the {missing[0]} projection of {name!r}; the checkpoint is "
                "incomplete, save it again"
            )
        renamed[name] = torch.cat([parts[letter] for letter in "qkv"])
    return renamed


def _plain(name: str) -> str:
    """Return a name without the parts and wrappers in front."""
    for prefix in (*(f"{part}." for part in PARTS), "predictor.", "module."):
        name = name.removeprefix(prefix)
    return name


def _shape(tensors: Mapping[str, Tensor], name: str, ndim: int, where: str) -> tuple[int, ...]:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != ndim:
        told = "no" if tensor is None else f"a {tensor.ndim}-dimensional"
        cause = "an encoder of video (V-JEPA)" if name.startswith("patch_embed") else "another one"
        raise CheckpointError(
            f"{where} has {told} tensor {name!r}, expected one of {ndim} dimensions in an I-JEPA; "
            f"the checkpoint is incomplete or {cause}"
        )
    return tuple(tensor.shape)


def _depth(tensors: Mapping[str, Tensor], prefix: str, where: str) -> int:
    found = {int(m.group(1)) for m in (re.match(rf"{prefix}\.(\d+)\.", n) for n in tensors) if m}
    if found != set(range(len(found))) or not found:
        raise CheckpointError(
            f"{where} has {prefix} {sorted(found)}, expected 0, 1, 2, ... without a gap; the "
            "checkpoint is incomplete, save it again"
        )
    return len(found)
