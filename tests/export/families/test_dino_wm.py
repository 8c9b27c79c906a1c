# SPDX-License-Identifier: Apache-2.0
"""DINO-WM against upstream's own code (pinned vectors), and through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel
from jepa_edge.export.families.dino_wm import DinoWMFamily
from jepa_edge.export.families.dinov2_frames import FrameEncoder
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.export.weights import read_state_dict
from jepa_edge.manifest import FitSpec

from .dino_wm_fixtures import (
    ACTION_MEAN,
    ACTION_STD,
    DIM,
    FRAMES,
    IMAGE,
    LATENT,
    SIDE,
    SPEC,
    STATE_MEAN,
    STATE_STD,
    actions,
    dino_wm_tensors,
    frames,
    states,
    tiny_dino_wm_checkpoint,
    trained_tensors,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "dino_wm.npz"
BOUND = 1e-4
PATCHES = SIDE**2


def relative(actual: Any, expected: Any) -> float:
    """Largest absolute error over the largest absolute value."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def load(tensors: dict[str, Tensor], spec: Any = SPEC, path: Path = Path("here.pt")) -> LoadedModel:
    return DinoWMFamily().load(
        Checkpoint(path=path, weights=path, sha256="", tensors=tensors, config={}, spec=spec)
    )


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(dino_wm_tensors())


@pytest.fixture(scope="module")
def upstream() -> dict[str, NDArray[np.float32]]:
    with np.load(VECTORS) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def sessions(model: LoadedModel) -> dict[str, ort.InferenceSession]:
    return {
        name: ort.InferenceSession(export_graph(graph).SerializeToString())
        for name, graph in model.graphs.items()
    }


def encode(graph: GraphModule) -> Tensor:
    with torch.no_grad():
        out: Tensor = graph.module(torch.from_numpy(frames()), torch.from_numpy(states()))
    return out


def rolled_out(predict: Any, start: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Roll out from the latents (T, N, D) of the first frames, as a session would."""
    latents = list(start)
    for _ in range(steps):
        window = min(len(latents), FRAMES)
        newest = len(latents)
        history = np.stack(latents[-window:])[None]
        latents.append(predict(history, actions()[None, newest - window : newest])[0])
    return np.stack(latents[len(start) :])


def torch_predict(model: LoadedModel) -> Any:
    @torch.no_grad()
    def predict(history: NDArray[np.float32], raw: NDArray[np.float32]) -> NDArray[np.float32]:
        graph = model.graphs["predictor"].module
        out: NDArray[np.float32] = graph(torch.from_numpy(history), torch.from_numpy(raw)).numpy()
        return out

    return predict


def test_says_what_it_is(model: LoadedModel) -> None:
    assert (model.observation.height, model.observation.width) == (IMAGE, IMAGE)
    assert model.observation.mean == model.observation.std == (0.5, 0.5, 0.5)
    assert model.observation.fit == FitSpec(short_side=IMAGE)
    assert (model.latent.tokens, model.latent.dim) == (PATCHES, LATENT)
    assert (model.latent.grid, model.latent.energy_dim) == ((1, SIDE, SIDE), DIM)
    assert model.latent.distance == "l2"
    assert (model.history, model.min_history) == (FRAMES, 1)
    assert model.action is not None
    assert model.action.mean == (*ACTION_MEAN, *ACTION_MEAN)
    assert model.action.std == (*ACTION_STD, *ACTION_STD)
    assert model.state is not None
    assert model.state.dim == len(STATE_MEAN) == len(STATE_STD)
    assert model.assumed == ("observation.rate_hz",)


def test_encoder_agrees_with_upstream(
    model: LoadedModel, upstream: dict[str, NDArray[np.float32]]
) -> None:
    assert relative(encode(model.graphs["encoder"]), upstream["latents"]) <= BOUND


def test_rollout_agrees_with_upstream(
    model: LoadedModel, upstream: dict[str, NDArray[np.float32]]
) -> None:
    rolled = rolled_out(torch_predict(model), upstream["latents"][:1], 4)
    assert relative(rolled, upstream["rollout"]) <= BOUND


def test_onnx_encoder_agrees(model: LoadedModel, sessions: dict[str, ort.InferenceSession]) -> None:
    expected = encode(model.graphs["encoder"])
    for count in (1, 3):
        inputs = {"frames": frames()[:count], "states": states()[:count]}
        (actual,) = sessions["encoder"].run(["latents"], inputs)
        assert relative(actual, expected[:count]) <= BOUND


@pytest.mark.parametrize("known", [1, 2, 3])
def test_onnx_rollout_agrees(
    model: LoadedModel, sessions: dict[str, ort.InferenceSession], known: int
) -> None:
    start = encode(model.graphs["encoder"]).numpy()[:known]

    def predict(history: NDArray[np.float32], raw: NDArray[np.float32]) -> Any:
        return sessions["predictor"].run(["prediction"], {"history": history, "actions": raw})[0]

    steps = min(3, len(actions()) - known + 1)
    expected = rolled_out(torch_predict(model), start, steps)
    assert relative(rolled_out(predict, start, steps), expected) <= BOUND


def test_pictures_are_scaled_as_torch_does(model: LoadedModel) -> None:
    encoder = model.graphs["encoder"].module
    assert isinstance(encoder, FrameEncoder)
    picture = torch.from_numpy(frames()).permute(0, 3, 1, 2).float()
    expected = F.interpolate(picture, size=(42, 42), mode="bilinear", antialias=True)
    assert encoder.resize is not None
    assert relative(encoder.resize @ picture @ encoder.resize.T, expected) <= 1e-6


def test_later_frames_do_not_reach_earlier_ones(model: LoadedModel) -> None:
    """The newest frame sees all; its own action and every earlier frame count."""
    predict = torch_predict(model)
    history = encode(model.graphs["encoder"]).numpy()[None]
    raw = actions()[None, :3]
    plain = predict(history, raw)
    for frame in range(3):
        moved = raw.copy()
        moved[:, frame] += 1
        assert relative(predict(history, moved), plain) > 1e-3


def test_checkpoint_directory(tmp_path: Path, upstream: dict[str, NDArray[np.float32]]) -> None:
    directory = tiny_dino_wm_checkpoint(tmp_path / "tiny")
    tensors = read_state_dict(directory / "model.safetensors")
    assert DinoWMFamily().matches(tensors, {})
    model = load(tensors, path=directory)
    assert relative(encode(model.graphs["encoder"]), upstream["latents"]) <= BOUND


def test_keys_round_trip() -> None:
    """What the module holds is what the file held, by name and number."""
    model = load(dino_wm_tensors())
    held = model.graphs["predictor"].module.state_dict()
    for name, tensor in trained_tensors().items():
        if name.startswith("predictor."):
            assert torch.equal(held[name], tensor), name
    weight = held["action_encoder.weight"]
    assert torch.equal(weight, trained_tensors()["action_encoder.patch_embed.weight"].squeeze(-1))
