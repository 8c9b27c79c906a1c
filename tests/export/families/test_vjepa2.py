# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2's loader: layouts, defaults, what is assumed, and every refusal."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError, InputError
from jepa_edge.export.families.base import LoadedModel
from jepa_edge.export.families.vjepa2 import VJepa2Family
from jepa_edge.export.weights import read_state_dict
from jepa_edge.manifest import ClipSpec, FitSpec

from .vjepa2_fixtures import (
    DIM,
    FRAMES,
    HEADS,
    SIZE,
    TINY_SPEC,
    drawn,
    encoder_shapes,
    indices,
    load,
    normalized,
    pictures,
    predictor_shapes,
    relative_error,
    tiny_transformers,
    tiny_vjepa2_checkpoint,
)

Tensors = dict[str, Tensor]
LIMIT = 1e-5


def _tensors(version: str = "2") -> Tensors:
    """A checkpoint with the moving average alone, without prefixes."""
    encoder = {f"target_encoder.{k}": drawn(k, v) for k, v in encoder_shapes(version).items()}
    return encoder | {f"predictor.{k}": drawn(k, v) for k, v in predictor_shapes(version).items()}


def _spec(**model: Any) -> dict[str, dict[str, Any]]:
    return {"model": {**TINY_SPEC["model"], **model}}


def _encode(model: LoadedModel) -> Tensor:
    clip = torch.from_numpy(pictures("clip", 1, FRAMES, SIZE, SIZE, 3))
    tokens = (torch.arange(model.latent.tokens),) if model.masks is not None else ()
    with torch.no_grad():
        out: Tensor = model.graphs["encoder"].module(clip, *tokens)
    return out


@pytest.mark.parametrize("version", ["2", "2.1"])
def test_a_training_file_gives_its_moving_average(tmp_path: Path, version: str) -> None:
    tensors = read_state_dict(tiny_vjepa2_checkpoint(tmp_path, version))
    family = VJepa2Family()
    assert family.matches(tensors.keys(), {})
    taken, online = load(tensors), load(tensors, _spec(part="encoder"))
    bare = {
        f"encoder.{name.removeprefix('target_encoder.module.backbone.')}": tensor
        for name, tensor in tensors.items()
        if name.startswith("target_encoder")
    }
    assert torch.equal(_encode(taken)[..., :DIM], _encode(load(bare)))
    assert relative_error(_encode(online), _encode(taken)) > 0.1
    assert load(bare).masks is None


def test_an_ema_encoder_comes_before_a_target_encoder() -> None:
    tensors = _tensors()
    ema = {
        name.replace("target_", "ema_"): 1.5 * tensor
        for name, tensor in tensors.items()
        if name.startswith("target_")
    }
    default = _encode(load({**tensors, **ema}))
    assert torch.equal(default, _encode(load(ema, _spec(part="ema_encoder"))))
    assert not torch.equal(default, _encode(load(tensors)))


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "_orig_mod.module."])
def test_the_state_dict_of_an_encoder_alone(prefix: str) -> None:
    tensors = {prefix + name: drawn(name, shape) for name, shape in encoder_shapes("2").items()}
    assert VJepa2Family().matches(tensors.keys(), {})
    model = load(tensors)
    assert list(model.graphs) == ["encoder"]
    assert model.latent.tokens == 32


def test_a_position_table_that_rope_left_over_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    tensors = _tensors()
    # As many mask tokens as V-JEPA 2 has, and not the first V-JEPA.
    tensors |= {f"predictor.mask_tokens.{i}": torch.zeros(1, 1, 24) for i in range(3, 10)}
    stray = {
        "target_encoder.pos_embed": torch.zeros(1, 2048, DIM),
        "predictor.predictor_pos_embed": torch.zeros(1, 2048, 24),
        "opt.state.0": torch.zeros(3),
    }
    with caplog.at_level(logging.INFO):
        model = load({**tensors, **stray})
    assert torch.equal(_encode(model), _encode(load(tensors)))
    assert "ignoring pos_embed" in caplog.text
    assert "ignoring predictor_pos_embed" in caplog.text
    assert "opt.state.0" in caplog.text


@pytest.mark.parametrize("wrapped", [False, True])
def test_transformers_layouts_are_the_same_model(
    tmp_path: Path, wrapped: bool, caplog: Any
) -> None:
    theirs = tiny_transformers(wrapped)
    theirs.save_pretrained(tmp_path)
    tensors = read_state_dict(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    assert VJepa2Family().matches(tensors.keys(), config)
    assert VJepa2Family().matches(tensors.keys(), {})
    spec = {"model": {"clip_frames": FRAMES}}
    with caplog.at_level(logging.INFO):
        model = load(tensors, spec, config)
    assert model.assumed == ("observation.rate_hz",)
    assert ("ignoring the classifier" in caplog.text) == wrapped
    inner = theirs.vjepa2 if wrapped else theirs
    clip = pictures("clip", 1, FRAMES, SIZE, SIZE, 3)
    with torch.no_grad():
        wanted = inner(normalized(clip), skip_predictor=True).last_hidden_state
        again = load(tensors, _spec())
    assert relative_error(_encode(model), wanted) < LIMIT
    assert torch.equal(_encode(again), _encode(model))


def test_half_precision_weights() -> None:
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in _tensors().items()}
    widened = {name: tensor.float() for name, tensor in tensors.items()}
    assert torch.equal(_encode(load(tensors)), _encode(load(widened)))


def test_defaults_of_a_released_file() -> None:
    spec = {"model": {"heads": HEADS}}
    plain, large = (load(_tensors(), spec, path=f"vitg{name}.pt") for name in ("", "-384"))
    seen = plain.observation
    assert (seen.height, seen.width, seen.rate_hz) == (256, 256, 2.0)
    assert seen.clip == ClipSpec(frames=16, tubelet=2, stride=1, hop=2)
    assert seen.camera_rate_hz == 4.0
    assert seen.fit == FitSpec(short_side=292)
    assert (large.observation.height, large.observation.fit) == (384, FitSpec(short_side=438))
    assert load(_tensors("2.1"), spec).observation.height == 384
    assert plain.latent.grid == (8, 16, 16)
    assert plain.latent.tokens == 2048
    assert plain.action is None
    assert plain.masks is not None
    assert (plain.masks.target_norm, plain.masks.distance) == (True, "l1")
    assert set(plain.assumed) == {
        "model.predictor_heads",
        "model.height",
        "model.width",
        "model.clip_frames",
        "observation.rate_hz",
    }


def test_a_spec_overrides() -> None:
    model = load(
        _tensors(),
        {**_spec(stride=3, hop=12), "observation": {"mean": [0, 0, 0], "rate_hz": 5.0}},
    )
    assert model.observation.clip == ClipSpec(frames=FRAMES, tubelet=2, stride=3, hop=12)
    assert model.observation.mean == (0, 0, 0)
    assert model.observation.camera_rate_hz == 60.0
    assert model.assumed == ()


def test_heads_of_an_unknown_size_are_assumed() -> None:
    assert "model.heads" in load(_tensors(), {"model": {"height": SIZE, "width": SIZE}}).assumed


def test_the_future_is_predicted_from_older_tubelets() -> None:
    model = load(_tensors(), _spec(masks="future"))
    assert model.masks is not None
    assert model.masks.hidden.tolist() == [list(range(16, 32))]


def test_the_mask_token_can_be_chosen() -> None:
    first, other = load(_tensors()), load(_tensors(), _spec(mask_token=2))
    _, visible, hidden = indices(first)
    context = torch.ones(1, len(visible), DIM)
    predicted = [
        m.graphs["mask_predictor"].module(context, visible, hidden) for m in (first, other)
    ]
    assert not torch.equal(*predicted)


def test_a_distilled_2_1_has_no_masks() -> None:
    """Its predictor predicts channels of the teacher, which the file does not hold."""
    tensors = _distilled()
    model = load(tensors)
    assert model.masks is None
    assert list(model.graphs) == ["encoder"]
    assert model.latent.dim == DIM
    (note,) = model.notes
    assert "predictor of 1664 channels" in note
    with pytest.raises(CheckpointError, match=r"model\.masks is 'blocks'.*1664 channels"):
        load(tensors, _spec(masks="blocks"))
    with pytest.raises(CheckpointError, match=r"\(predictor\) lacks .*predictor_norm\.bias"):
        load(_drop("predictor_norm.bias")(tensors))


def _distilled(teacher: int = 1664) -> Tensors:
    tensors = {name: t for name, t in _tensors("2.1").items() if "predictor_embed" not in name}
    tensors["predictor.predictor_embed.weight"] = torch.zeros(24, DIM)
    tensors["predictor.predictor_embed.bias"] = torch.zeros(24)
    tensors["predictor.predictor_proj.weight"] = torch.zeros(teacher, 24)
    tensors["predictor.predictor_proj.bias"] = torch.zeros(teacher)
    return tensors


def test_a_damaged_predictor_is_not_taken_for_a_distilled_one() -> None:
    damaged = {
        **_tensors(),
        "predictor.predictor_proj.weight": torch.zeros(47, 24),
        "predictor.predictor_proj.bias": torch.zeros(47),
    }
    with pytest.raises(CheckpointError, match=r"gives 47 channels.*expected 48"):
        load(damaged)
    with pytest.raises(CheckpointError, match="gives 64 channels"):
        load(_distilled(64))
    assert load(damaged, _spec(masks="none")).masks is None


def test_the_first_v_jepa_without_its_predictor_has_to_be_ruled_out() -> None:
    alone = {**_drop("predictor")(_tensors()), "target_encoder.pos_embed": torch.zeros(1, 32, DIM)}
    with pytest.raises(CheckpointError, match=r"no predictor, as the first.*model\.version"):
        load(alone)
    assert load(alone, _spec(version="2")).latent.dim == DIM


def test_clips_of_a_config_json() -> None:
    spec = {"model": {name: n for name, n in TINY_SPEC["model"].items() if name != "clip_frames"}}
    long = load(_tensors(), spec, {"frames_per_clip": 64})
    assert long.observation.clip is not None
    assert long.observation.clip.frames == 16
    assert "model.clip_frames" not in long.assumed
    assert any("frames_per_clip = 64, 16 are taken" in note for note in long.notes)
    short = load(_tensors(), spec, {"frames_per_clip": 8})
    assert short.observation.clip is not None
    assert (short.observation.clip.frames, short.notes) == (8, ())


def test_384_is_a_number_of_its_own() -> None:
    for name, size in (("vitg1384.pt", 256), ("vitg-384.pt", 384)):
        assert load(_tensors(), {"model": {"heads": HEADS}}, path=name).observation.height == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", "3"),
        ("num_attention_heads", -1),
        ("num_attention_heads", 1.5),
        ("pred_num_attention_heads", 0),
        ("crop_size", "12"),
        ("frames_per_clip", True),
        ("layer_norm_eps", "1e-6"),
    ],
)
def test_wrong_numbers_of_a_config_json(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json, {name} is .*; correct it"):
        load(_tensors(), {"model": {}}, {name: value})


def test_the_newest_tubelet_alone_is_measured_against_the_whole_clip() -> None:
    whole, alone = load(_tensors()), load(_tensors(), _spec(clip_frames=2, masks="none"))
    clips = pictures("clip", 3, FRAMES, SIZE, SIZE, 3)
    tokens, _, _ = indices(whole)
    with torch.no_grad():
        full = whole.graphs["encoder"].module(torch.from_numpy(clips), tokens)[:, 16:].numpy()
        short = alone.graphs["encoder"].module(torch.from_numpy(clips[:, 2:])).numpy()
    a, b = (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        for x in (full.astype(np.float64), short.astype(np.float64))
    )
    wanted = np.sqrt(((a - b) ** 2).sum() / (a**2).sum())
    assert whole.newest_tubelet_error is not None
    assert whole.newest_tubelet_error(clips) == pytest.approx(wanted, rel=1e-5)
    assert 0.05 < wanted < 2.0
    assert alone.newest_tubelet_error is None
    with pytest.raises(InputError, match=r"expected uint8 .*\(4, 64, 64, 3\)"):
        whole.newest_tubelet_error(clips[:, :2])


def test_other_models_are_not_taken_for_v_jepa_2() -> None:
    matches = VJepa2Family().matches
    blocks = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"}
    assert matches(blocks, {})
    assert not matches(blocks, {"model_type": "ijepa"})
    assert not matches({*blocks, "cls_token", "pos_embed"}, {})  # DINOv2
    assert not matches({*blocks, "pos_embed"}, {})  # I-JEPA
    assert not matches({f"encoder.module.{n}" for n in (*blocks, "pos_embed")}, {})
    assert matches({f"encoder.module.backbone.{n}" for n in (*blocks, "pos_embed")}, {})
    actions = {"predictor.module.action_encoder.weight"}
    assert not matches({*(f"encoder.module.{n}" for n in blocks), *actions}, {})
    assert matches({"predictor_blocks.0.norm1.weight", "mask_tokens.0"}, {})
    assert not matches(set(), {})


def _drop(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


def _with(**changed: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{k.replace("__", "."): v for k, v in changed.items()}}


REFUSED: list[tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = [
    (_drop("target_encoder"), {}, r"only a predictor .*'patch_embed\.proj\.weight'; pass the file"),
    (lambda _: {}, {}, r"holds no encoder"),
    (_drop("blocks.1.mlp.fc2.bias"), {}, r"lacks 2? ?.*'blocks\.1\.mlp\.fc2\.bias'"),
    (
        _drop("blocks.0.mlp.fc1.weight"),
        {},
        r"lacks the tensor 'blocks\.0\.mlp\.fc1\.weight'.*; the file",
    ),
    (_drop("predictor_proj.weight"), {}, r"lacks the tensor 'predictor_proj\.weight'"),
    (_with(target_encoder__extra=torch.zeros(1)), {}, r"has 1 tensor, 'extra' that"),
    (_with(predictor__extra=torch.zeros(1)), {}, r"\(predictor\) has 1 tensor, 'extra'"),
    (
        _with(target_encoder__blocks__1__norm1__weight=torch.zeros(47)),
        {},
        r"\(target_encoder\).*'blocks\.1\.norm1\.weight' has shape \(47,\), expected \(48,\)",
    ),
    (
        _with(target_encoder__patch_embed__proj__weight=torch.zeros(48, 3, 16, 16)),
        {},
        r"has shape \(48, 3, 16, 16\), expected 5 axes.*model of pictures such as I-JEPA",
    ),
    (
        _with(target_encoder__module__norm__weight=torch.zeros(48)),
        {},
        r"'target_encoder\.norm\.weight' and 'target_encoder\.module\.norm\.weight'",
    ),
    (
        _with(target_encoder__patch_embed__proj__weight=torch.zeros(0, 3, 2, 16, 16)),
        {},
        r"has shape \(0, 3, 2, 16, 16\), expected 5 axes of 1 or more",
    ),
    (lambda t: t, {"height": 1 << 16, "width": 1 << 16}, r"tokens, expected 262144 or fewer"),
    (_drop("encoder.norm."), {}, r"neither 'norm\.weight' .*RoPE.* differ"),
    (
        _with(target_encoder__norms_block__0__weight=torch.zeros(48)),
        {},
        r"both 'norm\.weight' and 'norms_block\.0\.weight'.*RoPE",
    ),
    (
        _with(predictor__action_encoder__weight=torch.zeros(48, 7)),
        {},
        r"'action_encoder\.weight'.*V-JEPA 2-AC.*--family vjepa2_ac",
    ),
    (
        lambda t: {
            **_drop("mask_tokens.2")(t),
            "target_encoder.pos_embed": torch.zeros(1, 1568, 48),
        },
        {},
        r"2 mask tokens, as the first V-JEPA",
    ),
    (
        _with(predictor__predictor_embed__weight=torch.zeros(24, 50)),
        {},
        r"takes 50 channels, expected a multiple of the encoder's 48",
    ),
    (lambda t: t, {"version": "2.1"}, r"'norm\.weight'.*V-JEPA 2's.*model\.version = '2\.1'.*RoPE"),
    (lambda t: t, {"part": "encoder"}, r"no 'encoder', expected one of target_encoder"),
    (lambda t: t, {"hedas": 3}, r"unknown key 'hedas', expected one of part, version"),
    (lambda t: t, {"heads": 5}, r"5 heads do not divide 48 channels.*model\.heads"),
    (lambda t: t, {"predictor_heads": 7}, r"7 heads do not divide 24.*model\.predictor_heads"),
    (lambda t: t, {"heads": "3"}, r"model\.heads is '3', expected a whole number from 1"),
    (lambda t: t, {"mask_token": -1}, r"model\.mask_token is -1, expected a whole number from 0"),
    (lambda t: t, {"mask_token": 3}, r"has 3 mask tokens, expected 0 to 2"),
    (lambda t: t, {"rescale_predictor": 1}, r"rescale_predictor is 1, expected true or false"),
    (lambda t: t, {"height": 65}, r"model\.height is 65, expected a multiple of the patch, 16"),
    (lambda t: t, {"clip_frames": 5}, r"clip_frames is 5, expected a multiple of 2"),
    (lambda t: t, {"clip_frames": 1}, r"no 'patch_embed_img.*model\.clip_frames to 2"),
    (lambda t: t, {"masks": "all"}, r"model\.masks is 'all', expected one of blocks, future, none"),
    (lambda t: t, {"clip_frames": 2, "masks": "future"}, r"one tubelet"),
    (lambda t: t, {"height": 48, "width": 48}, r"3 x 3 patches cannot be halved"),
    (_drop("predictor"), {"masks": "blocks"}, r"has no mask predictor"),
    (lambda t: t, {"hop": 3}, r"clip\.hop 3 is not a multiple.*model\.hop"),
]


@pytest.mark.parametrize(("change", "model", "message"), REFUSED)
def test_refusals(
    change: Callable[[Tensors], Tensors], model: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(change(_tensors()), _spec(**model))
    assert re.search(r"; [a-z]", str(caught.value)), "says how to fix it"


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("action", {"dim": 3}, r"a section 'action'.*sees video only"),
        ("state", {"dim": 3}, r"a section 'state'"),
        ("observation", {"clip": {"frames": 8}}, r"set model\.clip_frames instead"),
        ("observation", {"height": 64}, r"set model\.height instead"),
        ("observation", {"rate_hz": -1}, r"\[observation\] is not valid"),
        ("observation", {"color": "bgr"}, r"'bgr', expected 'rgb'"),
        ("observation", {"std": [0, 1, 1]}, r"observation\.std .*positive"),
    ],
)
def test_refused_sections(section: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(_tensors(), {**_spec(), section: values})


def test_refusals_of_version_2_1() -> None:
    tensors = _tensors("2.1")
    with pytest.raises(CheckpointError, match=r"norms_block.*config\.json is of transformers"):
        load(tensors, config={"model_type": "vjepa2"})
    with pytest.raises(CheckpointError, match=r"V-JEPA 2\.1's, but --spec says model\.version = 2"):
        load(tensors, _spec(version=2))
    with pytest.raises(CheckpointError, match=r"3 blocks and 4 layer norms"):
        load(_drop("encoder.blocks.3.")(tensors))
    with pytest.raises(CheckpointError, match="stride or hop, but the model takes single images"):
        load(tensors, _spec(clip_frames=1, stride=2))
    with pytest.raises(CheckpointError, match=r"lacks .*'img_mod_embed'"):
        load(_drop("target_encoder.img_mod_embed")(tensors))


def test_another_activation_is_refused() -> None:
    with pytest.raises(CheckpointError, match="hidden_act 'silu', expected 'gelu'"):
        load(_tensors(), config={"hidden_act": "silu"})


def test_an_incomplete_transformers_file(tmp_path: Path) -> None:
    tensors = dict(tiny_transformers().state_dict())
    del tensors["encoder.layer.1.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 'encoder\.layer\.1\.attention\.key\.weight'"):
        load(tensors)
    tensors["encoder.layer.1.attention.key.weight"] = torch.zeros(48, 47)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"key\.weight' has shape \(48, 47\), expected \(48, 48\)"
    ):
        load(read_state_dict(tmp_path / "model.safetensors"))
