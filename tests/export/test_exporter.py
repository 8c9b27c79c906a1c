# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle, end to end: what is in it, what it computes, what a failure leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jepa_edge.bundle import Bundle, seal, sha256_file, staged_bundle
from jepa_edge.errors import BundleError, ExportError, InputError, JepaEdgeError
from jepa_edge.export import exporter, variants
from jepa_edge.export.exporter import ExportOptions, export_bundle
from jepa_edge.export.families.base import Checkpoint, LoadedModel
from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.families.lewm_checkpoint import save_checkpoint
from jepa_edge.export.families.lewm_reference import LeWMReference
from jepa_edge.export.options import ExportReport
from jepa_edge.futures import FutureSampler
from jepa_edge.golden import Golden
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.mlp import MLP
from jepa_edge.planner import Planner, PlannerConfig, RiskConfig
from jepa_edge.recording import Episode, Recording
from jepa_edge.rollout import roll
from jepa_edge.world_model import WorldModel

Specs = tuple[ObservationSpec, ActionSpec]
_NAMES = {"latents": "encoder", "prediction": "predictor"}
SMALL = {"calibration_frames": 48, "tuning_frames": 16, "held_out_frames": 32}


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, export_model: LeWM, export_specs: Specs
) -> Path:
    """`export_model` on disk."""
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    save_checkpoint(path, export_model, observation=export_specs[0], action=export_specs[1])
    return path


@pytest.fixture(scope="module")
def stages() -> list[tuple[str, int, int]]:
    """Every progress call of `exported`."""
    return []


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: Path,
    export_recording: Path,
    stages: list[tuple[str, int, int]],
) -> tuple[Path, ExportReport]:
    """A bundle in all precisions and its report. Do not alter it."""
    path = tmp_path_factory.mktemp("exported") / "small.jepa"
    options = ExportOptions(
        calibration_data=export_recording,
        precisions=("int8", "fp16"),
        command="jepa-edge export ...",
        **SMALL,  # type: ignore[arg-type]
    )
    report = export_bundle(
        checkpoint, path, options, lambda stage, done, total: stages.append((stage, done, total))
    )
    return path, report


@pytest.fixture
def fast_onnx(export_onnx: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip torch.onnx, which is most of the time: the graphs are those of the same model."""
    monkeypatch.setattr(variants, "export_graph", lambda graph: export_onnx[_NAMES[graph.output]])


def _held_out_episodes(recording: Path, report: ExportReport) -> list[Episode]:
    episodes = {episode.name: episode for episode in Recording(recording)}
    return [episodes[name] for name in report.data.held_out_episodes]


def _torch_latents(
    model: LeWM, frames: NDArray[np.uint8], spec: ObservationSpec
) -> NDArray[np.float32]:
    pixels = (frames.astype(np.float64) / 255.0 - spec.mean) / spec.std
    tensor = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    latents: NDArray[np.float32] = model.encode(tensor).numpy()
    return latents


def _torch_rollout(
    model: LeWM, history: NDArray[np.float32], actions: NDArray[np.float32], spec: ActionSpec
) -> NDArray[np.float32]:
    scored = ((actions - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
    out: NDArray[np.float32] = model.rollout(
        torch.from_numpy(history[:, :, 0]), torch.from_numpy(scored)
    ).numpy()
    return out[:, :, None]


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_each_variant_loads_and_computes_what_torch_does(
    exported: tuple[Path, ExportReport],
    export_model: LeWM,
    export_specs: Specs,
    export_recording: Path,
    variant: str,
) -> None:
    path, report = exported
    world = WorldModel.load(path, variant)
    assert world.replay_golden(Golden.read(world.bundle)).passed
    episodes = _held_out_episodes(export_recording, report)
    frames = np.concatenate([episode.frames for episode in episodes])
    latents = _torch_latents(export_model, frames, export_specs[0])[:, None]
    limit = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.12}[variant]

    encoded = world.encode(frames)
    spread = np.sqrt(np.mean((latents - latents.mean(axis=0)) ** 2))
    assert np.sqrt(np.mean((encoded - latents) ** 2)) < limit * spread

    windows = [(e, start) for e in range(len(episodes)) for start in range(12)]
    per_episode = latents.reshape(len(episodes), -1, 1, 24)
    history = np.stack([per_episode[e, s : s + 3] for e, s in windows])
    actions = np.stack([episodes[e].actions[s : s + 7] for e, s in windows])
    expected = _torch_rollout(export_model, history, actions, export_specs[1])
    rolled = world.rollout(history, actions)
    assert rolled.shape == expected.shape == (36, 5, 1, 24)
    for step, drift in enumerate((1.0, 1.5, 2.0, 2.5, 3.0)):  # random weights amplify errors
        ours, torchs = rolled[:, step], expected[:, step]
        spread = np.sqrt(np.mean((torchs - torchs.mean(axis=0)) ** 2))
        assert np.sqrt(np.mean((ours - torchs) ** 2)) < drift * limit * spread
    if variant == "fp32":
        np.testing.assert_allclose(rolled, expected, atol=1e-4)


def test_golden_outputs_are_torchs(
    exported: tuple[Path, ExportReport],
    export_model: LeWM,
    export_specs: Specs,
    export_recording: Path,
) -> None:
    path, report = exported
    golden = Golden.read(Bundle.open(path))
    recorded = {
        frame.tobytes()
        for episode in _held_out_episodes(export_recording, report)
        for frame in episode.frames
    }
    assert {frame.tobytes() for frame in golden.frames} <= recorded
    expected = _torch_latents(export_model, golden.frames, export_specs[0])
    np.testing.assert_allclose(golden.latents[:, 0], expected, atol=1e-4)
    expected = _torch_rollout(export_model, golden.history, golden.actions, export_specs[1])
    np.testing.assert_allclose(golden.predictions, expected[:, 0], atol=1e-4)


def test_the_report_tells_what_was_done(
    exported: tuple[Path, ExportReport], export_recording: Path, checkpoint: Path
) -> None:
    path, report = exported
    bundle = Bundle.open(path)
    assert [variant.precision for variant in report.variants] == ["fp32", "fp16", "int8"]
    assert list(bundle.manifest.variants) == ["fp32", "fp16", "int8"]
    stored = msgspec.json.decode((path / "reports/export.json").read_bytes(), type=ExportReport)
    assert stored == report
    data = report.data
    assert not set(data.held_out_episodes) & {*data.calibration_episodes, *data.tuning_episodes}
    assert data.recording == str(export_recording)
    for variant in report.variants:
        spec = bundle.manifest.variants[variant.precision]
        assert spec.realized == variant.realized
        for part in ("encoder", "predictor"):
            graph, measured = spec.graphs[part], variant.graph(part)
            assert graph.sqnr_db == measured.sqnr_db
            assert graph.size_bytes == (path / graph.file).stat().st_size == measured.size_bytes
            assert measured.sqnr_db >= 20.0
            assert measured.centered_cosine >= 0.99
    int8 = report.variants[2]
    kept = sum(len(found.kept_float) for found in int8.quantization.values())
    assert int8.realized.get("fp32", 0) == kept
    assert int8.realized["int8"] > 20
    page = (path / "reports/export.html").read_text()
    assert page.count("Plotly.newPlot") == 6
    provenance = bundle.manifest.provenance
    assert provenance.checkpoint_sha256 == sha256_file(checkpoint / "model.safetensors")
    assert provenance.command == "jepa-edge export ..."
    assert {"torch", "onnx", "onnxruntime", "nncf", "jepa-edge"} <= provenance.tools.keys()


def test_progress_runs_to_its_end(
    exported: tuple[Path, ExportReport], stages: list[tuple[str, int, int]]
) -> None:
    last = {stage: (done, total) for stage, done, total in stages}
    assert len(last) >= 12
    for stage, (done, total) in last.items():
        assert done == total, stage
    assert all(0 <= done <= total for _, done, total in stages)


def test_the_engine_computes_the_predictor_in_every_precision_it_is_offered_in(
    exported: tuple[Path, ExportReport],
) -> None:
    path, report = exported
    model = WorldModel.load(path, "fp32")
    golden = Golden.read(model.bundle)
    offered = model.manifest.engine
    assert offered is not None
    assert {parity.precision for parity in report.engine if parity.fits} == set(offered.precisions)
    assert {"float32", "bfloat16"} <= set(offered.precisions)
    for precision in offered.precisions:
        engine = model.engine(precision=precision)
        assert engine is not None
        predicted = engine.rollout(golden.history, golden.actions[:, :-1], golden.actions[:, -1:])
        error = np.sqrt(np.mean((predicted[:, 0] - golden.predictions) ** 2))
        assert error < {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.1}[precision] * np.std(
            golden.predictions - golden.predictions.mean(axis=0)
        )


def test_the_engine_rolls_out_what_the_graph_does(exported: tuple[Path, ExportReport]) -> None:
    model = WorldModel.load(exported[0], "fp32")
    golden = Golden.read(model.bundle)
    future = np.random.default_rng(0).permuted(np.repeat(golden.actions[:, -1:], 6, axis=1), axis=0)
    actions = np.concatenate([golden.actions[:, :-1], future], axis=1)
    engine = model.engine(precision="float32")
    assert engine is not None
    past = golden.actions[:, :-1]
    np.testing.assert_allclose(
        engine.rollout(golden.history, past, future),
        roll(model.predict, golden.history, actions),
        atol=1e-4,
    )
    np.testing.assert_array_equal(
        model.rollout(golden.history, actions), engine.rollout(golden.history, past, future)
    )


def test_a_precision_beyond_the_budget_is_not_offered(
    exported: tuple[Path, ExportReport], tmp_path: Path
) -> None:
    path = tmp_path / "strict.jepa"
    shutil.copytree(exported[0], path)
    manifest = Bundle.open(path).manifest
    assert manifest.engine is not None
    only = {"float32": manifest.engine.precisions["float32"]}
    strict = msgspec.structs.replace(manifest.engine, precisions=only)
    seal(path, msgspec.structs.replace(manifest, engine=strict, files={}))
    model = WorldModel.load(path, "fp32")
    engine = model.engine()
    assert engine is not None
    assert engine.precision == "float32"
    with pytest.raises(BundleError, match="not in int8: it missed the accuracy budget"):
        model.engine(precision="int8")


def test_weights_that_do_not_give_the_golden_outputs_are_refused(
    exported: tuple[Path, ExportReport], tmp_path: Path
) -> None:
    path = tmp_path / "wrong.jepa"
    shutil.copytree(exported[0], path)
    tensors = load_file(path / "predictor.safetensors")
    with safe_open(path / "predictor.safetensors", "numpy") as file:
        metadata = file.metadata()
    tensors["head.fc2.weight"] *= 1.3
    save_file(tensors, path / "predictor.safetensors", metadata=metadata)
    seal(path, msgspec.structs.replace(Bundle.open(exported[0]).manifest, files={}))
    with pytest.raises(BundleError, match="does not reproduce the golden outputs"):
        WorldModel.load(path, "fp32").engine(precision="float32")
    model = WorldModel.load(path, "fp32")  # the graph is not the engine's file: it goes on alone
    assert model.own_engine() is None
    golden = Golden.read(model.bundle)
    actions = np.repeat(golden.actions[:, :1], len(golden.actions[0]) + 1, axis=1)
    np.testing.assert_array_equal(
        model.rollout(golden.history, actions), roll(model.predict, golden.history, actions)
    )


def test_futures_drawn_in_the_core_are_those_of_the_python_class(
    exported: tuple[Path, ExportReport],
) -> None:
    model = WorldModel.load(exported[0], "fp32")
    golden = Golden.read(model.bundle)
    dim, size = model.manifest.latent.dim, model.manifest.action.dim
    rng = np.random.default_rng(1)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return (0.1 * rng.normal(size=shape)).astype(np.float32)

    def head(outputs: int, *members: int) -> MLP:
        inputs = 2 * dim + size + 4
        bias = (*members, 1, outputs) if members else (outputs,)
        return MLP(
            center=drawn(inputs),
            scale=np.exp(drawn(inputs)),
            weights=(drawn(*members, inputs, 16), drawn(*members, 16, outputs)),
            biases=(drawn(*bias[:-1], 16), drawn(*bias)),
        )

    variable = LatentVariable(
        base=np.exp(drawn(4, dim)) * np.float32(0.1),
        factor=drawn(dim, 3),
        gain=np.exp(drawn(4)),
        scale_head=head(dim + 3),
        mean_heads=head(dim, 5),
    )
    history = golden.history[0]
    actions = np.concatenate([golden.actions[0, :-1], golden.actions[:6, -1]])
    sampler = FutureSampler(model, variable)
    assert sampler.precision == "float32"
    for samples, horizon in ((8, 6), (3, 2), (32, 6)):
        planned = actions[: len(history) - 1 + horizon]
        ours = sampler.sample(history, planned, samples, seed=5)
        theirs = variable.rollout(model, history, planned, samples, seed=5)
        for name in ("latents", "mean", "aleatoric", "epistemic", "spread"):
            expected = getattr(theirs, name)
            np.testing.assert_allclose(
                getattr(ours, name), expected, atol=2e-4 * np.abs(expected).max(), err_msg=name
            )
    with pytest.raises(InputError, match="2 or more samples"):
        sampler.sample(history, actions, 1)
    with pytest.raises(InputError, match="got 4 samples, history"):
        sampler.sample(history.transpose(0, 2, 1), actions, 4)
    foreign = dataclasses.replace(variable, base=drawn(4, dim + 1), factor=drawn(dim + 1, 3))
    config = PlannerConfig(horizon=2, risk=RiskConfig(samples=4))
    with pytest.raises(InputError, match="latent_variable is not this model's"):
        Planner(model, config, latent_variable=foreign)
    assert Planner(model, config, latent_variable=variable).precision is not None
    with pytest.raises(InputError, match="not finite"):
        sampler.sample(history * np.float32(np.nan), actions, 4)


def _digest(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _fail(*arguments: object, **keywords: object) -> None:
    raise ExportError("injected")


@pytest.mark.parametrize(
    "where",
    [
        "open_checkpoint",
        "load_model",
        "write_variants",
        "compare_variants",
        "write_export_page",
        "seal",
    ],
)
@pytest.mark.usefixtures("fast_onnx")
def test_a_failure_leaves_the_old_bundle_as_it_was(
    exported: tuple[Path, ExportReport],
    checkpoint: Path,
    export_recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    path = tmp_path / "kept.jepa"
    shutil.copytree(exported[0], path)
    before = _digest(path)
    monkeypatch.setattr(exporter, where, _fail)
    options = ExportOptions(
        calibration_data=export_recording,
        precisions=("fp32",),
        **SMALL,  # type: ignore[arg-type]
    )
    with pytest.raises(ExportError, match="injected"):
        export_bundle(checkpoint, path, options)
    assert _digest(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.jepa"]


@pytest.mark.usefixtures("fast_onnx")
def test_a_new_export_replaces_the_old_bundle_and_says_what_is_gone(
    exported: tuple[Path, ExportReport],
    checkpoint: Path,
    export_recording: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "again.jepa"
    shutil.copytree(exported[0], path)
    old = Bundle.open(path)
    with staged_bundle(path, base=old) as staging:
        (staging / "calibration").mkdir()
        (staging / "calibration/int8.json").write_text("{}")
        seal(staging, old.manifest)
    options = ExportOptions(
        calibration_data=export_recording,
        precisions=(),
        **SMALL,  # type: ignore[arg-type]
    )
    report = export_bundle(checkpoint, path, options)
    assert [variant.precision for variant in report.variants] == ["fp32"]
    assert list(Bundle.open(path).manifest.variants) == ["fp32"]
    assert not (path / "calibration").exists()
    assert not (path / "variants").exists()
    assert any("run `jepa-edge calibrate` again" in warning for warning in report.warnings)
    assert {file.stat().st_mode & 0o777 for file in path.rglob("*") if file.is_file()} == {0o644}
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == ""


@pytest.mark.usefixtures("fast_onnx")
def test_a_budget_out_of_reach_is_refused(
    checkpoint: Path, export_recording: Path, tmp_path: Path
) -> None:
    options = ExportOptions(
        calibration_data=export_recording,
        max_latent_error=1e-5,
        **SMALL,  # type: ignore[arg-type]
    )
    with pytest.raises(ExportError, match=r"budget 1e-05 cannot be met in int8: .*--max-latent"):
        export_bundle(checkpoint, tmp_path / "none.jepa", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast_onnx")
def test_a_graph_that_is_not_the_checkpoint_is_refused(
    checkpoint: Path,
    export_model: LeWM,
    export_recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = exporter.load_model

    def other(opened: Checkpoint, family: str | None) -> LoadedModel:
        model = load(opened, family)
        assert isinstance(model.reference, LeWMReference)
        model.reference.model.projector.net[3].weight.data *= 1.01
        return model

    monkeypatch.setattr(exporter, "load_model", other)
    options = ExportOptions(
        calibration_data=export_recording,
        precisions=("fp32",),
        **SMALL,  # type: ignore[arg-type]
    )
    with pytest.raises(ExportError, match="encoder does not compute what torch does"):
        export_bundle(checkpoint, tmp_path / "none.jepa", options)


def _no_data(tmp_path: Path, recording: Path) -> Path:
    return tmp_path / "missing"


def _not_a_bundle(tmp_path: Path, recording: Path) -> Path:
    (tmp_path / "out.jepa").mkdir()
    (tmp_path / "out.jepa/thesis.tex").write_text("do not lose me")
    return recording


@pytest.mark.parametrize(
    ("prepare", "out", "error", "message"),
    [
        (_no_data, "out.jepa", InputError, "missing is not a recording"),
        (lambda _, recording: recording, "out", BundleError, r"expected NAME\.jepa"),
        (_not_a_bundle, "out.jepa", BundleError, "exists and is not a bundle"),
    ],
    ids=["no data", "no suffix", "not a bundle"],
)
def test_bad_paths_are_refused_before_the_work(
    checkpoint: Path,
    export_recording: Path,
    tmp_path: Path,
    prepare: Callable[[Path, Path], Path],
    out: str,
    error: type[JepaEdgeError],
    message: str,
) -> None:
    options = ExportOptions(calibration_data=prepare(tmp_path, export_recording))
    with pytest.raises(error, match=message):
        export_bundle(checkpoint, tmp_path / out, options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precisions": ("int3",)}, "precision is 'int3', expected some of fp32, fp16, int8"),
        ({"max_rollout_error": 0.0}, "max_rollout_error is 0.0, expected a positive"),
        ({"min_rank_correlation": 1.5}, "min_rank_correlation is 1.5, expected a number between"),
        ({"max_latent_error": 0.0}, "between 0 and 1"),
        ({"max_latent_error": float("nan")}, "between 0 and 1"),
        ({"calibration_frames": 0}, "calibration_frames is 0, expected 8 or more"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_options_check_themselves(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportOptions(calibration_data=Path("runs"), **wrong)
