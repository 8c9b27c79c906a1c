# SPDX-License-Identifier: Apache-2.0
"""Lower precisions: what the files hold, how near they compute, and what the profile refuses."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.errors import MissingDependencyError
from jepa_edge.export.centering import center_gelus
from jepa_edge.export.int8 import make_int8
from jepa_edge.export.onnx_graph import (
    fold_scales_into_norms,
    keep_float,
    layer_names,
    run_model,
)
from jepa_edge.export.profile import check_profile, profile_violations, realized_precisions
from jepa_edge.export.quantize import Quantizer, quantize, to_fp16, to_int8_fp16

Feeds = dict[str, dict[str, NDArray[np.generic]]]


@pytest.fixture(scope="module")
def feeds() -> Feeds:
    """Inputs of both graphs, 48 of them."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (48, 4, 4, 3), dtype=np.uint8)
    return {
        "encoder": {"frames": colors.repeat(8, axis=1).repeat(8, axis=2)},
        "predictor": {
            "history": rng.normal(size=(48, 3, 1, 24)).astype(np.float32),
            "actions": rng.normal(250.0, 100.0, (48, 3, 4)).astype(np.float32),
        },
    }


@pytest.fixture(scope="module")
def quantized(export_onnx: dict[str, Any], feeds: Feeds) -> Callable[[Quantizer, str], Any]:
    """Returns a graph in int8, made once per quantizer."""
    made: dict[tuple[Quantizer, str], Any] = {}

    def get(quantizer: Quantizer, part: str) -> Any:
        if (quantizer, part) not in made:
            made[quantizer, part] = quantize(export_onnx[part], feeds[part], quantizer)
        return copy.deepcopy(made[quantizer, part])

    return get


def _outputs(model: Any, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    session = ort.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, feeds)[0], np.float64)


def _relative_error(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    spread = expected - expected.mean(axis=0)
    return float(np.sqrt(np.mean((actual - expected) ** 2) / np.mean(spread**2)))


@pytest.mark.parametrize("part", ["encoder", "predictor"])
def test_fp16_keeps_its_interface_and_its_float_norms(
    export_onnx: dict[str, Any], feeds: Feeds, part: str
) -> None:
    model = to_fp16(export_onnx[part])
    assert realized_precisions(model) == {"fp16": len(layer_names(export_onnx[part]))}
    for before, after in zip(
        [*export_onnx[part].graph.input, *export_onnx[part].graph.output],
        [*model.graph.input, *model.graph.output],
        strict=True,
    ):
        assert before.type.tensor_type.elem_type == after.type.tensor_type.elem_type
    casts = {
        node.output[0]: node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"
    }
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert casts[node.input[0]] == TensorProto.FLOAT, node.name
    weights = [t for t in model.graph.initializer if len(t.dims) == 2]
    assert {t.data_type for t in weights if t.name.endswith(".weight")} == {TensorProto.FLOAT16}
    expected = _outputs(export_onnx[part], feeds[part])
    assert _relative_error(expected, _outputs(model, feeds[part])) < 0.01


@pytest.mark.parametrize("part", ["encoder", "predictor"])
@pytest.mark.parametrize("quantizer", Quantizer)
def test_int8_is_within_the_profile(
    export_onnx: dict[str, Any],
    feeds: Feeds,
    quantized: Callable[[Quantizer, str], Any],
    quantizer: Quantizer,
    part: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = quantized(quantizer, part)
    assert profile_violations(model) == []
    layers = layer_names(export_onnx[part])
    assert realized_precisions(model) == {"int8": len(layers)}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    matrices = [v for v in constants.values() if v.ndim == 2 and v.dtype == np.int8]
    assert len(matrices) == len(layers)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            assert scale.size == 1
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            values, scale = constants[node.input[0]], constants[node.input[1]]
            assert scale.shape == (values.shape[1],)
            assert np.abs(values).max() >= 126  # each channel spans its range
    expected = _outputs(export_onnx[part], feeds[part])
    assert _relative_error(expected, _outputs(model, feeds[part])) < 0.12
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == ""


@pytest.mark.parametrize("quantizer", Quantizer)
def test_layers_kept_in_float_are_the_original_ones(
    export_onnx: dict[str, Any],
    feeds: Feeds,
    quantized: Callable[[Quantizer, str], Any],
    quantizer: Quantizer,
) -> None:
    reference = export_onnx["encoder"]
    model = quantized(quantizer, "encoder")
    layers = layer_names(reference)
    restored = keep_float(model, reference, layers)
    expected = _outputs(reference, feeds["encoder"])
    np.testing.assert_array_equal(_outputs(restored, feeds["encoder"]), expected)
    assert all("Quantize" not in node.op_type for node in restored.graph.node)
    half = keep_float(model, reference, layers[::2])
    check_profile(half)
    assert realized_precisions(half)["fp32"] == len(layers[::2])
    assert realized_precisions(half)["int8"] == len(layers[1::2])
    assert model.SerializeToString() == quantized(quantizer, "encoder").SerializeToString()


def test_smoothing_folds_into_the_norms(
    feeds: Feeds, quantized: Callable[[Quantizer, str], Any]
) -> None:
    model = quantized(Quantizer.NNCF, "encoder")
    expected, nodes = _outputs(model, feeds["encoder"]), len(model.graph.node)
    fold_scales_into_norms(model)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) < nodes
    # A value at the edge of two int8 steps may round the other way; the noise stays as it is.
    assert _relative_error(expected, _outputs(model, feeds["encoder"])) < 0.02


@pytest.mark.parametrize("part", ["encoder", "predictor"])
def test_centered_gelus_compute_the_same(
    export_onnx: dict[str, Any], feeds: Feeds, part: str
) -> None:
    before = export_onnx[part].SerializeToString()
    model = center_gelus(export_onnx[part], feeds[part])
    onnx.checker.check_model(model, full_check=True)
    assert export_onnx[part].SerializeToString() == before
    assert layer_names(model) == layer_names(export_onnx[part])
    expected = _outputs(export_onnx[part], feeds[part])
    np.testing.assert_allclose(_outputs(model, feeds[part]), expected, atol=2e-5)
    subtracted = {n.name for n in model.graph.node if n.name.endswith(".center")}
    assert subtracted == {"blocks.0.fc2.center", "blocks.1.fc2.center", "head.fc2.center"}
    # What these layers read now reaches as far below zero as above it.
    (name,) = [n.output[0] for n in model.graph.node if n.name == "blocks.0.fc2.center"]
    model.graph.output.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    rows = _outputs(model, feeds[part]).reshape(-1, _width(model, "blocks.0.fc2"))
    np.testing.assert_allclose(rows.max(axis=0), -rows.min(axis=0), atol=1e-4)


def _width(model: Any, layer: str) -> int:
    """Inputs of a layer."""
    (node,) = [node for node in model.graph.node if node.name == layer]
    (weight,) = [t for t in model.graph.initializer if t.name == node.input[1]]
    return int(weight.dims[0])


def test_nncf_sends_no_telemetry(quantized: Callable[[Quantizer, str], Any]) -> None:
    quantized(Quantizer.NNCF, "predictor")
    from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry

    assert isinstance(telemetry, NNCFTelemetryStub)
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]


def test_without_nncf_the_other_quantizer_takes_over(
    export_onnx: dict[str, Any], feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingDependencyError, match=r"jepa-edge\[export\]"):
        quantize(export_onnx["predictor"], feeds["predictor"], Quantizer.NNCF)
    part = feeds["predictor"]
    model, report, warnings = make_int8(export_onnx["predictor"], part, part, 0.2, name="predictor")
    check_profile(model)
    assert report.quantizer == "onnxruntime"
    assert list(report.candidates_db) == ["onnxruntime"]
    assert len(warnings) == 1
    assert "nncf is needed" in warnings[0]


def test_the_better_quantizer_is_kept(export_onnx: dict[str, Any], feeds: Feeds) -> None:
    part = feeds["encoder"]
    model, report, warnings = make_int8(export_onnx["encoder"], part, part, 0.1, name="encoder")
    assert warnings == []
    assert set(report.candidates_db) == {"nncf", "onnxruntime"}
    assert report.candidates_db[report.quantizer] == max(report.candidates_db.values())
    assert tuple(layer.layer for layer in report.layers) == layer_names(export_onnx["encoder"])
    expected = _outputs(export_onnx["encoder"], part)
    assert _relative_error(expected, _outputs(model, part)) < 0.1
    assert realized_precisions(model).get("fp32", 0) == len(report.kept_float)


# One layer in the profile, which each case below breaks in one way.
def _layer(**broken: Any) -> Any:
    zero = np.array(broken.get("zero", 0), broken.get("dtype", np.int8))
    weight = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    weight_scale = np.full(broken.get("channels", 3), 0.1, np.float32)
    constants = {
        "scale": np.array(0.05, np.float32),
        "zero": zero,
        "weight": weight,
        "weight_scale": weight_scale,
        "weight_zero": np.zeros(weight_scale.shape, np.int8),
        "bias": np.ones(3, np.float32),
        "other_scale": np.array(0.06, np.float32),
        "float_weight": np.ones((4, 3), np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node(
            "DequantizeLinear", ["q", broken.get("undo", "scale"), "zero"], ["dq"], "dequantize"
        ),
        helper.make_node(
            "DequantizeLinear",
            ["weight", "weight_scale", *([] if "channels" in broken else ["weight_zero"])],
            ["w"],
            "dequantize_weight",
            axis=broken.get("axis", 1),
        ),
        helper.make_node(
            "MatMul", ["dq", broken.get("right", "w")], [broken.get("product", "m")], "layer"
        ),
        *broken.get("nodes", [helper.make_node("Add", ["m", "bias"], ["y"], "add")]),
    ]
    graph = helper.make_graph(
        nodes,
        "one layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", broken.get("opset", 20))], ir_version=9
    )


def _pair(source: str, output: str) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], ["q2"], "quantize2"),
        helper.make_node("DequantizeLinear", ["q2", "scale", "zero"], [output], "dequantize2"),
    ]


def test_the_profile_accepts_one_layer() -> None:
    model = _layer()
    onnx.checker.check_model(model)
    check_profile(model)
    x = np.array([[0.1, 0.2, -0.3, 0.4]], np.float32)
    weight = 0.1 * np.arange(-6, 6).reshape(4, 3)
    np.testing.assert_allclose(run_model(model, {"x": x}), x @ weight + 1.0, rtol=1e-5)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "unsigned activations": ({"dtype": np.uint8, "zero": 0}, "not signed and symmetric"),
    "asymmetric activations": ({"zero": 3}, "not signed and symmetric"),
    "per-tensor weights": ({"channels": 1}, "one scale per output channel"),
    "weights by input channel": ({"channels": 4, "axis": 0}, "one scale per output channel"),
    "another scale back": ({"undo": "other_scale"}, "with another scale"),
    "float weights": ({"right": "float_weight"}, "one quantized and one float operand"),
    "another opset": ({"opset": 21}, "expected 20"),
    "quantized output": ({"nodes": _pair("m", "y")}, "quantizes a graph output"),
    "quantized addition": (
        {"nodes": [*_pair("m", "d"), helper.make_node("Add", ["d", "bias"], ["y"], "add")]},
        r"add \(Add\) reads a quantized activation",
    ),
    "weights quantized at run time": (
        {
            "right": "late",
            "nodes": [
                helper.make_node("QuantizeLinear", ["float_weight", "scale", "zero"], ["late_q"]),
                helper.make_node("DequantizeLinear", ["late_q", "scale", "zero"], ["late"]),
                helper.make_node("Add", ["m", "bias"], ["y"], "add"),
            ],
        },
        "quantizes a weight at run time",
    ),
    "dynamic int8": (
        {"nodes": [helper.make_node("MatMulInteger", ["q", "weight"], ["y"], "integer")]},
        "integer is a ai.onnx MatMulInteger",
    ),
}


@pytest.mark.parametrize(("broken", "message"), BROKEN.values(), ids=BROKEN)
def test_the_profile_refuses(broken: dict[str, Any], message: str) -> None:
    problems = profile_violations(_layer(**broken))
    assert any(re.search(message, problem) for problem in problems), problems


@pytest.mark.parametrize("part", ["encoder", "predictor"])
def test_int8_fp16_keeps_the_int8_layers_and_halves_the_rest(
    quantized: Callable[[Quantizer, str], Any], feeds: Feeds, part: str
) -> None:
    int8 = quantized(Quantizer.ONNXRUNTIME, part)
    mixed = to_int8_fp16(int8)
    assert realized_precisions(mixed) == realized_precisions(int8)
    assert profile_violations(mixed) == []
    kinds = {t.name: t.data_type for t in mixed.graph.initializer}
    scales = {
        kinds[node.input[1]]
        for node in mixed.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    assert scales == {TensorProto.FLOAT16}
    expected, actual = _outputs(int8, feeds[part]), _outputs(mixed, feeds[part])
    assert _relative_error(expected, actual) < 0.1
    assert not np.array_equal(expected, actual)


def test_a_scale_that_half_cannot_hold_takes_its_layer_out_of_int8(
    quantized: Callable[[Quantizer, str], Any], feeds: Feeds
) -> None:
    int8 = quantized(Quantizer.ONNXRUNTIME, "predictor")
    before = _outputs(int8, feeds["predictor"])
    stored = {t.name: t for t in int8.graph.initializer}
    layer = next(node for node in int8.graph.node if node.name == "blocks.0.fc1")
    restore = next(n for n in int8.graph.node if n.output[0] == layer.input[1])
    scale = numpy_helper.to_array(stored[restore.input[1]]).copy()
    scale[0] = 1e-7
    stored[restore.input[1]].CopyFrom(numpy_helper.from_array(scale, restore.input[1]))
    expected = _outputs(int8, feeds["predictor"])
    mixed = to_int8_fp16(int8)
    counts = realized_precisions(mixed)
    assert counts["fp16"] == 1
    assert counts["int8"] == realized_precisions(int8)["int8"] - 1
    actual = _outputs(mixed, feeds["predictor"])
    assert _relative_error(expected, actual) < 0.1 * _relative_error(before, actual) + 0.05
