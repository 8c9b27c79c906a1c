# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2-AC as a family: V-JEPA 2's encoder frame by frame, and a predictor of robot actions.

A latent is the normed patches of one frame, then one token whose first numbers are the robot's
pose: the encoder is told it, and the predictor composes the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jepa_edge.export.ac_predictor_weights import write_ac_predictor
from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel
from jepa_edge.export.families.loading import fill, unwrapped
from jepa_edge.export.families.vjepa2_ac_keys import PARTS, STRAY, sizes, split
from jepa_edge.export.families.vjepa2_ac_pose import POSE_DIM
from jepa_edge.export.families.vjepa2_ac_predictor import (
    Predictor,
    PredictorGraph,
    normed,
    with_pose,
)
from jepa_edge.export.families.vjepa2_ac_specs import Specs
from jepa_edge.export.families.vjepa2_graphs import EncoderGraph
from jepa_edge.export.families.vjepa2_model import VJepa2Encoder
from jepa_edge.manifest import LatentSpec

FAMILY = "vjepa2_ac"


class FrameEncoderGraph(nn.Module):
    """Single frames and poses to latents. tubelet: how often a frame is repeated to fill one."""

    def __init__(self, encoder: EncoderGraph, tubelet: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.tubelet = tubelet

    def forward(self, frames: Tensor, states: Tensor) -> Tensor:
        """frames: uint8 (B, H, W, 3); states: (B, 7) raw. Returns (B, P + 1, D)."""
        clips = frames.to(torch.float32)[:, None].expand(-1, self.tubelet, -1, -1, -1)
        return with_pose(normed(self.encoder(clips)), states)


class VJepa2ACFamily:
    """Loads `vjepa2-ac-vitg.pt` and what was trained from it; see docs/families/vjepa2_ac.md."""

    name = FAMILY

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        """Whether there is a predictor of frames that takes actions and poses as tokens."""
        plain = [unwrapped(name, parts=PARTS) for name in names]
        ends = {name.rsplit(".", 2)[-2] for name in plain if name.startswith("predictor.")}
        return {"action_encoder", "state_encoder", "predictor_embed"} <= ends

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """Build the model. Raises CheckpointError: what came, what was expected, how to fix it."""
        where = str(checkpoint.weights)
        specs = Specs(checkpoint)
        encoder_tensors, predictor_tensors = split(checkpoint.tensors, specs.model, where)
        seen, config, assumed = sizes(encoder_tensors, predictor_tensors, specs.model, where)
        with torch.device("meta"):
            encoder, predictor = VJepa2Encoder(seen), Predictor(config)
        cause = "it is incomplete, or was trained with other options than the released V-JEPA 2-AC"
        fill(encoder, encoder_tensors, f"{where}, encoder", ignored=STRAY, cause=cause)
        fill(predictor, predictor_tensors, f"{where}, predictor", cause=cause)
        observation, history = specs.observation, specs.model.history
        frame_encoder = FrameEncoderGraph(
            EncoderGraph(encoder, seen, observation.mean, observation.std), seen.tubelet
        )
        predictor_graph = PredictorGraph(predictor.make_tables()).eval()
        size, tokens = specs.model.image_size, config.patches + 1
        return LoadedModel(
            family=self.name,
            observation=observation,
            action=specs.action,
            state=specs.state,
            latent=LatentSpec(
                tokens=tokens,
                dim=seen.dim,
                grid=(1, config.grid, config.grid),
                energy_tokens=config.patches,
                distance="l1",
            ),
            history=history,
            min_history=1,
            graphs={
                "encoder": GraphModule(
                    module=frame_encoder.eval(),
                    example={
                        "frames": torch.zeros(2, size, size, 3, dtype=torch.uint8),
                        "states": torch.zeros(2, POSE_DIM),
                    },
                    output="latents",
                ),
                "predictor": GraphModule(
                    module=predictor_graph,
                    example={
                        "history": torch.zeros(2, history, tokens, seen.dim),
                        "actions": torch.zeros(2, history, POSE_DIM),
                    },
                    output="prediction",
                    windowed=("history", "actions") if history > 1 else (),
                    # Seven numbers of meters and radians: one int8 scale would round them away.
                    float_layers=("predictor.action_encoder", "predictor.state_encoder"),
                ),
            },
            assumed=(*specs.assumed, *assumed),
            write_gpu_engine=lambda path: write_ac_predictor(
                predictor_graph, path, history=history
            ),
        )
