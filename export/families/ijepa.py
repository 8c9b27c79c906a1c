# SPDX-License-Identifier: Apache-2.0
"""The I-JEPA family: an image encoder, and a mask predictor where the checkpoint holds one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel, Masks
from jepa_edge.export.families.ijepa_keys import PARTS, Weights, config_of, is_ijepa, original_names
from jepa_edge.export.families.ijepa_masks import block_masks
from jepa_edge.export.families.ijepa_model import (
    EncoderGraph,
    IJepaConfig,
    IJepaEncoder,
    IJepaPredictor,
)
from jepa_edge.export.families.loading import fill
from jepa_edge.export.families.pixels import IMAGENET_MEAN, IMAGENET_STD
from jepa_edge.manifest import FitSpec, LatentSpec, ObservationSpec

_RATE_HZ = 10.0
_NO_ENERGY = "the bundle has no masked energy; Meta's own file (.pth.tar) would give it"
_CAUSE = "the file is incomplete, or not an I-JEPA's"


class IJepaFamily:
    """Loads I-JEPA checkpoints; see `ijepa_keys` for the layouts."""

    name = "ijepa"

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is an I-JEPA's, by its tensors' names and its config.json."""
        return is_ijepa(names, config)

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """Build the model. Raises CheckpointError: what came, what was expected, how to fix it."""
        where, spec = str(checkpoint.path), checkpoint.spec
        for section in ("action", "state"):
            if section in spec:
                raise CheckpointError(
                    f"--spec has a section {section!r}, but an I-JEPA sees pictures only; remove it"
                )
        model_spec = dict(spec.get("model", {}))
        part = model_spec.pop("part", PARTS[0])
        if part not in PARTS:
            raise CheckpointError(
                f"[model] part is {part!r}, expected one of {', '.join(PARTS)}; correct --spec"
            )
        weights = original_names(checkpoint.tensors, part, where)
        config, assumed = _config(weights, checkpoint.config, model_spec, where)
        with torch.device("meta"):
            encoder = IJepaEncoder(config)
        observation, assumed_too = _observation(config, spec.get("observation", {}))
        encoder = fill(encoder, weights.encoder, f"{where} ({part})", cause=_CAUSE)
        masks = None
        graphs = {}
        if config.predictor_depth:
            with torch.device("meta"):
                predictor = IJepaPredictor(config)
            predictor = fill(predictor, weights.predictor, f"{where} (predictor)", cause=_CAUSE)
            masks = block_masks(*config.grid)
            graphs["mask_predictor"] = _predictor_graph(predictor, config, masks)
        graphs["encoder"] = _encoder_graph(encoder, config, observation, masks)
        notes = () if masks else (f"{where} has no mask predictor: {_NO_ENERGY}",)
        return LoadedModel(
            family=self.name,
            observation=observation,
            action=None,
            latent=LatentSpec(tokens=config.tokens, dim=config.dim, grid=(1, *config.grid)),
            masks=masks,
            graphs=graphs,
            assumed=(*assumed, *assumed_too),
            notes=notes,
        )


def _config(
    weights: Weights, config_json: Mapping[str, Any], spec: Mapping[str, Any], where: str
) -> tuple[IJepaConfig, list[str]]:
    """Return the sizes, held against the position table, and what was assumed of them."""
    config, assumed = config_of(weights, config_json, spec, where)
    places = weights.encoder["pos_embed"].shape[1]
    if config.tokens != places:
        raise CheckpointError(
            f"{where}: {config.height} x {config.width} pixels are {config.tokens} patches, but "
            f"its position table has {places} places; the size of the picture is that of the "
            "training, remove height and width from --spec"
        )
    return config, assumed


def _observation(config: IJepaConfig, spec: Mapping[str, Any]) -> tuple[ObservationSpec, list[str]]:
    default = ObservationSpec(
        height=config.height,
        width=config.width,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        rate_hz=_RATE_HZ,
        fit=FitSpec(),
    )
    try:
        values = {**msgspec.to_builtins(default), **spec}
        observation = msgspec.convert(values, ObservationSpec)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"--spec, [observation] is not valid: {error}; correct it") from error
    size = (observation.height, observation.width)
    if size != (config.height, config.width) or observation.clip is not None:
        told = "clips" if observation.clip is not None else f"{size[0]} x {size[1]} pixels"
        raise CheckpointError(
            f"--spec, [observation] asks for {told}, expected single pictures of {config.height} x "
            f"{config.width}, as the position table was trained; remove it, camera pictures of "
            "other sizes are scaled before they are encoded"
        )
    if not all(0 < value < float("inf") for value in observation.std):
        raise CheckpointError(
            f"observation.std is {observation.std}, expected positive numbers; correct --spec"
        )
    return observation, [] if "rate_hz" in spec else ["observation.rate_hz"]


def _encoder_graph(
    encoder: IJepaEncoder, config: IJepaConfig, observation: ObservationSpec, masks: Masks | None
) -> GraphModule:
    module = EncoderGraph(encoder, config, observation.mean, observation.std).eval()
    example: dict[str, Tensor] = {
        "frames": torch.zeros(2, config.height, config.width, 3, dtype=torch.uint8)
    }
    if masks is None:
        return GraphModule(module=module, example=example, output="latents")
    example["visible"] = torch.from_numpy(masks.visible[0])
    return GraphModule(module=module, example=example, output="latents", unbatched=("visible",))


def _predictor_graph(predictor: IJepaPredictor, config: IJepaConfig, masks: Masks) -> GraphModule:
    visible, hidden = torch.from_numpy(masks.visible[0]), torch.from_numpy(masks.hidden[0])
    return GraphModule(
        module=predictor,
        example={
            "context": torch.zeros(2, len(visible), config.dim),
            "visible": visible,
            "hidden": hidden,
        },
        output="predicted",
        unbatched=("visible", "hidden"),
    )
