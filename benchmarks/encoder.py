# SPDX-License-Identifier: Apache-2.0
"""The ViT encoder at batch 1: which runtime, and what would our own kernels gain?

    python benchmarks/encoder.py            # OpenVINO takes part where it is installed

Full-size LeWorldModel encoder (224 px, patch 14, 12 layers of 192), drawn weights, one thread,
turns taken in one run. int8: ONNX Runtime's dynamic quantization, for time only. "own products" is
not a contestant: it is the sum of the encoder's matrix products in the rollout engine's kernels,
without attention, norms and GELU, that is, a floor for an encoder path of our own.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from planning.problem import draw_model

from jepa_edge import _core
from jepa_edge.engine import instruction_sets
from jepa_edge.export.graphs import EncoderGraph
from jepa_edge.export.onnx_export import export_module
from jepa_edge.json_text import json_bytes

RESULT = Path(__file__).parent / "results" / "encoder.json"


def main() -> None:
    """Time every contestant and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = draw_model(0)
    graph = EncoderGraph(model, [0.5] * 3, [0.25] * 3).eval()
    size = model.config.image_size
    frame = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        contestants = _contestants(graph, frame, Path(folder))
        for step in contestants.values():
            step()
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(arguments.rounds):
            for name, step in contestants.items():
                start = time.process_time()
                step()
                times[name].append(1e3 * (time.process_time() - start))
    figures = {name: float(np.median(taken)) for name, taken in times.items()}
    for precision in (_core.Precision.FLOAT32, _core.Precision.BFLOAT16, _core.Precision.INT8):
        figures[f"floor: own products, {precision.name.lower()}"] = _products_ms(model, precision)
    for name, taken in figures.items():
        print(f"{name:45s} {taken:7.2f} ms of CPU time")
    result = {
        "date": datetime.date.today().isoformat(),
        "rerun": "python benchmarks/encoder.py",
        "isa": instruction_sets()[0],
        "versions": {
            name: version(name)
            for name in ("jepa-edge", "onnxruntime", "torch", "openvino")
            if importlib.util.find_spec(name.replace("-", "_"))
        },
        "rounds": arguments.rounds,
        "median_cpu_ms": figures,
    }
    RESULT.write_bytes(json_bytes(result))


def _contestants(
    graph: EncoderGraph, frame: np.ndarray, folder: Path
) -> dict[str, Callable[[], object]]:
    plain, quantized = folder / "encoder.onnx", folder / "encoder_int8.onnx"
    example = {"frames": torch.zeros(2, graph.size, graph.size, 3, dtype=torch.uint8)}
    onnx.save(export_module(graph, example, "latents"), plain)
    quantize_dynamic(plain, quantized, per_channel=True, weight_type=QuantType.QInt8)
    pixels = torch.from_numpy(frame)

    @torch.inference_mode()
    def eager() -> object:
        return graph(pixels)

    found: dict[str, Callable[[], object]] = {"PyTorch eager, float32": eager}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    for name, path in (("float32", plain), ("int8", quantized)):
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found[f"ONNX Runtime, {name}"] = lambda s=session: s.run(None, {"frames": frame})
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        core = openvino.Core()
        for name, hint in (("float32", "f32"), ("bfloat16", "bf16")):
            settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1}
            compiled = core.compile_model(str(plain), "CPU", settings)
            found[f"OpenVINO, {name}"] = lambda c=compiled: c({"frames": frame})
    return found


def _products_ms(model: torch.nn.Module, precision: _core.Precision) -> float:
    """Sum of the encoder's matrix products in our kernels."""
    config = model.config
    patches = (config.image_size // config.patch_size) ** 2
    rows, dim, mlp = patches + 1, config.encoder_dim, config.encoder_mlp_dim
    layer = [(rows, dim, 3 * dim), (rows, dim, dim), (rows, dim, mlp), (rows, mlp, dim)]
    first = (patches, 3 * config.patch_size**2, dim)
    per_layer = sum(_core.measure_product(precision, *shape) for shape in layer)
    return config.encoder_depth * per_layer + _core.measure_product(precision, *first)


if __name__ == "__main__":
    main()
