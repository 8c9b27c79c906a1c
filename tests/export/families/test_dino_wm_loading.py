# SPDX-License-Identifier: Apache-2.0
"""DINO-WM's layouts, settings and error messages."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, LoadedModel
from jepa_edge.export.families.dino_wm import DinoWMFamily
from jepa_edge.export.families.jepa_wm import JepaWMFamily

from .dino_wm_fixtures import (
    DIM,
    EMBEDDED,
    FRAMES,
    HEADS,
    INNER,
    LATENT,
    SIDE,
    SPEC,
    dino_wm_tensors,
    dinov2_tensors,
    drawn,
    frames,
    states,
    trained_tensors,
)
from .jepa_wm_fixtures import SPEC as JEPA_WM_SPEC
from .jepa_wm_fixtures import jepa_wm_tensors


def load(tensors: dict[str, Tensor], spec: Any = SPEC, path: Path = Path("here.pt")) -> LoadedModel:
    return DinoWMFamily().load(
        Checkpoint(path=path, weights=path, sha256="", tensors=tensors, config={}, spec=spec)
    )


def with_model(**settings: Any) -> dict[str, dict[str, Any]]:
    spec = copy.deepcopy(SPEC)
    spec["model"] |= settings
    return spec


@torch.no_grad()
def latents(model: LoadedModel) -> Tensor:
    out: Tensor = model.graphs["encoder"].module(
        torch.from_numpy(frames()), torch.from_numpy(states())
    )
    return out


def test_families_are_told_apart() -> None:
    assert DinoWMFamily().matches(dino_wm_tensors(), {})
    assert not DinoWMFamily().matches(jepa_wm_tensors(), {})
    assert not JepaWMFamily().matches(dino_wm_tensors(), {})
    assert not DinoWMFamily().matches(["predictor.pos_embedding", "pred_proj.net.0.weight"], {})


@pytest.mark.parametrize("named", ["file", "directory", "elsewhere"])
def test_encoder_in_a_second_file(tmp_path: Path, named: str) -> None:
    place = tmp_path / "dinov2"
    place.mkdir()
    file = place / "model.safetensors"
    safetensors.torch.save_file(dinov2_tensors(), file)
    encoder = {"file": "dinov2/model.safetensors", "directory": "dinov2", "elsewhere": str(place)}
    checkpoint = tmp_path / "dino_wm.pt" if named != "elsewhere" else Path("not/here.pt")
    model = load(trained_tensors(), with_model(encoder=encoder[named]), checkpoint)
    assert torch.equal(latents(model), latents(load(dino_wm_tensors())))


def test_module_prefixes_and_training_leftovers() -> None:
    """DistributedDataParallel's prefix, jepa-wms' stored masks, decoders and optimizers."""
    tensors = {
        name.replace("predictor.", "predictor.module."): tensor
        for name, tensor in dino_wm_tensors().items()
    }
    tensors["predictor.module.transformer.layers.0.0.bias"] = torch.ones(1, 1, 27, 27)
    tensors["decoder.dec.weight"] = torch.zeros(2)
    tensors["opt.state.0.exp_avg"] = torch.zeros(2)
    assert DinoWMFamily().matches(tensors, {})
    assert torch.equal(latents(load(tensors)), latents(load(dino_wm_tensors())))


def test_without_own_state() -> None:
    tensors = {k: v for k, v in dino_wm_tensors().items() if not k.startswith("proprio_encoder")}
    dim = DIM + EMBEDDED
    for name, shape in (
        ("pos_embedding", (1, FRAMES * SIDE**2, dim)),
        ("transformer.norm.weight", (dim,)),
        ("transformer.norm.bias", (dim,)),
    ):
        tensors[f"predictor.{name}"] = drawn(name, shape)
    for i in range(2):
        layer = f"predictor.transformer.layers.{i}"
        for name, shape in (
            ("0.norm.weight", (dim,)),
            ("0.norm.bias", (dim,)),
            ("0.to_qkv.weight", (3 * INNER, dim)),
            ("0.to_out.0.weight", (dim, INNER)),
            ("0.to_out.0.bias", (dim,)),
            ("1.net.0.weight", (dim,)),
            ("1.net.0.bias", (dim,)),
            ("1.net.1.weight", (64, dim)),
            ("1.net.4.weight", (dim, 64)),
            ("1.net.4.bias", (dim,)),
        ):
            tensors[f"{layer}.{name}"] = drawn(name, shape)
    spec = {k: v for k, v in SPEC.items() if k != "state"}
    model = load(tensors, spec)
    assert model.state is None
    assert (model.latent.dim, model.latent.energy_dim) == (DIM, DIM)
    assert list(model.graphs["encoder"].example) == ["frames"]
    with pytest.raises(CheckpointError, match="no proprio_encoder"):
        load(tensors, SPEC)


def test_repeats() -> None:
    """num_action_repeat and num_proprio_repeat widen the predictor; one number says which."""
    with pytest.raises(CheckpointError, match=r"works on 40 channels, expected 44.*num_action"):
        load(dino_wm_tensors(), with_model(num_action_repeat=2))
    with pytest.raises(CheckpointError, match="expected 44"):
        load(dino_wm_tensors(), with_model(num_proprio_repeat=2))


def test_positions_can_be_transformers() -> None:
    ours = latents(load(dino_wm_tensors()))
    theirs = latents(load(dino_wm_tensors(), with_model(positions="transformers")))
    difference = (ours - theirs).abs()
    assert difference[..., :DIM].mean() > 1e-3
    assert not difference[..., DIM:].any()


def test_defaults_are_named_as_assumed() -> None:
    spec = {"model": {"encoder_heads": HEADS}}
    model = load(dino_wm_tensors(), spec)
    assert model.assumed == (
        "model.heads",
        "observation.rate_hz",
        "action.block",
        "action.mean",
        "action.std",
        "state.mean",
        "state.std",
    )
    assert model.action is not None
    assert model.action.units == "z-score"
    assert model.state is not None
    assert model.state.units == "z-score"


def test_history_can_be_shorter() -> None:
    model = load(dino_wm_tensors(), with_model(history=2))
    assert model.history == 2
    assert model.graphs["predictor"].example["history"].shape == (2, 2, SIDE**2, LATENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": ""}, r"an image encoder of its own, and --spec names another"),
        ({"hight": 3}, r"unknown key 'hight', expected one of encoder,"),
        ({"heads": 0}, r"heads is 0, expected a positive whole number"),
        ({"heads": 3}, r"3 heads do not divide the predictor's 128 channels"),
        ({"positions": "mine"}, r"positions is 'mine', expected 'dinov2' or 'transformers'"),
        ({"history": 4}, r"27 positions.*at least 4 of 1 to 8 frames"),
        ({"image_size": 64}, r"frames of 64 pixels"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(dino_wm_tensors(), with_model(**change))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("action", {"dim": 5}, r"\[action\] is not valid"),
        ("action", {"block": 3}, r"\[action\] is not valid.*block 3"),
        ("action", {"std": [0.0, 1.0], "block": 2}, r"action\.std .*positive"),
        ("state", {"mean": [1.0]}, r"state\.mean is \[1\.0\], expected 3 numbers"),
        ("state", {"std": [1.0, -1.0, 1.0]}, r"state\.std .*positive"),
        ("state", {"mean": [float("nan"), 0.0, 0.0]}, r"state\.mean .*finite"),
        ("action", {"names": ["x"] * 3, "block": 2}, "3 names, expected 4 or 2"),
        ("state", {"dim": 7}, r"state\.dim is 7, expected 3"),
        ("observation", {"height": 96}, r"asks for 96 x 48"),
        ("observation", {"std": [0.5, 0.5, 0.0]}, r"observation\.std"),
    ],
)
def test_sections_are_checked(section: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(dino_wm_tensors(), {"model": SPEC["model"], section: values})


@pytest.mark.parametrize("wrapped", [dino_wm_tensors, jepa_wm_tensors])
def test_prefixes_of_torch_compile(wrapped: Any) -> None:
    tensors = {name.replace(".", "._orig_mod.", 1): t for name, t in wrapped().items()}
    spec: Any = SPEC if wrapped is dino_wm_tensors else JEPA_WM_SPEC
    family = DinoWMFamily() if wrapped is dino_wm_tensors else JepaWMFamily()
    spec = {**spec, "model": {k: v for k, v in spec["model"].items() if k != "encoder"}}
    path = Path("here.pt")
    checkpoint = Checkpoint(
        path=path, weights=path, sha256="", tensors=tensors, config={}, spec=spec
    )
    assert family.matches(tensors, {})
    plain = dataclasses.replace(checkpoint, tensors=wrapped())
    assert torch.equal(latents(family.load(checkpoint)), latents(family.load(plain)))


@pytest.mark.parametrize(
    "name",
    [
        "predictor.pos_embedding",
        "predictor.transformer.layers.0.0.to_qkv.weight",
        "predictor.transformer.layers.0.1.net.1.weight",
        "action_encoder.patch_embed.weight",
        "proprio_encoder.patch_embed.weight",
        "encoder.base_model.blocks.0.attn.qkv.bias",
        "encoder.base_model.patch_embed.proj.weight",
        "encoder.base_model.pos_embed",
    ],
)
def test_tensors_without_axes_are_told(name: str) -> None:
    tensors = dino_wm_tensors()
    tensors[name] = torch.tensor(1.0)
    with pytest.raises(CheckpointError, match=r"shape \(\)"):
        load(tensors)
    tensors[name] = torch.zeros(0, 0, 0)
    with pytest.raises(CheckpointError, match=r"shape \(0, 0, 0\)"):
        load(tensors)


def test_projections_that_do_not_split_are_told() -> None:
    name = "predictor.transformer.layers.0.0.to_qkv.weight"
    tensors = dino_wm_tensors()
    with pytest.raises(CheckpointError, match="expected a multiple of 3"):
        load({**tensors, name: tensors[name][:-1]})
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'predictor.*to_qkv"):
        load({key: t for key, t in tensors.items() if key != name})
    name = "encoder.base_model.blocks.0.attn.qkv.weight"
    with pytest.raises(CheckpointError, match="in 3 equal parts"):
        load({**tensors, name: tensors[name][:-1]})


def test_missing_encoder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no image encoder.*\[model\] encoder = "):
        load(trained_tensors())
    with pytest.raises(CheckpointError, match="which no file can be called"):
        load(trained_tensors(), with_model(encoder="x" * 5000))
    with pytest.raises(CheckpointError, match=r"names 'gone', which is neither beside"):
        load(trained_tensors(), with_model(encoder="gone"))
    with pytest.raises(CheckpointError, match="holds 0 weights files"):
        load(trained_tensors(), with_model(encoder=str(tmp_path)))


def test_wrong_tensors_are_named() -> None:
    tensors = dino_wm_tensors()
    gone = tensors.pop("predictor.transformer.layers.1.1.net.4.bias")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor, 'predictor\..*net\.4\.bias'"):
        load(tensors)
    tensors["predictor.transformer.layers.1.1.net.4.bias"] = gone[:3]
    with pytest.raises(CheckpointError, match=r"net\.4\.bias' has shape \(3,\), expected \(40,\)"):
        load(tensors)
    tensors = dino_wm_tensors()
    del tensors["action_encoder.patch_embed.weight"]
    with pytest.raises(CheckpointError, match=r"'action_encoder\.patch_embed\.weight'"):
        load(tensors)
    tensors = {**dino_wm_tensors(), "pred_proj.net.0.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"the first 'pred_proj\.net\.0\.weight'"):
        load(tensors)


def test_another_encoder_is_explained() -> None:
    wide = {
        f"encoder.{name}": torch.cat((tensor, tensor)) if name == "norm.weight" else tensor
        for name, tensor in dinov2_tensors().items()
    }
    with pytest.raises(CheckpointError, match=r"'layernorm\.weight' has shape \(64,\)"):
        load({**trained_tensors(), **wide})
