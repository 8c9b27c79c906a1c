# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: original and rewritten plan in float32, bfloat16 and two kinds of int8."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.export.quiet import quiet
from planning.contestant import Contestant, Entry
from planning.onnx_files import Inputs, OnnxFiles
from planning.onnx_rivals import plan_file
from planning.problem import Problem, draw_problem

CALIBRATION_BATCHES = 8
"""Batches of candidates for post-training quantization; each holds all S of them."""

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
"""What is not in int8 runs in bfloat16: OpenVINO's own default where the processor has it."""


class Compiled:
    """A model compiled for latency, with one request."""

    def __init__(self, model: Any, threads: int, precision: str, **options: Any) -> None:
        import openvino as ov

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "ENABLE_CPU_PINNING": False,  # would also pin the contestants that come after
            **options,
        }
        self.compiled = ov.Core().compile_model(model, "CPU", settings)
        self.request = self.compiled.create_infer_request()

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        """Run once; the result is a copy."""
        out: NDArray[np.float32] = np.array(self.request.infer(dict(inputs))[0])
        return out


class _Plan:
    def __init__(self, problem: Problem, run: Compiled) -> None:
        self.inputs, self.run = problem.inputs(), run

    def costs(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.run({**self.inputs, "actions": actions})


def compile_file(path: Path, threads: int, precision: str) -> Compiled:
    """Compile an ONNX file in float32 or bfloat16."""
    import openvino as ov

    return Compiled(ov.Core().read_model(path), threads, precision)


def _float(
    kind: str, precision: str, problem: Problem, threads: int, files: OnnxFiles
) -> Contestant:
    return _Plan(problem, compile_file(plan_file(problem, files, kind), threads, precision))


def _quantized(kind: str, problem: Problem, threads: int, files: OnnxFiles) -> Contestant:
    """Weights and activations in int8, calibrated by NNCF as for a transformer."""
    import openvino as ov

    path = plan_file(problem, files, kind)
    target = path.with_suffix(".ptq.xml")
    if not target.exists():
        batches = [
            draw_problem(problem.model, problem.setting, 1000 + index).inputs()
            for index in range(CALIBRATION_BATCHES)
        ]
        with quiet():
            import nncf

            quantized = nncf.quantize(
                ov.Core().read_model(path),
                nncf.Dataset(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=CALIBRATION_BATCHES,
            )
        ov.save_model(quantized, target, compress_to_fp16=False)
    return _Plan(problem, Compiled(ov.Core().read_model(target), threads, "int8"))


def _dynamic(kind: str, problem: Problem, threads: int, files: OnnxFiles) -> Contestant:
    """Weights in int8 ahead of time, activations quantized at run time, per row and group."""
    import openvino as ov

    path = plan_file(problem, files, kind)
    with quiet():
        import nncf

        model = nncf.compress_weights(
            ov.Core().read_model(path), mode=nncf.CompressWeightsMode.INT8_SYM
        )
    return _Plan(problem, Compiled(model, threads, "int8", DYNAMIC_QUANTIZATION_GROUP_SIZE=64))


ENTRIES = tuple(
    Entry(name=f"OpenVINO, {kind}{suffix}", precision=precision, build=partial(build, kind))
    for kind in ("original", "rewritten")
    for suffix, precision, build in (
        ("", "float32", lambda kind, *rest: _float(kind, "float32", *rest)),
        (", bf16", "bfloat16", lambda kind, *rest: _float(kind, "bfloat16", *rest)),
        (", int8 calibrated", "int8", _quantized),
        (", int8 dynamic", "int8", _dynamic),
    )
)
