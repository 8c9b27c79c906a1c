# SPDX-License-Identifier: Apache-2.0
"""One ONNX file to one plan: TensorRT-RTX's parser and compiler, on the CPU."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jepa_edge.errors import BundleError, InputError
from jepa_edge.trt.key import InputProfile
from jepa_edge.trt.library import Library
from jepa_edge.trt.monitor import Phases
from jepa_edge.trt.network import PlanRequest, build_plan

from ..conftest import LinearWorld, write_graphs
from .rooms import FLAGS, to_half, to_int8, unknown_operator

Shape = tuple[int, ...]


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx")
    from jepa_edge.trt.library import load_library

    return load_library("tensorrt_rtx")


def spans(*tail: int) -> InputProfile:
    return InputProfile(low=(1, *tail), best=(1, *tail), high=(4, *tail))


PREDICTOR = {"history": spans(3, 1, 6), "actions": spans(3, 4)}


@pytest.fixture
def predictor(tmp_path: Path, world: LinearWorld) -> Path:
    write_graphs(world, tmp_path / "encoder.onnx", tmp_path / "predictor.onnx")
    return tmp_path / "predictor.onnx"


def request(path: Path, **fields: Any) -> PlanRequest:
    known: dict[str, Any] = {
        "onnx": path,
        "name": "fp32 predictor",
        "precision": "fp32",
        "profiles": (PREDICTOR,),
        "flags": FLAGS,
        "target": "8.6",
    }
    return PlanRequest(**(known | fields))


def edited(path: Path, edit: Callable[[Any], None]) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, str(path))
    return path


def keep(model: Any) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    ("edit", "precisions"), [(keep, {"fp32": 2}), (to_half, {"fp16": 2}), (to_int8(), {"int8": 2})]
)
def test_a_graph_becomes_a_plan_in_the_precision_of_its_types(
    rtx: Library, predictor: Path, edit: Callable[[Any], None], precisions: dict[str, int]
) -> None:
    built = build_plan(rtx, request(edited(predictor, edit)))
    assert built.precisions == precisions
    assert built.strongly_typed
    assert built.layers >= 6
    assert built.plan.nbytes > 10_000
    assert built.warnings == ()


def test_weights_beside_the_file_are_found_and_missed(rtx: Library, predictor: Path) -> None:
    model = onnx.load(predictor)
    data = predictor.with_name("predictor.onnx.data")
    onnx.save(
        model, str(predictor), save_as_external_data=True, location=data.name, size_threshold=0
    )
    assert data.stat().st_size > 0
    assert build_plan(rtx, request(predictor)).precisions == {"fp32": 2}
    data.unlink()
    with pytest.raises(BundleError, match=r"Failed to import initializer.*copy the bundle again"):
        build_plan(rtx, request(predictor))


def test_a_refused_operator_is_named(rtx: Library, predictor: Path) -> None:
    words = (
        r"TensorRT-RTX \S+ cannot parse fp32 predictor: node odd_one \(Det\): .*; leave this var"
    )
    with pytest.raises(BundleError, match=words):
        build_plan(rtx, request(edited(predictor, unknown_operator)))


@pytest.mark.parametrize(
    ("edit", "operator"),
    [(to_int8(zero=3), "QuantizeLinear"), (to_int8(zero=128, kind=np.uint8), "QuantizeLinear")],
)
def test_quantization_outside_the_portable_profile_is_named(
    rtx: Library, predictor: Path, edit: Callable[[Any], None], operator: str
) -> None:
    with pytest.raises(BundleError, match=rf"cannot parse fp32 predictor: .*\({operator}\)"):
        build_plan(rtx, request(edited(predictor, edit)))


def test_pixels_that_are_not_cast_first_are_told_apart(rtx: Library, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["frames"], ["turned"], perm=[0, 3, 1, 2], name="turn"),
            helper.make_node("Cast", ["turned"], ["latents"], to=TensorProto.FLOAT),
        ],
        "encoder",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["B", 8, 8, 3])],
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["B", 3, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(tmp_path / "encoder.onnx"))
    words = r"node turn \(Transpose\): .*export again with this jepa-edge: TensorRT casts uint8"
    with pytest.raises(BundleError, match=words):
        build_plan(rtx, request(tmp_path / "encoder.onnx", profiles=({"frames": spans(8, 8, 3)},)))


@pytest.mark.parametrize("payload", [b"", b"not a graph", b"{}"])
def test_a_file_that_is_no_graph_is_refused(rtx: Library, tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(payload)
    with pytest.raises(BundleError, match=r"cannot (parse|build) fp32 predictor|takes"):
        build_plan(rtx, request(path))


def test_a_manifest_that_is_not_the_graphs_is_refused(rtx: Library, predictor: Path) -> None:
    with pytest.raises(BundleError, match="takes actions, history, its manifest says history;"):
        build_plan(rtx, request(predictor, profiles=({"history": spans(3, 1, 6)},)))
    wrong = PREDICTOR | {"history": spans(2, 1, 6)}
    with pytest.raises(BundleError, match=r"cannot build fp32 predictor: .*history"):
        build_plan(rtx, request(predictor, profiles=(wrong,)))
    backwards = PREDICTOR | {
        "history": InputProfile(low=(4, 3, 1, 6), best=(2, 3, 1, 6), high=(1, 3, 1, 6))
    }
    with pytest.raises(BundleError, match="refuses the shapes of fp32 predictor"):
        build_plan(rtx, request(predictor, profiles=(backwards,)))


def test_a_gpu_that_cannot_be_compiled_for_is_refused(rtx: Library, predictor: Path) -> None:
    with pytest.raises(InputError, match=r"cannot compile for SM87, it can for SM120, .*SM86"):
        build_plan(rtx, request(predictor, target="8.7"))


def test_a_dla_that_is_not_there_is_refused(rtx: Library, predictor: Path) -> None:
    from msgspec.structs import replace

    with pytest.raises(InputError, match=r"DLA core 0 was asked for, this machine has 0"):
        build_plan(rtx, request(predictor, flags=replace(FLAGS, dla=0)))


def test_progress_only_grows_and_ends(rtx: Library, predictor: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build_plan(rtx, request(predictor), lambda *report: told.append(report))
    assert {stage for stage, _, _ in told} == {"building fp32 predictor"}
    percents = [done for _, done, _ in told]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(set(percents)) > 10


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_ends_the_build_at_once(
    rtx: Library, predictor: Path, stop: type[BaseException]
) -> None:
    told: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        told.append(done)
        if done >= 5:
            raise stop

    with pytest.raises(stop):
        build_plan(rtx, request(predictor), progress)
    assert max(told) < 50


def test_ctrl_c_is_kept_for_the_next_step_and_then_raised(rtx: Library, predictor: Path) -> None:
    told: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        told.append(done)
        if len(told) == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_plan(rtx, request(predictor), progress)
    assert len(told) == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_phases_nest() -> None:
    phases = Phases()
    phases.start("all", 2)
    assert phases.percent() == 0
    phases.start("first", 4)
    phases.step("first", 0)
    assert phases.percent() == 12
    phases.step("first", 3)
    phases.finish("first")
    phases.step("all", 0)
    assert phases.percent() == 50
    phases.start("second", 0)  # a phase without steps
    phases.finish("second")
    phases.step("all", 1)
    assert phases.percent() == 100
