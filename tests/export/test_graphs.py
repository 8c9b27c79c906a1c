# SPDX-License-Identifier: Apache-2.0
"""The rewritten graphs against the LeWM module, in torch and in ONNX Runtime."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from jepa_edge.errors import ExportError
from jepa_edge.export.centering import center_encoder
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.graphs import EncoderGraph, PredictorGraph
from jepa_edge.manifest import ActionSpec, ObservationSpec

Specs = tuple[ObservationSpec, ActionSpec]

VARIATIONS = {
    "as is": {},
    "one block each": {"encoder_depth": 1, "predictor_depth": 1},
    "no projections": {"predictor_dim": 24},
    "no output layer in attention": {"predictor_heads": 1, "predictor_dim_head": 32},
    "no history": {"history": 1},
}


def _model(config: LeWMConfig) -> LeWM:
    model = LeWM(config)
    generator = torch.Generator().manual_seed(11)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 10
            tensor.normal_(float(name.endswith("norm.weight")), fan_in**-0.5, generator=generator)
    return model.eval()


def _frames(config: LeWMConfig, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    size = config.image_size
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


def _torch_latents(model: LeWM, frames: torch.Tensor, spec: ObservationSpec) -> torch.Tensor:
    pixels = (frames.double() / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    return model.double().encode(pixels.permute(0, 3, 1, 2)).float()


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_the_encoder_graph_is_the_model(
    export_config: LeWMConfig, export_specs: Specs, changes: dict[str, int]
) -> None:
    config = dataclasses.replace(export_config, **changes)
    model, frames, spec = _model(config), _frames(config), export_specs[0]
    graph = EncoderGraph(model, spec.mean, spec.std)
    with torch.no_grad():
        latents = graph(frames)
        expected = _torch_latents(model, frames, spec)
    assert latents.shape == (6, 1, config.latent_dim)
    torch.testing.assert_close(latents[:, 0], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_the_predictor_graph_is_the_model(
    export_config: LeWMConfig, export_specs: Specs, changes: dict[str, int]
) -> None:
    config = dataclasses.replace(export_config, **changes)
    model, spec = _model(config), export_specs[1]
    generator = torch.Generator().manual_seed(3)
    history = torch.randn(6, config.history, 1, config.latent_dim, generator=generator)
    actions = 512 * torch.rand(6, config.history, config.action_dim, generator=generator)
    graph = PredictorGraph(model, spec.mean, spec.std)
    with torch.no_grad():
        predicted = graph(history, actions)
        model.double()
        scored = (actions.double() - torch.tensor(spec.mean)) / torch.tensor(spec.std)
        embeddings = model.encode_actions(scored)
        expected = model.predict(history[:, :, 0].double(), embeddings)[:, -1].float()
    assert predicted.shape == (6, 1, config.latent_dim)
    torch.testing.assert_close(predicted[:, 0], expected, atol=2e-5, rtol=2e-5)


def test_action_statistics_of_another_length_are_refused(export_model: LeWM) -> None:
    with pytest.raises(ExportError, match="2 means and 4 deviations, expected 4"):
        PredictorGraph(export_model, (0.0, 0.0), (1.0,) * 4)


def test_centering_changes_no_latent_and_centers_every_input(
    export_config: LeWMConfig, export_specs: Specs
) -> None:
    model, frames, spec = _model(export_config), _frames(export_config, 20), export_specs[0]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = EncoderGraph(model, spec.mean, spec.std)
    center_encoder(graph, frames.numpy())
    means: dict[str, float] = {}

    def record(name: str, inputs: tuple[torch.Tensor, ...]) -> None:
        means[name] = float(inputs[0].flatten(0, -2).mean(dim=0).abs().max())

    for name, module in graph.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith(("patch_embed", "fc2")):
            module.register_forward_pre_hook(lambda _, inputs, name=name: record(name, inputs))
    with torch.no_grad():
        latents = graph(frames)
    # The last block's query reads the class token alone, whose mean is not that of all tokens.
    means.pop("blocks.1.q")
    assert set(means) >= {"blocks.0.qkv", "blocks.0.out", "blocks.1.kv", "blocks.1.fc1", "head.fc1"}
    assert max(means.values()) < 1e-5
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), f"{name} of the model itself was edited"
    with torch.no_grad():
        expected = _torch_latents(model, frames, spec)
    torch.testing.assert_close(latents[:, 0], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_onnx_graphs_are_the_model(
    export_onnx: dict[str, Any], export_model: LeWM, export_specs: Specs, batch: int
) -> None:
    config, (observation, action) = export_model.config, export_specs
    frames = _frames(config, batch)
    rng = np.random.default_rng(4)
    history = rng.normal(size=(batch, 3, 1, config.latent_dim)).astype(np.float32)
    actions = rng.uniform(0, 512, (batch, 3, 4)).astype(np.float32)
    sessions = {
        name: ort.InferenceSession(model.SerializeToString()) for name, model in export_onnx.items()
    }
    (latents,) = sessions["encoder"].run(["latents"], {"frames": frames.numpy()})
    (predicted,) = sessions["predictor"].run(
        ["prediction"], {"history": history, "actions": actions}
    )
    pixels = (frames.float() / 255 - torch.tensor(observation.mean)) / torch.tensor(observation.std)
    scored = (torch.from_numpy(actions) - torch.tensor(action.mean)) / torch.tensor(action.std)
    expected = export_model.encode(pixels.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(latents[:, 0], expected, atol=3e-5, rtol=1e-4)
    expected = export_model.rollout(torch.from_numpy(history[:, :, 0]), scored)[:, 0].numpy()
    np.testing.assert_allclose(predicted[:, 0], expected, atol=3e-5, rtol=1e-4)


def test_the_onnx_graphs_are_plain_and_readable(export_onnx: dict[str, Any]) -> None:
    for model in export_onnx.values():
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
        assert all(node.domain == "" for node in model.graph.node)
        for value in [*model.graph.input, *model.graph.output]:
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        for tensor in model.graph.initializer:
            assert np.isfinite(numpy_helper.to_array(tensor)).all(), tensor.name
    names = {node.name for node in export_onnx["encoder"].graph.node}
    assert {"patch_embed", "blocks.0.qkv", "blocks.1.kv", "blocks.1.fc2", "head.fc1"} <= names
    names = {node.name for node in export_onnx["predictor"].graph.node}
    assert {"action_in", "modulation", "blocks.0.out", "blocks.1.q", "head.fc2"} <= names
    frames = export_onnx["encoder"].graph.input[0].type.tensor_type
    assert frames.elem_type == onnx.TensorProto.UINT8
