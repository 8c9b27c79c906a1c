# SPDX-License-Identifier: Apache-2.0
"""LeWorldModel at full size: the GPU core against the CPU core, then beside PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from planning.problem import (
    Problem,
    Setting,
    cost_error,
    draw_problem,
    elites_shared,
    reference_costs,
    reference_latents,
)

from gpu import ours
from gpu.race import Run, race
from gpu.rivals import lewm_costs
from gpu.torch_cem import Search, search
from jepa_edge import _core
from jepa_edge.engine import RolloutEngine
from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.graphs import PredictorGraph
from jepa_edge.export.predictor_weights import write_predictor_weights

CEM = Search(candidates=300, iterations=30, horizon=5, action_dim=0)
ICEM = Search(candidates=1024, iterations=5, horizon=5, action_dim=0, keep=5, momentum=0.1)
SEARCHES = {"CEM 300 x 30 x 5": CEM, "iCEM 1024 x 5 x 5": ICEM}
TARGETS_MS = {"CEM 300 x 30 x 5": 15.0, "iCEM 1024 x 5 x 5": 8.0}
PUBLISHED = {"CEM 300 x 30 x 5": {"RTX 4090": 85.6, "PyTorch on it": 148.0}}


def store(model: LeWM, path: Path) -> Path:
    """Write the predictor of a drawn model for both cores."""
    A = model.config.action_dim
    write_predictor_weights(PredictorGraph(model, (0.0,) * A, (1.0,) * A), model.config, path)
    return path


def accuracy(model: LeWM, path: Path, seed: int) -> list[dict[str, Any]]:
    """Rollouts on the device against the CPU core in float32, and costs against float64."""
    rows = []
    for frames in (1, 3):
        problem = draw_problem(model, Setting(frames=frames), seed)
        exact = reference_costs(problem)
        inputs = (problem.history[:, None], problem.past, problem.actions)
        on_cpu = RolloutEngine.load(path, precision="float32", threads=2).rollout(*inputs)
        for precision in ours.usable():
            rollout = ours.lewm_rollout(path, precision, *problem.actions.shape[:2])
            status, latents = rollout.rollout(*inputs)
            assert _core.Status(status) == _core.Status.OK, status
            costs = np.sum((latents[:, -1, 0].astype(np.float64) - problem.goal) ** 2, axis=1)
            apart = latents.astype(np.float64) - on_cpu
            rows.append(
                {
                    "frames": frames,
                    "precision": precision,
                    "relative_to_cpu": float(np.linalg.norm(apart) / np.linalg.norm(on_cpu)),
                    "cost_error": cost_error(costs, exact),
                    "elites_of_30": elites_shared(costs, exact, 30),
                }
            )
    return rows


def races(model: LeWM, path: Path, seed: int, rounds: int) -> list[dict[str, Any]]:
    """Whole plans, ours and PyTorch's, in turns."""
    races = []
    for name, sizes in SEARCHES.items():
        problem = draw_problem(model, Setting(candidates=sizes.candidates), seed)
        sizes = dataclasses.replace(sizes, action_dim=model.config.action_dim)
        runs = {**_ours(problem, path, sizes), **_torch(problem, sizes)}
        rows = race(runs, rounds)
        for row in rows:
            row["plan_energy"] = _exact_energy(problem, row.pop("plan"))
        races.append(
            {
                "search": name,
                "target_ms": TARGETS_MS[name],
                "published_ms": PUBLISHED.get(name, {}),
                "rounds": rounds,
                "rows": rows,
            }
        )
    return races


def _ours(problem: Problem, path: Path, sizes: Search) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for precision in ours.usable():
        rollout = ours.lewm_rollout(path, precision, sizes.candidates, sizes.horizon)
        goal = problem.goal[None]
        plan = ours.Plan(rollout, sizes, problem.history[:, None], problem.past, goal)
        runs[f"jepa-edge, {precision}"] = lambda plan=plan: plan().actions
    return runs


def _torch(problem: Problem, sizes: Search) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for rewritten, fast in ((False, False), (False, True), (True, True)):
            costs = lewm_costs(problem, dtype, rewritten=rewritten, fast=fast)
            words = ["original" if not rewritten else "rewritten", str(dtype).split(".")[1]]
            how = "torch.compile, CUDA graphs" if fast else "eager"

            def run(costs: Any = costs) -> NDArray[np.float32]:
                generator = torch.Generator("cuda").manual_seed(0)
                mean, _ = search(costs, sizes, generator)
                out: NDArray[np.float32] = mean.cpu().numpy()
                return out

            runs[f"PyTorch {how}, {', '.join(words)}"] = run
    return runs


def _exact_energy(problem: Problem, plan: NDArray[np.float32]) -> float:
    actions = np.asarray(plan, np.float32)[None]
    latents = reference_latents(problem.model, problem.history, problem.past, actions)
    return float(np.square(latents[0, -1] - problem.goal.astype(np.float64)).sum())
