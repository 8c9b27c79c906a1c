# SPDX-License-Identifier: Apache-2.0
"""Our engine, through the Python face that users call."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.graphs import PredictorGraph
from jepa_edge.export.predictor_weights import write_predictor_weights
from planning.contestant import Contestant, Entry
from planning.onnx_files import OnnxFiles
from planning.problem import Problem

PRECISIONS = ("float32", "bfloat16", "int8")


class _Engine:
    def __init__(self, problem: Problem, engine: Any) -> None:
        self.engine, self.past = engine, problem.past
        self.history, self.goal = problem.history[:, None], problem.goal[None]

    def costs(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = self.engine.goal_energies(
            self.history, self.past, actions, self.goal
        )
        return out


def load_engine(model: LeWM, precision: str, threads: int, files: OnnxFiles) -> Any:
    """Store the model's predictor and load it into the engine."""
    path: Path = files.folder / "predictor.safetensors"
    if not path.exists():
        A = model.config.action_dim
        graph = PredictorGraph(model, (0.0,) * A, (1.0,) * A)
        write_predictor_weights(graph, model.config, path)
    engine = importlib.import_module("jepa_edge.engine").RolloutEngine
    return engine.load(path, precision=precision, threads=threads)


def measured_peaks() -> dict[str, float | None]:
    """GFLOP/s that one core reaches in registers, by precision; None where not measurable."""
    core = importlib.import_module("jepa_edge._core")
    measure, precision = getattr(core, "measure_peak", None), getattr(core, "Precision", None)
    if measure is None or precision is None:
        return dict.fromkeys(PRECISIONS)
    return {name: float(measure(getattr(precision, name.upper()))) for name in PRECISIONS}


def _build(precision: str, problem: Problem, threads: int, files: OnnxFiles) -> Contestant:
    return _Engine(problem, load_engine(problem.model, precision, threads, files))


ENTRIES = tuple(
    Entry(
        name=f"jepa-edge, {precision}",
        precision=precision,
        build=partial(_build, precision),
        ours=True,
    )
    for precision in PRECISIONS
)
