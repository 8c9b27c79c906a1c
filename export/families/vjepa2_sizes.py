# SPDX-License-Identifier: Apache-2.0
"""Sizes of a V-JEPA 2 or 2.1: from shapes, transformers' config.json and --spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.loading import depth_of, shape_of, small_number, whole_number
from jepa_edge.export.families.vjepa2_keys import Weights
from jepa_edge.export.families.vjepa2_model import VJepa2Config

DEFAULT_FRAMES = 16
"""Upstream's released models were last trained with 64 frames, and mostly with 16."""

HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
"""Attention heads by dim of the released encoders."""
MOST_TOKENS = 1 << 18
"""Of a clip: 14 times those of 64 pictures of 384 pixels, which already take minutes."""
_384 = re.compile(r"(?<!\d)384(?!\d)")
_HEAD_DIM, _PREDICTOR_HEAD_DIM = 64, 32
_LEVELS = {48: (11, 23, 37, 47)}
"""By depth, where they are not the ends of four equal parts."""
_COUNTS = ("height", "width", "clip_frames", "stride", "hop", "heads", "predictor_heads")
_KNOBS = ("part", "version", *_COUNTS, "masks", "mask_token", "rescale_predictor")


def check_knobs(spec: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a key of --spec's section model that is not known, or no number."""
    unknown = sorted(spec.keys() - set(_KNOBS))
    if unknown:
        raise CheckpointError(
            f"--spec, [model] has the unknown key {unknown[0]!r}, expected one of "
            f"{', '.join(_KNOBS)}; correct it"
        )
    for name in (*_COUNTS, "mask_token"):
        if name in spec:
            whole_number(spec[name], f"--spec, model.{name}", 0 if name == "mask_token" else 1)
    rescale = spec.get("rescale_predictor", True)
    if not isinstance(rescale, bool):
        raise CheckpointError(
            f"--spec, model.rescale_predictor is {rescale!r}, expected true or false; correct it"
        )


def config_of(
    weights: Weights,
    config_json: Mapping[str, Any],
    spec: Mapping[str, Any],
    where: str,
) -> tuple[VJepa2Config, list[str]]:
    """Return the sizes of a checkpoint, and the names of what had to be assumed.

    config_json: transformers'; {} without one. spec: --spec's section model. where: the path
    of the weights; a name with "384" tells the size of the picture where nothing else does.
    Raises CheckpointError where a tensor that tells a size is missing, or sizes contradict.
    """
    encoder = weights.encoder
    _check_version(weights, config_json, spec, where)
    activation = config_json.get("hidden_act", "gelu")
    if activation != "gelu":
        raise CheckpointError(
            f"{where}: config.json has hidden_act {activation!r}, expected 'gelu' as in every "
            "released model; pass a model with GELU"
        )
    patches = shape_of(encoder, "patch_embed.proj.weight", 5, where)
    dim, tubelet, patch = patches[0], patches[2], patches[3]
    depth = depth_of(encoder, "blocks", where)
    assumed: list[str] = []
    heads = spec.get("heads") or _said(config_json, "num_attention_heads", where) or HEADS.get(dim)
    if heads is None:
        heads = max(1, dim // _HEAD_DIM)
        assumed.append("model.heads")
    crop = _said(config_json, "crop_size", where)
    if crop is None:
        crop = 384 if weights.version == "2.1" or _384.search(Path(where).name) else 256
        assumed += [f"model.{side}" for side in ("height", "width") if side not in spec]
    frames = _said(config_json, "frames_per_clip", where)
    if "clip_frames" not in spec and frames is None:
        assumed.append("model.clip_frames")
    config = VJepa2Config(
        version=weights.version,
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_dim=shape_of(encoder, "blocks.0.mlp.fc1.weight", 2, where)[0],
        height=spec.get("height", crop),
        width=spec.get("width", crop),
        frames=spec.get("clip_frames", min(frames or DEFAULT_FRAMES, DEFAULT_FRAMES)),
        patch=patch,
        tubelet=tubelet,
        norm_eps=small_number(
            config_json.get("layer_norm_eps", 1e-6), f"{where}: config.json, layer_norm_eps"
        ),
        levels=_levels(encoder, depth, where) if weights.version == "2.1" else (),
        modality="video_mod_embed" in encoder or "img_mod_embed" in encoder,
        image_path="patch_embed_img.proj.weight" in encoder,
        **_predictor_sizes(weights, config_json, spec, assumed, where),
    )
    _check(config, where)
    return config, assumed


def clip_note(
    config: VJepa2Config, config_json: Mapping[str, Any], spec: Mapping[str, Any]
) -> tuple[str, ...]:
    """What to tell the user where config.json names longer clips than are taken."""
    said = config_json.get("frames_per_clip")
    if "clip_frames" in spec or said is None or said == config.frames:
        return ()
    note = (
        f"config.json says frames_per_clip = {said}, {config.frames} are taken, because attention "
        "costs the square of a clip's length; set [model] clip_frames in --spec for another length"
    )
    return (note,)


def _said(config_json: Mapping[str, Any], name: str, where: str) -> int | None:
    """A whole number of config.json, None where it does not have it."""
    value = config_json.get(name)
    return None if value is None else whole_number(value, f"{where}: config.json, {name}")


def _predictor_sizes(
    weights: Weights,
    config_json: Mapping[str, Any],
    spec: Mapping[str, Any],
    assumed: list[str],
    where: str,
) -> dict[str, Any]:
    tensors = weights.predictor
    if not tensors:
        return {}
    first = "predictor_embed.weight"
    if "predictor_embed.0.weight" in tensors:
        first = "predictor_embed.0.weight"
        dim = shape_of(tensors, "predictor_embed.2.weight", 2, where)[0]
    else:
        dim = shape_of(tensors, first, 2, where)[0]
    wide = shape_of(tensors, first, 2, where)[1]
    encoder_dim = weights.encoder["patch_embed.proj.weight"].shape[0]
    if wide % encoder_dim:
        raise CheckpointError(
            f"{where}: {first!r} takes {wide} channels, expected a multiple of the encoder's "
            f"{encoder_dim}; encoder and predictor are of different models"
        )
    heads = spec.get("predictor_heads") or _said(config_json, "pred_num_attention_heads", where)
    if heads is None:
        heads = max(1, dim // _PREDICTOR_HEAD_DIM)
        if dim != 384:
            assumed.append("model.predictor_heads")
    return {
        "predictor_dim": dim,
        "predictor_depth": depth_of(tensors, "predictor_blocks", where),
        "predictor_heads": heads,
        "predictor_mlp_dim": shape_of(tensors, "predictor_blocks.0.mlp.fc1.weight", 2, where)[0],
        "predictor_levels": wide // encoder_dim,
        "predictor_dim_out": shape_of(tensors, "predictor_proj.weight", 2, where)[0],
        "predictor_modality": "video_mod_embed" in tensors or "img_mod_embed" in tensors,
        "mask_tokens": depth_of(tensors, "mask_tokens", where),
        "rescale_predictor": weights.version == "2.1" and spec.get("rescale_predictor", True),
    }


def _check_version(
    weights: Weights, config_json: Mapping[str, Any], spec: Mapping[str, Any], where: str
) -> None:
    key = "norms_block.0.weight" if weights.version == "2.1" else "norm.weight"
    told = None
    if "version" in spec and str(spec["version"]) != weights.version:
        told = f"--spec says model.version = {spec['version']!r}", "remove model.version"
    elif config_json.get("model_type") == "vjepa2" and weights.version == "2.1":
        told = "config.json is of transformers' V-JEPA 2", "remove config.json"
    if told is not None:
        raise CheckpointError(
            f"{where} has {key!r}, which is V-JEPA {weights.version}'s, but {told[0]}: the two "
            "rotate positions differently (RoPE: 2 tiles its sines, 2.1 interleaves them and "
            "rescales rows and columns), so that the wrong one gives wrong latents and no error; "
            f"{told[1]}, or pass the checkpoint that it belongs to"
        )


def _levels(encoder: Mapping[str, Tensor], depth: int, where: str) -> tuple[int, ...]:
    count = depth_of(encoder, "norms_block", where)
    if depth % count:
        raise CheckpointError(
            f"{where} has {depth} blocks and {count} layer norms ('norms_block'), expected a "
            f"multiple of {count} blocks; the file is incomplete, fetch it again"
        )
    return _LEVELS.get(depth, tuple((i + 1) * depth // count - 1 for i in range(count)))


def _check(config: VJepa2Config, where: str) -> None:
    for name, dim, heads in (
        ("heads", config.dim, config.heads),
        ("predictor_heads", config.predictor_dim, config.predictor_heads),
    ):
        if dim % heads or (dim // heads) % 2:
            raise CheckpointError(
                f"{where}: {heads} heads do not divide {dim} channels into even parts; set "
                f"model.{name} in --spec"
            )
    for name, pixels in (("height", config.height), ("width", config.width)):
        if pixels % config.patch:
            raise CheckpointError(
                f"{where}: model.{name} is {pixels}, expected a multiple of the patch, "
                f"{config.patch}; correct --spec"
            )
    if config.tokens > MOST_TOKENS:
        raise CheckpointError(
            f"{where}: {config.frames} pictures of {config.height} x {config.width} are "
            f"{config.tokens} tokens, expected {MOST_TOKENS} or fewer; correct model.clip_frames, "
            "model.height and model.width in --spec"
        )
    if config.frames == 1 and not config.image_path:
        raise CheckpointError(
            f"{where} has no 'patch_embed_img.proj.weight' (2.1 has), so that it cannot take "
            f"single images; set model.clip_frames to {config.tubelet} or more"
        )
    if config.frames > 1 and config.frames % config.tubelet:
        raise CheckpointError(
            f"{where}: model.clip_frames is {config.frames}, expected a multiple of "
            f"{config.tubelet}, the pictures under one token; correct --spec"
        )
