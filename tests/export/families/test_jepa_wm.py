# SPDX-License-Identifier: Apache-2.0
"""JEPA-WM against upstream's own code (pinned vectors), and through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel
from jepa_edge.export.families.jepa_wm import MEAN, STD, JepaWMFamily
from jepa_edge.export.families.jepa_wm_model import rope_table
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.export.weights import read_state_dict
from jepa_edge.manifest import FitSpec

from .dino_wm_fixtures import DIM, actions, states
from .dino_wm_fixtures import frames as larger_frames
from .jepa_wm_fixtures import (
    IMAGE,
    LATENT,
    SIDE,
    SPEC,
    jepa_wm_tensors,
    predictor_tensors,
    tiny_jepa_wm_checkpoint,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "jepa_wm.npz"
BOUND = 1e-4
HISTORY = 2
PATCHES = SIDE**2


def relative(actual: Any, expected: Any) -> float:
    """Largest absolute error over the largest absolute value."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def frames() -> NDArray[np.uint8]:
    """The middle 42 pixels of DINO-WM's pictures."""
    return np.ascontiguousarray(larger_frames()[:, 3:45, 3:45])


def load(tensors: dict[str, Tensor], spec: Any = None, path: Path = Path("here.pt")) -> LoadedModel:
    if spec is None:
        inner = {k: v for k, v in SPEC["model"].items() if k != "encoder"}
        spec = {**SPEC, "model": inner}
    return JepaWMFamily().load(
        Checkpoint(path=path, weights=path, sha256="", tensors=tensors, config={}, spec=spec)
    )


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(jepa_wm_tensors())


@pytest.fixture(scope="module")
def upstream() -> dict[str, NDArray[np.float32]]:
    with np.load(VECTORS) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def session(model: LoadedModel) -> ort.InferenceSession:
    return ort.InferenceSession(export_graph(model.graphs["predictor"]).SerializeToString())


def encode(graph: GraphModule) -> Tensor:
    with torch.no_grad():
        out: Tensor = graph.module(torch.from_numpy(frames()), torch.from_numpy(states()))
    return out


def rolled_out(
    predict: Any, start: NDArray[np.float32], steps: int, history: int = HISTORY
) -> NDArray[np.float32]:
    """Roll out from the latents (T, N, D) of the first frames, as a session would."""
    latents = list(start)
    for _ in range(steps):
        window = min(len(latents), history)
        newest = len(latents)
        seen = np.stack(latents[-window:])[None]
        latents.append(predict(seen, actions()[None, newest - window : newest])[0])
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
    assert (model.observation.mean, model.observation.std) == (MEAN, STD)
    assert model.observation.fit == FitSpec()
    assert (model.latent.tokens, model.latent.dim) == (PATCHES, LATENT)
    assert (model.latent.grid, model.latent.energy_dim) == ((1, SIDE, SIDE), DIM)
    assert (model.history, model.min_history) == (HISTORY, 1)
    assert model.state is not None
    assert model.assumed == ("model.history", "observation.rate_hz")


def test_encoder_agrees_with_upstream(
    model: LoadedModel, upstream: dict[str, NDArray[np.float32]]
) -> None:
    assert relative(encode(model.graphs["encoder"]), upstream["latents"]) <= BOUND


def test_rollout_agrees_with_upstream(
    model: LoadedModel, upstream: dict[str, NDArray[np.float32]]
) -> None:
    rolled = rolled_out(torch_predict(model), upstream["latents"][:1], 4)
    assert relative(rolled, upstream["rollout"]) <= BOUND


@pytest.mark.parametrize("known", [1, 2])
def test_onnx_rollout_agrees(model: LoadedModel, session: ort.InferenceSession, known: int) -> None:
    start = encode(model.graphs["encoder"]).numpy()[:known]

    def predict(history: NDArray[np.float32], raw: NDArray[np.float32]) -> Any:
        return session.run(["prediction"], {"history": history, "actions": raw})[0]

    expected = rolled_out(torch_predict(model), start, 3)
    assert relative(rolled_out(predict, start, 3), expected) <= BOUND


def test_every_input_counts(model: LoadedModel) -> None:
    predict = torch_predict(model)
    history = encode(model.graphs["encoder"]).numpy()[None, :HISTORY]
    raw = actions()[None, :HISTORY]
    plain = predict(history, raw)
    for frame in range(HISTORY):
        moved = raw.copy()
        moved[:, frame] += 1
        assert relative(predict(history, moved), plain) > 1e-3
        own = history.copy()
        own[:, frame, :, DIM:] += 1
        assert relative(predict(own, raw), plain) > 1e-3


@pytest.mark.parametrize(("head_dim", "width"), [(18, 6), (24, 8), (25, 8), (64, 20)])
def test_rope_table(head_dim: int, width: int) -> None:
    """Against the formula, token by token, in float64; the angles are tiled, not repeated."""
    cos, sin = rope_table(2, 3, head_dim)
    assert cos.shape == sin.shape == (18, 3 * width)
    half = width // 2
    for token in range(18):
        places = (token // 9, token % 9 // 3, token % 3)
        for channel in range(3 * width):
            axis, inner = divmod(channel, width)
            angle = places[axis] / 10_000 ** (inner % half / half)
            assert abs(float(cos[token, channel]) - np.cos(angle)) < 1e-6
            assert abs(float(sin[token, channel]) - np.sin(angle)) < 1e-6


def test_checkpoint_file(tmp_path: Path, upstream: dict[str, NDArray[np.float32]]) -> None:
    """As released: a nested torch file, DDP's prefix, an optimizer; the encoder lies beside it."""
    path = tiny_jepa_wm_checkpoint(tmp_path / "tiny")
    tensors = read_state_dict(path)
    assert JepaWMFamily().matches(tensors, {})
    model = load(tensors, SPEC, path)
    assert relative(encode(model.graphs["encoder"]), upstream["latents"]) <= BOUND
    rolled = rolled_out(torch_predict(model), upstream["latents"][:1], 4)
    assert relative(rolled, upstream["rollout"]) <= BOUND


def test_keys_round_trip(model: LoadedModel) -> None:
    held = model.graphs["predictor"].module.state_dict()
    for name, tensor in predictor_tensors().items():
        assert torch.equal(held[f"predictor.{name}"], tensor), name
