# SPDX-License-Identifier: Apache-2.0
"""LeWorldModel as a family: graphs rewritten for speed, a z of its own, weights for the core."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import torch

from jepa_edge.export.centering import center_encoder
from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel
from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.families.lewm_checkpoint import FAMILY, read_checkpoint
from jepa_edge.export.families.lewm_keys import is_lewm
from jepa_edge.export.families.lewm_reference import LeWMReference
from jepa_edge.export.graphs import EncoderGraph, PredictorGraph
from jepa_edge.export.predictor_weights import write_predictor_weights
from jepa_edge.manifest import ActionSpec, LatentSpec, NoiseSpec, ObservationSpec


class LeWMFamily:
    """See `jepa_edge.export.families.base.Family`."""

    name = FAMILY

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        """Whether the state dict holds a LeWorldModel's own parts, under any wrapper's prefix."""
        return is_lewm(names)

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """Build the model. Raises CheckpointError as `read_checkpoint`."""
        model, _, extras = read_checkpoint(checkpoint)
        return lewm_model(model, extras.observation, extras.action, extras.assumed)


def lewm_model(
    model: LeWM, observation: ObservationSpec, action: ActionSpec, assumed: tuple[str, ...] = ()
) -> LoadedModel:
    """Return a LeWorldModel as the exporter takes it."""
    config = model.config
    encoder = EncoderGraph(model, observation.mean, observation.std)
    predictor = PredictorGraph(model, action.mean, action.std)
    size, steps = config.image_size, config.history
    inputs = {
        "history": torch.zeros(2, steps, 1, config.latent_dim),
        "actions": torch.zeros(2, steps, config.action_dim),
    }
    if config.z_dim:
        inputs["z"] = torch.zeros(2, config.z_dim)
    return LoadedModel(
        family=FAMILY,
        observation=observation,
        action=action,
        latent=LatentSpec(tokens=1, dim=config.latent_dim),
        history=steps,
        noise=NoiseSpec(dim=config.z_dim) if config.z_dim else msgspec.UNSET,
        graphs={
            "encoder": GraphModule(
                module=encoder,
                example={"frames": torch.zeros(2, size, size, 3, dtype=torch.uint8)},
                output="latents",
            ),
            "predictor": GraphModule(module=predictor, example=inputs, output="prediction"),
        },
        assumed=assumed,
        reference=LeWMReference(model=model, observation=observation, action=action),
        prepare=functools.partial(center_encoder, encoder),
        # The core does not compute a model's own z; its graph does.
        write_engine=None
        if config.z_dim
        else functools.partial(write_predictor_weights, predictor, config),
    )
