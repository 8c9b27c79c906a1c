# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2-AC against upstream's own code, and through ONNX Runtime at every window."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from jepa_edge.export.checkpoint import open_checkpoint
from jepa_edge.export.families.base import GraphModule, LoadedModel
from jepa_edge.export.families.vjepa2_ac import VJepa2ACFamily
from jepa_edge.export.families.vjepa2_ac_predictor import LONGEST, Predictor, PredictorConfig
from jepa_edge.export.onnx_export import export_graph

from .vjepa2_ac_fixtures import (
    ENCODER,
    FRAMES,
    GRID,
    IMAGE,
    actions,
    drawn,
    frames,
    states,
    tiny_vjepa2_ac_checkpoint,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "vjepa2_ac.npz"
BOUND = 1e-4
PATCHES, DIM = GRID * GRID, ENCODER["dim"]


def relative(actual: Any, expected: Any) -> float:
    """Largest absolute error over the largest absolute value."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.fixture(scope="module")
def upstream() -> dict[str, NDArray[np.float32]]:
    with np.load(VECTORS) as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tiny_vjepa2_ac_checkpoint(tmp_path_factory.mktemp("vjepa2_ac"))
    return VJepa2ACFamily().load(open_checkpoint(path))


def run(graph: GraphModule, *inputs: NDArray[Any]) -> NDArray[np.float32]:
    with torch.no_grad():
        out: NDArray[np.float32] = graph.module(*map(torch.from_numpy, inputs)).numpy()
    return out


def session(graph: GraphModule) -> ort.InferenceSession:
    payload = export_graph(graph).SerializeToString()
    return ort.InferenceSession(payload, providers=["CPUExecutionProvider"])


def test_the_encoder_is_upstreams(
    model: LoadedModel, upstream: dict[str, NDArray[np.float32]]
) -> None:
    latents = run(model.graphs["encoder"], frames(), states())
    assert latents.shape == (FRAMES, PATCHES + 1, DIM)
    assert relative(latents[:, :-1], upstream["latents"]) < BOUND
    np.testing.assert_array_equal(latents[:, -1, :7], states())
    assert not latents[:, -1, 7:].any()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_predictor_is_upstreams(
    model: LoadedModel, upstream: dict[str, NDArray[np.float32]], steps: int
) -> None:
    latents = run(model.graphs["encoder"], frames(), states())
    found = run(model.graphs["predictor"], latents[None, :steps], actions()[None, :steps])[0]
    assert relative(found[:-1], upstream[f"patches_{steps}"]) < BOUND
    np.testing.assert_allclose(found[-1, :7], upstream[f"pose_{steps}"], atol=1e-6)
    assert not found[-1, 7:].any()


def test_the_encoders_graph_is_the_module(model: LoadedModel) -> None:
    inputs = {"frames": frames(), "states": states()}
    found = session(model.graphs["encoder"]).run(None, inputs)[0]
    assert relative(found, run(model.graphs["encoder"], *inputs.values())) < BOUND


def test_one_graph_takes_every_window(model: LoadedModel) -> None:
    graph = model.graphs["predictor"]
    assert graph.windowed == ("history", "actions")
    onnx = session(graph)
    history = drawn("history", (3, LONGEST, PATCHES + 1, DIM))
    taken = 0.2 * drawn("taken", (3, LONGEST, 7))
    for steps in range(1, LONGEST + 1):
        window = history[:, -steps:], taken[:, -steps:]
        found = onnx.run(None, dict(zip(("history", "actions"), window, strict=True)))[0]
        assert relative(found, run(graph, *window)) < BOUND, steps
    single = onnx.run(None, {"history": history[:1, :1], "actions": taken[:1, :1]})[0]
    assert relative(single, run(graph, history[:1, :1], taken[:1, :1])) < BOUND


def test_older_frames_do_not_see_newer_ones() -> None:
    """All but the last block compute what the predictor of a shorter window would."""
    config = PredictorConfig(latent_dim=DIM, grid=2, dim=48, depth=1, heads=2, mlp_dim=64)
    torch.manual_seed(0)
    short = Predictor(config).make_tables().eval()
    long = Predictor(dataclasses.replace(config, depth=2)).make_tables().eval()
    weights = {
        name.replace("blocks.0", "blocks.1"): value for name, value in short.state_dict().items()
    }
    long.load_state_dict(weights | short.state_dict())
    seen: list[torch.Tensor] = []
    long.predictor_blocks[0].register_forward_hook(lambda *args: seen.append(args[2]))
    patches, poses, taken = torch.randn(1, 4, 4, DIM), torch.randn(1, 4, 7), torch.randn(1, 4, 7)
    with torch.no_grad():
        for steps in (4, 2):
            long(patches[:, :steps], poses[:, :steps], taken[:, :steps])
    torch.testing.assert_close(seen[0][:, : seen[1].shape[1]], seen[1])


def test_what_the_manifest_will_say(model: LoadedModel) -> None:
    assert (model.observation.height, model.observation.rate_hz) == (IMAGE, 4.0)
    assert model.latent.compared == (PATCHES, DIM)
    assert (model.latent.tokens, model.latent.distance) == (PATCHES + 1, "l1")
    assert model.latent.grid == (1, GRID, GRID)
    assert (model.history, model.min_history) == (2, 1)
    assert model.action is not None
    assert model.action.high[:3] == (0.05,) * 3
    assert model.action.high[6] == 0.75
    assert model.state is not None
    assert model.state.names[6] == "gripper"
    assert model.assumed == ("observation.rate_hz", "action.std", "action.low", "action.high")
