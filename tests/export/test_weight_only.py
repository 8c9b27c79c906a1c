# SPDX-License-Identifier: Apache-2.0
"""Integer and half weights: what is stored, what ONNX Runtime computes from it, and what is kept.

The oracle is float64 numpy on the weights as they are stored.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.errors import ExportError, InputError
from jepa_edge.export.big_export import export_external
from jepa_edge.export.big_variants import lower
from jepa_edge.export.checkpoint import load_model, open_checkpoint
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.half_weights import half_weights
from jepa_edge.export.onnx_export import export_graph, external_data
from jepa_edge.export.options import Precision
from jepa_edge.export.profile import realized_precisions
from jepa_edge.export.weight_only import weight_only
from jepa_edge.metrics import sqnr_db

K, H, N = 96, 160, 72
PUSHT = Path(__file__).parents[2] / "examples" / "pusht" / "model"
Weights = dict[str, NDArray[np.float32]]


def draw() -> Weights:
    rng = np.random.default_rng(0)
    shapes = {"up": (K, H), "gemm": (H, H), "down": (H, N), "tiny": (N, 8)}
    drawn = {k: rng.normal(0.0, s[0] ** -0.5, s).astype(np.float32) for k, s in shapes.items()}
    drawn["bias"] = rng.normal(0.0, 0.1, H).astype(np.float32)
    drawn["up"][:, 3] = 0.0  # a dead channel
    return drawn


def write_graph(path: Path, weights: Weights, *, external: bool) -> Path:
    """x (B, 96) -> relu(x up) -> Gemm with a transposed weight -> down -> tiny; and x x^T."""
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["a"], name="up"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "gemm_t", "bias"], ["c"], name="gemm", transB=1),
        helper.make_node("MatMul", ["c", "down"], ["d"], name="down"),
        helper.make_node("MatMul", ["d", "tiny"], ["y"], name="tiny"),
        helper.make_node("Transpose", ["x"], ["xt"]),
        helper.make_node("MatMul", ["x", "xt"], ["gram"], name="gram"),
    ]
    stored = {**weights, "gemm_t": np.ascontiguousarray(weights["gemm"].T)}
    del stored["gemm"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", K])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 8]),
            helper.make_tensor_value_info("gram", TensorProto.FLOAT, ["B", "B"]),
        ],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=external_data(path).name,
        size_threshold=256,
    )
    return path


def forward(weights: Weights, x: NDArray[np.float32]) -> NDArray[np.float64]:
    hidden = np.maximum(x.astype(np.float64) @ weights["up"], 0.0)
    hidden = hidden @ weights["gemm"] + weights["bias"]
    result: NDArray[np.float64] = hidden @ weights["down"] @ weights["tiny"]
    return result


def run(path: Path, **feeds: NDArray[np.generic]) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(None, feeds)
    return outputs


def restored(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights of the layers as stored in a file, integers times scales, by the node's name."""
    model = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    found: Weights = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.name == "gram":
            continue
        source = producers.get(node.input[1])
        if source is None:
            values = constants[node.input[1]].astype(np.float32)
        else:
            assert source.op_type == "DequantizeLinear"
            values = constants[source.input[0]].astype(np.float32)
            scale = constants[source.input[1]]
            attributes = {a.name: helper.get_attribute_value(a) for a in source.attribute}
            if block := attributes.get("block_size"):
                scale = scale.repeat(block, axis=attributes["axis"])[: len(values)]
            elif attributes["axis"] == 0:
                scale = scale[:, None]
            values = values * scale
        found[node.name] = values.T if node.op_type == "Gemm" else values
    return found, constants


@pytest.fixture(scope="module")
def x() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(64, K)).astype(np.float32)


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
def test_int8(tmp_path: Path, x: NDArray[np.float32], external: bool) -> None:
    weights = draw()
    source = write_graph(tmp_path / "float.onnx", weights, external=external)
    target = tmp_path / "out" / "int8w.onnx"
    assert weight_only(source, target, 8) == {"int8w": 3, "fp32": 1}
    stored, constants = restored(target)
    for name in ("up", "gemm", "down"):
        steps = np.abs(weights[name]).max(axis=0) / 127.0
        error = np.abs(stored[name] - weights[name])
        assert (error <= 0.5 * steps * (1.0 + 1e-5)).all()
        assert constants[f"{name if name != 'gemm' else 'gemm_t'}/int8"].dtype == np.int8
    assert np.array_equal(stored["tiny"], weights["tiny"])
    y, gram = run(target, x=x)
    # ONNX Runtime may quantize the layers' inputs too: near the oracle, not equal.
    assert sqnr_db(forward({**weights, **stored}, x), y) > 30.0
    assert sqnr_db(forward(weights, x), y) > 30.0
    np.testing.assert_allclose(gram, x @ x.T, rtol=1e-4, atol=1e-4)
    assert onnx.load(target, load_external_data=False).opset_import[0].version == 20


def test_int4_takes_whole_blocks_only(tmp_path: Path) -> None:
    """TensorRT refuses others; 96 inputs are one and a half blocks of 64."""
    source = write_graph(tmp_path / "float.onnx", draw(), external=True)
    assert weight_only(source, tmp_path / "int4w.onnx", 4, block=64) == {"fp32": 4}


def test_int4(tmp_path: Path, x: NDArray[np.float32]) -> None:
    """Gemm's transposed weight stays in float."""
    block = 32
    weights = draw()
    source = write_graph(tmp_path / "float.onnx", weights, external=True)
    target = tmp_path / "int4w.onnx"
    assert weight_only(source, target, 4, block=block) == {"int4w": 2, "fp32": 2}
    stored, constants = restored(target)
    for name in ("up", "down"):
        values = weights[name]
        for begin in range(0, len(values), block):
            part = slice(begin, begin + block)
            # -8 to 7: the largest magnitude is exact where it is at -8, and a whole step off
            # where both ends are alike.
            steps = np.abs(values[part]).max(axis=0) / 8.0
            assert (np.abs(stored[name][part] - values[part]) <= steps * 1.001).all()
            assert np.abs(stored[name][part] - values[part]).mean() <= 0.3 * np.mean(steps) + 1e-9
        assert constants[f"{name}/int4"].dtype.name == "int4"
    y, _ = run(target, x=x)
    assert sqnr_db(forward({**weights, **stored}, x), y) > 30.0
    assert sqnr_db(forward(weights, x), y) > 13.0
    model = onnx.load(target, load_external_data=False)
    assert (model.opset_import[0].version, model.ir_version) == (21, 10)


def test_excluded_layers_stay(tmp_path: Path, x: NDArray[np.float32]) -> None:
    weights = draw()
    source = write_graph(tmp_path / "float.onnx", weights, external=False)
    target = tmp_path / "w.onnx"
    assert weight_only(source, target, 8, exclude=("up", "down")) == {"int8w": 1, "fp32": 3}
    stored, _ = restored(target)
    assert np.array_equal(stored["up"], weights["up"])
    assert np.array_equal(stored["down"], weights["down"])
    assert not np.array_equal(stored["gemm"], weights["gemm"])


def test_weight_that_two_layers_share(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "f.onnx",
    )
    assert weight_only(tmp_path / "f.onnx", tmp_path / "w.onnx", 8) == {"int8w": 2}
    assert [t.name for t in onnx.load(tmp_path / "w.onnx").graph.initializer] == [
        "w/int8",
        "w/scale",
    ]


def test_half(tmp_path: Path, x: NDArray[np.float32]) -> None:
    weights = draw()
    source = write_graph(tmp_path / "float.onnx", weights, external=True)
    target = tmp_path / "fp16.onnx"
    assert half_weights(source, target) == {"fp16": 4}
    stored, constants = restored(target)
    for name in ("up", "gemm", "down", "tiny"):
        assert np.array_equal(stored[name], weights[name].astype(np.float16).astype(np.float32))
    assert constants["up/half"].dtype == np.float16
    y, gram = run(target, x=x)
    assert y.dtype == np.float32
    assert sqnr_db(forward(weights, x), y) > 60.0
    np.testing.assert_allclose(gram, x @ x.T, rtol=1e-5, atol=1e-4)
    weights["down"][0, 0] = 1e5
    write_graph(tmp_path / "large.onnx", weights, external=False)
    with pytest.raises(ExportError, match="down holds a weight beyond 65504"):
        half_weights(tmp_path / "large.onnx", tmp_path / "no.onnx")


def test_misuse_is_named(tmp_path: Path) -> None:
    source = write_graph(tmp_path / "float.onnx", draw(), external=True)
    target = tmp_path / "w.onnx"
    with pytest.raises(InputError, match="bits is 3"):
        weight_only(source, target, 3)
    with pytest.raises(InputError, match="block is 48"):
        weight_only(source, target, 4, block=48)
    with pytest.raises(InputError, match=r"exclude names 'nothing'.*'up'"):
        weight_only(source, target, 8, exclude=("nothing",))
    with pytest.raises(ExportError, match="would be written while it is read"):
        weight_only(source, source, 8)
    external_data(source).unlink()
    with pytest.raises(ExportError, match=r"float\.onnx\.data, which is missing"):
        weight_only(source, target, 8)


def test_a_graph_of_small_layers_stays_in_float_beside_a_larger_one(tmp_path: Path) -> None:
    module = torch.nn.Linear(8, 4).eval()
    graph = GraphModule(module=module, example={"x": torch.zeros(2, 8)}, output="y")
    export_external(graph, tmp_path / "small.onnx")
    large = write_graph(tmp_path / "large.onnx", draw(), external=True)
    sources = {"small": tmp_path / "small.onnx", "large": large}
    targets = {name: tmp_path / "int8w" / f"{name}.onnx" for name in sources}
    lower(sources, targets, Precision.INT8_WEIGHTS)
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    session = ort.InferenceSession(str(targets["small"]), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
    assert realized_precisions(onnx.load(targets["large"]))["int8w"] > 0
    with pytest.raises(ExportError, match=r"no layer of small is a MatMul or Gemm with 4096"):
        lower({"small": sources["small"]}, {"small": tmp_path / "x.onnx"}, Precision.INT4_WEIGHTS)


def test_shipped_model(tmp_path: Path) -> None:
    """Encoder and predictor of the PushT example, on drawn pictures."""
    model = load_model(open_checkpoint(PUSHT))
    rng = np.random.default_rng(0)
    size = model.observation.height
    frames = rng.integers(0, 256, (32, size // 8, size // 8, 3), dtype=np.uint8)
    frames = frames.repeat(8, axis=1).repeat(8, axis=2)
    with torch.no_grad():
        encoder = model.graphs["encoder"].module
        latents = encoder(torch.from_numpy(frames)).numpy()
    assert model.action is not None
    history = latents[rng.integers(0, 32, (32, model.history))]
    actions = rng.normal(256.0, 100.0, (32, model.history, model.action.dim)).astype(np.float32)
    feeds: dict[str, dict[str, NDArray[Any]]] = {
        "encoder": {"frames": frames},
        "predictor": {"history": history, "actions": actions},
    }
    for name, bounds in (("encoder", (28.0, 12.0)), ("predictor", (32.0, 16.0))):
        source = tmp_path / f"{name}.onnx"
        onnx.save(export_graph(model.graphs[name]), source)
        (expected,) = run(source, **feeds[name])
        spread = expected - expected.mean(axis=0)
        for bits, bound in zip((8, 4), bounds, strict=True):
            target = tmp_path / f"{name}.int{bits}w.onnx"
            weight_only(source, target, bits)
            (found,) = run(target, **feeds[name])
            error = found - expected
            ratio = 10.0 * np.log10(np.square(spread).sum() / np.square(error).sum())
            assert ratio > bound


_STREAM = """
import sys
from pathlib import Path
import numpy as np
from jepa_edge.export.half_weights import half_weights
from jepa_edge.export.weight_only import weight_only
import onnxruntime.quantization.matmul_nbits_quantizer
def status(key):
    text = Path("/proc/self/status").read_text()
    return int(text.split(key + ":")[1].split()[0]) // 1024
source = Path(sys.argv[1])
before = status("VmHWM")
for bits in (8, 4):
    weight_only(source, source.with_name(f"w{bits}.onnx"), bits)
half_weights(source, source.with_name("half.onnx"))
print(status("VmHWM") - before)
"""


def test_one_layer_in_memory(tmp_path: Path) -> None:
    """Peak memory, mapped pages included, over 16 layers of 16 MiB each."""
    weight = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    nodes, stored, name = [], [], "x"
    for layer in range(16):
        nodes.append(
            helper.make_node("MatMul", [name, f"w{layer}"], [f"y{layer}"], name=f"{layer}")
        )
        stored.append(numpy_helper.from_array(weight, f"w{layer}"))
        name = f"y{layer}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 2048])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2048])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    source = tmp_path / "f.onnx"
    onnx.save(model, source, save_as_external_data=True, location="f.onnx.data")
    printed = subprocess.run(
        [sys.executable, "-c", _STREAM, str(source)], capture_output=True, text=True, check=True
    ).stdout
    assert int(printed) < 128  # MiB, of 256
