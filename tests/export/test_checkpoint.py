# SPDX-License-Identifier: Apache-2.0
"""Loading checkpoints: every released layout, and everything that must be refused."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_checkpoint import (
    CheckpointConfig,
    default_action,
    default_observation,
    load_checkpoint,
    save_checkpoint,
)
from jepa_edge.export.weights import read_state_dict
from jepa_edge.manifest import ActionSpec, ObservationSpec

Builder = Callable[..., nn.Module]
State = dict[str, Tensor]

# As released for PushT: le-wm's config/train/model/lewm.yaml with its references resolved.
_MLP = {
    "_target_": "stable_worldmodel.wm.lewm.module.MLP",
    "input_dim": 192,
    "output_dim": 192,
    "hidden_dim": 2048,
    "norm_fn": {"_target_": "torch.nn.BatchNorm1d", "_partial_": True},
}
HYDRA: dict[str, Any] = {
    "_target_": "stable_worldmodel.wm.lewm.LeWM",
    "embed_dim": 192,
    "history_size": 3,
    "encoder": {
        "_target_": "stable_pretraining.backbone.utils.vit_hf",
        "size": "tiny",
        "patch_size": 14,
        "image_size": 224,
        "pretrained": False,
        "use_mask_token": False,
    },
    "predictor": {
        "_target_": "stable_worldmodel.wm.lewm.module.Predictor",
        "num_frames": 3,
        "input_dim": 192,
        "hidden_dim": 192,
        "output_dim": 192,
        "depth": 6,
        "heads": 16,
        "mlp_dim": 2048,
        "dim_head": 64,
        "dropout": 0.1,
        "emb_dropout": 0.0,
    },
    "action_encoder": {
        "_target_": "stable_worldmodel.wm.lewm.module.Embedder",
        "input_dim": 10,
        "emb_dim": 192,
    },
    "projector": _MLP,
    "pred_proj": _MLP,
}


def transformers_4(state: State) -> State:
    """Name an encoder's tensors as transformers 4.57 did (compared with a real one by hand)."""
    parts = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = {}
    for key, value in state.items():
        if key.startswith("encoder.layers."):
            key = key.replace("encoder.layers.", "encoder.encoder.layer.")
            for new, old in parts.items():
                key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = value
    assert len(renamed) == len(state)
    return renamed


@pytest.fixture(scope="module")
def full_state(build_upstream: Builder) -> State:
    return dict(build_upstream(LeWMConfig(), seed=5).state_dict())


@pytest.fixture(scope="module")
def small_state(build_upstream: Builder, small_config: LeWMConfig) -> State:
    return dict(build_upstream(small_config, seed=6).state_dict())


@pytest.fixture(scope="module")
def specs(small_config: LeWMConfig) -> dict[str, Any]:
    return {
        "observation": ObservationSpec(
            height=32, width=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), rate_hz=5.0
        ),
        "action": ActionSpec(
            dim=6,
            block=2,
            mean=(1.0, 2.0, 3.0, 1.0, 2.0, 3.0),
            std=(0.5,) * 6,
            low=(0.0,) * 6,
            high=(512.0,) * 6,
            units="px",
            names=("x0", "y0", "z0", "x1", "y1", "z1"),
        ),
    }


@pytest.fixture
def saved(
    tmp_path: Path, small_config: LeWMConfig, small_state: State, specs: dict[str, Any]
) -> Path:
    """A small checkpoint in our own layout."""
    model = LeWM(small_config)
    model.load_state_dict(small_state)
    save_checkpoint(tmp_path / "saved", model, **specs)
    return tmp_path / "saved"


def assert_same(model: LeWM, expected: State) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert not model.training


def edit_config(directory: Path, section: str | None, **changes: Any) -> None:
    path = directory / "config.json"
    values = json.loads(path.read_text())
    (values if section is None else values[section]).update(changes)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("naming", ["transformers 4", "transformers 5"])
def test_released_directory(
    tmp_path: Path, build_upstream: Builder, full_state: State, naming: str
) -> None:
    """config.json + weights.pt, as published; outputs still agree with the authors' code."""
    state = transformers_4(full_state) if naming == "transformers 4" else full_state
    torch.save(collections.OrderedDict(state), tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(HYDRA))
    model, config, extras = load_checkpoint(tmp_path)

    assert config == LeWMConfig()
    assert_same(model, full_state)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 18_042_672
    assert extras.weights == tmp_path / "weights.pt"
    assert extras.sha256 == hashlib.sha256((tmp_path / "weights.pt").read_bytes()).hexdigest()
    assert extras.observation == default_observation(config)
    assert extras.action == default_action(config)
    assert (extras.action.dim, extras.action.block) == (10, 5)
    assert "action.mean" in extras.assumed
    assert not any(name.startswith("model.") for name in extras.assumed)

    upstream = build_upstream(config, seed=5)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = upstream.encode({"pixels": pixels[None]})["emb"][0]
        torch.testing.assert_close(model.encode(pixels), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        (None, ""),
        ("state_dict", "model."),
        ("model", "module.model."),
        ("model_state_dict", "model._orig_mod."),
    ],
)
def test_bare_weights_from_shapes(
    tmp_path: Path, full_state: State, wrapper: str | None, prefix: str
) -> None:
    state: dict[str, Any] = {prefix + key: value for key, value in full_state.items()}
    if prefix:
        state["sigreg.t"] = torch.zeros(17)  # the trainer's, beside the model
    path = tmp_path / "lewm_weight.ckpt"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    model, config, extras = load_checkpoint(path)
    assert config == LeWMConfig()
    assert_same(model, full_state)
    assert "model.encoder_heads" in extras.assumed


def test_bare_safetensors_in_half_precision(tmp_path: Path, full_state: State) -> None:
    """Converters drop the batch counters and halve the weights; both are harmless."""
    half = {
        key: value.to(torch.bfloat16) if value.is_floating_point() else value
        for key, value in full_state.items()
        if not key.endswith("num_batches_tracked")
    }
    half["encoder.embeddings.mask_token"] = torch.zeros(1, 1, 192)
    safetensors.torch.save_file(half, tmp_path / "lewm.safetensors")
    model, _, _ = load_checkpoint(tmp_path / "lewm.safetensors")
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    name = "predictor.transformer.layers.3.attn.to_qkv.weight"
    assert torch.equal(model.state_dict()[name], half[name].float())


def test_own_layout_round_trip(
    saved: Path, small_config: LeWMConfig, small_state: State, specs: dict[str, Any]
) -> None:
    model, config, extras = load_checkpoint(saved)
    assert config == small_config
    assert_same(model, small_state)
    assert extras.observation == specs["observation"]
    assert extras.action == specs["action"]
    assert extras.assumed == ()
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    decoded = msgspec.json.decode((saved / "config.json").read_bytes(), type=CheckpointConfig)
    assert decoded.family == "lewm"
    assert load_checkpoint(saved / "model.safetensors")[1] == small_config


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_config_file_overrides(tmp_path: Path, full_state: State, suffix: str) -> None:
    torch.save(full_state, tmp_path / "lewm_weight.ckpt")
    override = tmp_path / f"robot{suffix}"
    if suffix == ".json":
        override.write_text(
            json.dumps({"action": {"mean": [0.1] * 10, "std": [0.2] * 10, "block": 5}})
        )
    else:
        override.write_text(f"[action]\nblock = 5\nmean = {[0.1] * 10}\nstd = {[0.2] * 10}\n")
    _, _, extras = load_checkpoint(tmp_path / "lewm_weight.ckpt", config=override)
    assert extras.action.mean == (0.1,) * 10
    assert extras.action.units == ""
    assert not any(name.startswith("action.") for name in extras.assumed)
    assert "observation.rate_hz" in extras.assumed


def test_sizes_that_shapes_cannot_tell(
    tmp_path: Path, small_config: LeWMConfig, small_state: State
) -> None:
    """Two heads of 32 have the shapes of one head of 64: only a config can say which."""
    config = dataclasses.replace(small_config, predictor_heads=2, predictor_dim_head=32)
    torch.save(small_state, tmp_path / "small_weight.ckpt")
    (tmp_path / "heads.json").write_text(
        json.dumps({"model": {"predictor_heads": 2, "predictor_dim_head": 32}})
    )
    _, found, extras = load_checkpoint(
        tmp_path / "small_weight.ckpt", config=tmp_path / "heads.json"
    )
    assert found == dataclasses.replace(config, dropout=found.dropout)
    assert "model.predictor_heads" not in extras.assumed
    assert "model.encoder_heads" in extras.assumed


class Hostile:
    """Makes a directory when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_objects_are_refused_unrun(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "owned"
    path = tmp_path / "lewm_object.ckpt"
    content = {"hook": Hostile(marker), "model": nn.Sequential(nn.Linear(2, 2))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path)
    message = str(refusal.value)
    assert not marker.exists()
    assert "pickled Python objects" in message
    assert "lewm_weight.ckpt" in message
    assert "python -c" in message
    assert "\n" not in message


def test_refusal_shows_a_conversion_that_works(tmp_path: Path) -> None:
    """Run the printed command, here where the classes exist, and load what it wrote."""
    path = tmp_path / "lewm_object.ckpt"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match="holds pickled Python objects") as refusal:
        load_checkpoint(path)
    command = str(refusal.value).split("that made it: ", 1)[1].rsplit(", then export", 1)[0]
    # `python` is whatever runs this test, also where its environment is not activated.
    path_here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": path_here})
    state = torch.load(tmp_path / "lewm_weight.ckpt", weights_only=True)
    assert sorted(state) == ["0.bias", "0.weight"]
    with pytest.raises(CheckpointError, match=r"export lewm_weight\.ckpt beside it"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["model_latest.pth", 'it\'s "$HOME".pth.tar', "-c.pt"])
def test_the_conversion_works_for_a_dict_of_modules(tmp_path: Path, name: str) -> None:
    """As DINO-WM's trainer saves them, optimizers and all."""
    modules = {"predictor": nn.Linear(2, 3), "action_encoder": nn.Sequential(nn.Conv1d(1, 2, 3))}
    optimizer = torch.optim.Adam(modules["predictor"].parameters())
    path = tmp_path / name
    torch.save({**modules, "predictor_optimizer": optimizer, "opt": optimizer, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="holds pickled Python objects") as refusal:
        read_state_dict(path)
    command, then = str(refusal.value).split("that made it: ", 1)[1].rsplit(", then export ", 1)
    path_here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": path_here})
    assert then == f"{name.split('.')[0]}_weight.ckpt"
    expected = {
        f"{part}.{key}": value
        for part, module in modules.items()
        for key, value in module.state_dict().items()
    }
    found = read_state_dict(tmp_path / then)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["weights.pt", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_truncated(tmp_path: Path, small_state: State, name: str, kept: float) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(small_state, path)
    else:
        safetensors.torch.save_file(small_state, path)
    payload = path.read_bytes()
    path.write_bytes(payload[: int(kept * len(payload) if 0 < kept < 1 else kept)])
    with pytest.raises(CheckpointError, match=r"truncated|damaged") as refusal:
        load_checkpoint(path)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_flipped_bytes_never_escape_as_other_errors(tmp_path: Path, small_state: State) -> None:
    """Whatever the damage: it loads, or it is a CheckpointError."""
    path = tmp_path / "weights.pt"
    torch.save(small_state, path)
    payload = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    # The directory, the pickle and the first records lie at both ends of the file.
    ends = [*range(0, 4000, 97), *range(len(payload) - 4000, len(payload), 97)]
    for at in ends:
        damaged = bytearray(payload)
        damaged[at] ^= int(torch.randint(1, 256, (), generator=generator))
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            read_state_dict(path)


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "vjepa native": (
        {
            "encoder": {
                "module.backbone.patch_embed.proj.weight": torch.zeros(8, 3, 2, 16, 16),
                "module.backbone.blocks.0.attn.qkv.weight": torch.zeros(24, 8),
            },
            "predictor": {"module.backbone.mask_tokens.0": torch.zeros(1, 1, 8)},
            "epoch": 3,
        },
        "looks like V-JEPA",
    ),
    "vjepa2-ac": (
        {
            "encoder": {"module.patch_embed.proj.weight": torch.zeros(8, 3, 2, 16, 16)},
            "predictor": {"module.action_encoder.weight": torch.zeros(8, 7)},
        },
        "looks like V-JEPA 2-AC",
    ),
    "vjepa transformers": (
        {"encoder.embeddings.patch_embeddings.proj.weight": torch.zeros(8, 3, 2, 16, 16)},
        "looks like V-JEPA",
    ),
    "resnet": (
        {"conv1.weight": torch.zeros(8, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(8, 8, 3, 3)},
        "looks like a ResNet",
    ),
    "unknown": ({"w": torch.zeros(3)}, "looks like an unknown model"),
    "empty": ({}, "holds no tensors"),
    "no tensors": ({"epoch": 3, "loss": 0.5}, "holds no tensors"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_families(tmp_path: Path, kind: str) -> None:
    content, words = FOREIGN[kind]
    torch.save(content, tmp_path / "latest.pt")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "latest.pt")


def drop(state: State) -> None:
    del state["predictor.transformer.layers.1.mlp.net.4.bias"]


def add(state: State) -> None:
    state["predictor.transformer.layers.1.gate"] = torch.zeros(3)


def reshape(state: State) -> None:
    state["pred_proj.net.3.weight"] = torch.zeros(24, 79)


def poison(state: State) -> None:
    state["projector.net.1.running_var"][5] = float("nan")


def quantize(state: State) -> None:
    key = "action_encoder.embed.2.weight"
    state[key] = state[key].to(torch.int8)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            drop,
            r"lacks 1 tensor, 'predictor.transformer.layers.1.mlp.net.4.bias' \(.* shape \(40,\)\)",
        ),
        (add, r"has 1 tensor, 'predictor.transformer.layers.1.gate' that the model has no place"),
        (reshape, r"'pred_proj.net.3.weight' has shape \(24, 79\), expected \(24, 80\)"),
        (poison, r"'projector.net.1.running_var' holds NaN"),
        (quantize, r"'action_encoder.embed.2.weight' is torch.int8 .* expected torch.float32"),
    ],
    ids=["missing", "extra", "misshapen", "nan", "quantized"],
)
def test_a_wrong_tensor_is_named(
    saved: Path, small_state: State, damage: Callable[[State], None], words: str
) -> None:
    state = {key: value.clone() for key, value in small_state.items()}
    damage(state)
    safetensors.torch.save_file(state, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(saved)


def test_both_namings_at_once_are_refused(saved: Path, small_state: State) -> None:
    state = {k: v.clone() for k, v in {**small_state, **transformers_4(small_state)}.items()}
    safetensors.torch.save_file(state, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="under two names"):
        load_checkpoint(saved)


def test_two_models_at_once_are_refused(saved: Path, small_state: State) -> None:
    twice = {f"{name}.{k}": v.clone() for name in ("model", "ema") for k, v in small_state.items()}
    safetensors.torch.save_file(twice, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds 2 LeWorldModels"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        (None, {"family": "vjepa2_ac"}, "family 'vjepa2_ac', expected 'lewm'"),
        (None, {"model_type": "vit"}, "unknown key 'model_type'"),
        (None, {"action": 3}, "'action' is 3, expected a table"),
        ("model", {"latent": 3}, "unknown key 'latent'"),
        ("model", {"history": 5}, r"'predictor.pos_embedding' has shape \(1, 4, 24\)"),
        ("observation", {"rate": 3}, "unknown field `rate`"),
        ("observation", {"rate_hz": 0}, "rate_hz"),
        ("observation", {"height": 64}, "observation is 64 x 32, expected .* 32 x 32"),
        ("observation", {"std": [0.2, 0.0, 0.2]}, "observation.std is .* expected positive"),
        ("action", {"dim": 4}, "action.mean has 6 numbers, expected 4"),
        ("action", {"std": [1.0] * 5}, "action.std has 5 numbers, expected 6"),
        ("action", {"std": [1.0] * 5 + [0.0]}, "action.std is .* expected positive"),
        ("action", {"block": 4}, "not a multiple"),
    ],
)
def test_wrong_config_is_named(
    saved: Path, section: str | None, changes: dict[str, Any], words: str
) -> None:
    edit_config(saved, section, **changes)
    with pytest.raises(CheckpointError, match=words) as refusal:
        load_checkpoint(saved)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("_target_",), "stable_worldmodel.wm.pldm.PLDM", "_target_"),
        (("encoder", "size"), "giant", "giant"),
        (("encoder", "patch_size"), "${patch}", "encoder.patch_size"),
        (("encoder", "hidden_act"), "relu", "hidden_act"),
        (("encoder", "layer_norm_eps"), 1e-6, "layer_norm_eps"),
        (("predictor", "rope"), True, "rope"),
        (("predictor", "output_dim"), 96, "predictor.output_dim is 96, expected 192"),
        (("action_encoder", "emb_dim"), 10, "action_encoder.emb_dim is 10, expected 192"),
        (("projector", "norm_fn"), {"_target_": "torch.nn.LayerNorm"}, "norm_fn"),
        (("pred_proj", "hidden_dim"), 1024, "pred_proj.hidden_dim is 1024, expected 2048"),
    ],
)
def test_hydra_config_of_another_model(
    tmp_path: Path, full_state: State, path: tuple[str, ...], value: Any, words: str
) -> None:
    hydra = json.loads(json.dumps(HYDRA))
    *parents, last = path
    node = hydra
    for parent in parents:
        node = node[parent]
    node[last] = value
    torch.save(full_state, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(hydra))
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path)


def test_early_hydra_config(tmp_path: Path, full_state: State) -> None:
    """The first releases name le-wm's own modules and leave norm_fn out."""
    hydra = json.loads(json.dumps(HYDRA))
    hydra["_target_"] = "jepa.JEPA"
    hydra["predictor"]["_target_"] = "module.ARPredictor"
    del hydra["action_encoder"]["_target_"]
    for head in ("projector", "pred_proj"):
        hydra[head] = {"input_dim": 192, "output_dim": 192, "hidden_dim": 2048}
    torch.save(full_state, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(hydra))
    assert load_checkpoint(tmp_path)[1] == LeWMConfig()


def test_what_is_no_checkpoint(tmp_path: Path, small_state: State) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds 0 weights files"):
        load_checkpoint(tmp_path)
    (tmp_path / "notes.pt").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="neither safetensors nor a torch file"):
        load_checkpoint(tmp_path)
    torch.save(small_state, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"holds 2 weights files \(more.pt, notes.pt\)"):
        load_checkpoint(tmp_path)
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pt")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a bundle"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged or no JSON"):
        load_checkpoint(tmp_path / "more.pt")


def test_object_beside_weights_is_left_alone(saved: Path, small_config: LeWMConfig) -> None:
    (saved / "lewm_object.ckpt").write_bytes(b"never opened")
    assert load_checkpoint(saved)[1] == small_config


def test_failed_save_changes_nothing(
    saved: Path, small_config: LeWMConfig, specs: dict[str, Any]
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    wrong = msgspec.structs.replace(specs["observation"], height=64, width=64)
    with pytest.raises(CheckpointError, match="observation is 64 x 64"):
        save_checkpoint(saved, LeWM(small_config), observation=wrong, action=specs["action"])
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
