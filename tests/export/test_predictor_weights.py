# SPDX-License-Identifier: Apache-2.0
"""predictor.safetensors, read by a float64 numpy rollout, against the torch model it came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.graphs import PredictorGraph
from jepa_edge.export.predictor_weights import write_predictor_weights
from jepa_edge.manifest import ActionSpec, ObservationSpec

from ..reference_predictor import ReferencePredictor, Sizes, draw, read

VARIATIONS = {
    "as is": {},
    "one block": {"predictor_depth": 1},
    "no projections": {"predictor_dim": 24},
    "no output layer in attention": {"predictor_heads": 1, "predictor_dim_head": 32},
    "window of one": {"history": 1},
    "window of five, odd widths": {"history": 5, "predictor_mlp_dim": 61, "projector_dim": 37},
}


def _random(config: LeWMConfig) -> LeWM:
    model = LeWM(config)
    generator = torch.Generator().manual_seed(12)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 10
            tensor.normal_(float(name.endswith("norm.weight")), fan_in**-0.5, generator=generator)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_the_file_holds_the_model(
    export_config: LeWMConfig,
    export_specs: tuple[ObservationSpec, ActionSpec],
    tmp_path: Path,
    changes: dict[str, int],
) -> None:
    config, spec = dataclasses.replace(export_config, **changes), export_specs[1]
    model = _random(config)
    graph = PredictorGraph(model, spec.mean, spec.std)
    path = tmp_path / "predictor.safetensors"
    write_predictor_weights(graph, config, path)
    reference = ReferencePredictor.load(path)
    rng = np.random.default_rng(5)
    batch, horizon, D = 4, 6, config.latent_dim
    past = rng.normal(spec.mean, spec.std, (config.history - 1, config.action_dim))
    actions = rng.normal(spec.mean, spec.std, (batch, horizon, config.action_dim))

    window = rng.normal(size=(batch, config.history, 1, D))
    taken = np.concatenate([past[None].repeat(batch, axis=0), actions[:, :1]], axis=1)
    expected = graph.double()(torch.from_numpy(window), torch.from_numpy(taken)).numpy()
    np.testing.assert_allclose(reference.predict(window, taken), expected, atol=1e-9)

    model.double()
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    for frames in range(1, config.history + 1):
        history = rng.normal(size=(frames, 1, D))
        recent = past[len(past) - (frames - 1) :]
        taken = np.concatenate([recent[None].repeat(batch, axis=0), actions], axis=1)
        scored = (torch.from_numpy(taken) - mean) / std
        observed = torch.from_numpy(history[:, 0]).expand(batch, frames, D)
        expected = model.rollout(observed, scored).numpy()
        got = reference.rollout(history, recent, actions)[:, :, 0]
        # The file's folds (batch norm, action statistics) were rounded to float32 once.
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert expected.std() > 0.05, "the model is nearly constant: the comparison shows nothing"


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_drawn_files_look_like_exported_ones(
    export_config: LeWMConfig,
    export_specs: tuple[ObservationSpec, ActionSpec],
    tmp_path: Path,
    changes: dict[str, int],
) -> None:
    config, spec = dataclasses.replace(export_config, **changes), export_specs[1]
    path = tmp_path / "predictor.safetensors"
    write_predictor_weights(PredictorGraph(_random(config), spec.mean, spec.std), config, path)
    exported, metadata = read(path)
    tensors, drawn_metadata = draw(
        Sizes(
            window=config.history,
            latent_dim=config.latent_dim,
            action_dim=config.action_dim,
            action_hidden=config.latent_dim * config.action_mlp_scale,
            dim=config.predictor_dim,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            head_dim=config.predictor_dim_head,
            mlp_dim=config.predictor_mlp_dim,
            head_hidden_dim=config.projector_dim,
        )
    )
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in exported.items()
    }
    assert drawn_metadata == metadata
