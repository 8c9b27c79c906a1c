# SPDX-License-Identifier: Apache-2.0
"""Runs inside Model-Optimizer's own environment: one ONNX graph in, one quantized graph out.

    python modelopt_worker.py JOB.json

Nothing of jepa_edge is imported: that environment does not have it. The job names its files:
`model` (ONNX), `data` (npz, inputs by name, batch first but for those in `unbatched`), `output`
(ONNX), `report` (JSON), and `mode` (fp8, int4 or nvfp4), `layers` (names of the nodes to
quantize), `block` (int4: inputs per scale).
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 8
NVFP4_BLOCK = 16
"""Numbers that share a scale in NVFP4."""
_HALF, _FLOAT, _FP8 = 10, 1, 17
"""ONNX's numbers of float16, float32 and float8e4m3fn."""


def main() -> None:
    """Read the job, do it, and write the report last: without one the job has failed."""
    job = json.loads(Path(sys.argv[1]).read_text())
    layers = {"fp8": _fp8, "int4": _int4, "nvfp4": _nvfp4}[job["mode"]](job)
    report = {
        "versions": {
            name: importlib.metadata.version(name) for name in ("nvidia-modelopt", "onnxruntime")
        },
        "layers": layers,
    }
    Path(job["report"]).write_text(json.dumps(report))


def _fp8(job: dict[str, Any]) -> list[str]:
    """E4M3 weights per output channel, activations per tensor at their largest magnitude."""
    quantization = importlib.import_module("modelopt.onnx.quantization")
    quantization.quantize(
        job["model"],
        quantize_mode="fp8",
        calibration_method="max",
        calibration_data_reader=_reader(job),
        calibration_eps=["cpu"],
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        nodes_to_quantize=[f"{re.escape(name)}$" for name in job["layers"]],
        disable_mha_qdq=True,
        high_precision_dtype="fp32",
        enable_gemv_detection_for_trt=False,
        dq_only=True,
        output_path=job["output"],
        log_level="ERROR",
    )
    return list(job["layers"])


def _int4(job: dict[str, Any]) -> list[str]:
    """Blocks of inputs, clipped where that errs least on the calibration data (AWQ's clip).

    AWQ's scale search is not used: without CuPy it fails in 0.47 (numpy arrays have no `get`).
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("modelopt.onnx.quantization")
    graph = onnx.load(job["model"]).graph
    multiplied = [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    quantization.quantize(
        job["model"],
        quantize_mode="int4",
        calibration_method="awq_clip",
        calibration_data_reader=_reader(job),
        calibration_eps=["cpu"],
        nodes_to_exclude=[
            f"{re.escape(name)}$" for name in multiplied if name not in set(job["layers"])
        ],
        block_size=job["block"],
        output_path=job["output"],
        log_level="ERROR",
    )
    return [name for name in job["layers"] if name in multiplied]


def _nvfp4(job: dict[str, Any]) -> list[str]:
    """E2M1 weights and activations in blocks of 16 with E4M3 scales; takes a float16 graph.

    Model-Optimizer's exporter packs the weights and puts the two DequantizeLinear. The nodes that
    quantize activations at run time are those that its torch export writes.
    """
    onnx = importlib.import_module("onnx")
    exporter = importlib.import_module("modelopt.onnx.export").NVFP4QuantExporter
    helper, to_array = onnx.helper, onnx.numpy_helper.to_array
    from_array = onnx.numpy_helper.from_array
    model = onnx.load(job["model"])
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.name in set(job["layers"])]
    used = [node for node in nodes if _fits_nvfp4(node, stored)]
    largest, ranks = _largest(model, sorted({node.input[0] for node in used}), job)
    added: dict[str, tuple[list[Any], list[Any]]] = {}
    for node in used:
        weight = np.ascontiguousarray(to_array(stored[node.input[1]]).T)
        name, source = node.name, node.input[0]
        packed, scale = f"{name}.weight/transposed", f"{name}.activation/scale"
        graph.initializer.append(from_array(weight, packed))
        graph.initializer.append(from_array(np.float32(largest[source] / 6 / 448), scale))
        graph.value_info.append(
            helper.make_tensor_value_info(f"{packed}/restored", _FLOAT, weight.shape)
        )
        block = {"axis": -1, "block_size": NVFP4_BLOCK}
        # TensorRT quantizes activations of two or three axes only.
        flat = ranks[source] not in (2, 3)
        read, restored = (f"{name}/flat", f"{name}/rows") if flat else (source, f"{name}/restored")
        if flat:
            graph.initializer.append(
                from_array(np.array([-1, weight.shape[1]]), f"{name}/flat_shape")
            )
        added[name] = (
            [
                helper.make_node(
                    "TRT_FP4QDQ",
                    [packed],
                    [f"{packed}/restored"],
                    name=f"{packed}/quantize",
                    domain="trt",
                    block_size=NVFP4_BLOCK,
                ),
                helper.make_node(
                    "Transpose",
                    [f"{packed}/restored"],
                    [f"{packed}/back"],
                    name=f"{packed}/back",
                    perm=[1, 0],
                ),
            ],
            [
                *(
                    [
                        helper.make_node(
                            "Shape", [source], [f"{name}/shape"], name=f"{name}/shape"
                        ),
                        helper.make_node(
                            "Reshape", [source, f"{name}/flat_shape"], [read], name=read
                        ),
                    ]
                    if flat
                    else []
                ),
                helper.make_node(
                    "TRT_FP4DynamicQuantize",
                    [read, scale],
                    [f"{name}/fp4", f"{name}/fp8_scale"],
                    name=f"{name}/quantize",
                    domain="trt",
                    scale_type=_FP8,
                    **block,
                ),
                helper.make_node(
                    "DequantizeLinear",
                    [f"{name}/fp8_scale", scale],
                    [f"{name}/scale"],
                    name=f"{name}/scale",
                ),
                helper.make_node(
                    "DequantizeLinear",
                    [f"{name}/fp4", f"{name}/scale"],
                    [restored],
                    name=f"{name}/restore",
                    **block,
                ),
                *(
                    [
                        helper.make_node(
                            "Reshape",
                            [restored, f"{name}/shape"],
                            [f"{name}/restored"],
                            name=f"{name}/unflatten",
                        )
                    ]
                    if flat
                    else []
                ),
            ],
        )
        node.input[0], node.input[1] = f"{name}/restored", f"{packed}/back"
    ordered = []
    for node in graph.node:
        for part in added.get(node.name, ()):
            ordered += part
        ordered.append(copy.deepcopy(node))
    del graph.node[:]
    graph.node.extend(ordered)
    model.opset_import.append(helper.make_opsetid("trt", 1))
    model = exporter.process_model(model)
    # It lists the packed weights as inputs of the graph too.
    stored_names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored_names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx.save(model, job["output"])
    return [node.name for node in used]


def _fits_nvfp4(node: Any, stored: dict[str, Any]) -> bool:
    if node.op_type != "MatMul" or node.input[1] not in stored:
        return False
    shape = stored[node.input[1]].dims
    return len(shape) == 2 and shape[0] % NVFP4_BLOCK == 0 and shape[1] % 2 == 0


def _largest(
    model: Any, names: list[str], job: dict[str, Any]
) -> tuple[dict[str, float], dict[str, int]]:
    """Largest magnitude over the calibration data, and number of axes, of each named tensor."""
    onnx = importlib.import_module("onnx")
    runtime = importlib.import_module("onnxruntime")
    probe = copy.deepcopy(model)
    del probe.graph.output[:]
    for name in names:
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name, _HALF, None))
    session = runtime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    largest = dict.fromkeys(names, float(np.finfo(np.float16).tiny))
    ranks: dict[str, int] = {}
    for feeds in _batches(job):
        for name, values in zip(names, session.run(names, feeds), strict=True):
            largest[name] = max(largest[name], float(np.abs(values).max()))
            ranks[name] = values.ndim
    return largest, ranks


def _batches(job: dict[str, Any]) -> list[dict[str, Any]]:
    with np.load(job["data"]) as file:
        data = {name: file[name] for name in file.files}
    whole = set(job["unbatched"])
    count = max(len(values) for name, values in data.items() if name not in whole)
    return [
        {k: v if k in whole else v[start : start + BATCH] for k, v in data.items()}
        for start in range(0, count, BATCH)
    ]


def _reader(job: dict[str, Any]) -> Any:
    """Return the job's data as ONNX Runtime's calibrators read them."""
    calibrate = importlib.import_module("onnxruntime.quantization.calibrate")
    samples = _batches(job)
    left = iter(samples)

    def get_next(_: Any) -> Any:
        return next(left, None)

    def get_first(_: Any) -> Any:
        return samples[0]

    def rewind(_: Any) -> None:
        nonlocal left
        left = iter(samples)

    methods = {"get_next": get_next, "get_first": get_first, "rewind": rewind}
    return type("_Reader", (calibrate.CalibrationDataReader,), methods)()


if __name__ == "__main__":
    main()
