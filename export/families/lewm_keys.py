# SPDX-License-Identifier: Apache-2.0
"""Key names of released LeWorldModel checkpoints, and the sizes that their shapes tell.

Source: state dicts of stable-worldmodel 0.1.1 (`wm/lewm`) under transformers 4 and 5.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.lewm import LeWMConfig

_log = logging.getLogger(__name__)

DIM_HEAD = 64
"""Channels per attention head in every released model; shapes alone do not tell it."""

NOT_IN_SHAPES = ("encoder_heads", "predictor_heads", "predictor_dim_head", "dropout")
"""Config fields that `config_from_shapes` fills by convention, not from evidence."""

_ANCHORS = (
    "predictor.pos_embedding",
    "action_encoder.patch_embed.weight",
    "encoder.embeddings.cls_token",
    "pred_proj.net.0.weight",
)
"""Keys that both transformers layouts share and that no other family has together."""

_DINO_WM = "transformer.layers.0.0.to_qkv.weight"
"""Its layers are lists; its predictor and action encoder have two of the anchors' names."""

# transformers 4 to 5; the longer "attention.output.dense" has to come before "output.dense".
_ENCODER_RENAMES = (
    ("encoder.encoder.layer.", "encoder.layers."),
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)

_UNUSED = ("encoder.embeddings.mask_token",)
"""Tensors of masked pretraining that inference never reads."""

_SIGNATURES = (
    ("V-JEPA 2-AC", r"(^|\.)(action_encoder|extrinsics_encoder)\.weight$"),
    ("V-JEPA", r"(^|\.)patch_embed\.proj\.weight$|(^|\.)predictor_blocks\.|mask_tokens"),
    ("V-JEPA or another ViT", r"module\.backbone\.|(^|\.)blocks\.\d+\.attn\.qkv\.weight$"),
    ("V-JEPA (transformers)", r"(^|\.)patch_embeddings\.proj\.weight$"),
    ("DINO-WM or PreJEPA", r"(^|\.)(proprio_encoder|extra_encoders|backbone)\."),
    ("a ResNet", r"(^|\.)layer1\.0\.conv1\.weight$"),
    ("a transformers ViT or I-JEPA", r"(^|\.)embeddings\.patch_embeddings\."),
)
"""How other families' state dicts can be told, most particular first: only for the message."""


def is_lewm(names: Collection[str]) -> bool:
    """Whether names of tensors hold a LeWorldModel's own, under any prefix of a wrapper."""
    plain = [name.replace("_orig_mod.", "") for name in names]
    if any(name.endswith(_DINO_WM) for name in plain):
        return False
    return sum(any(f".{name}".endswith(f".{anchor}") for name in plain) for anchor in _ANCHORS) >= 2


def canonical_keys(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename a state dict's keys to ours: wrappers' prefixes off, transformers 5 encoder names.

    Raises CheckpointError when the keys are another family's.
    """
    plain = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    prefixes = Counter(
        key.removesuffix(anchor)
        for key in plain
        for anchor in _ANCHORS
        if key == anchor or key.endswith("." + anchor)
    )
    models = [prefix for prefix, anchors in prefixes.items() if anchors >= 2]
    if not models:
        raise _foreign(plain, where)
    if len(models) > 1:
        raise CheckpointError(
            f"{where} holds {len(models)} LeWorldModels (under {', '.join(map(repr, models))}), "
            "expected one; save the state dict of the one to deploy"
        )
    (prefix,) = models
    renamed: dict[str, Tensor] = {}
    for key, value in plain.items():
        if not key.startswith(prefix):
            # The trainer's own tensors, such as the regularizer's; not the model's.
            _log.info("%s: ignoring %s, which is not under %r", where, key, prefix)
            continue
        name = _canonical(key.removeprefix(prefix))
        if name in renamed:
            raise CheckpointError(
                f"{where} holds {name!r} under two names, expected one key layout; "
                "save the state dict again from one version of transformers"
            )
        if name not in _UNUSED:
            renamed[name] = value
    return renamed


def _canonical(key: str) -> str:
    if key.startswith("encoder.encoder.layer."):
        for old, new in _ENCODER_RENAMES:
            key = key.replace(old, new)
    return key


def _foreign(state: Mapping[str, Tensor], where: str) -> CheckpointError:
    if not state:
        return CheckpointError(f"{where} holds no tensors; pass a LeWorldModel checkpoint")
    kind = next(
        (name for name, pattern in _SIGNATURES if any(re.search(pattern, key) for key in state)),
        "an unknown model",
    )
    return CheckpointError(
        f"{where} looks like {kind} ({len(state)} tensors, the first {next(iter(state))!r}), "
        f"expected LeWorldModel keys such as {_ANCHORS[0]!r}; pass a LeWorldModel checkpoint"
    )


def config_from_shapes(state: Mapping[str, Tensor], where: str) -> LeWMConfig:
    """Read every size from the tensors' shapes; heads follow from 64 channels per head.

    state: with our keys (see `canonical_keys`). The fields in NOT_IN_SHAPES are convention.
    Raises CheckpointError when a tensor is missing or the sizes do not fit the convention.
    """

    def shape(key: str, axes: int) -> tuple[int, ...]:
        if key not in state:
            raise CheckpointError(
                f"{where} lacks the tensor {key!r}, from which sizes are read; "
                "the checkpoint is incomplete, save it again"
            )
        if state[key].ndim != axes:
            raise CheckpointError(
                f"{where}: tensor {key!r} has shape {tuple(state[key].shape)}, expected {axes} "
                "axes; the checkpoint is damaged or not a LeWorldModel as released"
            )
        return tuple(state[key].shape)

    block = "predictor.transformer.layers.0"
    encoder_dim, _, _, patch = shape("encoder.embeddings.patch_embeddings.projection.weight", 4)
    patches = shape("encoder.embeddings.position_embeddings", 3)[1] - 1
    projector_dim = shape("projector.net.0.weight", 2)[0]
    latent_dim = shape("projector.net.3.weight", 2)[0]
    smoothed, action_dim, _ = shape("action_encoder.patch_embed.weight", 3)
    inner, predictor_dim = shape(f"{block}.attn.to_qkv.weight", 2)
    inner //= 3  # queries, keys and values
    if encoder_dim % DIM_HEAD or inner % DIM_HEAD:
        raise CheckpointError(
            f"{where}: the number of attention heads cannot be told from widths {encoder_dim} and "
            f"{inner}, expected multiples of {DIM_HEAD}; pass a config whose 'model' section has "
            "every size"
        )
    return LeWMConfig(
        image_size=math.isqrt(max(patches, 0)) * patch,
        patch_size=patch,
        encoder_dim=encoder_dim,
        encoder_depth=_depth(state, "encoder.layers."),
        encoder_heads=encoder_dim // DIM_HEAD,
        encoder_mlp_dim=shape("encoder.layers.0.mlp.fc1.weight", 2)[0],
        latent_dim=latent_dim,
        projector_dim=projector_dim,
        predictor_dim=predictor_dim,
        predictor_depth=_depth(state, "predictor.transformer.layers."),
        predictor_heads=inner // DIM_HEAD,
        predictor_dim_head=DIM_HEAD,
        predictor_mlp_dim=shape(f"{block}.mlp.net.1.weight", 2)[0],
        history=shape("predictor.pos_embedding", 3)[1],
        action_dim=action_dim,
        z_dim=shape("latent_noise.weight", 2)[1] if "latent_noise.weight" in state else 0,
        action_smoothed_dim=smoothed,
        action_mlp_scale=shape("action_encoder.embed.0.weight", 2)[0] // latent_dim,
    )


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of distinct layers under a prefix."""
    return len(
        {key.removeprefix(prefix).split(".", 1)[0] for key in state if key.startswith(prefix)}
    )
