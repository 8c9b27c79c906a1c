# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints: mapped, not copied; nested, sharded, and everything that must be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.shards import find_index, weights_files, weights_sha256
from jepa_edge.export.weights import read_state_dict

INDEX = "model.safetensors.index.json"
_MIB = 2**20
_VALUES = 10 * _MIB  # 40 MiB per tensor, five of them

_READ = """
import sys, torch
from pathlib import Path
from jepa_edge.export.weights import read_state_dict
def anonymous():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) // 1024
torch.set_num_threads(1)
torch.zeros(10).sum()
for path in sys.argv[1:]:
    before = anonymous()
    if path == "copied":
        tensors = torch.load(sys.argv[1], weights_only=True)["encoder"]
    else:
        tensors = read_state_dict(Path(path))
    total = sum(float(tensor.sum()) for tensor in tensors.values())
    print(len(tensors), total, anonymous() - before)
    del tensors
"""


def tensors(count: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(3, 5, generator=generator) for i in range(count)}


def write_shards(directory: Path, state: dict[str, Tensor], **changes: Any) -> Path:
    """Two shards, as transformers writes them. changes: entries of the weight map; None drops."""
    directory.mkdir(exist_ok=True)
    names = list(state)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    owners: dict[str, Any] = {}
    for number, half in enumerate(halves, start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file({name: state[name] for name in half}, directory / file)
        owners |= dict.fromkeys(half, file)
    owners = {name: file for name, file in {**owners, **changes}.items() if file is not None}
    index = directory / INDEX
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": owners}))
    return index


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_reading_does_not_copy(tmp_path: Path) -> None:
    """200 MiB are read to the last value; torch's default comes last, and the measure sees it."""
    state = {f"w{i}": torch.full((_VALUES,), float(i + 1)) for i in range(5)}
    content = {"encoder": state, "opt": {"state": {0: {"exp_avg": state["w0"]}}}}
    torch.save(content, tmp_path / "weights.pt")
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    index = write_shards(tmp_path / "sharded", state)
    paths = (tmp_path / "weights.pt", tmp_path / "weights.safetensors", index, "copied")
    printed = subprocess.run(
        [sys.executable, "-c", _READ, *map(str, paths)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(printed) == 4
    for path, line in zip(paths, printed, strict=True):
        count, total, grown_mib = line.split()
        assert int(count) == 5
        assert float(total) == 15.0 * _VALUES
        if path == "copied":
            assert int(grown_mib) > 190
        else:
            assert int(grown_mib) < 20, path


def test_training_checkpoint(tmp_path: Path) -> None:
    """As upstream saves V-JEPA: three state dicts, an optimizer and numbers."""
    state = tensors()
    inner = {f"module.backbone.{name}": value for name, value in state.items()}
    content = {
        **dict.fromkeys(("encoder", "predictor", "target_encoder"), inner),
        "opt": {"state": {0: {"exp_avg": torch.ones(3)}}, "named": {"w": torch.ones(3)}},
        "scaler": {"scale": torch.ones(()), "_growth_tracker": 3},
        "epoch": 3,
        "loss": 0.5,
        "lr": 1e-4,
    }
    torch.save(content, tmp_path / "latest.pth.tar")
    expected = {
        f"{part}.{name}": value
        for part in ("encoder", "predictor", "target_encoder")
        for name, value in inner.items()
    }
    assert_same(read_state_dict(tmp_path / "latest.pth.tar"), expected)


def test_two_levels_and_a_wrapper(tmp_path: Path) -> None:
    state = tensors(2)
    model = {"vision": {"encoder": state}, "logit_scale": torch.ones(())}
    torch.save({"state_dict": model, "loss": torch.ones(())}, tmp_path / "w.ckpt")
    expected = {f"vision.encoder.{name}": value for name, value in state.items()}
    expected["logit_scale"] = torch.ones(())
    assert_same(read_state_dict(tmp_path / "w.ckpt"), expected)


def test_file_from_before_zip(tmp_path: Path) -> None:
    torch.save({"encoder": tensors()}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    expected = {f"encoder.{name}": value for name, value in tensors().items()}
    assert_same(read_state_dict(tmp_path / "w.pt"), expected)


def test_dict_within_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 3}
    content["again"] = content
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_state_dict(tmp_path / "w.pt")


def test_same_name_nested_and_flat(tmp_path: Path) -> None:
    torch.save({"a": {"w": torch.ones(1)}, "a.w": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"'a\.w' both nested and flat"):
        read_state_dict(tmp_path / "w.pt")


def test_sharded(tmp_path: Path) -> None:
    state = {**tensors(), "half": torch.ones(4, dtype=torch.bfloat16)}
    index = write_shards(tmp_path / "m", state)
    assert_same(read_state_dict(index), state)
    assert_same(read_state_dict(tmp_path / "m"), state)
    assert find_index(tmp_path / "m") == index
    assert find_index(tmp_path) is None
    assert [path.name for path in weights_files(index)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]
    assert weights_files(tmp_path / "m") == weights_files(index)


def test_sha256_is_what_sha256sum_says(tmp_path: Path) -> None:
    write_shards(tmp_path / "m", tensors())
    command = f"sha256sum model-*.safetensors {INDEX} | sha256sum; sha256sum {INDEX}"
    printed = subprocess.run(
        command, shell=True, cwd=tmp_path / "m", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert weights_sha256(tmp_path / "m") == printed[0].split()[0]
    plain = tmp_path / "plain"
    plain.write_bytes((tmp_path / "m" / INDEX).read_bytes())
    assert weights_sha256(plain) == printed[1].split()[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer.9.weight": "model-00001-of-00002.safetensors"}, "lacks 'layer.9.weight' and 0"),
        ({"layer.0.weight": None}, "holds 'layer.0.weight' and 0 more .* does not list"),
        (
            {"layer.0.weight": "model-00002-of-00002.safetensors"},
            "holds 'layer.0.weight' .* places in model-00002|lacks 'layer.0.weight'",
        ),
        ({"x": "model-00003-of-00002.safetensors"}, "lacks 1 of 3 shards, the first model-00003"),
        ({"x": "../model-00001-of-00002.safetensors"}, "'../model.* points elsewhere"),
        ({"x": "/etc/passwd"}, "'/etc/passwd'.* points elsewhere"),
        ({"x": "a\\b.safetensors"}, "points elsewhere"),
        ({"x": ".."}, "points elsewhere"),
        ({"x": ""}, "points elsewhere"),
        ({"x": "bad\0name"}, "points elsewhere"),
        ({"x": INDEX}, "an index"),
        ({"x": 3}, "is no index of a sharded checkpoint"),
    ],
)
def test_wrong_index(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    index = write_shards(tmp_path / "m", tensors(), **changes)
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_state_dict(index)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "is no index"),
        (b"[]", "is no index"),
        (b'{"weight_map": 3}', "is no index"),
        (b"{}", "is no index"),
        (b'{"weight_map": {}}', "lists no tensors"),
        (b'{"weight_map": {"\xff": "a"}}', "is no index"),
    ],
)
def test_no_index(tmp_path: Path, payload: bytes, words: str) -> None:
    (tmp_path / INDEX).write_bytes(payload)
    with pytest.raises(CheckpointError, match=words):
        read_state_dict(tmp_path)


def test_damaged_or_missing_shards(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "m", tensors())
    shard = tmp_path / "m" / "model-00002-of-00002.safetensors"
    payload = shard.read_bytes()
    shard.write_bytes(payload[:-4])
    with pytest.raises(CheckpointError, match=r"model-00002.* truncated or damaged"):
        read_state_dict(index)
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"model-00002.*Git LFS pointer"):
        read_state_dict(index)
    shard.unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of 2 shards, the first model-00002"):
        read_state_dict(index)
    with pytest.raises(CheckpointError, match=r"cannot read .*no\.index\.json"):
        read_state_dict(tmp_path / "no.index.json")


def test_several_indices(tmp_path: Path) -> None:
    write_shards(tmp_path, tensors())
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    assert find_index(tmp_path) == tmp_path / INDEX  # safetensors' before torch's
    (tmp_path / "model.fp16.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds 2 indices"):
        read_state_dict(tmp_path)
    with pytest.raises(CheckpointError, match="holds no"):
        weights_files(tmp_path.parent)
