# SPDX-License-Identifier: Apache-2.0
"""A whole build: real plans of TensorRT-RTX, while ONNX Runtime stands for the GPU."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from jepa_edge.backends import Backend
from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.bundle import Bundle
from jepa_edge.cli.app import main
from jepa_edge.errors import BundleError, InputError
from jepa_edge.golden import Golden
from jepa_edge.trt.build import BuildOptions, build_engines
from jepa_edge.trt.contestant import golden_feeds
from jepa_edge.trt.inspector import Inspection
from jepa_edge.trt.key import BuildFlags
from jepa_edge.trt.store import RECORD_NAME, EngineStore, StoredEngine, read_record
from jepa_edge.trt.workshop import Workshop

from .rooms import MACHINE, damage, to_half, to_int8, unknown_operator, with_variants, workshop


@pytest.fixture(scope="module")
def place() -> Workshop:
    pytest.importorskip("tensorrt_rtx")
    return workshop()


def options(**fields: object) -> BuildOptions:
    return dataclasses.replace(BuildOptions(candidates=8, workspace_gb=0.25), **fields)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_the_winner_is_kept_with_its_record_and_the_losers_are_gone(
    linear_bundle: Path, place: Workshop
) -> None:
    with_variants(linear_bundle, {"fp16": to_half})
    sealed = contents(linear_bundle)
    bundle = Bundle.open(linear_bundle)
    report = build_engines(bundle, options(), place)
    assert contents(linear_bundle) == sealed  # a signed bundle stays what it is

    stored = EngineStore(bundle).require(report.record.variant, MACHINE)
    assert report.built
    assert Path(report.folder) == stored.folder
    assert [path.name for path in stored.folder.parent.iterdir()] == [report.record.variant]
    assert {path.name for path in stored.folder.iterdir()} == {
        RECORD_NAME,
        "encoder.plan",
        "predictor.plan",
        "encoder.layers.json",
        "predictor.layers.json",
    }
    record = stored.record
    assert record == report.record
    assert record.key.machine == MACHINE
    assert record.key.flags == BuildFlags(workspace_bytes=1 << 28, candidates=8)
    assert all(record.key.strongly_typed.values())
    assert {one.variant for one in record.race} == {"fp16", "fp32"}
    assert all(one.passed and one.total_ms is not None for one in record.race)
    fastest = min(record.race, key=lambda one: one.total_ms or 0.0)
    assert record.variant == fastest.variant
    assert record.reason.startswith(f"{record.variant} takes ")
    assert [(t.graph, t.batch) for t in record.latencies] == [
        ("encoder", 1),
        ("predictor", 1),
        ("predictor", 8),
    ]
    assert all(0.0 < t.p50_ms <= t.p99_ms for t in record.latencies)
    assert set(record.golden_db) == {"encoder", "predictor", "rollout"}
    size = sum(plan.bytes + plan.memory_bytes for plan in record.plans.values())
    assert record.device_memory_bytes == size
    assert record.build_s > 0.0


def test_a_variant_that_misses_the_golden_outputs_loses_and_is_told(
    linear_bundle: Path, place: Workshop
) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"fp16": damage}))
    report = build_engines(bundle, options(), place)
    assert report.record.variant == "fp32"
    loser, winner = report.record.race
    assert (loser.variant, loser.passed, loser.total_ms) == ("fp16", False, None)
    assert "golden outputs fail: fp16: encoder" in loser.outcome
    assert loser.sqnr_db["encoder"] < 20.0 < winner.sqnr_db["encoder"]
    assert report.record.reason.endswith("out of the race: fp16")
    assert not (Path(report.folder).parent / "fp16").exists()


def test_a_variant_that_is_refused_loses_and_is_told(linear_bundle: Path, place: Workshop) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"int8": unknown_operator}))
    report = build_engines(bundle, options(), place)
    assert report.record.variant == "fp32"
    told = {one.variant: one.outcome for one in report.record.race}
    assert "node odd_one (Det)" in told["int8"]


@pytest.mark.parametrize("edit", [damage, unknown_operator])
def test_a_build_that_fails_leaves_the_old_engines(
    linear_bundle: Path, place: Workshop, edit: Callable[[object], None]
) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"fp16": edit}))
    build_engines(bundle, options(variants=("fp32",)), place)
    engines = linear_bundle.with_suffix(".engines")
    before = contents(engines)
    with pytest.raises(BundleError, match=r"no engine of .*linear\.jepa can be kept: fp16: "):
        build_engines(bundle, options(variants=("fp16",)), place)
    assert contents(engines) == before
    assert [path.name for path in engines.iterdir()] == [MACHINE.folder]


def test_a_build_that_is_interrupted_leaves_nothing(linear_bundle: Path, place: Workshop) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if "predictor" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(Bundle.open(linear_bundle), options(), place, progress)
    assert not linear_bundle.with_suffix(".engines").exists()


def test_what_fits_already_is_not_built_again(linear_bundle: Path, place: Workshop) -> None:
    bundle = Bundle.open(linear_bundle)
    first = build_engines(bundle, options(), place)
    again = build_engines(bundle, options(), place)
    assert not again.built
    assert again.record == first.record
    unasked = build_engines(bundle, options(workspace_gb=None), place)
    assert not unasked.built  # what is free differs from hour to hour

    assert build_engines(bundle, options(force=True), place).built
    larger = build_engines(bundle, options(candidates=9), place)
    assert larger.built
    assert larger.record.key.flags.candidates == 9

    plan = Path(larger.folder) / "encoder.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    assert build_engines(bundle, options(candidates=9), place).built
    EngineStore(bundle).require("fp32", MACHINE).plan("encoder.onnx")


def test_another_machine_has_a_folder_of_its_own(
    linear_bundle: Path, place: Workshop, tmp_path: Path
) -> None:
    bundle = Bundle.open(linear_bundle)
    build_engines(bundle, options(), place)
    other = msgspec.structs.replace(MACHINE, driver="13.2")
    report = build_engines(bundle, options(), dataclasses.replace(place, machine=other))
    assert report.built
    store = EngineStore(bundle)
    assert store.find("fp32", MACHINE) is not None
    assert store.find("fp32", other) is not None
    elsewhere = build_engines(bundle, options(out=tmp_path / "flash"), place)
    assert Path(elsewhere.folder).is_relative_to(tmp_path / "flash")
    assert (
        elsewhere.notes[0] == f"pass --engines {tmp_path / 'flash'} wherever this bundle is loaded"
    )


def test_candidates_that_memory_does_not_hold_together_are_timed_one_by_one(
    linear_bundle: Path, place: Workshop
) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"fp16": to_half}))
    report = build_engines(bundle, options(), dataclasses.replace(place, free_bytes=lambda: 1))
    assert all(one.total_ms for one in report.record.race)


def test_candidates_that_do_not_load_together_are_timed_one_by_one(
    linear_bundle: Path, place: Workshop
) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"fp16": to_half}))
    alive: list[weakref.ref[Backend]] = []

    class Room(OnnxRuntimeBackend):
        """Holds one variant."""

    def backend(stored: StoredEngine) -> Backend:
        if any(one() is not None for one in alive):
            raise BundleError("out of memory")
        made = Room()
        alive.append(weakref.ref(made))
        return made

    report = build_engines(bundle, options(), dataclasses.replace(place, backend=backend))
    assert all(one.total_ms for one in report.record.race)
    assert len(alive) == 2 + 1 + 2  # to check each, to time the first, to time each


def test_a_candidate_that_cannot_be_timed_is_not_kept(linear_bundle: Path, place: Workshop) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"fp16": to_half}))
    loaded: list[str] = []

    def backend(stored: StoredEngine) -> Backend:
        loaded.append(stored.variant)
        if loaded.count("fp16") > 1 and stored.variant == "fp16":
            raise BundleError("out of memory")
        return OnnxRuntimeBackend()

    report = build_engines(bundle, options(), dataclasses.replace(place, backend=backend))
    assert report.record.variant == "fp32"
    outcomes = {one.variant: one for one in report.record.race}
    assert outcomes["fp16"].passed
    assert outcomes["fp16"].total_ms is None
    assert outcomes["fp16"].outcome.endswith("could not be timed: out of memory")
    assert "out of the race: fp16" in report.record.reason


def test_a_precision_that_no_layer_runs_in_is_a_warning(
    linear_bundle: Path, place: Workshop
) -> None:
    def read(plan: Path, flags: BuildFlags) -> Inspection:
        layer = msgspec.structs.replace(place.inspect(plan, flags).layers[0], precision="fp16")
        return Inspection(layers=(layer,), memory_bytes=0)

    bundle = Bundle.open(with_variants(linear_bundle, {"int8": to_int8()}, sqnr_db=20.0))
    chosen = options(variants=("int8",))
    report = build_engines(bundle, chosen, dataclasses.replace(place, inspect=read))
    assert len(report.record.warnings) == 2
    assert "int8 predictor: 2 products are to run in int8, no layer" in report.record.warnings[1]
    assert report.record.plans["variants/int8/encoder.onnx"].layers == {"fp16": 1}
    layers = Path(report.folder) / "encoder.layers.json"
    assert json.loads(layers.read_bytes())[0]["precision"] == "fp16"


def test_a_calibrated_bundle_is_told_to_test_itself(
    calibrated_bundle: Path, place: Workshop, tmp_path: Path
) -> None:
    bundle = Bundle.open(calibrated_bundle)
    report = build_engines(bundle, options(out=tmp_path / "engines"), place)
    command = (
        f"`jepa-edge selftest {calibrated_bundle} --variant fp32 --engines {tmp_path}/engines`"
    )
    assert any(command in note for note in report.notes)


def test_what_was_kept_and_is_not_calibrated_is_told(
    calibrated_bundle: Path, place: Workshop
) -> None:
    with_variants(calibrated_bundle, {"fp16": to_half})
    report = build_engines(Bundle.open(calibrated_bundle), options(variants=("fp16",)), place)
    (note,) = report.notes
    assert "variant fp16 was kept and is not calibrated, fp32 is" in note
    assert f"`jepa-edge build {calibrated_bundle} --variant fp32`" in note


def test_engines_are_never_put_into_the_bundle_or_over_a_file(
    linear_bundle: Path, place: Workshop, tmp_path: Path
) -> None:
    bundle = Bundle.open(linear_bundle)
    before = contents(linear_bundle)
    (tmp_path / "link").symlink_to(linear_bundle)
    for inside in (linear_bundle, linear_bundle / "engines", tmp_path / "link" / "engines"):
        with pytest.raises(InputError, match="inside the bundle"):
            build_engines(bundle, options(out=inside), place)
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match="which is no folder"):
        build_engines(bundle, options(out=tmp_path / "file"), place)
    assert contents(linear_bundle) == before


def test_the_golden_inputs_of_a_graph_are_its_own(linear_bundle: Path) -> None:
    bundle = Bundle.open(linear_bundle)
    golden = Golden.read(bundle)
    feeds = golden_feeds(bundle, golden, "predictor")
    assert set(feeds) == {"history", "actions"}
    np.testing.assert_array_equal(feeds["history"], golden.history)
    assert set(golden_feeds(bundle, golden, "encoder")) == {"frames"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"workspace_gb": 0.0}, "workspace_gb is 0.0, expected 0.001 to 1024"),
        ({"workspace_gb": float("nan")}, "workspace_gb is nan, expected 0.001 to 1024"),
        ({"workspace_gb": 1e30}, "workspace_gb is 1e\\+30, expected 0.001 to 1024"),
        ({"optimization_level": 6}, "optimization_level is 6, expected 0 to 5"),
        ({"candidates": 0}, "candidates is 0, expected 1 or more"),
        ({"dla": -1}, "dla is -1, expected the number of a core"),
    ],
)
def test_options_are_checked(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        options(**fields)


def test_a_dla_core_that_is_not_there_ends_the_build(linear_bundle: Path, place: Workshop) -> None:
    with pytest.raises(InputError, match="DLA core 1 was asked for, this machine has 0"):
        build_engines(Bundle.open(linear_bundle), options(dla=1), place)
    assert not linear_bundle.with_suffix(".engines").exists()


def test_scratch_memory_is_a_share_of_what_is_free(place: Workshop) -> None:
    gigabyte = 1 << 30
    large = dataclasses.replace(place, total_bytes=64 * gigabyte, free_bytes=lambda: 40 * gigabyte)
    orin_nano = dataclasses.replace(
        place, total_bytes=8 * gigabyte, free_bytes=lambda: 4 * gigabyte
    )
    full = dataclasses.replace(orin_nano, free_bytes=lambda: 0)
    assert large.workspace_bytes() == 20 * gigabyte
    assert orin_nano.workspace_bytes() == gigabyte
    assert full.workspace_bytes() == 64 << 20


def test_the_command_line_tells_what_was_kept_and_why(
    linear_bundle: Path,
    place: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("jepa_edge.trt.workshop.this_machine", lambda: place)
    monkeypatch.setattr("jepa_edge.cli.stop.install", lambda: None)  # pytest keeps its signals
    with_variants(linear_bundle, {"fp16": damage})

    def run(*arguments: str) -> tuple[str, str]:
        main(["build", str(linear_bundle), "--candidates", "8", *arguments])
        told = capsys.readouterr()
        return told.out, told.err

    out, _ = run()
    assert f"{linear_bundle} fp32: tensorrt_rtx {MACHINE.version}, NVIDIA RTX A2000" in out
    assert "fp32 takes " in out
    assert "not kept: fp16: golden outputs fail" in out
    assert "batch 8 " in out
    assert "built in" in out
    out, _ = run()
    assert "was there already and fits" in out
    report = json.loads(run("--json", "--variant", "fp32", "--force")[0])
    assert report["built"]
    assert [one["variant"] for one in report["record"]["race"]] == ["fp32"]
    with pytest.raises(SystemExit) as caught:
        run("--variant", "fp16")
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: no engine of {linear_bundle} can be kept: fp16: golden")
    with pytest.raises(SystemExit) as caught:
        run("--out", "/proc/engines")  # where nobody can make a folder
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: engines cannot be written (")
    assert "/proc/engines" in line
    assert "pass --out" in line


def test_the_record_of_a_build_is_read_back_as_it_was_written(
    linear_bundle: Path, place: Workshop
) -> None:
    report = build_engines(Bundle.open(linear_bundle), options(), place)
    assert read_record(Path(report.folder) / RECORD_NAME) == report.record
