# SPDX-License-Identifier: Apache-2.0
"""Model-Optimizer in its own environment: really run where there is one, really missing elsewhere.

JEPA_EDGE_MODELOPT names its Python. Numbers are checked against ml_dtypes, whose rounding is
neither NVIDIA's nor ONNX Runtime's.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.errors import ExportError, MissingDependencyError
from jepa_edge.export import modelopt
from jepa_edge.export.low_bits import make_low_bits
from jepa_edge.export.modelopt import DEFAULT_PLACE, VARIABLE, find_python, quantize_with_modelopt
from jepa_edge.export.onnx_graph import layer_names, run_model
from jepa_edge.export.profile import realized_precisions
from jepa_edge.export.quantize import to_fp16
from jepa_edge.export.simulate import run_simulated, simulated, what_is_simulated
from jepa_edge.metrics import sqnr_db

ml_dtypes = importlib.import_module("ml_dtypes")

Feeds = dict[str, NDArray[np.generic]]
MODES = ("fp8", "int4", "nvfp4")


@pytest.fixture
def predictor_feeds() -> Feeds:
    """Inputs of the predictor of `export_onnx`."""
    rng = np.random.default_rng(0)
    return {
        "history": rng.normal(size=(24, 3, 1, 24)).astype(np.float32),
        "actions": rng.normal(250.0, 100.0, (24, 3, 4)).astype(np.float32),
    }


def _installed() -> bool:
    try:
        find_python()
    except MissingDependencyError:
        return False
    return True


needs_modelopt = pytest.mark.skipif(
    not _installed(), reason="needs an environment with nvidia-modelopt 0.47"
)


@needs_modelopt
@pytest.mark.parametrize("mode", MODES)
def test_a_predictor_in_few_bits_is_near_torch_and_counts_what_it_has(
    export_onnx: dict[str, Any], predictor_feeds: Feeds, mode: str
) -> None:
    model = export_onnx["predictor"]
    halves = [
        {k: v[part] for k, v in predictor_feeds.items()} for part in (slice(12), slice(12, 24))
    ]
    graph, report, _ = make_low_bits(model, *halves, 0.5, mode, name="predictor")
    counts = realized_precisions(graph)
    assert counts[mode] >= 4
    assert sum(counts.values()) == len(layer_names(model))
    assert set(counts) <= {mode, "fp16"}
    assert report.quantizer == "Model-Optimizer 0.47.0"
    assert report.error <= 0.5
    expected = run_model(model, halves[1])
    assert sqnr_db(expected, run_simulated(graph, halves[1])) > 5.0
    assert bool(what_is_simulated(graph)) == (mode != "int4")
    assert "simulated" not in str(graph)
    assert str(Path.home()) not in str(graph)


@pytest.mark.parametrize(("mode", "block"), [("int4", 32), ("nvfp4", 16)])
def test_a_graph_of_no_whole_block_is_refused_before_model_optimizer_is_asked(
    mode: str, block: int
) -> None:
    weight = np.eye(24, dtype=np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        "g",
        [value("x", TensorProto.FLOAT, ["b", 24])],
        [value("y", TensorProto.FLOAT, ["b", 24])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    feeds = {"x": np.ones((4, 24), np.float32)}
    told = (
        f"no layer of the predictor can be {mode}, which takes layers whose number of inputs is a "
        f"multiple of {block}; leave {mode} out of --precision"
    )
    with pytest.raises(ExportError) as caught:
        make_low_bits(model, feeds, feeds, 0.1, mode, name="predictor")
    assert str(caught.value) == told


@needs_modelopt
def test_a_failure_of_the_worker_is_told_in_one_line(export_onnx: dict[str, Any]) -> None:
    wrong = {"history": np.zeros((8, 3, 1, 5), np.float32), "actions": np.zeros((8, 3, 4), "f4")}
    model = export_onnx["predictor"]
    with pytest.raises(ExportError, match=r"Model-Optimizer 0.47 cannot make fp8: .*; leave fp8"):
        quantize_with_modelopt(model, "fp8", wrong, layer_names(model))


def test_without_an_environment_the_commands_that_make_one_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError) as told:
        find_python()
    message = str(told.value)
    place = tmp_path / DEFAULT_PLACE
    assert f"python3 -m venv {place} && {place}/bin/pip install --no-deps" in message
    assert "nvidia-modelopt==0.47" in message
    requirements = message.split(" -r ")[1].split(",")[0]
    assert "onnxruntime~=1.24" in Path(requirements).read_text()


def test_a_python_without_model_optimizer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, sys.executable)
    with pytest.raises(MissingDependencyError, match=r"has no nvidia-modelopt, expected 0.47"):
        find_python()
    monkeypatch.setenv(VARIABLE, "/nowhere/python")
    with pytest.raises(MissingDependencyError, match=r"/nowhere/python, which is no file"):
        find_python()


def test_an_interrupt_ends_the_worker_and_its_children(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(modelopt, "_WORKER", worker)

    def interrupt() -> None:
        while not (tmp_path / "child").is_file() or not (tmp_path / "child").read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        modelopt._run(Path(sys.executable), tmp_path / "job.json", "fp8")
    thread.join()
    child = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    deadline = time.monotonic() + 10.0
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the worker's child lives on"
        time.sleep(0.05)


def test_the_worker_runs_without_our_package() -> None:
    worker = Path(modelopt.__file__).with_name("modelopt_worker.py")
    assert "jepa_edge import" not in worker.read_text()
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"compile(open({str(worker)!r}).read(), 'w', 'exec')"],
        capture_output=True,
        check=False,
    )
    assert told.returncode == 0


def _nvfp4_round(values: NDArray[np.float32], whole: float) -> NDArray[np.float32]:
    """E2M1 in blocks of 16 with E4M3 scales, by ml_dtypes."""
    blocks = values.reshape(*values.shape[:-1], -1, 16)
    peak = np.abs(blocks).max(axis=-1, keepdims=True)
    scale = (peak / np.float32(6) / np.float32(whole)).clip(0, 448)
    scale = scale.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(whole)
    used = np.where(scale == 0, 1, scale).astype(np.float32)
    coded = (blocks / used).clip(-6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return (coded * scale).reshape(values.shape).astype(np.float32)


@pytest.mark.parametrize("flat", [False, True], ids=["three axes", "four axes"])
def test_nvfp4_is_simulated_number_for_number(flat: bool) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 3, 32)).astype(np.float16)
    x[0, 0] = 0.0  # a block of nothing
    x[1, 1, :6] = (0.25, 0.75, 1.25, 2.5, 3.5, 5.0)  # halves between E2M1's numbers
    x[1, 1, 6:16] = 6.0
    if flat:
        x = x[:, None]
    weight = rng.normal(size=(8, 32)).astype(np.float32)  # transposed: (out, in)
    whole_x, whole_w = np.float32(4.0 / 6 / 448), np.float32(np.abs(weight).max() / 6 / 448)
    blocks = weight.reshape(8, 2, 16)
    scales = (np.abs(blocks).max(axis=-1) / 6 / whole_w).astype(ml_dtypes.float8_e4m3fn)
    used = scales.astype(np.float32) * whole_w
    packed = (blocks / used[..., None]).reshape(8, 32).astype(ml_dtypes.float4_e2m1fn)
    block = {"axis": -1, "block_size": 16}
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "w32"], ["ws"]),
        helper.make_node("DequantizeLinear", ["w4", "ws"], ["w"], **block),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node(
            "TRT_FP4DynamicQuantize",
            ["rows" if flat else "x", "x32"],
            ["x4", "x8"],
            "q",
            domain="trt",
            **block,
        ),
        helper.make_node("DequantizeLinear", ["x8", "x32"], ["xs"]),
        helper.make_node("DequantizeLinear", ["x4", "xs"], ["xr" if flat else "xd"], **block),
        helper.make_node("MatMul", ["xd", "wt"], ["y"], "layer"),
    ]
    if flat:  # as for TensorRT, which quantizes two or three axes
        nodes.insert(0, helper.make_node("Reshape", ["x", "columns"], ["rows"]))
        nodes.insert(0, helper.make_node("Shape", ["x"], ["shape"]))
        nodes.insert(-1, helper.make_node("Reshape", ["xr", "shape"], ["xd"]))
    stored = {"w4": packed, "w8": scales, "w32": whole_w, "x32": whole_x}
    stored["columns"] = np.array([-1, 32])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["b", *x.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", *x.shape[1:-1], 8])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    assert realized_precisions(model) == {"nvfp4": 1}
    restored = packed.astype(np.float32) * np.repeat(used, 16, axis=-1)
    expected = _nvfp4_round(x.astype(np.float32), float(whole_x)) @ restored.T
    actual = run_model(simulated(model), {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(actual - x.astype(np.float32) @ weight.T).max() > 0.05  # it did round


def test_a_graph_without_four_bits_is_left_alone(export_onnx: dict[str, Any]) -> None:
    half = to_fp16(export_onnx["predictor"])
    assert simulated(half) is half
    assert what_is_simulated(half) == ""
    assert onnx.checker.check_model(half) is None
