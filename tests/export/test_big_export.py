# SPDX-License-Identifier: Apache-2.0
"""Graphs with external weights: they compute what torch does, and export without a second copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from jepa_edge.errors import ExportError, InputError
from jepa_edge.export.big_export import BIG_BYTES, export_external, is_big, weights_bytes
from jepa_edge.export.big_variants import write_big_variants
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.onnx_export import export_graph, external_data
from jepa_edge.export.options import CALIBRATED, Precision
from jepa_edge.metrics import sqnr_db

DIM = 64


class Block(nn.Module):
    """Attention and MLP with residuals, of a window of frames and actions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))
        self.register_buffer("mean", torch.full((6,), 0.5))

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        x = history + self.embed(actions - self.mean)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, -1)).unbind(-3)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(-2))
        return x + self.mlp(x)


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    torch.manual_seed(0)
    return GraphModule(
        module=Block().eval().requires_grad_(False),
        example={"history": torch.zeros(2, 3, DIM), "actions": torch.zeros(2, 3, 6)},
        output="prediction",
        windowed=("history", "actions"),
    )


KINDS = [kind for kind in Precision if kind not in CALIBRATED]


@pytest.fixture(scope="module")
def written(graph: GraphModule, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """The graph's file in every precision."""
    root = tmp_path_factory.mktemp("written")
    paths = {kind: root / kind.value / "predictor.onnx" for kind in KINDS}
    stages: list[tuple[str, int, int]] = []
    write_big_variants(
        {"predictor": graph},
        {kind: {"predictor": path} for kind, path in paths.items()},
        lambda *stage: stages.append(stage),
    )
    assert stages[0] == ("exporting to ONNX", 0, 1)
    assert stages[-1] == ("converting to int4w", 1, 1)
    return paths


@pytest.fixture(scope="module")
def exported(written: dict[Precision, Path]) -> Path:
    return written[Precision.FP32]


def test_computes_what_torch_does(exported: Path, graph: GraphModule) -> None:
    path = exported
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "predictor.onnx",
        "predictor.onnx.data",
    ]
    stored = list(onnx.load(path, load_external_data=False).graph.initializer)
    outside = {t.name for t in stored if t.data_location == onnx.TensorProto.EXTERNAL}
    assert outside == {"mlp.0.weight", "mlp.2.weight", "qkv.weight", "proj.weight"}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(1)
    for batch, window in ((1, 1), (5, 3), (2, 7)):
        history = torch.randn(batch, window, DIM, generator=generator)
        actions = torch.randn(batch, window, 6, generator=generator)
        expected = graph.module(history, actions).numpy()
        (found,) = session.run(None, {"history": history.numpy(), "actions": actions.numpy()})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_same_interface_as_the_ordinary_path(exported: Path, graph: GraphModule) -> None:
    big = onnx.load(exported)
    ordinary = export_graph(graph)
    for field in ("input", "output"):
        values = [getattr(model.graph, field) for model in (big, ordinary)]
        assert [value.name for value in values[0]] == [value.name for value in values[1]]
        shapes = [
            [[d.dim_value or -1 for d in v.type.tensor_type.shape.dim] for v in part]
            for part in values
        ]
        assert shapes[0] == shapes[1]
    names = [
        {node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
        for model in (big, ordinary)
    ]
    assert {"embed", "qkv", "proj", "mlp.0", "mlp.2"} <= names[0] & names[1]
    assert big.opset_import == ordinary.opset_import
    assert big.producer_name == ordinary.producer_name
    assert str(Path(__file__).parent).encode() not in big.SerializeToString()


def test_shapes_are_inferred_by_path(tmp_path: Path, exported: Path) -> None:
    inferred = tmp_path / "shapes.onnx"
    onnx.shape_inference.infer_shapes_path(str(exported), str(inferred))
    shapes = onnx.load(inferred, load_external_data=False).graph.value_info
    assert len(shapes) > 10
    assert external_data(exported).stat().st_size >= 4 * 12 * DIM * DIM


def test_what_is_big(graph: GraphModule) -> None:
    assert weights_bytes(graph.module) == 4 * (
        sum(p.numel() for p in graph.module.parameters()) + 6
    )
    layer = nn.Linear(10, 10, bias=False)
    assert weights_bytes(nn.Sequential(layer, layer)) == 400
    assert not is_big(graph)
    big = nn.Linear(1, 1)
    big.register_buffer("table", torch.empty(BIG_BYTES // 4))  # never touched: takes no memory
    assert is_big(GraphModule(module=big, example={}, output="y"))


def test_every_precision(graph: GraphModule, written: dict[Precision, Path]) -> None:
    generator = torch.Generator().manual_seed(2)
    history = torch.randn(2, 3, DIM, generator=generator)
    actions = torch.randn(2, 3, 6, generator=generator)
    expected = graph.module(history, actions).numpy()
    least = {"fp32": 100.0, "fp16": 60.0, "int8w": 35.0, "int4w": 15.0}
    for kind, path in written.items():
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"history": history.numpy(), "actions": actions.numpy()})
        assert sqnr_db(expected, found) > least[kind.value]
    places = {kind: {"predictor": path} for kind, path in written.items()}
    with pytest.raises(InputError, match="take int8w"):
        write_big_variants({"predictor": graph}, {**places, Precision.INT8: {}})


def test_module_that_cannot_be_exported(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    bad = GraphModule(module=Branches(), example={"x": torch.zeros(2, 3)}, output="y")
    with pytest.raises(ExportError, match="cannot export Branches") as refusal:
        export_external(bad, tmp_path / "x.onnx")
    assert "\n" not in str(refusal.value)


_EXPORT = """
import sys
from pathlib import Path
import torch
from torch import nn
from jepa_edge.export.big_export import export_external
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.weights import read_state_dict
def status(key):
    text = Path("/proc/self/status").read_text()
    return int(text.split(key + ":")[1].split()[0]) // 1024
def build(layers):
    return nn.Sequential(*(nn.Linear(3200, 3200, bias=False) for _ in range(layers)))
def export(module, name):
    example = {"x": torch.zeros(2, 3, 3200)}
    graph = GraphModule(module=module.eval().requires_grad_(False), example=example, output="y")
    export_external(graph, Path(sys.argv[1]) / name)
torch.set_num_threads(1)
export(build(1), "warm.onnx")  # torch's exporter itself takes memory on its first use
with torch.device("meta"):
    model = build(8)
before = status("VmHWM"), status("RssAnon")
model.load_state_dict(read_state_dict(Path(sys.argv[2])), assign=True)
export(model, "big.onnx")
print(status("VmHWM") - before[0], status("RssAnon") - before[1])
"""


def test_export_holds_no_second_copy(tmp_path: Path) -> None:
    """8 layers of 39 MiB from a mapped checkpoint: peak memory in which the map itself counts."""
    weights = 8 * 3200 * 3200 * 4 / 2**20
    state = {f"{i}.weight": torch.full((3200, 3200), float(i)) for i in range(8)}
    torch.save(state, tmp_path / "w.pt")
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _EXPORT, str(tmp_path), str(tmp_path / "w.pt")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    peak_mib, anonymous_mib = map(int, printed.split())
    assert weights * 0.8 < peak_mib < weights * 1.4
    assert anonymous_mib < weights * 0.4
