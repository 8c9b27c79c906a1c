# SPDX-License-Identifier: Apache-2.0
"""JEPA-WM's variants, its DINOv3 encoder, settings and error messages."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, LoadedModel
from jepa_edge.export.families.dinov3 import load_dinov3
from jepa_edge.export.families.jepa_wm import JepaWMFamily
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.export.weights import read_state_dict

from .dino_wm_fixtures import DIM, HEADS, STATE, drawn
from .jepa_wm_fixtures import SPEC, jepa_wm_tensors, predictor_tensors

BOUND = 1e-4


def load(tensors: dict[str, Tensor], path: Path = Path("here.pt"), **settings: Any) -> LoadedModel:
    spec = copy.deepcopy(SPEC)
    spec["model"] |= settings
    if settings.get("encoder") is None:
        del spec["model"]["encoder"]
    if not any(name.startswith("proprio_encoder") for name in tensors):
        del spec["state"]
    return JepaWMFamily().load(
        Checkpoint(path=path, weights=path, sha256="", tensors=tensors, config={}, spec=spec)
    )


def without_state() -> dict[str, Tensor]:
    """The DROID release's variant: 32 channels throughout."""
    kept = {name: t for name, t in jepa_wm_tensors().items() if name.startswith("encoder.")}
    return {**kept, **{f"predictor.{name}": t for name, t in predictor_tensors(DIM).items()}}


@torch.no_grad()
def dinov3(dim: int, heads: int) -> DINOv3ViTModel:
    model = DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=dim,
            num_attention_heads=heads,
            intermediate_size=4 * dim,
            num_hidden_layers=1,
            num_register_tokens=4,
        )
    )
    for name, parameter in model.named_parameters():
        parameter.copy_(drawn(name, tuple(parameter.shape)))
    return model.eval()


@pytest.mark.parametrize(("dim", "heads"), [(384, 6), (1024, 16)], ids=["small", "large"])
@torch.no_grad()
def test_dinov3_agrees_with_transformers(dim: int, heads: int) -> None:
    model = dinov3(dim, heads)
    pixels = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    expected = model(pixel_values=pixels).last_hidden_state[:, 5:]
    actual = load_dinov3(model.state_dict(), "here", grid=16)(pixels)
    assert expected.std() > 0.5
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.abs().max()) <= BOUND


def test_dinov3_beside_a_model_without_own_state(tmp_path: Path) -> None:
    """What DROID's release is made of: DINOv3, no own state, 16-pixel patches."""
    theirs = dinov3(DIM, HEADS)
    theirs.save_pretrained(tmp_path / "dinov3")
    tensors = {k: v for k, v in without_state().items() if not k.startswith("encoder.")}
    model = load(tensors, tmp_path / "droid.pt", encoder="dinov3", image_size=48)
    assert (model.observation.height, model.latent.tokens, model.latent.dim) == (48, 9, DIM)
    assert model.state is None
    assert list(model.graphs["encoder"].example) == ["frames"]
    frames = torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8)
    session = ort.InferenceSession(export_graph(model.graphs["encoder"]).SerializeToString())
    (through_onnx,) = session.run(["latents"], {"frames": frames.numpy()})
    with torch.no_grad():
        mean, std = (torch.tensor(v) for v in (model.observation.mean, model.observation.std))
        pixels = ((frames / 255 - mean) / std).permute(0, 3, 1, 2)
        expected = theirs(pixel_values=pixels).last_hidden_state[:, 5:]
        actual = model.graphs["encoder"].module(frames)
        for found in (actual, torch.from_numpy(through_onnx)):
            assert found.shape == expected.shape
            assert float((found - expected).abs().max() / expected.abs().max()) <= BOUND
        step = model.graphs["predictor"]
        assert step.module(**step.example).shape == (2, 9, DIM)


def test_dinov3_saved_file_and_errors(tmp_path: Path) -> None:
    dinov3(DIM, HEADS).save_pretrained(tmp_path)
    tensors = read_state_dict(tmp_path / "model.safetensors")
    load_dinov3(tensors, "here", grid=2, heads=HEADS)
    with pytest.raises(CheckpointError, match="gated MLPs"):
        load_dinov3({**tensors, "layer.0.mlp.gate_proj.weight": torch.zeros(1)}, "here", grid=2)
    with pytest.raises(CheckpointError, match="holds no DINOv3"):
        load_dinov3({"norm.weight": torch.zeros(1)}, "here", grid=2)
    original = {"storage_tokens": torch.zeros(1, 4, 8), "blocks.0.attn.qkv.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"original layout, expected transformers'"):
        load({**{f"encoder.{k}": v for k, v in original.items()}, **_trained()})


def _trained() -> dict[str, Tensor]:
    return {k: v for k, v in jepa_wm_tensors().items() if not k.startswith("encoder.")}


def test_window_may_be_longer_than_planned_with() -> None:
    assert load(jepa_wm_tensors(), history=4).history == 4
    with pytest.raises(CheckpointError, match="training saw at most 4 frames"):
        load(jepa_wm_tensors(), history=5)


def test_a_file_without_the_encoder_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    safetensors.torch.save_file(_trained(), path)
    with pytest.raises(CheckpointError, match=r"holds no DINOv2.*dinov2-small"):
        load(_trained(), encoder=str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 5}, r"5 heads on 36 channels"),
        ({"image_size": 40}, r"image_size is 40, expected a multiple.*14"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(jepa_wm_tensors(), **settings)


def test_missing_encoder_is_explained() -> None:
    with pytest.raises(CheckpointError, match=r"no image encoder.*\[model\] encoder = "):
        load(_trained())


def test_options_of_dino_wm_are_refused() -> None:
    for name in ("num_action_repeat", "num_proprio_repeat"):
        with pytest.raises(CheckpointError, match=f"unknown key '{name}', expected one of encoder"):
            load(jepa_wm_tensors(), **{name: 2})


def test_a_missing_part_is_named_and_a_second_action_encoder_refused() -> None:
    tensors = jepa_wm_tensors()
    without = {k: t for k, t in tensors.items() if not k.startswith("proprio_encoder")}
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'proprio_encoder\.patch_embed"):
        load(without)
    with pytest.raises(CheckpointError, match=r"'action_encoder\.patch_embed\.bias' beside"):
        load({**tensors, "action_encoder.patch_embed.bias": torch.zeros(4)})
    # What is wrong with the predictor is told before an encoder is asked for.
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'predictor\.predictor_blocks"):
        load({k: t for k, t in _trained().items() if "adaLN" not in k})


def test_wrong_tensors_are_named() -> None:
    tensors = jepa_wm_tensors()
    del tensors["predictor.predictor_norm.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor, 'predictor\.predictor_norm"):
        load(tensors)
    tensors = jepa_wm_tensors()
    del tensors["predictor.action_encoder.weight"]
    with pytest.raises(CheckpointError, match=r"'predictor\.action_encoder\.weight'"):
        load(tensors)
    with pytest.raises(CheckpointError, match=r"'predictor\.predictor_blocks\.0\.mlp\.fc3\.bias'"):
        load({**jepa_wm_tensors(), "predictor.predictor_blocks.0.mlp.fc3.bias": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"outside predictor.*'target_encoder\.x'"):
        load({**jepa_wm_tensors(), "target_encoder.x": torch.zeros(1)})


def test_another_encoder_is_explained() -> None:
    tensors = jepa_wm_tensors() | {
        "predictor.predictor_embed.weight": torch.zeros(DIM, 64),
    }
    with pytest.raises(CheckpointError, match=r"takes 64 visual channels.*gives 32"):
        load(tensors)


def test_own_state_as_a_token_is_refused() -> None:
    tensors = without_state() | {
        "proprio_encoder.patch_embed.weight": torch.zeros(DIM, STATE, 1),
        "proprio_encoder.patch_embed.bias": torch.zeros(DIM),
    }
    with pytest.raises(CheckpointError, match="not as a token"):
        load(tensors)
