# SPDX-License-Identifier: Apache-2.0
"""Sizes of a V-JEPA 2 or 2.1: from shapes, transformers' config.json and --spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.vjepa2_keys import Weights
from jepa_edge.export.families.vjepa2_model import VJepa2Config

DEFAULT_FRAMES = 16
"""Upstream's released models were last trained with 64 frames, and mostly with 16."""

_HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16, (1408, 40): 22, (1664, 48): 26}
"""Attention heads by (dim, depth) of the released encoders."""
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
        least = 0 if name == "mask_token" else 1
        value = spec.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CheckpointError(
                f"--spec, model.{name} is {value!r}, expected a whole number from {least}; "
                "correct it"
            )
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
    patches = _shape(encoder, "patch_embed.proj.weight", 5, where)
    dim, tubelet, patch = patches[0], patches[2], patches[3]
    depth = _count(encoder, "blocks.")
    assumed: list[str] = []
    heads = spec.get("heads") or config_json.get("num_attention_heads") or _HEADS.get((dim, depth))
    if heads is None:
        heads = max(1, dim // _HEAD_DIM)
        assumed.append("model.heads")
    crop = config_json.get("crop_size")
    if crop is None:
        crop = 384 if weights.version == "2.1" or "384" in Path(where).name else 256
        assumed += [f"model.{side}" for side in ("height", "width") if side not in spec]
    if "clip_frames" not in spec:
        assumed.append("model.clip_frames")
    config = VJepa2Config(
        version=weights.version,
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_dim=_shape(encoder, "blocks.0.mlp.fc1.weight", 2, where)[0],
        height=spec.get("height", crop),
        width=spec.get("width", crop),
        frames=spec.get("clip_frames", DEFAULT_FRAMES),
        patch=patch,
        tubelet=tubelet,
        norm_eps=config_json.get("layer_norm_eps", 1e-6),
        levels=_levels(encoder, depth, where) if weights.version == "2.1" else (),
        modality="video_mod_embed" in encoder or "img_mod_embed" in encoder,
        image_path="patch_embed_img.proj.weight" in encoder,
        **_predictor_sizes(weights, config_json, spec, assumed, where),
    )
    _check(config, where)
    return config, assumed


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
        dim = _shape(tensors, "predictor_embed.2.weight", 2, where)[0]
    else:
        dim = _shape(tensors, first, 2, where)[0]
    wide = _shape(tensors, first, 2, where)[1]
    encoder_dim = weights.encoder["patch_embed.proj.weight"].shape[0]
    if wide % encoder_dim:
        raise CheckpointError(
            f"{where}: {first!r} takes {wide} channels, expected a multiple of the encoder's "
            f"{encoder_dim}; encoder and predictor are of different models"
        )
    heads = spec.get("predictor_heads") or config_json.get("pred_num_attention_heads")
    if heads is None:
        heads = max(1, dim // _PREDICTOR_HEAD_DIM)
        if dim != 384:
            assumed.append("model.predictor_heads")
    return {
        "predictor_dim": dim,
        "predictor_depth": _count(tensors, "predictor_blocks."),
        "predictor_heads": heads,
        "predictor_mlp_dim": _shape(tensors, "predictor_blocks.0.mlp.fc1.weight", 2, where)[0],
        "predictor_levels": wide // encoder_dim,
        "predictor_dim_out": _shape(tensors, "predictor_proj.weight", 2, where)[0],
        "predictor_modality": "video_mod_embed" in tensors or "img_mod_embed" in tensors,
        "mask_tokens": _count(tensors, "mask_tokens."),
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
    count = _count(encoder, "norms_block.")
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


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of the modules, or tensors, of a list."""
    taken = {name.split(".")[1] for name in tensors if name.startswith(prefix)}
    return len(taken)


def _shape(tensors: Mapping[str, Tensor], name: str, ndim: int, where: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(
            f"{where} lacks {name!r}; the file is incomplete, or not a V-JEPA 2's, pass a complete "
            "checkpoint"
        )
    shape = tuple(tensors[name].shape)
    if len(shape) != ndim:
        cause = (
            "; it is an image model's, such as I-JEPA's or DINOv2's" if name[:5] == "patch" else ""
        )
        raise CheckpointError(
            f"{where}: {name!r} has shape {shape}, expected {ndim} dimensions{cause}; pass a "
            "V-JEPA 2 or 2.1 checkpoint"
        )
    return shape
