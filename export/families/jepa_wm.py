# SPDX-License-Identifier: Apache-2.0
"""The JEPA-WM family: a frozen DINO encoder and a frame-causal AdaLN predictor with RoPE.

The released variants: DINOv2-S with own state as channels (simulations), DINOv3-L without own state
(DROID). Reads `.pth.tar` checkpoints, which hold no encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, LoadedModel
from jepa_edge.export.families.dino_wm import graphs
from jepa_edge.export.families.dino_wm_encoder import (
    Parts,
    encoder_tensors,
    plain_name,
    split_parts,
)
from jepa_edge.export.families.dino_wm_specs import ModelSettings, Sections
from jepa_edge.export.families.dinov2_frames import FrameEncoder, Standardize, StateEmbedding
from jepa_edge.export.families.jepa_wm_model import JepaWM, JepaWMConfig, PredictorGraph
from jepa_edge.export.families.jepa_wm_vision import load_vision
from jepa_edge.export.families.loading import depth_of, fill, shape_of
from jepa_edge.manifest import FitSpec, LatentSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEADS = 16
"""Of every released predictor; shapes do not tell it."""
HISTORY = 2
"""Frames that upstream plans with (ctxt_window); it trains with up to 4."""
TRAINED_FRAMES = 4

_BLOCK = "predictor_blocks.0.adaLN_modulation.1.weight"
_HIDDEN = "predictor_blocks.0.mlp.fc1.weight"
_PASS = (
    "pass a whole JEPA-WM checkpoint, whose predictor embeds its actions itself and has GELU MLPs, "
    "as every released one"
)


class JepaWMFamily:
    """Loads JEPA-WM checkpoints with the AdaLN predictor; docs/families/jepa_wm.md."""

    name = "jepa_wm"

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is a JEPA-WM's, by its tensors' names and its config.json."""
        return f"predictor.{_BLOCK}" in {plain_name(name) for name in names}

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """Build the model. Raises CheckpointError: what came, what was expected, how to fix it."""
        where = str(checkpoint.path)
        parts = split_parts(checkpoint.tensors, where)
        sections = Sections(checkpoint)
        settings = sections.model(without=("num_action_repeat", "num_proprio_repeat"))
        _check_parts(parts, where)
        tensors, encoder_where = encoder_tensors(checkpoint, parts, settings)
        vision = load_vision(tensors, encoder_where, settings)
        config = _config(parts, where, settings, grid=vision.grid, visual_dim=vision.dim)
        with torch.device("meta"):
            model = JepaWM(config)
        names = ("predictor", "proprio_encoder")
        fill(
            model,
            {f"{part}.{name}": tensor for part in names for name, tensor in parts[part].items()},
            where,
            cause="the file is incomplete, or an unreleased variant of JEPA-WM",
        )

        size = vision.image_size
        observation = sections.observation(size, MEAN, STD, FitSpec(), action_dim=config.action_dim)
        action = sections.action(config.action_dim)
        state, statistics = sections.state(config.state_dim)
        own = None
        if model.proprio_encoder is not None:
            own = StateEmbedding(model.proprio_encoder, statistics.mean, statistics.std, 1)
        encoder = FrameEncoder(
            vision,
            sees=size,
            camera_size=size,
            mean=observation.mean,
            std=observation.std,
            state=own,
        )
        latent = (vision.grid**2, config.latent_dim)
        return LoadedModel(
            family=self.name,
            observation=observation,
            action=action,
            state=state,
            latent=LatentSpec(
                tokens=latent[0],
                dim=latent[1],
                grid=(1, vision.grid, vision.grid),
                energy_dim=config.visual_dim,
            ),
            history=config.history,
            min_history=1,
            also_read=(Path(encoder_where),) if settings.encoder else (),
            graphs=graphs(
                encoder,
                PredictorGraph(model, Standardize(action.mean, action.std)),
                observation_size=size,
                state_dim=config.state_dim,
                latent=latent,
                action_dim=config.action_dim,
                history=config.history,
            ),
            assumed=(
                *(() if settings.image_size else ("model.image_size",)),
                *(() if settings.heads else ("model.heads",)),
                *(() if settings.history else ("model.history",)),
                *sections.assumed,
            ),
        )


def _check_parts(parts: Parts, where: str) -> None:
    """Raise CheckpointError for another variant's predictor, before the image encoder is read."""
    for name in (_BLOCK, "predictor_embed.weight", "action_encoder.weight", _HIDDEN):
        if name not in parts["predictor"]:
            raise CheckpointError(f"{where} lacks the tensor 'predictor.{name}'; {_PASS}")
    if parts["action_encoder"]:
        raise CheckpointError(
            f"{where} has 'action_encoder.{min(parts['action_encoder'])}' beside "
            "'predictor.action_encoder.weight', expected one of them: upstream stores the first "
            f"only where the predictor embeds no actions; {_PASS}"
        )


def _config(
    parts: Parts, where: str, settings: ModelSettings, *, grid: int, visual_dim: int
) -> JepaWMConfig:
    tensors = {f"{part}.{name}": t for part in parts for name, t in parts[part].items()}

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        return shape_of(tensors, name, ndim, where, _PASS)

    embed_dim, came_with = shape("predictor.predictor_embed.weight", 2)
    dim, action_dim = shape("predictor.action_encoder.weight", 2)
    state_emb = state_dim = 0
    if parts["proprio_encoder"]:
        state_emb, state_dim, _ = shape("proprio_encoder.patch_embed.weight", 3)
    hidden, _ = shape(f"predictor.{_HIDDEN}", 2)
    history = settings.history or HISTORY
    heads = settings.heads or HEADS
    if came_with != visual_dim:
        raise CheckpointError(
            f"{where}: the predictor takes {came_with} visual channels, the image encoder gives "
            f"{visual_dim}; name the encoder that it was trained on in [model] encoder (384: "
            "DINOv2-S, 1024: DINOv3-L)"
        )
    if embed_dim < dim and not state_emb:
        raise CheckpointError(
            f"{where} lacks the tensor 'proprio_encoder.patch_embed.weight': the predictor works "
            f"on {dim} channels, of which {dim - embed_dim} are the own state's; {_PASS}"
        )
    if embed_dim + state_emb != dim:
        raise CheckpointError(
            f"{where}: the predictor works on {dim} channels, expected {embed_dim} visual ones and "
            f"{state_emb} of the own state; it is supported as channels only, not as a token "
            "(as in every released model)"
        )
    if dim % heads or history > TRAINED_FRAMES:
        raise CheckpointError(
            f"{where}: {heads} heads on {dim} channels and a history of {history} frames; heads "
            f"must divide the channels, and training saw at most {TRAINED_FRAMES} frames; correct "
            "[model] heads and history"
        )
    return JepaWMConfig(
        visual_dim=visual_dim,
        grid=grid,
        history=history,
        embed_dim=embed_dim,
        action_dim=action_dim,
        state_dim=state_dim,
        state_emb_dim=state_emb,
        depth=depth_of(parts["predictor"], "predictor_blocks", where),
        heads=heads,
        mlp_dim=hidden,
    )
