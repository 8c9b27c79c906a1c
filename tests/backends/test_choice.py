# SPDX-License-Identifier: Apache-2.0
"""What runs a bundle: engines where they fit, ONNX Runtime else, and never silence about it.

This machine has neither TensorRT nor a driver. The engines are real plans that TensorRT-RTX
compiled here for a GPU that is not here.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from jepa_edge.arming import disarmed_reason
from jepa_edge.backends import PROVIDERS, Graph
from jepa_edge.backends.choice import BackendChoice, Stage, machine_here
from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.backends.tensorrt import TensorRTBackend
from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, InputError, MissingDependencyError
from jepa_edge.golden import Golden
from jepa_edge.keys import generate_key, load_public_key
from jepa_edge.loading import fastest
from jepa_edge.monitor import Monitor
from jepa_edge.nodes import planner_parameters, world_model_parameters
from jepa_edge.nodes.parameters import resolve
from jepa_edge.signing import sign_bundle
from jepa_edge.trt.build import BuildOptions, build_engines
from jepa_edge.trt.store import EngineStore, StoredEngine
from jepa_edge.world_model import WorldModel

from ..conftest import LinearWorld, make_bundle, write_graphs
from ..trt.rooms import MACHINE, to_half, with_variants, workshop


def has_tensorrt() -> bool:
    """Whether engines could run here."""
    try:
        machine_here()
    except (BundleError, MissingDependencyError):
        return False
    return True


pytestmark = pytest.mark.skipif(has_tensorrt(), reason="this machine runs engines itself")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, world: Any) -> Path:
    """A bundle with engines beside it. Do not alter it."""
    pytest.importorskip("tensorrt_rtx")
    path = make_bundle(tmp_path_factory.mktemp("built") / "linear.jepa", world)
    build_engines(Bundle.open(path), BuildOptions(candidates=16), workshop())
    return path


@pytest.fixture
def engines(built: Path, tmp_path: Path) -> Path:
    """The same, free to be damaged."""
    shutil.copytree(built, tmp_path / built.name)
    shutil.copytree(built.with_suffix(".engines"), tmp_path / "linear.engines")
    return tmp_path / built.name


def test_without_engines_the_cpu_is_taken_in_silence(
    linear_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        model = WorldModel.load(linear_bundle)
    assert model.backend == "onnxruntime-cpu"
    assert model.reason == "as asked"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"onnxruntime {ort.__version__}" in caplog.text


def test_engines_that_cannot_run_here_are_told_and_passed_over(
    engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = WorldModel.load(engines)
    assert model.backend == "onnxruntime-cpu"
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "linear.engines cannot be used" in warnings[0]
    assert "TensorRT" in warnings[0]


def test_a_damaged_store_harms_nobody(engines: Path) -> None:
    for record in engines.with_suffix(".engines").rglob("engine.json"):
        record.write_bytes(b"{")
    assert WorldModel.load(engines).backend == "onnxruntime-cpu"


def test_an_engine_that_was_asked_for_is_an_error(engines: Path) -> None:
    with pytest.raises(MissingDependencyError, match="TensorRT"):
        WorldModel.load(engines, provider="tensorrt")


def test_a_provider_that_was_asked_for_is_an_error(linear_bundle: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for provider in ("cuda", "tensorrt-ep"):
        with pytest.raises(MissingDependencyError, match="pip install onnxruntime-gpu"):
            WorldModel.load(linear_bundle, provider=provider)  # type: ignore[arg-type]


def test_a_stale_engine_is_told_with_the_command_that_builds_it(engines: Path) -> None:
    bundle = Bundle.open(engines)
    store = EngineStore(bundle)
    newer = msgspec.structs.replace(MACHINE, version="1.8.0.0", driver="13.2")
    found, refused = BackendChoice()._engines(store, newer, ["fp32"])
    assert found == {}
    told = str(refused["fp32"])
    assert "1.7.1.116" in told
    assert "1.8.0.0" in told
    assert f"jepa-edge build {engines} --variant fp32" in told


def test_an_engine_that_fits_needs_a_driver(engines: Path) -> None:
    """Library, version, device and digests agree: the one thing that is missing is the GPU."""
    pytest.importorskip("cuda.bindings.runtime")
    stored = EngineStore(Bundle.open(engines)).find("fp32", MACHINE)
    assert stored is not None
    with pytest.raises(MissingDependencyError, match="NVIDIA"):
        TensorRTBackend(stored)


def test_the_engine_of_another_variant_is_not_used_and_that_is_told(
    engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A calibration belongs to one variant: `calibrated_only` asks for no other's engine."""
    bundle = Bundle.open(with_variants(engines, {"fp16": to_half}))
    stages = list(BackendChoice().stages(bundle, ["fp16"]))
    assert [list(stage.backends) for stage in stages] == [["fp16"]]
    assert stages[0].backends["fp16"].name == "onnxruntime-cpu"
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "are of variant fp32 and not used: asked for, or calibrated, is fp16" in warning
    assert f"`jepa-edge build {engines} --variant fp16` builds it" in warning
    assert f"`jepa-edge calibrate {engines} --variant fp32`" in warning


def test_where_a_signature_is_asked_for_unsigned_engines_are_not_taken_unasked(
    engines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private, public = tmp_path / "keys" / "key.pem", tmp_path / "keys" / "pub.pem"
    generate_key(private, public)
    sign_bundle(engines, private)
    trusted = Bundle.open(engines, trusted_key=load_public_key(public))
    assert trusted.trusted
    assert not Bundle.open(engines).trusted
    assert WorldModel.load(trusted).backend == "onnxruntime-cpu"
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "linear.engines are not used: a signature was asked for, and nobody signed" in warning
    # Asked for by name they are looked at, and here only TensorRT is missing.
    with pytest.raises(MissingDependencyError, match="TensorRT"):
        WorldModel.load(trusted, provider="tensorrt")
    caplog.clear()
    WorldModel.load(trusted, engines=engines.with_suffix(".engines"))
    assert "cannot be used: TensorRT" in caplog.text


def test_of_several_that_do_not_fit_the_one_that_is_there_is_told(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = msgspec.structs.replace(MACHINE, version="1.8.0.0")
    monkeypatch.setattr("jepa_edge.backends.choice.machine_here", lambda device: newer)
    bundle = Bundle.open(with_variants(engines, {"fp16": to_half}))
    with pytest.raises(BundleError, match=r"built with tensorrt_rtx 1\.7\.1\.116.* --variant fp32"):
        list(BackendChoice(provider="tensorrt").stages(bundle, ["fp16", "fp32"]))


class PlansByOnnxRuntime:
    """Verifies the stored plans as TensorRT's backend does, then runs the graphs on the CPU."""

    name, threads, runtime, device_class = "tensorrt", 1, "tensorrt 10.3.0 abc", "Orin sm_87"

    def __init__(self, stored: StoredEngine, graphs: Path) -> None:
        self.stored, self.graphs = stored, graphs

    def load(self, path: Path) -> Graph:
        self.stored.plan(path)
        return OnnxRuntimeBackend().load(self.graphs / path.name)


def test_an_engine_that_misses_the_golden_outputs_is_not_taken(
    engines: Path, tmp_path: Path, world: LinearWorld, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(engines)
    stored = EngineStore(bundle).find("fp32", MACHINE)
    assert stored is not None
    damaged = replace(world, step=-world.step)
    write_graphs(damaged, tmp_path / "encoder.onnx", tmp_path / "predictor.onnx")
    backend = PlansByOnnxRuntime(stored, tmp_path)
    stage = Stage(backends={"fp32": backend}, optional=True)
    replays: list[Any] = []
    assert fastest(bundle, stage, Golden.read(bundle), replays) is None
    assert replays[0].sqnr_db["predictor"] < 10.0 < replays[0].sqnr_db["encoder"]
    assert "does not reproduce the golden outputs and is not used" in caplog.text
    assert f"jepa-edge build {engines}" in caplog.text
    write_graphs(world, tmp_path / "encoder.onnx", tmp_path / "predictor.onnx")
    model = fastest(bundle, replace(stage, why="engine of this machine"), Golden.read(bundle), [])
    assert model is not None
    assert model.reason == "engine of this machine, as asked"
    assert (model.runtime, model.device_class) == (backend.runtime, backend.device_class)


def test_a_plan_that_is_cut_short_is_not_taken(
    engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(engines)
    stored = EngineStore(bundle).find("fp32", MACHINE)
    assert stored is not None
    plan = stored.folder / "predictor.plan"
    plan.write_bytes(plan.read_bytes()[:-100])
    backend = PlansByOnnxRuntime(stored, engines)
    stage = Stage(backends={"fp32": backend}, optional=True)
    assert fastest(bundle, stage, Golden.read(bundle), []) is None
    assert "predictor.plan is damaged" in caplog.text
    with pytest.raises(BundleError, match="jepa-edge build"):
        fastest(bundle, replace(stage, optional=False), Golden.read(bundle), [])


def test_a_folder_that_is_not_there_is_an_error(linear_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no folder of engines"):
        WorldModel.load(linear_bundle, engines=tmp_path / "nowhere")
    with pytest.raises(InputError, match="which runs none"):
        WorldModel.load(linear_bundle, engines=tmp_path, provider="cpu")
    unknown: Any = "openvino"
    with pytest.raises(InputError, match="expected one of auto, cpu, cuda"):
        WorldModel.load(linear_bundle, provider=unknown)


def test_an_unknown_variant_is_told_whatever_computes(linear_bundle: Path) -> None:
    for provider in ("auto", "cpu", "tensorrt"):
        with pytest.raises(BundleError, match="has no variant 'int3'"):
            WorldModel.load(linear_bundle, "int3", provider=provider)  # type: ignore[arg-type]


def test_an_engine_is_not_armed_by_a_calibration_of_the_cpu(
    calibrated_bundle: Path, tmp_path: Path
) -> None:
    model = WorldModel.load(calibrated_bundle, calibrated_only=True)
    calibrated = Monitor.load(model, state=tmp_path).calibration.binding
    assert disarmed_reason(model, calibrated, tmp_path) == ""
    # What `TensorRTBackend` says of itself on an Orin.
    model.runtime, model.device_class = "tensorrt 10.3.0 0123456789ab", "Orin sm_87"
    model.options = BackendChoice(provider="tensorrt", engines=tmp_path).options
    monitor = Monitor.load(model, state=tmp_path)
    assert "tensorrt 10.3.0 0123456789ab" in monitor.disarmed_reason
    assert "Orin sm_87" in monitor.disarmed_reason
    command = f"jepa-edge selftest {calibrated_bundle} --variant fp32"
    assert f"`{command} --provider tensorrt --engines {tmp_path}`" in monitor.disarmed_reason


def test_on_a_gpu_the_graph_predicts_and_not_the_core(linear_bundle: Path) -> None:
    model = WorldModel.load(linear_bundle)
    model.backend = "tensorrt"
    assert model.own_engine() is None
    history = np.zeros((1, 3, 1, 6), np.float32)
    assert model.rollout(history, np.zeros((1, 4, 4), np.float32)).shape == (1, 2, 1, 6)


@pytest.mark.parametrize("verb", ["run", "selftest", "evaluate", "imagine", "replay", "calibrate"])
def test_every_verb_that_loads_takes_the_options(verb: str) -> None:
    from importlib import import_module

    command: click.Command = import_module(f"jepa_edge.cli.{verb}").command
    options = {option.name: option for option in command.params}
    choice: Any = options["provider"].type
    assert tuple(choice.choices) == PROVIDERS
    assert options["provider"].default == "auto"
    assert options["engines"].opts == ["--engines"]


def test_a_verb_tells_what_is_missing(linear_bundle: Path) -> None:
    from jepa_edge.cli.selftest import command

    done = CliRunner().invoke(command, [str(linear_bundle), "--provider", "tensorrt"])
    assert isinstance(done.exception, BundleError | MissingDependencyError)


def test_inspect_shows_engines_and_why_they_do_not_run_here(engines: Path) -> None:
    from jepa_edge.cli.inspect import command

    done = CliRunner().invoke(command, [str(engines)])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.split()[0] == "engine"]
    assert "/fp32: fp32, " in line
    assert "TensorRT" in line
    before = done.output
    assert (
        "engine "
        not in CliRunner().invoke(command, [str(engines), "--engines", str(engines.parent)]).output
    )
    nowhere = CliRunner().invoke(command, [str(engines), "--engines", str(engines / "nowhere")])
    assert "which is no folder" in str(nowhere.exception)
    for record in engines.with_suffix(".engines").rglob("engine.json"):
        record.write_bytes(b"{")
    assert "no engine record" in CliRunner().invoke(command, [str(engines)]).output
    assert before != ""


@pytest.mark.parametrize("module", [world_model_parameters, planner_parameters])
def test_nodes_take_them_as_parameters(module: Any) -> None:
    values = resolve(module.PARAMETERS, {})
    assert (values["provider"], values["engines"]) == ("auto", "")
    with pytest.raises(InputError, match="provider"):
        resolve(module.PARAMETERS, {"provider": "gpu"})
