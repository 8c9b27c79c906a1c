# SPDX-License-Identifier: Apache-2.0
"""The random checkpoints of the benchmarks: upstream's names and shapes, readable, repeatable."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from jepa_edge.export.weights import read_state_dict

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "random_checkpoint.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with every model cut to two layers of 66 channels."""
    spec = importlib.util.spec_from_file_location("random_checkpoint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = (66, 2, 2, 132)
    monkeypatch.setattr(module, "ENCODERS", dict.fromkeys(module.ENCODERS, small))
    monkeypatch.setattr(module, "MASK_PREDICTOR", small)
    monkeypatch.setattr(module, "AC_PREDICTOR", small)
    return module


def test_transformers_names(script: ModuleType) -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        hidden_size=66,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2.0,
        pred_hidden_size=66,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=2,
        pred_mlp_ratio=2.0,
    )
    with torch.device("meta"):
        model = VJEPA2Model(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert script.transformers_shapes("vjepa2-vitg") == expected


def test_sizes_are_those_of_the_facts() -> None:
    """Parameters as published, at full size; 300 tensors in V-JEPA 2-AC's predictor."""
    spec = importlib.util.spec_from_file_location("full_size", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for model, millions in (
        ("vjepa2-vitl", 303.9),
        ("vjepa2-vith", 631.6),
        ("vjepa2-vitg", 1012.2),
    ):
        shapes = module.native_shapes(model)["encoder"].values()
        assert sum(torch.Size(shape).numel() for shape in shapes) / 1e6 == pytest.approx(
            millions, abs=0.4
        )
    predictor = module.native_shapes("vjepa2-ac-vitg")["predictor"]
    assert len(predictor) == 300
    total = sum(torch.Size(shape).numel() for shape in predictor.values())
    assert total / 1e6 == pytest.approx(305.2, abs=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_layout(tmp_path: Path, script: ModuleType, dtype: torch.dtype) -> None:
    script.write_torch(tmp_path / "a.pt", "vjepa2-ac-vitg", dtype, seed=3)
    tensors = read_state_dict(tmp_path / "a.pt")
    shapes = {
        f"{part}.{name}": shape
        for part, inner in script.native_shapes("vjepa2-ac-vitg").items()
        for name, shape in inner.items()
    }
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    drawn = tensors["encoder.module.blocks.1.attn.qkv.weight"].float()
    assert drawn.std().item() == pytest.approx(0.02, rel=0.05)
    into_stream = tensors["encoder.module.blocks.1.mlp.fc2.weight"].float()
    assert into_stream.std().item() == pytest.approx(0.02 / 4.0**0.5, rel=0.05)
    assert torch.all(tensors["encoder.module.norm.weight"] == 1.0)
    assert not tensors["encoder.module.norm.bias"].any()
    # Written again, or read by torch without mapping: the same.
    script.write_torch(tmp_path / "b.pt", "vjepa2-ac-vitg", dtype, seed=3)
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        assert torch.equal(again[part][rest], tensor)


def test_safetensors_layout(tmp_path: Path, script: ModuleType) -> None:
    script.write_safetensors(tmp_path, "vjepa2-vitg", torch.float32, seed=3, shard_bytes=200_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    tensors = read_state_dict(tmp_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == script.transformers_shapes("vjepa2-vitg")
    for name in ("encoder.layer.1.mlp.fc2.weight", "predictor.proj.weight"):
        assert torch.equal(tensors[name], script.draw(name, shapes[name], torch.float32, seed=3))
