# SPDX-License-Identifier: Apache-2.0
"""Take a V-JEPA 2-AC checkpoint apart, and read from its shapes what they tell."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from jepa_edge.errors import CheckpointError, InputError
from jepa_edge.export.families.loading import WRAPPERS, depth_of, shape_of, strip
from jepa_edge.export.families.vjepa2_ac_predictor import PredictorConfig
from jepa_edge.export.families.vjepa2_ac_specs import ModelSettings
from jepa_edge.export.families.vjepa2_model import VJepa2Config
from jepa_edge.export.families.vjepa2_sizes import HEADS

STRAY = ("pos_embed",)
"""Left over in some encoders; positions are rotations."""

_PREDICTOR_HEADS = {1024: 16}
_HEAD = 64
PARTS = ("encoder", "target_encoder", "predictor")
_HF_PATCH = "encoder.embeddings.patch_embeddings.proj.weight"
_PASS = "pass V-JEPA 2-AC's whole checkpoint, such as vjepa2-ac-vitg.pt"

Tensors = dict[str, Tensor]


def split(
    tensors: Mapping[str, Tensor], settings: ModelSettings, where: str
) -> tuple[Tensors, Tensors]:
    """Return the encoder's and the predictor's tensors under upstream's names, without prefixes.

    Raises CheckpointError where a part is missing or is another model's.
    """
    parts: dict[str, Tensors] = {}
    for name, tensor in strip(tensors, where, (*WRAPPERS, "vjepa2."), PARTS).items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    theirs = _HF_PATCH.partition(".")[2] in parts.get("encoder", {})
    other = "target_encoder" if settings.encoder == "encoder" else "encoder"
    encoder = parts.get(settings.encoder) or parts.get(other) or {}
    predictor = parts.get("predictor", {})
    if theirs or "mask_tokens.0" in predictor or (encoder and not predictor):
        inside = "a mask predictor" if predictor else "no predictor"
        inside += ", in transformers' layout" if theirs else ""
        raise CheckpointError(
            f"{where} is a plain V-JEPA 2 checkpoint with {inside}: it lacks "
            "'predictor.action_encoder.weight' and so takes no actions; "
            f"{_PASS}, or export it with --family vjepa2"
        )
    for name in ("action_encoder.weight", "state_encoder.weight", "predictor_embed.weight"):
        if name not in predictor:
            raise CheckpointError(f"{where} lacks the tensor 'predictor.{name}'; {_PASS}")
    if not encoder:
        raise CheckpointError(
            f"{where} holds V-JEPA 2-AC's predictor but no encoder ('encoder.patch_embed.proj."
            f"weight'); {_PASS}"
        )
    if any(name.startswith("norms_block.") for name in encoder):
        raise CheckpointError(
            f"{where}: the encoder is V-JEPA 2.1's (it has 'norms_block.0.weight'), whose "
            f"positions rotate otherwise; V-JEPA 2-AC sees through V-JEPA 2's: {_PASS}"
        )
    return encoder, predictor


def sizes(
    encoder: Tensors, predictor: Tensors, settings: ModelSettings, where: str
) -> tuple[VJepa2Config, PredictorConfig, list[str]]:
    """Return both configs, and the names of what was assumed. Raises CheckpointError."""
    eyes, mind = f"{where}, encoder", f"{where}, predictor"
    patches = shape_of(encoder, "patch_embed.proj.weight", 5, eyes, _PASS)
    embed = shape_of(predictor, "predictor_embed.weight", 2, mind, _PASS)
    dim, tubelet, patch = patches[0], patches[2], patches[3]
    if embed[1] != dim:
        raise CheckpointError(
            f"{where}: the predictor takes latents of {embed[1]} channels, the encoder gives "
            f"{dim}; {_PASS}"
        )
    if settings.image_size % patch:
        raise CheckpointError(
            f"{where}: model.image_size {settings.image_size} is not a multiple of the patch size "
            f"{patch}; correct --spec"
        )
    assumed: list[str] = []
    heads = _heads("heads", settings.heads, dim, HEADS, assumed, where)
    seen = VJepa2Config(
        version="2",
        dim=dim,
        depth=depth_of(encoder, "blocks", eyes),
        heads=heads,
        mlp_dim=shape_of(encoder, "blocks.0.mlp.fc1.weight", 2, eyes, _PASS)[0],
        height=settings.image_size,
        width=settings.image_size,
        frames=tubelet,
        patch=patch,
        tubelet=tubelet,
    )
    inner = embed[0]
    heads = _heads(
        "predictor_heads", settings.predictor_heads, inner, _PREDICTOR_HEADS, assumed, where
    )
    first = "predictor_blocks.0.mlp.fc1.weight"
    try:
        config = PredictorConfig(
            latent_dim=dim,
            grid=settings.image_size // patch,
            dim=inner,
            depth=depth_of(predictor, "predictor_blocks", mind),
            heads=heads,
            mlp_dim=shape_of(predictor, first, 2, mind, _PASS)[0],
            extrinsics="extrinsics_encoder.weight" in predictor,
        )
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return seen, config, assumed


def _heads(
    name: str, said: int | None, dim: int, known: dict[int, int], assumed: list[str], where: str
) -> int:
    """Shapes do not tell how many heads there are; released sizes do."""
    heads = said or known.get(dim)
    if heads is None:
        assumed.append(f"model.{name}")
        heads = max(1, dim // _HEAD)
    if dim % (2 * heads) or dim // heads < 6:
        raise CheckpointError(
            f"{where}: {heads} heads do not divide {dim} channels into even sizes of 6 or more; "
            f"give model.{name} in --spec"
        )
    return heads
