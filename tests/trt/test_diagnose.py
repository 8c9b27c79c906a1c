# SPDX-License-Identifier: Apache-2.0
"""The comparison by layers, with really damaged graphs and ONNX Runtime on both sides."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.errors import BundleError
from jepa_edge.trt.diagnose import diagnose, layer_db, onnx_runner
from jepa_edge.trt.precision_plan import Layer, propose

WIDTH, LAYERS = 16, 12
FEEDS = {"x": np.random.default_rng(0).normal(size=(8, WIDTH)).astype(np.float32)}

Damage = Callable[[list[NDArray[np.float32]]], None]


def write_graph(path: Path, damage: Damage | None = None, prefix: str = "") -> Path:
    """A stack of MatMul and Tanh, whose weights `damage` may change; one tensor is named x[0]."""
    rng = np.random.default_rng(1)
    weights = [(rng.normal(size=(WIDTH, WIDTH)) / 4).astype(np.float32) for _ in range(LAYERS)]
    if damage is not None:
        damage(weights)
    nodes, x = [], "x"
    for i in range(LAYERS):
        product = f"{prefix}h{i}[0]" if i < LAYERS - 1 else f"{prefix}last"
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [product], name=f"layer{i}/MatMul"))
        x = f"{prefix}a{i}"
        nodes.append(helper.make_node("Tanh", [product], [x], name=f"layer{i}/Tanh"))
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", WIDTH])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["B", WIDTH])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The undamaged graph."""
    pytest.importorskip("polygraphy")
    return write_graph(tmp_path / "whole.onnx")


@pytest.mark.parametrize("layer", [0, 5, 11])
def test_the_first_damaged_layer_is_named(whole: Path, tmp_path: Path, layer: int) -> None:
    def damage(weights: list[NDArray[np.float32]]) -> None:
        weights[layer] += np.random.default_rng(2).normal(size=(WIDTH, WIDTH)).astype(np.float32)

    damaged = write_graph(tmp_path / "damaged.onnx", damage)
    found = diagnose(damaged, FEEDS, onnx_runner, reference=whole, precision="int8")
    assert found.first is not None
    assert (found.first.node, found.first.operator) == (f"layer{layer}/MatMul", "MatMul")
    assert found.first.input_db == 200.0  # what it reads is right
    assert found.first.sqnr_db < 20.0
    assert found.plan is not None
    assert found.plan.keep[0] == f"layer{layer}/MatMul"
    assert found.plan.precision == "fp16"
    assert any("--max-latent-error" in line for line in found.plan.advice)
    assert any("--variant fp16" in line for line in found.plan.advice)
    assert f"layer{layer}/MatMul" in found.told()


def test_of_two_damaged_layers_the_first_is_named(whole: Path, tmp_path: Path) -> None:
    def damage(weights: list[NDArray[np.float32]]) -> None:
        weights[4] *= 3.0
        weights[9] *= -1.0

    damaged = write_graph(tmp_path / "damaged.onnx", damage)
    found = diagnose(damaged, FEEDS, onnx_runner, reference=whole)
    assert found.first is not None
    assert found.first.node == "layer4/MatMul"


def test_a_layer_that_is_not_a_number_is_named(whole: Path, tmp_path: Path) -> None:
    def damage(weights: list[NDArray[np.float32]]) -> None:
        weights[6][3, 3] = np.nan

    damaged = write_graph(tmp_path / "damaged.onnx", damage)
    found = diagnose(damaged, FEEDS, onnx_runner, reference=whole)
    assert found.first is not None
    assert found.first.node == "layer6/MatMul"
    assert found.first.sqnr_db == -np.inf


def test_a_whole_graph_has_no_bad_layer(whole: Path) -> None:
    found = diagnose(whole, FEEDS, onnx_runner)
    assert found.first is None
    assert found.plan is None
    assert found.falls == ()
    assert "no layer by itself is wrong" in found.told()


def test_graphs_without_common_names_are_refused(whole: Path, tmp_path: Path) -> None:
    other = write_graph(tmp_path / "other.onnx", prefix="z")
    with pytest.raises(BundleError, match="share no layer's name"):
        diagnose(other, FEEDS, onnx_runner, reference=whole)


def test_inputs_that_do_not_fit_are_told(whole: Path) -> None:
    with pytest.raises(BundleError, match="cannot be run layer by layer"):
        diagnose(whole, {"x": np.zeros((8, WIDTH + 1), np.float32)}, onnx_runner)


def test_values_beyond_fp16_are_told() -> None:
    layer = Layer(
        node="norm/Pow", operator="Pow", tensor="t", sqnr_db=3.0, input_db=60.0, largest=9e4
    )
    plan = propose(layer, [], "fp16")
    assert plan.precision == "fp32"
    assert any("65504" in line and "norm/Pow" in line for line in plan.advice)
    small = Layer(
        node="norm/Pow", operator="Pow", tensor="t", sqnr_db=3.0, input_db=60.0, largest=9.0
    )
    assert any("fp32" in line for line in propose(small, [], "int8_fp16").advice)
    assert "report it" in " ".join(propose(small, [], "fp32").advice)


def test_a_layers_ratio_is_of_its_variance() -> None:
    reference = np.array([[100.0, 102.0]])
    assert layer_db(reference, reference + 0.1) == pytest.approx(20.0)
    assert layer_db(reference, reference) == 200.0
    assert layer_db(np.full((2, 2), 3.0), np.full((2, 2), 3.3)) == pytest.approx(20.0)
    assert layer_db(reference, reference * np.nan) == -np.inf
    assert layer_db(reference, reference[:, :1]) == -np.inf


def test_tensorrt_parses_marks_and_builds_the_same_layers(whole: Path) -> None:
    """With TensorRT-RTX on the CPU, up to the plan, which only a GPU can load."""
    pytest.importorskip("tensorrt_rtx")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from jepa_edge.errors import BundleError\n"
        "from jepa_edge.trt.diagnose import diagnose, tensorrt_runner\n"
        "make = tensorrt_runner({'x': (8, 16)})\n"
        "feeds = {'x': np.ones((8, 16), np.float32)}\n"
        "try:\n"
        "    print(diagnose(Path(sys.argv[1]), feeds, make).told())\n"
        "except BundleError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"},
    )
    # What came before, parsing and building, went well; or there is a GPU and all did.
    assert "Could not deserialize engine" in done.stdout or "no layer by itself" in done.stdout


def test_without_polygraphy_it_says_what_to_install(whole: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['polygraphy'] = None\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from jepa_edge.errors import MissingDependencyError\n"
        "from jepa_edge.trt.diagnose import diagnose, onnx_runner\n"
        "try:\n"
        "    diagnose(Path(sys.argv[1]), {'x': np.zeros((8, 16), np.float32)}, onnx_runner)\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole)], capture_output=True, text=True, check=True
    )
    assert "pip install 'jepa-edge[check]'" in done.stdout
