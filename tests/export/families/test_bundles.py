# SPDX-License-Identifier: Apache-2.0
"""Every family, from its checkpoint to a bundle on ONNX Runtime, against torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from jepa_edge.export.checkpoint import load_model, open_checkpoint
from jepa_edge.export.data import drawn_windows
from jepa_edge.export.exporter import PREDICTOR_WEIGHTS, export_bundle
from jepa_edge.export.families import families
from jepa_edge.export.families.base import LoadedModel
from jepa_edge.export.options import ExportOptions, ExportReport
from jepa_edge.export.reference import TorchReference
from jepa_edge.flags import Reason
from jepa_edge.session import Observation, Session
from jepa_edge.world_model import WorldModel

from .dino_wm_fixtures import tiny_dino_wm_checkpoint
from .ijepa_fixtures import tiny_ijepa_checkpoint
from .jepa_wm_fixtures import tiny_jepa_wm_checkpoint
from .vjepa2_ac_fixtures import tensors, tiny_vjepa2_ac_checkpoint
from .vjepa2_fixtures import TINY_SPEC, tiny_vjepa2_checkpoint

BOUND = 1e-4
"""Largest error over the largest value, in float32."""

CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "dino_wm": tiny_dino_wm_checkpoint,
    "ijepa": tiny_ijepa_checkpoint,
    "jepa_wm": tiny_jepa_wm_checkpoint,
    "vjepa2": lambda directory: tiny_vjepa2_checkpoint(directory, version="2"),
    "vjepa2.1": lambda directory: tiny_vjepa2_checkpoint(directory, version="2.1"),
    "vjepa2_ac": tiny_vjepa2_ac_checkpoint,
}
SPECS = {"vjepa2": TINY_SPEC, "vjepa2.1": TINY_SPEC}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_of_one_family_by_its_tensors_alone(name: str, tmp_path: Path) -> None:
    opened = open_checkpoint(CHECKPOINTS[name](tmp_path))
    matching = [key for key, one in families().items() if one.matches(opened.tensors, {})]
    assert matching == [name.partition(".")[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle beside the torch model that it is of."""

    report: ExportReport
    torch: LoadedModel
    model: WorldModel


@pytest.fixture(scope="module", params=CHECKPOINTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("family")
    checkpoint = CHECKPOINTS[request.param](path)
    spec = None
    if request.param in SPECS:
        spec = path / "spec.json"
        spec.write_text(json.dumps(SPECS[request.param]))
    options = ExportOptions(
        precisions=("fp16",), spec=spec, gpu_predictor=request.param == "vjepa2_ac"
    )
    report = export_bundle(checkpoint, path / "x.jepa", options)
    return Exported(
        report=report,
        torch=load_model(open_checkpoint(checkpoint, spec)),
        model=WorldModel.load(path / "x.jepa", "fp32"),
    )


def close(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 1e-3  # zeros would agree by themselves
    assert np.abs(actual - expected).max() <= BOUND * np.abs(expected).max()


def test_the_bundle_encodes_predicts_and_rolls_out_as_torch_does(exported: Exported) -> None:
    model, reference = exported.model, TorchReference(exported.torch)
    windows = drawn_windows(exported.torch, 3, seed=11)
    flat = windows.frames.reshape(-1, *windows.frames.shape[2:])
    states = None if windows.states is None else windows.states.reshape(len(flat), -1)
    latents = model.encode(flat, states)
    close(latents, reference.encode(flat, states))
    assert latents.shape[1:] == (model.manifest.latent.tokens, model.manifest.latent.dim)
    if not model.takes_actions:
        return
    history = latents.reshape(*windows.frames.shape[:2], *latents.shape[1:])
    close(
        model.predict(history, windows.step_actions),
        reference.predict(history, windows.step_actions),
    )
    close(model.rollout(history, windows.actions), reference.rollout(history, windows.actions))
    shortest = model.manifest.min_history or model.manifest.history
    short, taken = history[:, :shortest], windows.actions[:, : shortest + 2]
    close(model.rollout(short, taken), reference.rollout(short, taken))


def test_masked_energy_is_the_distance_of_what_is_hidden_from_what_is_predicted(
    exported: Exported,
) -> None:
    model, masks = exported.model, exported.torch.masks
    if masks is None:
        pytest.skip("takes actions: no masks")
    reference = TorchReference(exported.torch)
    frames = drawn_windows(exported.torch, 2, seed=12).newest_frames
    energy = model.masked_energy(frames)
    assert np.isfinite(energy).all()  # every token is hidden once
    channels = model.manifest.latent.compared[1]
    target = torch.from_numpy(reference.encode(frames)[..., :channels])
    if masks.target_norm:
        target = torch.nn.functional.layer_norm(target, target.shape[-1:])
    distance = {
        "l1": torch.nn.functional.l1_loss,
        "l2": torch.nn.functional.mse_loss,
        "smooth_l1": torch.nn.functional.smooth_l1_loss,
    }[masks.distance]
    sums, times = np.zeros(energy.shape), np.zeros(energy.shape[1])
    for visible, hidden in zip(masks.visible, masks.hidden, strict=True):
        context = reference.encode(frames, visible=visible)
        predicted = torch.from_numpy(reference.predict_masked(context, visible, hidden))
        predicted = predicted[..., :channels]
        apart = distance(predicted, target[:, hidden], reduction="none").mean(dim=-1)
        sums[:, hidden] += apart.numpy()
        times[hidden] += 1
    np.testing.assert_allclose(energy, sums / times, rtol=1e-3, atol=1e-5)


def test_what_was_measured_and_the_smaller_precision(exported: Exported) -> None:
    full, half = exported.report.variants
    assert (full.precision, half.precision) == ("fp32", "fp16")
    assert min(graph.sqnr_db for graph in full.graphs) > 70
    assert {graph.part for graph in full.graphs} == set(exported.torch.graphs)
    for small, large in zip(half.graphs, full.graphs, strict=True):
        assert 30 < small.sqnr_db < large.sqnr_db
        assert small.size_bytes < large.size_bytes
    if exported.torch.observation.clip is not None:
        error = exported.report.newest_tubelet_error
        assert error is not None
        assert 0.01 < error < 2.0


def test_the_gpu_core_gets_the_weights_of_the_predictor_that_it_alone_computes(
    exported: Exported,
) -> None:
    path = exported.model.bundle.path / PREDICTOR_WEIGHTS
    assert path.exists() == (exported.torch.family == "vjepa2_ac")
    if not path.exists():
        return
    assert PREDICTOR_WEIGHTS in exported.model.manifest.files  # sealed with the rest
    with safe_open(path, framework="np") as file:
        told = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert told["format"] == "vjepa2-ac-predictor-1"
    assert int(told["history"]) == exported.torch.history
    original = tensors(prefix="")
    for name, values in stored.items():
        np.testing.assert_array_equal(values, original[f"predictor.{name}"].numpy())
    assert {f"predictor.{name}" for name in stored} == {
        name
        for name in original
        if name.startswith("predictor.") and "extrinsics_encoder" not in name
    }


def test_a_session_runs_on_it(exported: Exported) -> None:
    model = exported.model
    session = Session(model, None)
    windows = drawn_windows(exported.torch, 4, seed=13)
    period_s = 1.0 / model.manifest.observation.rate_hz
    for index, frame in enumerate(windows.newest_frames):
        update = session.step(
            Observation(
                stamp_s=1.0 + index * period_s,
                frame=frame,
                action=windows.actions[index, 0] if index and model.takes_actions else None,
                state=None if windows.newest_states is None else windows.newest_states[index],
            )
        )
        assert update.flag.reason_bits == Reason.UNCALIBRATED
        assert update.embedding is not None
