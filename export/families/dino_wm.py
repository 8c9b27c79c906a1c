# SPDX-License-Identifier: Apache-2.0
"""The DINO-WM family: a frozen DINOv2, own state and actions as channels, a frame-causal ViT.

Two releases share it: gaoyuezhou/dino_wm (14 x 14 patches of pictures scaled from 224 to 196), and
its reproductions in facebookresearch/jepa-wms (16 x 16 patches of 224).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel
from jepa_edge.export.families.dino_wm_encoder import (
    Parts,
    encoder_tensors,
    plain_name,
    split_parts,
)
from jepa_edge.export.families.dino_wm_model import DinoWM, DinoWMConfig, PredictorGraph
from jepa_edge.export.families.dino_wm_specs import ModelSettings, Sections
from jepa_edge.export.families.dinov2_frames import FrameEncoder, Standardize, StateEmbedding
from jepa_edge.export.families.dinov2_keys import load_dinov2
from jepa_edge.export.families.loading import depth_of, fill, shape_of
from jepa_edge.manifest import FitSpec, LatentSpec

DIM_HEAD = 64
"""Channels per head of the released predictors; shapes do not tell it."""
MEAN = STD = (0.5, 0.5, 0.5)
"""Upstream's, for pixels scaled to [0, 1]; DINOv2's own ImageNet statistics are not used."""

_FRAMES = (3, 4, 2, 5, 6, 7, 8, 1)
"""Windows that positions may be learned for, the likely ones first: 3 upstream, 4 in jepa-wms."""
_PLANNED_FRAMES = 2
"""jepa-wms plans with 2 frames, though it learns positions for 4."""
_TABLE, _QKV = "pos_embedding", "transformer.layers.0.0.to_qkv.weight"
_HIDDEN = "transformer.layers.0.1.net.1.weight"
_PASS = (
    "pass a whole DINO-WM's state dict with the parts predictor, action_encoder and proprio_encoder"
)
_MASK = re.compile(r"transformer\.layers\.\d+\.0\.bias$")
"""jepa-wms stores its causal mask among the weights."""


class DinoWMFamily:
    """Loads DINO-WM from a state dict; docs/families/dino_wm.md says how to make one."""

    name = "dino_wm"

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is a DINO-WM's, by its tensors' names and its config.json."""
        plain = {plain_name(name) for name in names}
        return f"predictor.{_QKV}" in plain and f"predictor.{_TABLE}" in plain

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """Build the model. Raises CheckpointError: what came, what was expected, how to fix it."""
        where = str(checkpoint.path)
        parts = split_parts(checkpoint.tensors, where)
        parts["predictor"] = {k: v for k, v in parts["predictor"].items() if not _MASK.match(k)}
        sections = Sections(checkpoint)
        settings = sections.model()
        shapes = _shapes(parts, where)
        frames, side = _window(shapes.table[1], where, settings)
        tensors, encoder_where = encoder_tensors(checkpoint, parts, settings)
        vision = load_dinov2(
            tensors,
            encoder_where,
            grid=side,
            heads=settings.encoder_heads,
            positions=settings.positions,
        )
        config = _config(shapes, where, settings, frames=frames, visual_dim=vision.dim)
        with torch.device("meta"):
            model = DinoWM(config)
        fill(
            model,
            _joined(parts),
            where,
            cause="the file is incomplete, or not a DINO-WM's",
        )

        size = settings.image_size or (16 * side if side % 14 == 0 else vision.image_size)
        observation = sections.observation(
            size, MEAN, STD, FitSpec(short_side=size), action_dim=config.action_dim
        )
        action = sections.action(config.action_dim)
        state, statistics = sections.state(config.state_dim)
        own = None
        if model.proprio_encoder is not None:
            own = StateEmbedding(
                model.proprio_encoder, statistics.mean, statistics.std, config.state_repeat
            )
        encoder = FrameEncoder(
            vision,
            sees=vision.image_size,
            camera_size=size,
            mean=observation.mean,
            std=observation.std,
            state=own,
        )
        history = settings.history or (frames if frames == 3 else min(frames, _PLANNED_FRAMES))
        return LoadedModel(
            family=self.name,
            observation=observation,
            action=action,
            state=state,
            latent=LatentSpec(
                tokens=config.patches,
                dim=config.latent_dim,
                grid=(1, side, side),
                energy_dim=config.visual_dim,
            ),
            history=history,
            min_history=1,
            also_read=(Path(encoder_where),) if settings.encoder else (),
            graphs=graphs(
                encoder,
                PredictorGraph(model, Standardize(action.mean, action.std)),
                observation_size=size,
                state_dim=config.state_dim,
                latent=(config.patches, config.latent_dim),
                action_dim=config.action_dim,
                history=history,
            ),
            assumed=(
                *(() if settings.heads else ("model.heads",)),
                *(() if settings.history or frames == 3 else ("model.history",)),
                *sections.assumed,
            ),
        )


def graphs(
    encoder: torch.nn.Module,
    predictor: torch.nn.Module,
    *,
    observation_size: int,
    state_dim: int,
    latent: tuple[int, int],
    action_dim: int,
    history: int,
) -> dict[str, GraphModule]:
    """Return both graphs with example inputs. The window may be any from 1 to history."""
    seen: dict[str, Tensor] = {
        "frames": torch.zeros(2, observation_size, observation_size, 3, dtype=torch.uint8)
    }
    if state_dim:
        seen["states"] = torch.zeros(2, state_dim)
    steps = {
        "history": torch.zeros(2, history, *latent),
        "actions": torch.zeros(2, history, action_dim),
    }
    return {
        "encoder": GraphModule(module=encoder.eval(), example=seen, output="latents"),
        "predictor": GraphModule(
            module=predictor.eval(),
            example=steps,
            output="prediction",
            windowed=("history", "actions") if history > 1 else (),
        ),
    }


def _joined(parts: Parts) -> dict[str, Tensor]:
    names = ("predictor", "action_encoder", "proprio_encoder")
    return {f"{part}.{name}": t for part in names for name, t in parts[part].items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Shapes:
    """Shapes of the tensors that sizes are read from. state: None without own state."""

    table: tuple[int, ...]
    qkv: tuple[int, ...]
    hidden: tuple[int, ...]
    action: tuple[int, ...]
    state: tuple[int, ...] | None
    depth: int


def _shapes(parts: Parts, where: str) -> _Shapes:
    tensors = {f"{part}.{name}": t for part in parts for name, t in parts[part].items()}

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        return shape_of(tensors, name, ndim, where, _PASS)

    found = _Shapes(
        table=shape(f"predictor.{_TABLE}", 3),
        action=shape("action_encoder.patch_embed.weight", 3),
        qkv=shape(f"predictor.{_QKV}", 2),
        hidden=shape(f"predictor.{_HIDDEN}", 2),
        state=shape("proprio_encoder.patch_embed.weight", 3) if parts["proprio_encoder"] else None,
        depth=depth_of(parts["predictor"], "transformer.layers", where),
    )
    if found.qkv[0] % 3:
        raise CheckpointError(
            f"{where}: tensor 'predictor.{_QKV}' has {found.qkv[0]} rows, expected a multiple of "
            f"3: query, key and value; {_PASS}"
        )
    return found


def _window(rows: int, where: str, settings: ModelSettings) -> tuple[int, int]:
    """Return for how many frames positions were learned, and the patches along a frame's side."""
    size = settings.image_size
    for frames in _FRAMES:
        side = round((rows / frames) ** 0.5)
        fits = side > 0 and side * side * frames == rows and frames >= (settings.history or 1)
        if fits and (size is None or size in (16 * side, 14 * side)):
            return frames, side
    pictures = f" of {size} pixels" if size else ""
    raise CheckpointError(
        f"{where}: predictor.{_TABLE} has {rows} positions, expected frames x side x side with at "
        f"least {settings.history or 1} of 1 to 8 frames{pictures}; correct [model] history and "
        "image_size (models with one token per frame, or with action and state as tokens, "
        "concat_dim 0, are not supported)"
    )


def _config(
    shapes: _Shapes, where: str, settings: ModelSettings, *, frames: int, visual_dim: int
) -> DinoWMConfig:
    _, rows, dim = shapes.table
    inner = shapes.qkv[0] // 3
    heads = settings.heads or max(inner // DIM_HEAD, 1)
    if inner % heads:
        raise CheckpointError(
            f"{where}: {heads} heads do not divide the predictor's {inner} channels; give [model] "
            "heads of its training config"
        )
    config = DinoWMConfig(
        visual_dim=visual_dim,
        patches=rows // frames,
        frames=frames,
        action_dim=shapes.action[1],
        action_emb_dim=shapes.action[0],
        action_repeat=settings.num_action_repeat,
        state_dim=shapes.state[1] if shapes.state else 0,
        state_emb_dim=shapes.state[0] if shapes.state else 0,
        state_repeat=settings.num_proprio_repeat,
        depth=shapes.depth,
        heads=heads,
        inner_dim=inner,
        mlp_dim=shapes.hidden[0],
    )
    if config.dim != dim:
        raise CheckpointError(
            f"{where}: the predictor works on {dim} channels, expected {config.dim}: "
            f"{visual_dim} of the image encoder, {config.state_emb_dim} x {config.state_repeat} of "
            f"the own state, {config.action_emb_dim} x {config.action_repeat} of the action; name "
            "the encoder that it was trained on ([model] encoder), or give num_action_repeat and "
            "num_proprio_repeat of its training config"
        )
    return config
