# SPDX-License-Identifier: Apache-2.0
"""The V-JEPA 2 and 2.1 family: a video encoder, and its mask predictor where there is one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel, Masks
from jepa_edge.export.families.loading import fill
from jepa_edge.export.families.pixels import IMAGENET_MEAN, IMAGENET_STD
from jepa_edge.export.families.vjepa2_graphs import (
    EncoderGraph,
    MaskPredictorGraph,
    newest_tubelet_error,
)
from jepa_edge.export.families.vjepa2_keys import Weights, is_vjepa2, meta_names
from jepa_edge.export.families.vjepa2_masks import block_masks, future_mask
from jepa_edge.export.families.vjepa2_model import VJepa2Config, VJepa2Encoder, VJepa2Predictor
from jepa_edge.export.families.vjepa2_sizes import check_knobs, clip_note, config_of
from jepa_edge.manifest import ClipSpec, FitSpec, LatentSpec, ObservationSpec

TRAINED_RATE_HZ = 4.0
"""Pictures per second in upstream's training."""

TEACHER_DIM = 1664
"""Channels of ViT-G, from which the smaller 2.1 models were distilled."""

_MASK_KINDS = ("blocks", "future", "none")
_CAUSE = "the file is incomplete, or not a V-JEPA 2's or 2.1's"


class VJepa2Family:
    """Loads V-JEPA 2 and 2.1 checkpoints; see `vjepa2_keys` for the layouts."""

    name = "vjepa2"

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is a V-JEPA 2's or 2.1's, by its tensors' names and config.json."""
        return is_vjepa2(names, config)

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """Build the model. Raises CheckpointError: what came, what was expected, how to fix it."""
        where, spec = str(checkpoint.weights), checkpoint.spec
        for section in ("action", "state"):
            if section in spec:
                raise CheckpointError(
                    f"--spec has a section {section!r}, but a V-JEPA 2 without actions sees video "
                    "only; remove it, or pass a V-JEPA 2-AC"
                )
        knobs = spec.get("model", {})
        check_knobs(knobs)
        weights = meta_names(
            checkpoint.tensors, where, part=knobs.get("part"), stated="version" in knobs
        )
        if knobs.get("masks") == "none":
            weights = dataclasses.replace(weights, predictor={})
        config, assumed = config_of(weights, checkpoint.config, knobs, where)
        observation, assumed_too = _observation(
            config, knobs, spec.get("observation", {}), floored=weights.transformers
        )
        reason = _no_masks(config, where)
        masks = _masks(config, knobs, reason, where)
        encoder = load_encoder(weights, config, where)
        all_levels = masks is not None and config.predictor_levels > 1
        graph = EncoderGraph(
            encoder, config, observation.mean, observation.std, all_levels=all_levels
        ).eval()
        graphs = {"encoder": _encoder_graph(graph, observation, masks)}
        if masks is not None:
            graphs["mask_predictor"] = _mask_predictor_graph(weights, config, masks, knobs, where)
        elif config.predictor_depth:
            load_predictor(weights, config, where)  # checks that the file is whole
        notes = clip_note(config, checkpoint.config, knobs)
        if masks is None and knobs.get("masks") != "none":
            notes += (f"{where} {reason}: the bundle has no masked energy",)
        return LoadedModel(
            family=self.name,
            observation=observation,
            action=None,
            latent=LatentSpec(
                tokens=config.tokens,
                dim=config.dim * (config.predictor_levels if all_levels else 1),
                grid=config.grid,
                energy_dim=config.dim if all_levels else None,
                distance="l1",
            ),
            masks=masks,
            graphs=graphs,
            assumed=(*assumed, *assumed_too),
            notes=notes,
            newest_tubelet_error=(
                functools.partial(newest_tubelet_error, graph)
                if config.frames > config.tubelet
                else None
            ),
        )


def load_encoder(weights: Weights, config: VJepa2Config, where: str) -> VJepa2Encoder:
    """Build the encoder and fill it. Raises CheckpointError naming keys that do not fit."""
    with torch.device("meta"):
        encoder = VJepa2Encoder(config)
    return fill(encoder, weights.encoder, f"{where} ({weights.part})", cause=_CAUSE)


def load_predictor(weights: Weights, config: VJepa2Config, where: str) -> VJepa2Predictor:
    """Build the mask predictor and fill it. Raises CheckpointError naming keys that do not fit."""
    with torch.device("meta"):
        predictor = VJepa2Predictor(config)
    return fill(predictor, weights.predictor, f"{where} (predictor)", cause=_CAUSE)


def _no_masks(config: VJepa2Config, where: str) -> str | None:
    """Why there can be no masks; None where there can.

    Raises CheckpointError where the predictor is neither the encoder's nor a distilled model's.
    """
    if not config.predictor_depth:
        return "has no mask predictor"
    given, wanted = config.predictor_dim_out, config.predictor_levels * config.dim
    if given == wanted:
        return None
    if config.version == "2.1" and config.predictor_levels == 1 and given == TEACHER_DIM:
        return (
            f"has a mask predictor of {given} channels, those of the larger model that it was "
            "distilled from and that the file does not hold"
        )
    raise CheckpointError(
        f"{where}: the mask predictor gives {given} channels ('predictor_proj.weight'), expected "
        f"{wanted} as it takes, or {TEACHER_DIM} in a 2.1 distilled from ViT-G; the file is "
        'damaged or of two models, fetch it again, or set model.masks = "none" in --spec'
    )


def _masks(
    config: VJepa2Config, knobs: Mapping[str, Any], reason: str | None, where: str
) -> Masks | None:
    """Choose the patterns; None where the user wants none. reason: why there can be none."""
    kind = knobs.get("masks", "blocks")
    if kind not in _MASK_KINDS:
        raise CheckpointError(
            f"--spec, model.masks is {kind!r}, expected one of {', '.join(_MASK_KINDS)}; correct it"
        )
    if reason is not None and "masks" in knobs and kind != "none":
        raise CheckpointError(
            f"--spec, model.masks is {kind!r}, but {where} {reason}, expected one for this "
            "encoder; remove model.masks, or pass a checkpoint that holds one"
        )
    if kind == "none" or reason is not None:
        return None
    return (future_mask if kind == "future" else block_masks)(*config.grid)


def _observation(
    config: VJepa2Config, knobs: Mapping[str, Any], spec: Mapping[str, Any], *, floored: bool
) -> tuple[ObservationSpec, list[str]]:
    """Lay --spec's section observation over what training was made with.

    floored: pictures are cut as transformers' processor does, else as upstream.
    """
    for name, where in (("clip", "clip_frames"), ("height", "height"), ("width", "width")):
        if name in spec:
            raise CheckpointError(
                f"--spec, [observation] has {name!r}, expected it in [model]: the tokens follow "
                f"from it; set model.{where} instead"
            )
    clip = None
    if config.frames > 1:
        stride = knobs.get("stride", 1)
        hop = knobs.get("hop", config.tubelet * stride)
        try:
            clip = ClipSpec(frames=config.frames, tubelet=config.tubelet, stride=stride, hop=hop)
        except ValueError as error:
            raise CheckpointError(
                f"--spec, [model]: {error}; correct model.stride or model.hop"
            ) from error
    elif "stride" in knobs or "hop" in knobs:
        raise CheckpointError(
            "--spec, [model] has stride or hop, but the model takes single images "
            "(model.clip_frames = 1); remove them"
        )
    steps = 1 if clip is None else clip.hop // clip.stride
    default = ObservationSpec(
        height=config.height,
        width=config.width,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        rate_hz=TRAINED_RATE_HZ / steps,
        clip=clip,
        fit=FitSpec(
            short_side=int(min(config.height, config.width) * 256 / 224),
            offset="floor" if floored else "round",
        ),
    )
    try:
        seen = msgspec.convert({**msgspec.to_builtins(default), **spec}, ObservationSpec)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"--spec, [observation] is not valid: {error}; correct it") from error
    if seen.color != "rgb":
        raise CheckpointError(
            f"--spec, observation.color is {seen.color!r}, expected 'rgb', as the weights were "
            "trained; remove it, a camera's own order is converted before the model"
        )
    if not all(0 < value < float("inf") for value in seen.std):
        raise CheckpointError(
            f"--spec, observation.std is {seen.std}, expected positive numbers; correct it"
        )
    return seen, [] if "rate_hz" in spec else ["observation.rate_hz"]


def _encoder_graph(
    module: EncoderGraph, observation: ObservationSpec, masks: Masks | None
) -> GraphModule:
    shape = (2, *observation.frame_shape)
    example: dict[str, Tensor] = {"frames": torch.zeros(shape, dtype=torch.uint8)}
    if masks is None:
        return GraphModule(module=module, example=example, output="latents")
    example["visible"] = torch.from_numpy(masks.visible[0])
    return GraphModule(module=module, example=example, output="latents", unbatched=("visible",))


def _mask_predictor_graph(
    weights: Weights, config: VJepa2Config, masks: Masks, knobs: Mapping[str, Any], where: str
) -> GraphModule:
    token = knobs.get("mask_token", 0)
    if token >= config.mask_tokens:
        raise CheckpointError(
            f"--spec, model.mask_token is {token}, but {where} has {config.mask_tokens} mask "
            f"tokens, expected 0 to {config.mask_tokens - 1}; correct it"
        )
    predictor = load_predictor(weights, config, where)
    visible, hidden = torch.from_numpy(masks.visible[0]), torch.from_numpy(masks.hidden[0])
    context = torch.zeros(2, len(visible), config.predictor_levels * config.dim)
    return GraphModule(
        module=MaskPredictorGraph(predictor, config, mask_token=token).eval(),
        example={"context": context, "visible": visible, "hidden": hidden},
        output="predicted",
        unbatched=("visible", "hidden"),
    )
