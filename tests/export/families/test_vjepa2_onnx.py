# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2's ONNX files on ONNX Runtime against our torch, for inputs that were not traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from jepa_edge.export.families.base import GraphModule, LoadedModel
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.export.weights import read_state_dict

from .vjepa2_fixtures import (
    FRAMES,
    SIZE,
    TINY_SPEC,
    load,
    pictures,
    relative_error,
    tiny_vjepa2_checkpoint,
)

LIMIT = 1e-4
Run = Callable[..., NDArray[np.float32]]


def _model(directory: Path, version: str, **model: Any) -> LoadedModel:
    tensors = read_state_dict(tiny_vjepa2_checkpoint(directory, version))
    return load(tensors, {"model": {**TINY_SPEC["model"], **model}})


def _runner(graph: GraphModule) -> Run:
    session = InferenceSession(
        export_graph(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(*inputs: NDArray[Any]) -> NDArray[np.float32]:
        feeds = dict(zip(graph.example, inputs, strict=True))
        ours: NDArray[np.float32] = session.run([graph.output], feeds)[0]
        with torch.no_grad():
            wanted = graph.module(*map(torch.from_numpy, inputs))
        assert relative_error(ours, wanted) < LIMIT
        return ours

    return run


@pytest.mark.parametrize("version", ["2", "2.1"])
def test_both_graphs_of_clips(tmp_path: Path, version: str) -> None:
    model = _model(tmp_path, version)
    assert model.masks is not None
    encode, predict = _runner(model.graphs["encoder"]), _runner(model.graphs["mask_predictor"])
    for batch in (1, 3):
        clips = pictures("clip", batch, FRAMES, SIZE, SIZE, 3)
        latents = encode(clips, np.arange(model.latent.tokens))
        assert latents.shape == (batch, model.latent.tokens, model.latent.dim)
        for visible, hidden in zip(model.masks.visible, model.masks.hidden, strict=True):
            predict(encode(clips, visible), visible, hidden)
        odd = np.array([30, 3, 17])
        predict(encode(clips, odd), odd, np.array([5]))


def test_single_images(tmp_path: Path) -> None:
    model = _model(tmp_path, "2.1", clip_frames=1)
    assert model.masks is not None
    encode = _runner(model.graphs["encoder"])
    encode(pictures("image", 3, SIZE, SIZE, 3), model.masks.visible[0])


def test_without_masks_the_encoder_takes_frames_alone(tmp_path: Path) -> None:
    model = _model(tmp_path, "2", masks="none")
    assert list(model.graphs) == ["encoder"]
    assert list(model.graphs["encoder"].example) == ["frames"]
    _runner(model.graphs["encoder"])(pictures("clip", 1, FRAMES, SIZE, SIZE, 3))
