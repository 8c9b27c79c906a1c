# SPDX-License-Identifier: Apache-2.0
"""Every family in every precision: TensorRT-RTX parses and compiles it on this CPU.

FP8, INT4 and NVFP4 graphs are made here in Model-Optimizer's layout; what it makes itself is
tested in tests/export/test_modelopt.py, where it is installed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import ExportError
from jepa_edge.export.centering import center_gelus
from jepa_edge.export.checkpoint import load_model, open_checkpoint
from jepa_edge.export.data import drawn_windows
from jepa_edge.export.exporter import export_bundle
from jepa_edge.export.families.base import LoadedModel
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_checkpoint import save_checkpoint
from jepa_edge.export.onnx_graph import fold_scales_into_norms
from jepa_edge.export.options import ExportOptions
from jepa_edge.export.profile import check_profile, realized_precisions
from jepa_edge.export.quantize import Quantizer, quantize, to_fp16, to_int8_fp16
from jepa_edge.export.reference import TorchReference
from jepa_edge.export.weight_only import weight_only
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.trt.dry_run import dry_run
from jepa_edge.trt.library import Library, load_library

from ..export.families.dino_wm_fixtures import tiny_dino_wm_checkpoint
from ..export.families.ijepa_fixtures import tiny_ijepa_checkpoint
from ..export.families.jepa_wm_fixtures import tiny_jepa_wm_checkpoint
from ..export.families.vjepa2_ac_fixtures import tiny_vjepa2_ac_checkpoint
from ..export.families.vjepa2_fixtures import TINY_SPEC, tiny_vjepa2_checkpoint
from . import low_bit_layouts

pytest.importorskip("tensorrt_rtx")

CANDIDATES = 1
"""One profile: that of many candidates is compiled in test_lewm_dry_run.py and takes as long."""


def _lewm(directory: Path) -> Path:
    torch.manual_seed(3)
    config = LeWMConfig(
        image_size=32,
        patch_size=8,
        encoder_dim=64,
        encoder_depth=1,
        encoder_heads=2,
        encoder_mlp_dim=128,
        latent_dim=32,
        projector_dim=64,
        predictor_dim=64,
        predictor_depth=1,
        predictor_heads=2,
        predictor_dim_head=32,
        predictor_mlp_dim=128,
        history=3,
        action_dim=4,
        action_smoothed_dim=4,
    )
    model = LeWM(config).eval().requires_grad_(False)
    with torch.no_grad():
        for block in model.predictor.transformer.layers:
            block.adaLN_modulation[1].weight.normal_(0.0, 0.05)
    observation = ObservationSpec(height=32, width=32, mean=(0.5,) * 3, std=(0.3,) * 3, rate_hz=5.0)
    action = ActionSpec(dim=4, block=2, mean=(0.0,) * 4, std=(1.0,) * 4, units="m")
    save_checkpoint(directory / "model", model, observation=observation, action=action)
    return directory / "model"


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "lewm": _lewm,
    "dino_wm": tiny_dino_wm_checkpoint,
    "ijepa": tiny_ijepa_checkpoint,
    "jepa_wm": tiny_jepa_wm_checkpoint,
    "vjepa2": lambda directory: tiny_vjepa2_checkpoint(directory, version="2"),
    "vjepa2.1": lambda directory: tiny_vjepa2_checkpoint(directory, version="2.1"),
    "vjepa2_ac": tiny_vjepa2_ac_checkpoint,
}
# V-JEPA 2.1 reads its encoder at four depths.
SHORTENED = {"vjepa2.1": r"predictor_blocks"}
SPECS = {"vjepa2": TINY_SPEC, "vjepa2.1": TINY_SPEC}
PRECISIONS = ("fp32", "fp16", "int8", "int8_fp16", "int8w", "int4w", "fp8", "int4", "nvfp4")


def _shorten(checkpoint: Path, stacks: str) -> None:
    """Leave one block of each stack in a checkpoint, so that it compiles in half the time."""
    further = re.compile(rf"(^|\.)({stacks})\.[1-9]\d*\.")

    def kept(tensors: dict[Any, Any]) -> dict[Any, Any]:
        return {
            name: kept(value) if isinstance(value, dict) else value
            for name, value in tensors.items()
            if not further.search(str(name))
        }

    for file in (checkpoint.parent if checkpoint.is_file() else checkpoint).rglob("*"):
        if file.suffix == ".safetensors":
            safetensors.torch.save_file(kept(safetensors.torch.load_file(file)), file)
        elif file.suffix in (".pt", ".tar"):
            torch.save(kept(torch.load(file, weights_only=True)), file)


def _feeds(model: LoadedModel) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Inputs of every graph, drawn."""
    windows, reference = drawn_windows(model, 8, seed=5), TorchReference(model)
    encoder: dict[str, NDArray[np.generic]] = {"frames": windows.newest_frames}
    if windows.newest_states is not None:
        encoder["states"] = windows.newest_states
    feeds = {"encoder": encoder}
    if model.masks is not None:
        visible, hidden = model.masks.visible[0], model.masks.hidden[0]
        encoder["visible"] = np.arange(model.latent.tokens)
        context = reference.encode(windows.newest_frames, None, visible)
        feeds["mask_predictor"] = {"context": context, "visible": visible, "hidden": hidden}
    if model.action is not None:
        flat = windows.frames.reshape(-1, *windows.frames.shape[2:])
        states = None if windows.states is None else windows.states.reshape(len(flat), -1)
        latents = reference.encode(flat, states)
        feeds["predictor"] = {
            "history": latents.reshape(*windows.frames.shape[:2], *latents.shape[1:]),
            "actions": windows.step_actions,
        }
    return feeds


def _lowered(
    float32: Path, feeds: dict[str, NDArray[np.generic]], place: Path
) -> Iterator[tuple[str, Any]]:
    """Yield every other precision of a graph, by the functions of the export where it has them."""
    model = onnx.load(float32)
    yield "fp16", to_fp16(model)
    centered = center_gelus(model, feeds)
    try:
        int8 = quantize(centered, feeds, Quantizer.NNCF)
    except ExportError:  # as the export does: the other quantizer takes over
        int8 = quantize(centered, feeds, Quantizer.ONNXRUNTIME)
    fold_scales_into_norms(int8)
    check_profile(int8)
    yield "int8", int8
    yield "int8_fp16", to_int8_fp16(int8)
    for bits in (8, 4):
        weight_only(float32, place / f"{bits}.onnx", bits)
        yield f"int{bits}w", onnx.load(place / f"{bits}.onnx")
    yield "fp8", low_bit_layouts.fp8(int8)
    yield "int4", low_bit_layouts.int4(float32, place / "half4.onnx")
    yield "nvfp4", low_bit_layouts.nvfp4(model)


def _add(path: Path, feeds: dict[str, dict[str, NDArray[np.generic]]], place: Path) -> None:
    """Add the other precisions to a bundle of fp32."""
    base = Bundle.open(path)
    with staged_bundle(path, base=base) as staging:
        full = base.manifest.variants["fp32"]
        graphs: dict[str, dict[str, Any]] = {}
        realized: dict[str, Counter[str]] = {}
        for part, spec in full.graphs.items():
            for name, model in _lowered(staging / spec.file, feeds[part], place):
                file = f"variants/{name}/{part}.onnx"
                (staging / file).parent.mkdir(parents=True, exist_ok=True)
                onnx.save(model, staging / file)
                lowered = msgspec.structs.replace(spec, file=file, latency_ms=None)
                graphs.setdefault(name, {})[part] = lowered
                realized.setdefault(name, Counter()).update(realized_precisions(model))
        others = {
            name: msgspec.structs.replace(
                full, precision=name, realized=dict(realized[name]), **parts
            )
            for name, parts in graphs.items()
        }
        variants = {**base.manifest.variants, **others}
        seal(staging, msgspec.structs.replace(base.manifest, variants=variants, files={}))


@pytest.fixture(scope="module", params=CHECKPOINTS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny model of a family in every precision."""
    path = tmp_path_factory.mktemp("dry")
    checkpoint, spec = CHECKPOINTS[request.param](path), None
    _shorten(checkpoint, SHORTENED.get(request.param, r"blocks|predictor_blocks|layers"))
    if request.param in SPECS:
        spec = path / "spec.json"
        spec.write_text(json.dumps(SPECS[request.param]))
    export_bundle(
        checkpoint,
        path / "x.jepa",
        ExportOptions(precisions=("fp32",), spec=spec, held_out_frames=8),
    )
    model = load_model(open_checkpoint(checkpoint, spec))
    _add(path / "x.jepa", _feeds(model), path)
    return Bundle.open(path / "x.jepa")


@pytest.fixture(scope="module")
def library() -> Library:
    """TensorRT-RTX, which compiles without a GPU."""
    return load_library("tensorrt_rtx")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_of_every_precision_is_parsed_and_compiled(
    bundle: Bundle, library: Library, precision: str
) -> None:
    spec = bundle.manifest.variants[precision]
    found = dry_run(bundle, (precision,), candidates=CANDIDATES, library=library)
    assert [row.refused for row in found.rows] == [""] * len(spec.graphs)
    assert {row.graph for row in found.rows} == set(spec.graphs)
    assert min(row.plan_bytes for row in found.rows) > 1000
    assert sum(spec.realized.values()) > 4
    expected = {"int8_fp16": "int8"}.get(precision, precision)
    assert spec.realized.get(expected, 0) > 0, spec.realized
