# SPDX-License-Identifier: Apache-2.0
"""Bundles of several variants, and a place to build them: TensorRT-RTX on the CPU.

It compiles real plans for a GPU that is not here; ONNX Runtime then runs the graphs in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.backends import Backend
from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.manifest import VariantSpec
from jepa_edge.trt.diagnose import onnx_runner
from jepa_edge.trt.inspector import UNKNOWN, Inspection, RealizedLayer
from jepa_edge.trt.key import BuildFlags, MachineKey
from jepa_edge.trt.library import load_library
from jepa_edge.trt.store import StoredEngine
from jepa_edge.trt.workshop import Workshop

Edit = Callable[[Any], None]

MACHINE = MachineKey(
    library="tensorrt_rtx",
    version="1.7.1.116",
    compute_capability="8.6",
    device="NVIDIA RTX A2000",
    driver="13.0",
)
FLAGS = BuildFlags(workspace_bytes=1 << 28, candidates=16)


def with_variants(path: Path, edits: dict[str, Edit], sqnr_db: float = 40.0) -> Path:
    """Add variants to the bundle at path: fp32 with each graph edited, by precision's name."""
    base = Bundle.open(path)
    with staged_bundle(path, base=base) as staging:
        manifest = base.manifest
        variants = dict(manifest.variants)
        for name, edit in edits.items():
            folder = staging / "variants" / name
            folder.mkdir(parents=True)
            specs = {}
            for part, graph in variants["fp32"].graphs.items():
                model = onnx.load(staging / graph.file)
                edit(model)
                onnx.save(model, str(folder / f"{part}.onnx"))
                specs[part] = msgspec.structs.replace(
                    graph, file=f"variants/{name}/{part}.onnx", sqnr_db=sqnr_db
                )
            variants[name] = VariantSpec(
                precision=name,
                realized={name: 3},
                encoder=specs["encoder"],
                predictor=specs.get("predictor"),
            )
        seal(staging, msgspec.structs.replace(manifest, variants=variants))
    return path


def to_half(model: Any) -> None:
    """Compute every matrix product in 16 bits."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type != "MatMul":
            model.graph.node.append(node)
            continue
        data, weight = node.input
        half = numpy_helper.to_array(weights[weight]).astype(np.float16)
        weights[weight].CopyFrom(numpy_helper.from_array(half, weight))
        out = node.output[0]
        node.input[0], node.output[0] = f"{data}_half", f"{out}_half"
        down = helper.make_node("Cast", [data], [f"{data}_half"], to=TensorProto.FLOAT16)
        up = helper.make_node("Cast", [f"{out}_half"], [out], to=TensorProto.FLOAT)
        model.graph.node.extend([down, node, up])


def to_int8(zero: int = 0, kind: type[np.generic] = np.int8) -> Edit:
    """Return an edit that quantizes both operands of every product; zero: of the activations."""

    def edit(model: Any) -> None:
        nodes = list(model.graph.node)
        del model.graph.node[:]
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in nodes:
            if node.op_type != "MatMul":
                model.graph.node.append(node)
                continue
            data, weight = node.input
            values = numpy_helper.to_array(weights[weight])
            scales = (np.abs(values).max(axis=0) / 127.0).astype(np.float32)
            whole = np.round(values / scales).astype(np.int8)
            limit = {"color": 256.0, "action": 512.0}.get(data, 8.0)
            constants = {
                f"{data}_scale": np.array(limit / 127.0, np.float32),
                f"{data}_zero": np.array(zero, kind),
                f"{weight}_int8": whole,
                f"{weight}_scale": scales,
                f"{weight}_zero": np.zeros(len(scales), np.int8),
            }
            model.graph.initializer.remove(weights[weight])
            model.graph.initializer.extend(
                numpy_helper.from_array(value, name) for name, value in constants.items()
            )
            pair = [f"{data}_scale", f"{data}_zero"]
            model.graph.node.extend(
                [
                    helper.make_node("QuantizeLinear", [data, *pair], [f"{data}_q"]),
                    helper.make_node("DequantizeLinear", [f"{data}_q", *pair], [f"{data}_dq"]),
                    helper.make_node(
                        "DequantizeLinear",
                        [f"{weight}_int8", f"{weight}_scale", f"{weight}_zero"],
                        [f"{weight}_dq"],
                        axis=1,
                    ),
                    helper.make_node(
                        "MatMul",
                        [f"{data}_dq", f"{weight}_dq"],
                        list(node.output),
                        name=f"{data}_product",
                    ),
                ]
            )

    return edit


def damage(model: Any) -> None:
    """Turn one number of the first weight around: the graph still runs, and computes wrongly."""
    for tensor in model.graph.initializer:
        if tensor.name in ("encode", "push"):
            values = numpy_helper.to_array(tensor).copy()
            values[0] *= -1.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def unknown_operator(model: Any) -> None:
    """Put an operator that TensorRT does not have in front of the output."""
    out = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == out else name for name in node.output]
    model.graph.node.append(helper.make_node("Det", ["square"], ["number"], name="odd_one"))
    square = np.eye(2, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(square, "square"))
    model.graph.node.append(helper.make_node("Mul", ["before", "number"], [out], name="scaled"))


def unread(plan: Path, flags: BuildFlags) -> Inspection:
    """Nobody can read a plan back without its GPU: one layer of unknown precision."""
    assert plan.stat().st_size > 0
    layer = RealizedLayer(name=plan.stem, kind="", precision=UNKNOWN, tactic="")
    return Inspection(layers=(layer,), memory_bytes=1 << 20)


def run_by_onnxruntime(stored: StoredEngine) -> Backend:
    """Check that the plans are what the record says, and run their graphs on the CPU."""
    for file in stored.record.plans:
        stored.plan(file)
    return OnnxRuntimeBackend()


def workshop(machine: MachineKey = MACHINE, free_bytes: int = 8 << 30) -> Workshop:
    """A build for a GPU that is not here."""
    return Workshop(
        library=load_library("tensorrt_rtx"),
        machine=machine,
        total_bytes=16 << 30,
        free_bytes=lambda: free_bytes,
        inspect=unread,
        backend=run_by_onnxruntime,
        runner=lambda shapes: onnx_runner,
        target="8.6",
    )
