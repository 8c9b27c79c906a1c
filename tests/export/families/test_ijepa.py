# SPDX-License-Identifier: Apache-2.0
"""I-JEPA against transformers at true layer sizes, and against upstream's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import IJepaConfig, IJepaForImageClassification, IJepaModel

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel
from jepa_edge.export.families.ijepa import IJepaFamily
from jepa_edge.export.families.ijepa_masks import block_masks
from jepa_edge.export.families.pixels import IMAGENET_MEAN as MEAN
from jepa_edge.export.families.pixels import IMAGENET_STD as STD
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.export.weights import read_state_dict

from .ijepa_fixtures import (
    DIM,
    HEADS,
    SIZE,
    SPEC,
    TOKENS,
    encoder_tensors,
    frames,
    predictor_tensors,
    tiny_ijepa_checkpoint,
    transformers_names,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "ijepa.npz"
BOUND = 1e-4


def relative(actual: Any, expected: Any) -> float:
    """Largest absolute error over the largest absolute value."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def load(
    tensors: dict[str, Tensor],
    config: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
) -> LoadedModel:
    """Load tensors as if they came from a file."""
    path = Path("model.bin")
    checkpoint = Checkpoint(
        path=path,
        weights=path,
        sha256="0" * 64,
        tensors=tensors,
        config=config or {},
        spec=spec or {},
    )
    assert IJepaFamily().matches(tensors.keys(), checkpoint.config)
    return IJepaFamily().load(checkpoint)


def read(path: Path, spec: dict[str, Any] | None = None) -> LoadedModel:
    """Load a checkpoint that lies on disk."""
    config: dict[str, Any] = {}
    if path.is_dir():
        config = json.loads((path / "config.json").read_bytes())
        path = path / "model.safetensors"
    return load(read_state_dict(path), config, spec)


def encode(
    model: LoadedModel, pictures: NDArray[np.uint8], visible: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Latents by the torch graph."""
    graph = model.graphs["encoder"].module
    chosen = () if visible is None else (torch.from_numpy(visible),)
    with torch.no_grad():
        latents: NDArray[np.float32] = graph(torch.from_numpy(pictures), *chosen).numpy()
    return latents


def normalized(pictures: NDArray[np.uint8]) -> Tensor:
    """What transformers' model takes."""
    pixels = (pictures / 255.0 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()


def to_onnx(graph: GraphModule) -> ort.InferenceSession:
    """Export a graph as the exporter does."""
    return ort.InferenceSession(export_graph(graph).SerializeToString())


@pytest.mark.parametrize(
    ("dim", "heads", "mlp", "patch"),
    [(1280, 16, 5120, 14), (1408, 16, 6144, 16)],
    ids=["ViT-H/14", "ViT-g/16"],
)
def test_the_encoder_is_transformers(
    tmp_path: Path, dim: int, heads: int, mlp: int, patch: int
) -> None:
    """True layer sizes at 224 pixels, depth 2, weights as the upstream model saves them."""
    torch.manual_seed(5)
    config = IJepaConfig(
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=mlp,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    upstream = IJepaModel(config).eval()
    with torch.no_grad():
        for name, tensor in upstream.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(0.0, 0.1)
            elif "norm" in name:
                tensor.normal_(1.0, 0.2)
    upstream.save_pretrained(tmp_path)
    model = read(tmp_path)
    assert not {"model.heads"} & set(model.assumed)
    assert model.masks is None
    pictures = frames(1, 224)
    with torch.no_grad():
        expected = upstream(normalized(pictures)).last_hidden_state
    assert model.latent.grid == (1, 224 // patch, 224 // patch)
    assert relative(encode(model, pictures), expected) <= BOUND
    # The heads that upstream's table gives are those of the config.
    without = load(read_state_dict(tmp_path / "model.safetensors"))
    assert relative(encode(without, pictures), expected) <= BOUND
    (latents,) = to_onnx(model.graphs["encoder"]).run(None, {"frames": pictures})
    assert relative(latents, expected) <= BOUND


def test_older_names_and_the_classifier_load_too(tmp_path: Path) -> None:
    torch.manual_seed(6)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = IJepaConfig(**sizes, intermediate_size=64, image_size=32, patch_size=8, num_labels=3)
    upstream = IJepaForImageClassification(config).eval()
    with torch.no_grad():
        expected = upstream.ijepa(normalized(frames(2, 32))).last_hidden_state
    names = {
        ".attention.q_proj.": ".attention.attention.query.",
        ".attention.k_proj.": ".attention.attention.key.",
        ".attention.v_proj.": ".attention.attention.value.",
        ".attention.o_proj.": ".attention.output.dense.",
        ".mlp.fc1.": ".intermediate.dense.",
        ".mlp.fc2.": ".output.dense.",
        "ijepa.layers.": "ijepa.encoder.layer.",
    }
    old = {}
    for name, tensor in upstream.state_dict().items():
        for new, older in names.items():
            name = name.replace(new, older)
        old[name] = tensor
    assert "ijepa.encoder.layer.1.attention.output.dense.weight" in old
    model = load(old, config.to_dict())
    assert relative(encode(model, frames(2, 32)), expected) <= BOUND


def test_encoder_and_predictor_are_upstreams(tmp_path: Path) -> None:
    pinned = np.load(VECTORS)
    model = read(tiny_ijepa_checkpoint(tmp_path), SPEC)
    assert model.masks is not None
    everything = np.arange(TOKENS)
    assert relative(encode(model, frames(), everything), pinned["latents"]) <= BOUND
    context = encode(model, frames(), pinned["visible"])
    assert relative(context, pinned["context"]) <= BOUND
    with torch.no_grad():
        predicted = model.graphs["mask_predictor"].module(
            *(torch.from_numpy(part) for part in (context, pinned["visible"], pinned["hidden"]))
        )
    assert relative(predicted, pinned["predicted"]) <= BOUND


@pytest.mark.parametrize("layout", ["encoder", "transformers"])
def test_every_layout_is_one_model(tmp_path: Path, layout: str) -> None:
    model = read(tiny_ijepa_checkpoint(tmp_path, layout), SPEC)
    assert set(model.graphs) == {"encoder"}
    assert relative(encode(model, frames()), np.load(VECTORS)["latents"]) <= BOUND


def test_the_online_encoder_can_be_had(tmp_path: Path) -> None:
    spec = {"model": {**SPEC["model"], "part": "encoder"}}
    online = read(tiny_ijepa_checkpoint(tmp_path), spec)
    expected = load(encoder_tensors("online "), spec=SPEC)
    everything = np.arange(TOKENS)
    assert relative(encode(online, frames(), everything), encode(expected, frames())) <= BOUND
    assert relative(encode(online, frames(), everything), np.load(VECTORS)["latents"]) > 0.1


def test_onnx_is_torch(tmp_path: Path) -> None:
    """Batches and numbers of tokens other than the example's."""
    model = read(tiny_ijepa_checkpoint(tmp_path), SPEC)
    pinned = np.load(VECTORS)
    encoder = to_onnx(model.graphs["encoder"])
    pictures = frames(3)
    for visible in (np.arange(TOKENS), pinned["visible"]):
        (latents,) = encoder.run(None, {"frames": pictures, "visible": visible})
        assert relative(latents, encode(model, pictures, visible)) <= BOUND
    predictor = to_onnx(model.graphs["mask_predictor"])
    feeds = {name: pinned[name] for name in ("context", "visible", "hidden")}
    (predicted,) = predictor.run(None, feeds)
    assert relative(predicted, pinned["predicted"]) <= BOUND
    alone = to_onnx(load(encoder_tensors(), spec=SPEC).graphs["encoder"])
    (latents,) = alone.run(None, {"frames": frames()})
    assert relative(latents, pinned["latents"]) <= BOUND


def test_what_the_manifest_will_say(tmp_path: Path) -> None:
    model = read(tiny_ijepa_checkpoint(tmp_path))
    assert model.family == "ijepa"
    assert model.action is None
    assert model.observation.frame_shape == (SIZE, SIZE, 3)
    assert model.observation.mean == MEAN
    assert model.latent.size == TOKENS * DIM
    assert set(model.assumed) == {"model.heads", "observation.rate_hz"}
    stated = read(
        tiny_ijepa_checkpoint(tmp_path), {**SPEC, "observation": {"rate_hz": 4.0, "color": "bgr"}}
    )
    assert not stated.assumed
    assert stated.observation.rate_hz == 4.0


@pytest.mark.parametrize(
    ("rows", "columns", "patterns"),
    [(14, 14, 4), (16, 16, 4), (28, 28, 4), (32, 32, 4), (15, 15, 9), (14, 28, 8), (7, 7, 7)],
)
def test_masks_hide_every_patch_once(rows: int, columns: int, patterns: int) -> None:
    masks = block_masks(rows, columns)
    assert len(masks.hidden) == patterns
    assert np.array_equal(np.sort(masks.hidden.ravel()), np.arange(rows * columns))
    for visible, hidden in zip(masks.visible, masks.hidden, strict=True):
        assert np.array_equal(np.sort(np.append(visible, hidden)), np.arange(rows * columns))
        assert np.array_equal(np.sort(hidden), hidden)
        assert np.array_equal(np.sort(visible), visible)
        # A rectangle: as many patches as its rows times its columns.
        row, column = np.divmod(hidden, columns)
        assert len(np.unique(row)) * len(np.unique(column)) == len(hidden)
        assert np.ptp(row) + 1 == len(np.unique(row))
        assert np.ptp(column) + 1 == len(np.unique(column))


def _original() -> dict[str, Tensor]:
    return {
        **{f"target_encoder.module.{n}": t for n, t in encoder_tensors().items()},
        **{f"predictor.module.{n}": t for n, t in predictor_tensors().items()},
    }


def _without(name: str) -> dict[str, Tensor]:
    return {n: t for n, t in _original().items() if n != name}


def _with(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {**_original(), name: tensor}


@pytest.mark.parametrize(
    ("tensors", "spec", "told"),
    [
        (_without("target_encoder.module.norm.bias"), SPEC, "lacks 1 tensor, 'norm.bias'"),
        (
            _without("target_encoder.module.pos_embed"),
            SPEC,
            "lacks the tensor 'pos_embed' of 3 axes",
        ),
        (_without("predictor.module.predictor_proj.bias"), SPEC, r"\(predictor\) lacks 1 tensor"),
        (
            _with("target_encoder.module.head.weight", torch.zeros(2)),
            SPEC,
            "1 tensor, 'head.weight' that the model has no place for",
        ),
        (
            _with("target_encoder.module.norm.bias", torch.zeros(2)),
            SPEC,
            r"shape \(2,\), expected \(48,\)",
        ),
        (
            _with("target_encoder.module.patch_embed.proj.weight", torch.zeros(4, 3, 2, 8, 8)),
            SPEC,
            "'patch_embed.proj.weight' has shape .* expected 4 axes .*V-JEPA 2",
        ),
        (predictor_tensors(), SPEC, "mask predictor without its encoder"),
        (
            {f"predictor.module.{n}": t for n, t in predictor_tensors().items()},
            SPEC,
            "mask predictor without its encoder",
        ),
        (_original(), {"model": {"part": "encoder"}}, "has target_encoder, expected 'encoder'"),
        (_original(), {"model": {"part": "both"}}, "part is 'both', expected one of"),
        (_original(), {"model": {"head": 4}}, "unknown key 'head'"),
        (_original(), {"model": {"heads": 5}}, "heads 5 does not divide dim 48"),
        (_original(), {"model": {"height": 128}}, "position table has 64 places"),
        (_original(), {"observation": {"height": 128, "width": 128}}, "128 x 128 pixels, expected"),
        (_original(), {"observation": {"rate_hz": 0}}, r"\[observation\] is not valid"),
        (_original(), {"observation": {"std": [0, 1, 1]}}, "expected positive numbers"),
        (_original(), {"action": {"dim": 2}}, "section 'action'"),
        (
            _with("target_encoder.module.blocks.3.norm1.bias", torch.zeros(48)),
            SPEC,
            r"'blocks' with the numbers \[0, 1, 3\], expected 0, 1, 2",
        ),
        (
            _with("target_encoder.module.norm.bias", torch.full((48,), torch.nan)),
            SPEC,
            "holds NaN",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tensors: dict[str, Tensor], spec: dict[str, Any], told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        load(tensors, spec=spec)


def test_other_families_are_not_mistaken_for_it() -> None:
    family = IJepaFamily()
    video = {"encoder.module.backbone." + name for name in encoder_tensors()}
    assert not family.matches(video, {})
    assert not family.matches(_original().keys(), {"model_type": "vjepa2"})
    assert family.matches({"anything"}, {"model_type": "ijepa"})
    actions = {f"encoder.module.{name}" for name in encoder_tensors()}
    assert family.matches(actions, {})
    assert not family.matches({*actions, "predictor.module.action_encoder.weight"}, {})
    assert not family.matches({*encoder_tensors(), "cls_token"}, {})


def test_a_transformers_file_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tiny_ijepa_checkpoint(tmp_path, "transformers")
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    del tensors["layers.0.attention.k_proj.weight"]
    with pytest.raises(CheckpointError, match=r"lacks the k projection of 'blocks\.0\.attn\.qkv"):
        load(tensors, {"model_type": "ijepa", "num_attention_heads": HEADS})
    with pytest.raises(CheckpointError, match="hidden_act 'relu'"):
        load(encoder_tensors(), {"model_type": "ijepa", "hidden_act": "relu"})


@pytest.mark.parametrize(
    ("tensors", "config", "spec", "told"),
    [
        (
            _with("target_encoder.norm.bias", torch.zeros(DIM)),
            {},
            SPEC,
            "'target_encoder.module.norm.bias' and 'target_encoder.norm.bias'",
        ),
        (_original(), {}, {"model": {"heads": 4, "dim": 10**9}}, "dim is 1000000000.*of 48"),
        (_original(), {}, {"model": {"heads": 4, "qkv_bias": "yes"}}, "qkv_bias is 'yes'"),
        (_original(), {}, {"model": {"heads": 10**9}}, "heads is 1000000000, expected a whole"),
        (_original(), {"num_attention_heads": "4"}, {}, "num_attention_heads is '4', expected"),
        (_original(), {"image_size": 1.5}, SPEC, "image_size is 1.5, expected a whole number"),
        (_original(), {"image_size": []}, SPEC, r"image_size is \[\], expected one number or two"),
        (
            _with("predictor.mask_tokens.0", torch.zeros(1, 1, 24)),
            {},
            SPEC,
            "'mask_tokens.0' in its predictor, which is a V-JEPA's",
        ),
    ],
)
def test_wrong_numbers_and_doubled_tensors_are_refused(
    tensors: dict[str, Tensor], config: dict[str, Any], spec: dict[str, Any], told: str
) -> None:
    path = Path("model.bin")
    with pytest.raises(CheckpointError, match=told):
        IJepaFamily().load(
            Checkpoint(
                path=path, weights=path, sha256="0" * 64, tensors=tensors, config=config, spec=spec
            )
        )


def test_a_config_beside_an_original_file_leaves_its_norms_alone() -> None:
    for config in ({}, {"family": "ijepa"}):
        model = load(_original(), config, SPEC)
        norms = [m for m in model.graphs["encoder"].module.modules() if hasattr(m, "eps")]
        assert {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.to(torch.int64),
        lambda t: t.to_sparse(),
        lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.flatten()[0],
    ],
)
def test_query_key_and_value_are_checked_before_they_are_joined(change: Any) -> None:
    tensors = transformers_names(encoder_tensors())
    name = "layers.0.attention.k_proj.weight"
    tensors[name] = change(tensors[name])
    with pytest.raises(CheckpointError, match=r"'blocks\.0\.attn\.qkv\.weight, k'"):
        load(tensors, spec=SPEC)


def test_missing_masks_are_noted() -> None:
    (note,) = load(encoder_tensors(), spec=SPEC).notes
    assert "no mask predictor" in note
    assert load(_original(), spec=SPEC).notes == ()
