# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in 16 bits: what the float32 of those rounded weights gives, and no other number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from jepa_edge.export.checkpoint import load_model, open_checkpoint
from jepa_edge.export.families.base import LoadedModel

from .vjepa2_fixtures import FRAMES, SIZE, TINY_SPEC, indices, pictures, tiny_transformers


def _loaded(directory: Path, tensors: dict[str, Tensor]) -> LoadedModel:
    """Load through files, as `jepa-edge export` does."""
    directory.mkdir()
    model = tiny_transformers()
    (directory / "config.json").write_text(json.dumps(model.config.to_dict()))
    safetensors.torch.save_file(tensors, directory / "model.safetensors")
    spec = directory / "spec.json"
    spec.write_text(json.dumps({"model": {"clip_frames": TINY_SPEC["model"]["clip_frames"]}}))
    return load_model(open_checkpoint(directory, spec))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_compute_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    exact = {name: tensor.contiguous() for name, tensor in tiny_transformers().state_dict().items()}
    half = {name: tensor.to(dtype) for name, tensor in exact.items()}
    rounded = {name: tensor.float() for name, tensor in half.items()}
    assert not all(torch.equal(rounded[name], exact[name]) for name in exact)
    ours, theirs = _loaded(tmp_path / "half", half), _loaded(tmp_path / "float", rounded)
    for name, graph in ours.graphs.items():
        kinds = {tensor.dtype for tensor in graph.module.state_dict().values()}
        assert torch.float32 in kinds, name
        assert dtype not in kinds, name
    clips = torch.from_numpy(pictures("half", 1, FRAMES, SIZE, SIZE, 3))
    every, visible, hidden = indices(ours)
    with torch.no_grad():
        found, expected = (model.graphs["encoder"].module(clips, every) for model in (ours, theirs))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
        predictor = ours.graphs["mask_predictor"].module
        other = theirs.graphs["mask_predictor"].module
        context = found[:, visible]
        torch.testing.assert_close(
            predictor(context, visible, hidden), other(context, visible, hidden), rtol=0.0, atol=0.0
        )
