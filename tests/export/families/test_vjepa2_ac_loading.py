# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2-AC's checkpoints: layouts, sizes, and what is said of those that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, LoadedModel
from jepa_edge.export.families.vjepa2_ac import VJepa2ACFamily

from .vjepa2_ac_fixtures import MODEL, tensors

PATH = Path("vjepa2-ac.pt")


def load(
    found: dict[str, Tensor],
    spec: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> LoadedModel:
    """Load tensors as if they came from a file."""
    checkpoint = Checkpoint(
        path=PATH,
        weights=PATH,
        sha256="0" * 64,
        tensors=found,
        config=config or {},
        spec={"model": MODEL} if spec is None else spec,
    )
    return VJepa2ACFamily().load(checkpoint)


def weights(model: LoadedModel) -> dict[str, Tensor]:
    return model.graphs["predictor"].module.state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_every_prefix_is_the_same_model(prefix: str) -> None:
    found = tensors(prefix)
    assert VJepa2ACFamily().matches(found.keys(), {})
    loaded = weights(load(found))
    for name, tensor in tensors("").items():
        if name.startswith("predictor."):
            assert torch.equal(loaded[name], tensor)
    assert len(loaded) == sum(name.startswith("predictor.") for name in found)


def test_other_checkpoints_are_not_ours() -> None:
    family = VJepa2ACFamily()
    assert not family.matches(["encoder.module.norm.weight", "predictor.mask_tokens.0"], {})
    lewm = ["encoder.a.weight", "predictor.transformer.norm.weight", "action_encoder.embed.weight"]
    assert not family.matches(lewm, {})


def test_sizes_come_from_the_shapes() -> None:
    found = tensors(latent=128, encoder_depth=1, encoder_mlp=96, dim=192, depth=3, mlp=80)
    found["encoder.module.pos_embed"] = torch.zeros(1, 4, 128)
    loaded = load(found, {"model": {"image_size": 32, "history": 5}})
    assert (loaded.latent.tokens, loaded.latent.dim, loaded.history) == (5, 128, 5)
    assert set(loaded.assumed) == {
        "observation.rate_hz",
        "action.std",
        "action.low",
        "action.high",
        "model.heads",
        "model.predictor_heads",
    }


def test_the_encoder_may_be_either() -> None:
    found = tensors()
    changed = {
        name.replace("encoder.", "target_encoder.", 1): tensor + 1
        for name, tensor in found.items()
        if name.startswith("encoder.")
    }
    both = {**found, **changed}
    frames, states = torch.full((1, 64, 64, 3), 7, dtype=torch.uint8), torch.zeros(1, 7)
    spec = {"model": {**MODEL, "encoder": "target_encoder"}}
    only = {k: v for k, v in both.items() if not k.startswith("encoder.")}
    latents = [
        load(*given).graphs["encoder"].module(frames, states)
        for given in ((both,), (both, spec), (only,))
    ]
    assert not torch.allclose(latents[0], latents[1])
    assert torch.equal(latents[1], latents[2])


def test_the_300_keys_of_the_release_and_those_without_extrinsics() -> None:
    names = [name for name in tensors(depth=24) if name.startswith("predictor.")]
    assert len(names) == 300
    without = {k: v for k, v in tensors().items() if "extrinsics" not in k}
    assert "predictor.extrinsics_encoder.weight" not in weights(load(without))


def test_what_is_assumed_can_be_said() -> None:
    spec = {
        "model": MODEL,
        "observation": {"rate_hz": 10.0},
        "action": {"std": [0.01] * 7, "low": [-1.0] * 7, "high": [1.0] * 7},
    }
    loaded = load(tensors(), spec, {"observation": {"rate_hz": 5.0, "color": "bgr"}})
    assert loaded.assumed == ()
    assert (loaded.observation.rate_hz, loaded.observation.color) == (10.0, "bgr")
    assert loaded.action is not None
    assert loaded.action.std == (0.01,) * 7


def without(name: str) -> dict[str, Tensor]:
    return {k: v for k, v in tensors().items() if not k.startswith(name)}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (without("predictor."), r"plain V-JEPA 2 .* no predictor.*--family vjepa2"),
        (
            {**without("predictor."), "predictor.module.mask_tokens.0": torch.zeros(1)},
            r"plain V-JEPA 2 .* a mask predictor: it lacks 'predictor.action_encoder.weight'",
        ),
        (without("encoder."), "no encoder"),
        (
            {
                "encoder.embeddings.patch_embeddings.proj.weight": torch.zeros(1),
                "predictor.embeddings.mask_tokens": torch.zeros(1),
            },
            r"plain V-JEPA 2 .*transformers' layout.*--family vjepa2",
        ),
        (
            {**tensors(), "predictor.predictor_norm.weight": torch.ones(64)},
            r"'predictor.module.predictor_norm.weight' and 'predictor.predictor_norm.weight'",
        ),
        (without("predictor.module.state_encoder"), "'predictor.state_encoder.weight'"),
        (without("predictor.module.predictor_norm"), r"lacks 2 tensors, 'predictor_norm.weight'"),
        (without("encoder.module.blocks.1.norm2.bias"), r"lacks 1 tensor, 'blocks.1.norm2.bias'"),
        (
            without("encoder.module.patch_embed"),
            r"encoder lacks the tensor 'patch_embed.proj.weight'",
        ),
        (
            {**tensors(), "encoder.module.norms_block.0.weight": torch.ones(64)},
            r"V-JEPA 2.1's .*positions rotate otherwise",
        ),
        (
            {**tensors(), "predictor.module.lora.weight": torch.ones(2)},
            r"'lora.weight' that the model has no place for",
        ),
        (
            {**tensors(), "predictor.module.predictor_embed.weight": torch.ones(64, 48)},
            "latents of 48 channels, the encoder gives 64",
        ),
        (
            {**tensors(), "predictor.module.action_encoder.weight": torch.ones(64, 10)},
            r"'action_encoder.weight' has shape \(64, 10\), expected \(64, 7\)",
        ),
    ],
)
def test_what_does_not_fit_is_explained(found: dict[str, Tensor], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        load(found)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"model": MODEL, "action": {"mean": [0.1] * 7}}, "expected zeros: the predictor reads"),
        ({"model": {**MODEL, "image_size": 10**9}}, r"\[model\].*<= 4096"),
        ({"model": {**MODEL, "history": 9}}, r"\[model\].*<= 8"),
        ({"model": {**MODEL, "colour": 1}}, "colour"),
        ({"model": {**MODEL, "image_size": 70}}, "multiple of the patch size 16"),
        ({"model": {**MODEL, "predictor_heads": 3}}, "3 heads"),
        ({"model": MODEL, "action": {"block": 7}}, "action.block is 7, expected 1"),
        ({"model": MODEL, "state": {"dim": 6, "names": []}}, "state.dim is 6, expected 7"),
        ({"model": MODEL, "observation": {"height": 32}}, "32 x 64"),
        ({"model": MODEL, "observation": {"std": [0.0, 1.0, 1.0]}}, "observation.std"),
    ],
)
def test_settings_that_do_not_fit_are_explained(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        load(tensors(), spec)
