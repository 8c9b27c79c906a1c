# SPDX-License-Identifier: Apache-2.0
"""Our DINOv2 against transformers at true layer sizes, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.dinov2 import resized_positions
from jepa_edge.export.families.dinov2_keys import canonical_dinov2, load_dinov2
from jepa_edge.export.weights import read_state_dict

from .dino_wm_fixtures import DEPTH, DIM, HEADS, TABLE, dinov2_tensors, drawn

BOUND = 1e-4


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute error over the largest absolute value."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def randomized(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.copy_(drawn(name, tuple(parameter.shape)))
    return model.eval()


def pixels(size: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(count, 3, size, size, generator=generator)


SMALL = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 2}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 2}
GATED = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "use_swiglu_ffn": True,
}


@pytest.mark.parametrize(
    ("sizes", "size"),
    [(SMALL, 196), (SMALL, 224), (SMALL, 518), (BASE, 196), (GATED, 196)],
)
@torch.no_grad()
def test_agrees_with_transformers(sizes: dict[str, Any], size: int) -> None:
    model = randomized(Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **sizes)))
    x = pixels(size)
    expected = model(pixel_values=x).last_hidden_state[:, 1:]
    ours = load_dinov2(model.state_dict(), "here", grid=size // 14)
    assert ours.config.swiglu == sizes.get("use_swiglu_ffn", False)
    assert expected.std() > 0.5
    assert relative(ours(x), expected) <= BOUND


@torch.no_grad()
def test_registers_agree_with_transformers() -> None:
    config = Dinov2WithRegistersConfig(
        image_size=518, patch_size=14, num_register_tokens=4, **SMALL
    )
    model = randomized(Dinov2WithRegistersModel(config))
    x = pixels(196)
    expected = model(pixel_values=x).last_hidden_state[:, 5:]
    for positions in ("transformers", "dinov2"):  # both antialias, without an offset
        ours = load_dinov2(model.state_dict(), "here", grid=14, positions=positions)
        assert relative(ours(x), expected) <= BOUND


@pytest.mark.parametrize("sizes", [SMALL, GATED], ids=["small", "gated"])
@torch.no_grad()
def test_saved_files_load(tmp_path: Path, sizes: dict[str, Any]) -> None:
    model = randomized(Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **sizes)))
    model.save_pretrained(tmp_path)
    tensors = read_state_dict(tmp_path / "model.safetensors")
    assert any("attention.attention.query" in name for name in tensors), "transformers 4's names"
    direct = load_dinov2(model.state_dict(), "here", grid=16).state_dict()
    through = load_dinov2(tensors, "there", grid=16).state_dict()
    assert direct.keys() == through.keys()
    assert all(torch.equal(direct[name], through[name]) for name in direct)


@pytest.mark.parametrize("prefix", ["", "dinov2.", "module.", "base_model."])
@torch.no_grad()
def test_original_layout(prefix: str) -> None:
    tensors = dinov2_tensors(prefix)
    config = Dinov2Config(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_hidden_layers=DEPTH,
        image_size=TABLE * 14,
        patch_size=14,
    )
    theirs = Dinov2Model(config).eval()
    missing = theirs.load_state_dict(canonical_dinov2(tensors), strict=False)
    assert missing.missing_keys == ["embeddings.mask_token"]
    assert not missing.unexpected_keys
    x = pixels(42, 2)
    ours = load_dinov2(tensors, "here", grid=3, heads=HEADS)
    assert relative(ours(x), theirs(pixel_values=x).last_hidden_state[:, 1:]) <= BOUND


def _cubic(side: int, grid: int, offset: float) -> NDArray[np.float64]:
    """Cubic convolution with a = -0.75 at half-pixel centres, borders repeated: (grid, side)."""
    weights = np.zeros((grid, side))
    for i in range(grid):
        place = (i + 0.5) * side / (grid + offset) - 0.5
        left = int(np.floor(place))
        for tap in range(left - 1, left + 3):
            x, a = abs(place - tap), -0.75
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            weights[i, min(max(tap, 0), side - 1)] += near if x <= 1 else far
    return weights


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("grid", [14, 16])
def test_positions_are_cubic(grid: int, offset: float) -> None:
    side, dim = 37, 5
    table = drawn("table", (side * side, dim))
    matrix = _cubic(side, grid, offset)
    square = table.double().numpy().reshape(side, side, dim)
    expected = np.einsum("ia,jb,abd->ijd", matrix, matrix, square).reshape(-1, dim)
    actual = resized_positions(table, grid, offset=offset, antialias=False)
    assert relative(actual.double(), torch.from_numpy(expected)) <= 1e-5


def test_offset_is_not_nothing() -> None:
    table = drawn("table", (37 * 37, 5))
    plain = resized_positions(table, 14, offset=0.0, antialias=False)
    assert relative(resized_positions(table, 14, offset=0.1, antialias=False), plain) > 0.01


def test_other_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"vit holds no DINOv2.*dinov2-small"):
        load_dinov2({"cls_token": torch.zeros(1, 1, 8)}, "vit", grid=2)


def test_missing_and_extra_tensors_are_named() -> None:
    tensors = dinov2_tensors()
    gone = tensors.pop("blocks.1.ls2.gamma")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.layer_scale2\.lambda1"):
        load_dinov2(tensors, "here", grid=3, heads=HEADS)
    tensors |= {"blocks.1.ls2.gamma": gone, "head.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"'head\.weight'"):
        load_dinov2(tensors, "here", grid=3, heads=HEADS)


def test_wrong_heads_are_refused() -> None:
    with pytest.raises(CheckpointError, match="5 heads"):
        load_dinov2(dinov2_tensors(), "here", grid=3, heads=5)
