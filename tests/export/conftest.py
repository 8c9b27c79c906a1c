# SPDX-License-Identifier: Apache-2.0
"""LeWorldModel as its authors built it: stable-worldmodel's classes over transformers' ViT."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_family import lewm_model
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter

UpstreamBuilder = Callable[..., nn.Module]


def _module(name: str) -> ModuleType:
    """Load one file of stable-worldmodel; the package itself imports simulators and datasets."""
    wheel = importlib.metadata.distribution("stable-worldmodel")
    path = wheel.locate_file(f"stable_worldmodel/wm/lewm/{name}.py")
    spec = importlib.util.spec_from_file_location(f"upstream_{name}", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomize(model: nn.Module, seed: int) -> None:
    """Draw every tensor, also those that start at zero or one and would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.ndim > 1 and "embed" not in name:  # keep the signal's size through the depth
            tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight") and tensor.ndim == 1:
            tensor.normal_(1.0, 0.2, generator=generator)
        else:
            tensor.normal_(0.0, 0.3, generator=generator)


@pytest.fixture(scope="session")
def build_upstream() -> UpstreamBuilder:
    """Return a function: (config, seed) to stable-worldmodel's model, all weights random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other packages' deprecations are not ours to fix
        from transformers import ViTConfig, ViTModel
    lewm, parts = _module("lewm"), _module("module")

    def build(config: LeWMConfig, seed: int = 0) -> nn.Module:
        # What stable-pretraining's vit_hf does; every other option is ViTConfig's default.
        encoder = ViTModel(
            ViTConfig(
                hidden_size=config.encoder_dim,
                num_hidden_layers=config.encoder_depth,
                num_attention_heads=config.encoder_heads,
                intermediate_size=config.encoder_mlp_dim,
                image_size=config.image_size,
                patch_size=config.patch_size,
            ),
            add_pooling_layer=False,
            use_mask_token=False,
        )
        D = config.latent_dim
        mlp = partial(
            parts.MLP, hidden_dim=config.projector_dim, output_dim=D, norm_fn=nn.BatchNorm1d
        )
        model: nn.Module = lewm.LeWM(
            encoder=encoder,
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
        randomize(model, seed)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def small_config() -> LeWMConfig:
    """A model whose sizes all differ, so that none can stand in for another."""
    return LeWMConfig(
        image_size=32,
        patch_size=8,
        encoder_dim=128,
        encoder_depth=2,
        encoder_heads=2,
        encoder_mlp_dim=96,
        latent_dim=24,
        projector_dim=80,
        predictor_dim=40,
        predictor_depth=3,
        predictor_heads=1,
        predictor_dim_head=64,
        predictor_mlp_dim=56,
        history=4,
        action_dim=6,
        action_smoothed_dim=7,
        action_mlp_scale=2,
    )


MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
ACTION_MEAN, ACTION_STD = (256.0, 200.0, 300.0, 250.0), (100.0, 90.0, 80.0, 110.0)


@pytest.fixture(scope="session")
def export_config() -> LeWMConfig:
    """The smallest model that still has several blocks, heads and widths."""
    return LeWMConfig(
        image_size=32,
        patch_size=8,
        encoder_dim=48,
        encoder_depth=2,
        encoder_heads=2,
        encoder_mlp_dim=96,
        latent_dim=24,
        projector_dim=64,
        predictor_dim=32,
        predictor_depth=2,
        predictor_heads=2,
        predictor_dim_head=16,
        predictor_mlp_dim=64,
        history=3,
        action_dim=4,
        action_smoothed_dim=4,
    )


@pytest.fixture(scope="session")
def export_model(export_config: LeWMConfig) -> LeWM:
    """Random weights, the zero-initialized ones too."""
    model = LeWM(export_config)
    randomize(model, seed=5)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def export_specs() -> tuple[ObservationSpec, ActionSpec]:
    """What the frames and actions of `export_recording` are."""
    return (
        ObservationSpec(height=32, width=32, mean=MEAN, std=STD, rate_hz=5.0),
        ActionSpec(dim=4, block=2, mean=ACTION_MEAN, std=ACTION_STD, units="px"),
    )


def drawn_episode(seed: int, steps: int = 20) -> Episode:
    """A colored square that wanders over a textured ground."""
    rng = np.random.default_rng([17, seed])
    ground = rng.integers(60, 220, (4, 4, 3)).repeat(8, axis=0).repeat(8, axis=1)
    frames = np.repeat(ground[None].astype(np.uint8), steps + 1, axis=0)
    color, corner = rng.integers(0, 256, 3), rng.uniform(0, 22, 2)
    for frame in frames:
        corner = np.clip(corner + rng.normal(0, 2, 2), 0, 22)
        y, x = corner.astype(int)
        frame[y : y + 10, x : x + 10] = color
    return Episode(
        name=f"square {seed}",
        frames=frames,
        actions=rng.normal(ACTION_MEAN, ACTION_STD, (steps, 4)).astype(np.float32),
        stamps_s=np.arange(steps + 1) / 5.0,
    )


@pytest.fixture(scope="session")
def export_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 12 episodes that fits `export_model`."""
    path = tmp_path_factory.mktemp("export") / "runs"
    with RecordingWriter(path, RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        for seed in range(12):
            writer.add(drawn_episode(seed))
    return path


@pytest.fixture(scope="session")
def export_onnx(
    export_model: LeWM, export_specs: tuple[ObservationSpec, ActionSpec]
) -> dict[str, Any]:
    """Encoder and predictor of `export_model` as ModelProtos; copy before editing."""
    model = lewm_model(export_model, *export_specs)
    return {name: export_graph(graph) for name, graph in model.graphs.items()}
