# SPDX-License-Identifier: Apache-2.0
"""Bring every layout of V-JEPA 2 and 2.1 to the names of Meta's own modules.

Layouts: Meta's training files ({"encoder", "target_encoder" or "ema_encoder", "predictor", ...},
prefixes "module.backbone." or "module."); the state dict of one of their modules alone;
transformers' `VJEPA2Model`, alone or inside `VJEPA2ForVideoClassification`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.loading import WRAPPERS, joined, renamed, shape_of, strip, unwrapped
from jepa_edge.export.families.vjepa2_model import Version

_log = logging.getLogger(__name__)

PARTS = ("ema_encoder", "target_encoder", "encoder")
"""Encoders of a training file, the one that is taken first. The moving average is what upstream's
hub loads; a distilled 2.1 file calls its own average ema_encoder."""

_SPLIT = (*PARTS, "predictor")
_NO_VIDEO = (
    "the file is incomplete, or of a model of pictures such as I-JEPA or DINOv2; pass a complete "
    "V-JEPA 2 or 2.1"
)
_HF_PATCH = "encoder.embeddings.patch_embeddings.proj.weight"
_HF_QKV = re.compile(r"^(.*\.attn)\.(query|key|value)\.(weight|bias)$")
_HF_RENAMED = (
    (r"^encoder\.embeddings\.patch_embeddings\.", "encoder.patch_embed."),
    (r"^encoder\.layer\.", "encoder.blocks."),
    (r"^encoder\.layernorm\.", "encoder.norm."),
    (r"^predictor\.embeddings\.predictor_embeddings\.", "predictor.predictor_embed."),
    (r"^predictor\.embeddings\.mask_tokens$", "predictor.mask_tokens"),
    (r"^predictor\.layer\.", "predictor.predictor_blocks."),
    (r"^predictor\.layernorm\.", "predictor.predictor_norm."),
    (r"^predictor\.proj\.", "predictor.predictor_proj."),
    (r"\.attention\.", ".attn."),
)
_HF_HEADS = re.compile(r"^(pooler|classifier)\.")
_UNUSED = {
    "encoder": ("pos_embed",),
    "predictor": ("predictor_pos_embed",),
}
"""Left in released files by modules that had a position table; RoPE needs none."""
_CONTEXT_HEAD = "predictor_proj_context."
_MASK_TOKENS = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A checkpoint's tensors under Meta's names. predictor: {} without one.

    part: the encoder that was taken. version: told from the keys.
    """

    encoder: dict[str, Tensor]
    predictor: dict[str, Tensor]
    part: str
    version: Version
    transformers: bool


def is_vjepa2(names: Collection[str], config: Mapping[str, Any]) -> bool:
    """Whether names and config.json are a V-JEPA 2's or 2.1's, in one of the layouts above."""
    if config.get("model_type") is not None:
        return bool(config["model_type"] == "vjepa2")
    if any(name.endswith(_HF_PATCH) for name in names):
        return True
    plain = {_split(unwrapped(name, parts=_SPLIT))[1] for name in names}
    if any(name.startswith("action_encoder.") or "cls_token" in name for name in plain):
        return False
    if any(name.startswith(("mask_tokens.", "norms_block.")) for name in plain):
        return True
    if not {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= plain:
        return False
    # I-JEPA has these names and a position table, under "module." alone.
    return "pos_embed" not in plain or any("backbone." in name for name in names)


def meta_names(
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    part: str | None = None,
    stated: bool = False,
) -> Weights:
    """Return a checkpoint's encoder and mask predictor under Meta's names.

    part: one of PARTS; None takes the first that is there. stated: whether the user says that it
    is a V-JEPA 2 or 2.1.
    Raises CheckpointError when there is no such encoder, or the file is another model's.
    """
    transformers = any(name.endswith(_HF_PATCH) for name in tensors)
    parts = _from_transformers(tensors, where) if transformers else _from_meta(tensors, where)
    predictor = parts.get("predictor", {})
    if any(name.startswith("action_encoder.") for name in predictor):
        raise CheckpointError(
            f"{where} has 'action_encoder.weight' in its predictor, which is V-JEPA 2-AC's, "
            "expected a mask predictor; export it with --family vjepa2_ac"
        )
    there = [name for name in PARTS if parts.get(name)]
    if not there:
        held = "only a predictor" if predictor else "no encoder"
        names = ", ".join(sorted(tensors)[:3])
        raise CheckpointError(
            f"{where} holds {held} ({names}, ...), expected an encoder with "
            "'patch_embed.proj.weight'; pass the file that holds the encoder too"
        )
    if part is not None and part not in there:
        raise CheckpointError(
            f"{where} has no {part!r}, expected one of {', '.join(there)}; correct model.part"
        )
    taken = part or there[0]
    encoder = parts[taken]
    if len(there) > 1:
        _log.info("%s: %s is taken, of %s", where, taken, ", ".join(there))
    shape_of(encoder, "patch_embed.proj.weight", 5, where, _NO_VIDEO)
    version = _version(encoder, where)
    if version == "2" and not stated:
        _check_no_first_version(encoder, predictor, where)
    return Weights(
        encoder=_without(encoder, _UNUSED["encoder"], where),
        predictor=_without(predictor, _UNUSED["predictor"], where),
        part=taken,
        version=version,
        transformers=transformers,
    )


def _split(name: str) -> tuple[str | None, str]:
    """Split an unwrapped name into the part of the training file and Meta's own name."""
    part, dot, rest = name.partition(".")
    return (part, rest) if dot and part in _SPLIT else (None, name)


def _from_meta(tensors: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    loose: dict[str, Tensor] = {}
    for name, tensor in strip(tensors, where, parts=_SPLIT).items():
        part, plain = _split(name)
        (loose if part is None else parts.setdefault(part, {}))[plain] = tensor
    if not parts:  # the state dict of one module
        alone = any(name.startswith(("predictor_", "mask_tokens.")) for name in loose)
        return {"predictor" if alone else "encoder": loose}
    if loose:
        _log.info(
            "%s: ignoring %d tensors of the training, such as %s",
            where,
            len(loose),
            next(iter(loose)),
        )
    return parts


def _meta(name: str) -> str:
    """Return Meta's name of transformers', with its part; query, key and value stay apart."""
    name = unwrapped(name, (*WRAPPERS, "vjepa2."))
    for old, new in _HF_RENAMED:
        name = re.sub(old, new, name)
    return name


def _from_transformers(tensors: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    projections: dict[str, dict[str, Tensor]] = {}
    ignored = []
    for plain, tensor in renamed(tensors, _meta, where).items():
        if _HF_HEADS.match(plain):
            ignored.append(plain)
            continue
        found = _HF_QKV.match(plain)
        if found:
            block, kind, piece = found.groups()
            projections.setdefault(f"{block}.qkv.{piece}", {})[kind] = tensor
            continue
        part, _, rest = plain.partition(".")
        if rest == "mask_tokens":
            shape_of({plain: tensor}, plain, 4, where)
            for index, token in enumerate(tensor):
                parts.setdefault(part, {})[f"{rest}.{index}"] = token
        else:
            parts.setdefault(part, {})[rest] = tensor
    for name, kinds in projections.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = _joined(name, kinds, where)
    if ignored:
        _log.info(
            "%s: ignoring the classifier, %d tensors such as %s", where, len(ignored), ignored[0]
        )
    return parts


def _joined(name: str, kinds: dict[str, Tensor], where: str) -> Tensor:
    named = {
        kind: name.replace(".attn.qkv.", f".attention.{kind}.").replace("blocks", "layer")
        for kind in ("query", "key", "value")
    }
    lacking = [kind for kind in named if kind not in kinds]
    if lacking:
        raise CheckpointError(
            f"{where} lacks {named[lacking[0]]!r}; the file is incomplete, fetch it again"
        )
    return joined({theirs: kinds[kind] for kind, theirs in named.items()}, where)


def _without(tensors: dict[str, Tensor], unused: tuple[str, ...], where: str) -> dict[str, Tensor]:
    dropped = [name for name in tensors if name in unused or name.startswith(_CONTEXT_HEAD)]
    if dropped:
        _log.info("%s: ignoring %s, which inference does not read", where, ", ".join(dropped))
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}


def _version(encoder: Mapping[str, Tensor], where: str) -> Version:
    levels = any(name.startswith("norms_block.") for name in encoder)
    single = any(name.startswith("norm.") for name in encoder)
    if levels == single:
        both = "both 'norm.weight' and 'norms_block.0.weight'"
        neither = "neither 'norm.weight' (V-JEPA 2) nor 'norms_block.0.weight' (2.1)"
        raise CheckpointError(
            f"{where} has {both if levels else neither}, expected one of them: they tell version 2 "
            "from 2.1, whose position rotations (RoPE) differ; pass a complete checkpoint of one"
        )
    return "2.1" if levels else "2"


def _check_no_first_version(
    encoder: Mapping[str, Tensor], predictor: Mapping[str, Tensor], where: str
) -> None:
    """The first V-JEPA has the same names; its positions are added, not rotated."""
    tokens = sum(name.startswith("mask_tokens.") for name in predictor)
    if "pos_embed" in encoder and tokens != _MASK_TOKENS:
        held = f"{tokens} mask tokens" if predictor else "no predictor"
        raise CheckpointError(
            f"{where} has 'pos_embed' and {held}, as the first V-JEPA, whose positions are added "
            f"and not rotated, expected {_MASK_TOKENS} mask tokens beside a left-over 'pos_embed'; "
            'pass the whole V-JEPA 2 file, or set model.version = "2" in --spec if you know that '
            "it is one"
        )
