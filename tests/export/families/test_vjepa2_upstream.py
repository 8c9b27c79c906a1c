# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2 and 2.1 against what Meta's own code gave; see tests/export/vectors/vjepa2.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.export.families.base import LoadedModel
from jepa_edge.export.families.vjepa2_graphs import EncoderGraph
from jepa_edge.export.families.vjepa2_model import rope_table

from .vjepa2_fixtures import drawn, load, pictures, relative_error

VECTORS = Path(__file__).parents[1] / "vectors"
LIMIT = 1e-4
SIZE, DIM = 96, 48


def _vectors(name: str) -> dict[str, NDArray[Any]]:
    with np.load(VECTORS / f"{name}.npz") as file:
        return dict(file)


def _model(vectors: dict[str, NDArray[Any]], **model: Any) -> LoadedModel:
    tensors = {
        f"{name.split('.')[0]}.module.backbone.{name.split('.', 1)[1]}": drawn(
            name, tuple(map(int, shape.split(",")))
        )
        for name, shape in zip(vectors["names"].tolist(), vectors["shapes"].tolist(), strict=True)
    }
    knobs = {"height": SIZE, "width": SIZE, "clip_frames": 4, "heads": 3, "predictor_heads": 4}
    return load(tensors, {"model": {**knobs, **model}})


def _run(model: LoadedModel, graph: str, *inputs: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.graphs[graph].module(*map(torch.as_tensor, inputs))
    return out


def _level_last(levels: NDArray[np.float32]) -> Tensor:
    """Upstream's levels in our order: the last one first."""
    return torch.from_numpy(np.roll(levels, DIM, axis=-1))


def test_version_2_encodes_and_predicts_as_upstream() -> None:
    vectors = _vectors("vjepa2")
    model = _model(vectors)
    clip, visible, hidden = pictures("clip", 1, 4, SIZE, SIZE, 3), *_masks(vectors)
    full = _run(model, "encoder", clip, np.arange(72))
    context = _run(model, "encoder", clip, visible)
    predicted = _run(model, "mask_predictor", context, visible, hidden)
    assert relative_error(full, torch.from_numpy(vectors["full"])) < LIMIT
    assert relative_error(context, torch.from_numpy(vectors["context"])) < LIMIT
    assert relative_error(predicted, torch.from_numpy(vectors["predicted"])) < LIMIT
    # The pattern matters: tokens that saw the whole clip are others.
    assert relative_error(full[:, visible], context) > 0.1


def test_version_2_1_encodes_and_predicts_as_upstream() -> None:
    vectors = _vectors("vjepa2_1")
    model = _model(vectors)
    clip, visible, hidden = pictures("clip", 1, 4, SIZE, SIZE, 3), *_masks(vectors)
    full = _run(model, "encoder", clip, np.arange(72))
    context = _run(model, "encoder", clip, visible)
    predicted = _run(model, "mask_predictor", context, visible, hidden)
    assert model.latent.dim == 4 * DIM
    assert model.latent.energy_dim == DIM
    assert relative_error(full[..., :DIM], torch.from_numpy(vectors["full"])) < LIMIT
    assert relative_error(context, _level_last(vectors["context"])) < LIMIT
    assert relative_error(predicted, _level_last(vectors["predicted"])) < LIMIT


def test_without_masks_version_2_1_gives_its_last_level_alone() -> None:
    vectors = _vectors("vjepa2_1")
    model = _model(vectors, masks="none")
    full = _run(model, "encoder", pictures("clip", 1, 4, SIZE, SIZE, 3))
    assert model.latent.dim == DIM
    assert relative_error(full, torch.from_numpy(vectors["full"])) < LIMIT


def test_predictor_of_version_2_1_without_rescaled_positions() -> None:
    vectors = _vectors("vjepa2_1")
    visible, hidden = _masks(vectors)
    theirs = _level_last(vectors["predicted_plain"])
    context = _level_last(vectors["context"])
    for rescale in (False, True):
        model = _model(vectors, rescale_predictor=rescale)
        error = relative_error(_run(model, "mask_predictor", context, visible, hidden), theirs)
        assert (error > 0.02) if rescale else (error < LIMIT)


def test_single_images_of_version_2_1() -> None:
    vectors = _vectors("vjepa2_1")
    model = _model(vectors, clip_frames=1)
    image = pictures("image", 1, SIZE, SIZE, 3)
    visible, hidden = (part[part < 36] for part in _masks(vectors))
    full = _run(model, "encoder", image, np.arange(36))
    context = _run(model, "encoder", image, visible)
    predicted = _run(model, "mask_predictor", context, visible, hidden)
    assert model.observation.clip is None
    assert model.observation.rate_hz == 4.0
    assert model.latent.grid == (1, 6, 6)
    assert relative_error(full[..., :DIM], torch.from_numpy(vectors["image"])) < LIMIT
    assert relative_error(predicted, _level_last(vectors["image_predicted"])) < LIMIT


@pytest.mark.parametrize("name", ["vjepa2", "vjepa2_1"])
def test_pictures_that_are_not_square(name: str) -> None:
    vectors = _vectors(name)
    model = _model(vectors, height=64, masks="none")
    wide = _run(model, "encoder", pictures("wide", 1, 4, 64, SIZE, 3))
    assert relative_error(wide, torch.from_numpy(vectors["wide"])) < LIMIT


def test_weights_of_one_version_with_the_rotations_of_the_other_are_far_off() -> None:
    """Why a mixed-up version is refused: nothing else would tell."""
    vectors = _vectors("vjepa2")
    model = _model(vectors)
    encoder = model.graphs["encoder"].module
    assert isinstance(encoder, EncoderGraph)
    other = dataclasses.replace(encoder.config, version="2.1")
    for rescale in (False, True):
        encoder.rope = rope_table(other, DIM // 3, rescale=rescale)
        full = _run(model, "encoder", pictures("clip", 1, 4, SIZE, SIZE, 3), np.arange(72))
        assert relative_error(full, torch.from_numpy(vectors["full"])) > 0.05


def _masks(vectors: dict[str, NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return vectors["visible"], vectors["hidden"]
