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

from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.ijepa_model import IJepaConfig
from jepa_edge.export.families.loading import (
    WRAPPERS,
    depth_of,
    joined,
    renamed,
    shape_of,
    strip,
    unwrapped,
    whole_number,
)

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
_SPLIT = (*PARTS, "predictor")
_VIDEO = (
    "the file is incomplete, or of an encoder of video such as V-JEPA 2, whose patches have 5 "
    "axes; pass a complete I-JEPA"
)
_HF_EXTRAS = re.compile(r"^(classifier|pooler)\.|^embeddings\.mask_token$")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A checkpoint's tensors under the original names. predictor: {} without one.

    transformers: whether they came in its layout.
    """

    encoder: dict[str, Tensor]
    predictor: dict[str, Tensor]
    transformers: bool = False


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
        return Weights(encoder=_from_transformers(tensors, where), predictor={}, transformers=True)
    parts: dict[str, dict[str, Tensor]] = {}
    loose: dict[str, Tensor] = {}
    for name, tensor in strip(tensors, where, parts=_SPLIT).items():
        head, dot, rest = name.partition(".")
        if dot and head in _SPLIT:
            parts.setdefault(head, {})[rest] = tensor
        else:
            loose[name] = tensor
    if not parts:  # the state dict of one module
        parts["predictor" if "predictor_pos_embed" in loose else part] = loose
    predictor = parts.pop("predictor", {})
    other = next((n for n in predictor if n.startswith(("mask_tokens.", "action_encoder."))), None)
    if other is not None:
        raise CheckpointError(
            f"{where} has {other!r} in its predictor, which is a V-JEPA's, expected 'mask_token'; "
            "pass an I-JEPA"
        )
    if not parts:
        raise CheckpointError(
            f"{where} holds a mask predictor without its encoder ({len(predictor)} tensors such as "
            f"{next(iter(predictor))!r}), expected both; pass the whole checkpoint"
        )
    if part not in parts:
        raise CheckpointError(
            f"{where} has {', '.join(sorted(parts))}, expected {part!r}; pass the whole "
            "checkpoint, or name the part in --spec, [model] part"
        )
    return Weights(encoder=parts[part], predictor=predictor)


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
    conv = shape_of(weights.encoder, "patch_embed.proj.weight", 4, where, _VIDEO)
    dim, patch = conv[0], conv[2]
    tokens = shape_of(weights.encoder, "pos_embed", 3, where, _VIDEO)[1]
    values: dict[str, Any] = {
        "patch_size": patch,
        "dim": dim,
        "depth": depth_of(weights.encoder, "blocks", where),
        "mlp_dim": shape_of(weights.encoder, "blocks.0.mlp.fc1.weight", 2, where)[0],
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights.encoder,
        **_predictor_sizes(weights.predictor, where),
    }
    for name in values.keys() & spec.keys():
        if spec[name] != values[name]:
            raise CheckpointError(
                f"--spec, model.{name} is {spec[name]!r}, but {where} has tensors of "
                f"{values[name]!r}, expected the same; remove it"
            )
    side = math.isqrt(tokens)
    if side * side == tokens:
        values |= {"height": side * patch, "width": side * patch}
    values |= _said(config, weights.transformers, where) | dict(spec)
    if "heads" not in values:
        values["heads"] = _HEADS.get(dim, max(1, dim // 64))
        if dim not in _HEADS:
            assumed.append("model.heads")
    # Upstream gives the predictor the encoder's number of heads.
    values.setdefault("predictor_heads", values["heads"])
    if not {"height", "width"} <= values.keys():
        raise CheckpointError(
            f"{where}: its position table has {tokens} places, which is no square grid; give the "
            "picture's height and width in --spec, [model]"
        )
    return IJepaConfig(**values), assumed


def _predictor_sizes(predictor: Mapping[str, Tensor], where: str) -> dict[str, int]:
    if not predictor:
        return {"predictor_depth": 0}
    where = f"{where} (predictor)"
    return {
        "predictor_dim": shape_of(predictor, "predictor_embed.weight", 2, where)[0],
        "predictor_depth": depth_of(predictor, "predictor_blocks", where),
        "predictor_mlp_dim": shape_of(predictor, "predictor_blocks.0.mlp.fc1.weight", 2, where)[0],
    }


def _said(config: Mapping[str, Any], transformers: bool, where: str) -> dict[str, Any]:
    """Return what transformers' config.json says beyond the shapes."""
    act = config.get("hidden_act", "gelu")
    if act != "gelu":
        raise CheckpointError(
            f"{where}: config.json has hidden_act {act!r}, expected 'gelu' as in every released "
            "model; pass a model with GELU"
        )
    values: dict[str, Any] = {}
    size = config.get("image_size")
    if size is not None:
        sides = size if isinstance(size, (list, tuple)) else [size, size]
        if len(sides) != 2:
            raise CheckpointError(
                f"{where}: config.json, image_size is {size!r}, expected one number or two; "
                "correct it"
            )
        for name, side in zip(("height", "width"), sides, strict=True):
            values[name] = whole_number(side, f"{where}: config.json, image_size")
    heads = config.get("num_attention_heads")
    if heads is not None:
        values["heads"] = whole_number(heads, f"{where}: config.json, num_attention_heads")
    if "layer_norm_eps" in config:
        values["norm_eps"] = config["layer_norm_eps"]
    elif config and transformers:
        values["norm_eps"] = 1e-12  # transformers' own default; the released files say 1e-6
    return values


def _original(name: str) -> str:
    """Return the original name of transformers'; query, key and value stay apart."""
    name = unwrapped(name, (*WRAPPERS, "ijepa."))
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _from_transformers(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    split: dict[str, dict[str, Tensor]] = {}
    for name, tensor in renamed(tensors, _original, where).items():
        match = re.fullmatch(r"(blocks\.\d+)\.attention\.([qkv])_proj\.(weight|bias)", name)
        if match:
            block, letter, kind = match.groups()
            split.setdefault(f"{block}.attn.qkv.{kind}", {})[letter] = tensor
        elif not _HF_EXTRAS.search(name):
            plain[name] = tensor
    for name, parts in split.items():
        missing = sorted(set("qkv") - parts.keys())
        if missing:
            raise CheckpointError(
                f"{where} lacks the {missing[0]} projection of {name!r}; the checkpoint is "
                "incomplete, save it again"
            )
        plain[name] = joined({f"{name}, {letter}": parts[letter] for letter in "qkv"}, where)
    return plain


def _plain(name: str) -> str:
    """Return a name without the parts and wrappers in front."""
    name = unwrapped(name, ("module.",), _SPLIT)
    part, dot, rest = name.partition(".")
    return rest if dot and part in _SPLIT else name
