# SPDX-License-Identifier: Apache-2.0
"""stable-worldmodel's own LeWM and CEM solver, without the simulators its package imports."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from jepa_edge.export.families.lewm import LeWM

_PACKAGES = ("stable_worldmodel", "stable_worldmodel.solver", "stable_worldmodel.wm")


def upstream_module(name: str) -> Any:
    """Import a file of stable-worldmodel by its dotted name, e.g. `solver.cem`.

    The packages above it are entered as empty ones, since their own `__init__` files import
    simulators and datasets. loguru, where it is missing, is the standard logger.
    """
    wheel = importlib.metadata.distribution("stable-worldmodel")
    for package in _PACKAGES:
        if package not in sys.modules:
            empty = ModuleType(package)
            empty.__path__ = [str(Path(str(wheel.locate_file(package.replace(".", "/")))))]
            sys.modules[package] = empty
    if "loguru" not in sys.modules and importlib.util.find_spec("loguru") is None:
        stand_in = ModuleType("loguru")
        stand_in.logger = logging.getLogger("loguru")  # type: ignore[attr-defined]
        sys.modules["loguru"] = stand_in
    return importlib.import_module(f"stable_worldmodel.{name}")


def build_upstream(model: LeWM) -> Any:
    """Return stable-worldmodel's LeWM with this model's weights, loaded strictly by name.

    Its encoder is ours: nothing here runs it, since the embeddings are cached.
    """
    lewm, parts = upstream_module("wm.lewm.lewm"), upstream_module("wm.lewm.module")
    config = model.config
    D = config.latent_dim
    mlp = partial(parts.MLP, hidden_dim=config.projector_dim, output_dim=D, norm_fn=nn.BatchNorm1d)
    built = lewm.LeWM(
        encoder=model.encoder,
        predictor=parts.Predictor(
            num_frames=config.history,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            mlp_dim=config.predictor_mlp_dim,
            input_dim=D,
            hidden_dim=config.predictor_dim,
            output_dim=D,
            dim_head=config.predictor_dim_head,
            dropout=config.dropout,
            emb_dropout=config.embedding_dropout,
        ),
        action_encoder=parts.Embedder(
            input_dim=config.action_dim,
            smoothed_dim=config.action_smoothed_dim,
            emb_dim=D,
            mlp_scale=config.action_mlp_scale,
        ),
        projector=mlp(input_dim=config.encoder_dim),
        pred_proj=mlp(input_dim=D),
    )
    built.load_state_dict(model.state_dict(), strict=True)
    return built.eval().requires_grad_(False)
