# SPDX-License-Identifier: Apache-2.0
"""Engines on disk: what fits is found, and everything else is refused with the way out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import BundleError
from jepa_edge.trt.key import EngineKey, MachineKey
from jepa_edge.trt.network import PlanRequest, build_plan
from jepa_edge.trt.profiles import make_profiles
from jepa_edge.trt.store import (
    RECORD_NAME,
    EngineRecord,
    EngineStore,
    PlanRecord,
    graph_digests,
    read_record,
    write_record,
)

from .rooms import FLAGS, MACHINE

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory, world: Any) -> dict[str, bytes]:
    """Real plans of the linear world, compiled by TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx")
    from jepa_edge.trt.library import load_library

    from ..conftest import make_bundle

    bundle = Bundle.open(make_bundle(tmp_path_factory.mktemp("plans") / "linear.jepa", world))
    profiles = make_profiles(bundle, "fp32", FLAGS.candidates)
    return {
        name: bytes(
            build_plan(
                load_library("tensorrt_rtx"),
                PlanRequest(
                    onnx=bundle.file(graph.file),
                    name=name,
                    precision="fp32",
                    profiles=profiles[graph.file],
                    flags=FLAGS,
                    target="8.6",
                ),
            ).plan
        )
        for name, graph in bundle.manifest.variants["fp32"].graphs.items()
    }


@pytest.fixture
def bundle(linear_bundle: Path, plans: dict[str, bytes]) -> Bundle:
    """A bundle with an engine beside it, of `MACHINE`."""
    opened = Bundle.open(linear_bundle)
    folder = EngineStore(opened).folder(MACHINE) / "fp32"
    folder.mkdir(parents=True)
    graphs = opened.manifest.variants["fp32"].graphs
    records = {}
    for name, graph in graphs.items():
        (folder / f"{name}.plan").write_bytes(plans[name])
        records[graph.file] = PlanRecord(
            file=f"{name}.plan",
            sha256=hashlib.sha256(plans[name]).hexdigest(),
            bytes=len(plans[name]),
            layers={"fp32": 3},
            memory_bytes=1024,
        )
    record = EngineRecord(
        key=EngineKey(
            machine=MACHINE,
            graphs=graph_digests(opened.manifest, "fp32"),
            flags=FLAGS,
            profiles=make_profiles(opened, "fp32", FLAGS.candidates),
            strongly_typed=dict.fromkeys(records, True),
        ),
        variant="fp32",
        precision="fp32",
        plans=records,
        golden_db={"encoder": 99.0},
        latencies=(),
        device_memory_bytes=2048,
        build_s=1.0,
        reason="the only one",
        race=(),
        warnings=(),
        jepa_edge="0.1.0",
        created_utc="2026-01-01T00:00:00+00:00",
    )
    write_record(folder, record)
    return opened


def folder_of(bundle: Bundle) -> Path:
    return EngineStore(bundle).folder(MACHINE) / "fp32"


def edit_record(bundle: Bundle, edit: Edit) -> Path:
    path = folder_of(bundle) / RECORD_NAME
    value = msgspec.json.decode(path.read_bytes())
    edit(value)
    path.write_bytes(msgspec.json.encode(value))
    return path


def test_what_was_written_is_found_again_and_its_plans_are_the_same(
    bundle: Bundle, plans: dict[str, bytes]
) -> None:
    store = EngineStore(bundle)
    assert store.root == bundle.path.with_name("linear.engines")
    assert store.variants(MACHINE) == ("fp32",)
    stored = store.require("fp32", MACHINE)
    assert stored.plan("encoder.onnx") == plans["encoder"]
    assert stored.path("encoder.onnx").read_bytes() == plans["encoder"]
    assert stored.plan(bundle.file("predictor.onnx")) == plans["predictor"]
    digests = "".join(plan.sha256 for plan in stored.record.plans.values())
    assert stored.digest == hashlib.sha256(digests.encode()).hexdigest()
    with pytest.raises(BundleError, match=r"no engine of other\.onnx, it holds those of encoder"):
        stored.plan("other.onnx")
    with pytest.raises(BundleError, match="is no file of"):
        stored.plan(Path("/etc/passwd"))


def test_a_bundle_without_engines_has_none_and_the_command_is_told(linear_bundle: Path) -> None:
    store = EngineStore(Bundle.open(linear_bundle))
    assert store.variants(MACHINE) == ()
    assert store.find("fp32", MACHINE) is None
    words = (
        r"holds no engine of variant 'fp32'; run `jepa-edge build \S+linear\.jepa --variant fp32`"
    )
    with pytest.raises(BundleError, match=words):
        store.require("fp32", MACHINE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "1.8.0.1"),
        ("compute_capability", "8.9"),
        ("device", "NVIDIA RTX 4090"),
        ("driver", "13.2"),
        ("library", "tensorrt"),
    ],
)
def test_an_engine_of_another_machine_is_refused_and_both_are_named(
    bundle: Bundle, field: str, value: str
) -> None:
    other: MachineKey = msgspec.structs.replace(MACHINE, **{field: value})
    store = EngineStore(bundle)
    assert store.find("fp32", other) is None
    assert store.variants(other) == ()
    with pytest.raises(BundleError) as caught:
        store.require("fp32", other)
    told = str(caught.value)
    assert value in told
    assert getattr(MACHINE, field) in told
    assert f"`jepa-edge build {bundle.path} --variant fp32`" in told


def test_engines_elsewhere_are_rebuilt_elsewhere(bundle: Bundle, tmp_path: Path) -> None:
    elsewhere = tmp_path / "flash"
    bundle.path.with_name("linear.engines").rename(elsewhere)
    assert EngineStore(bundle).find("fp32", MACHINE) is None
    assert EngineStore(bundle, elsewhere).find("fp32", MACHINE) is not None
    other = msgspec.structs.replace(MACHINE, driver="14.0")
    with pytest.raises(BundleError, match=f"--variant fp32 --out {elsewhere}`"):
        EngineStore(bundle, elsewhere).require("fp32", other)
    with pytest.raises(BundleError, match=f"--variant fp32 --out {elsewhere}`"):
        EngineStore(bundle, elsewhere).require("fp32", MACHINE).plan("other.onnx")


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_plan_that_was_cut_short_is_refused(bundle: Bundle, cut: int) -> None:
    path = folder_of(bundle) / "predictor.plan"
    path.write_bytes(path.read_bytes()[:cut])
    stored = EngineStore(bundle).require("fp32", MACHINE)
    stored.plan("encoder.onnx")
    with pytest.raises(
        BundleError, match=r"is damaged \(\d+ bytes, expected \d+\).*jepa-edge build"
    ):
        stored.plan("predictor.onnx")


def test_a_plan_that_was_altered_is_refused(bundle: Bundle) -> None:
    path = folder_of(bundle) / "encoder.plan"
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)
    stored = EngineStore(bundle).require("fp32", MACHINE)
    with pytest.raises(BundleError, match=r"was altered \(sha256 .*jepa-edge build"):
        stored.plan("encoder.onnx")


def test_a_plan_that_is_gone_or_a_link_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = folder_of(bundle) / "encoder.plan"
    os.replace(path, tmp_path / "moved.plan")
    stored = EngineStore(bundle).require("fp32", MACHINE)
    with pytest.raises(BundleError, match="is missing, or is a link"):
        stored.plan("encoder.onnx")
    path.symlink_to(tmp_path / "moved.plan")
    with pytest.raises(BundleError, match="is missing, or is a link"):
        stored.plan("encoder.onnx")


def test_an_engine_of_other_graphs_is_stale(bundle: Bundle) -> None:
    with staged_bundle(bundle.path, base=bundle) as staging:
        payload = (staging / "predictor.onnx").read_bytes()
        # A field that no schema has, so that the graph computes the same in other bytes.
        (staging / "predictor.onnx").write_bytes(payload + b"\xd2\x0f\x01x")
        seal(staging, bundle.manifest)
    store = EngineStore(Bundle.open(bundle.path))
    assert store.find("fp32", MACHINE) is None
    with pytest.raises(BundleError, match=r"built from another predictor\.onnx; run `jepa-edge bu"):
        store.require("fp32", MACHINE)


def _set(*path: str) -> Callable[[Any], Edit]:
    def with_value(value: Any) -> Edit:
        def edit(record: dict[str, Any]) -> None:
            for part in path[:-1]:
                record = record[part]
            record[path[-1]] = value

        return edit

    return with_value


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_set("schema_version")(2), "has schema version 2, this jepa-edge reads 1"),
        (_set("schema_version")("\x1b[31m"), r"has schema version \\x1b\[31m, this"),
        (_set("plans", "encoder.onnx", "file")("../../../x.plan"), "is damaged or no engine"),
        (_set("plans", "encoder.onnx", "file")("/etc/passwd"), "is damaged or no engine record"),
        (_set("plans", "encoder.onnx", "sha256")("0"), "is damaged or no engine record"),
        (_set("plans", "encoder.onnx", "owner")("me"), "is damaged or no engine record"),
        (_set("variant")("../fp32"), "is damaged or no engine record"),
        (_set("variant")("int8"), "its record is of variant 'int8'"),
        (_set("key", "graphs")({}), "names plans of graphs that its key has no sha256 of"),
        (_set("key", "machine", "compute_capability")("high"), "is damaged or no engine record"),
        (_set("key", "machine", "version")("9" * 5000), "is damaged or no engine record"),
        (_set("key", "machine", "driver")("\x1b[31m"), "is damaged or no engine record"),
        (lambda record: record["plans"].pop("predictor.onnx"), "holds no plan of predictor.onnx"),
        (lambda record: record.pop("reason"), "is damaged or no engine record"),
    ],
)
def test_a_record_that_is_not_ours_is_refused(bundle: Bundle, edit: Edit, words: str) -> None:
    edit_record(bundle, edit)
    store = EngineStore(bundle)
    assert store.find("fp32", MACHINE) is None
    with pytest.raises(BundleError, match=words) as caught:
        store.require("fp32", MACHINE)
    assert "jepa-edge build" in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{", b"\xff\xfe", b"null", b'{"a":' + b"[" * 100_000, b'{"a": NaN}'],
)
def test_a_record_that_is_no_json_object_is_refused(bundle: Bundle, payload: bytes) -> None:
    (folder_of(bundle) / RECORD_NAME).write_bytes(payload)
    with pytest.raises(BundleError, match="is damaged or no engine record"):
        EngineStore(bundle).require("fp32", MACHINE)


def test_a_pipe_or_a_giant_in_the_place_of_a_record_is_refused(bundle: Bundle) -> None:
    path = folder_of(bundle) / RECORD_NAME
    with path.open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleError, match="no file of a record's size"):
        EngineStore(bundle).require("fp32", MACHINE)
    path.unlink()
    os.mkfifo(path)
    assert EngineStore(bundle).find("fp32", MACHINE) is None
    with pytest.raises(BundleError, match="no file of a record's size"):
        read_record(path)


def test_a_build_that_was_killed_leaves_nothing_that_is_loaded(bundle: Bundle) -> None:
    """Its folder holds engines too that missed the golden outputs."""
    store = EngineStore(bundle)
    machine = store.folder(MACHINE)
    machine.rename(machine.with_name(f".{machine.name}.k1lled00"))
    assert store.records() == store.records("fp32") == []
    assert store.find("fp32", MACHINE) is None


def test_the_bytes_that_were_verified_are_those_that_are_loaded(
    bundle: Bundle, plans: dict[str, bytes]
) -> None:
    stored = EngineStore(bundle).require("fp32", MACHINE)
    payload = stored.plan("encoder.onnx")
    stored.path("encoder.onnx").write_bytes(plans["predictor"])
    assert payload == plans["encoder"]
    with pytest.raises(BundleError, match=r"encoder.plan (was altered|is damaged)"):
        stored.plan("encoder.onnx")


def test_a_record_that_is_a_link_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = folder_of(bundle) / RECORD_NAME
    os.replace(path, tmp_path / "engine.json")
    path.symlink_to(tmp_path / "engine.json")
    with pytest.raises(BundleError, match="is a link"):
        read_record(path)


def test_a_variant_that_is_no_name_reads_nothing_outside(bundle: Bundle) -> None:
    outside = EngineStore(bundle).root / "fp32"
    os.replace(folder_of(bundle), outside)
    with pytest.raises(BundleError, match=r"no variant '\.\./fp32'"):
        EngineStore(bundle).require("../fp32", MACHINE)
