# SPDX-License-Identifier: Apache-2.0
"""A whole plan of 30 iterations through the planner that users call."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from jepa_edge.manifest import ActionSpec, LatentSpec
from jepa_edge.planner import Planner, PlannerConfig
from planning.onnx_files import OnnxFiles
from planning.ours import PRECISIONS, load_engine
from planning.problem import Problem

ITERATIONS = 30


def run_whole_plan(problem: Problem, repeats: int, threads: int, files: OnnxFiles) -> Any:
    """Return the median wall time and CPU time of a plan per precision, turns taken."""
    setting, config = problem.setting, problem.model.config
    size = config.action_dim
    action = ActionSpec(dim=size, block=1, mean=(0.0,) * size, std=(1.0,) * size)
    manifest = SimpleNamespace(
        action=action,
        require_action=lambda: action,
        latent=LatentSpec(tokens=1, dim=config.latent_dim),
        history=config.history,
        min_history=None,
    )
    planners = {}
    for precision in PRECISIONS:
        engine = load_engine(problem.model, precision, threads, files)
        model: Any = SimpleNamespace(
            manifest=manifest, engine=lambda *sizes, precision=None, engine=engine: engine
        )
        planners[precision] = Planner(
            model,
            PlannerConfig(
                horizon=setting.horizon,
                candidates=setting.candidates,
                elites=setting.elites,
                iterations=ITERATIONS,
            ),
        )
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in planners}
    for _ in range(repeats):
        for name, planner in planners.items():
            wall, cpu = time.perf_counter(), time.process_time()
            planner.plan(problem.history[:, None], problem.past, problem.goal[None])
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows = [
        {
            "precision": name,
            "wall_s": float(np.median([wall for wall, _ in times])),
            "cpu_s": float(np.median([cpu for _, cpu in times])),
        }
        for name, times in taken.items()
    ]
    return {"threads": threads, "iterations": ITERATIONS, "repeats": repeats, "rows": rows}
