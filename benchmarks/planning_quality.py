# SPDX-License-Identifier: Apache-2.0
"""What reduced precision costs a plan: whole CEM searches on drawn problems, full size.

    python benchmarks/planning_quality.py --problems 50

For every problem and precision one search (300 candidates, 30 elites, 30 iterations, horizon 5,
one context frame), the same noise for all. Every third iteration: how many of the elites are those
of float32 on the very same candidates (float32's costs are exact to about 2e-6). At the end: the
plan's energy in float64 against that of the float32 search, and against the energy of the first
mean. Half of the goals can be reached (one more drawn action sequence leads there, so that the
best energy is about 0 and any noise is large beside it), half are latents of another drawn scene.
The control is float32 with other noise: how much plans differ by chance alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from planning.problem import Problem, Setting, draw_model, draw_problem, reference_latents

from jepa_edge import _core
from jepa_edge.engine import RolloutEngine
from jepa_edge.export.graphs import PredictorGraph
from jepa_edge.export.predictor_weights import write_predictor_weights
from jepa_edge.json_text import json_bytes

RESULT = Path(__file__).parent / "results" / "planning_quality.json"
TESTED = ("bfloat16", "int8")
ELITES = 30
ITERATIONS = 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One search. ratio: its plan's energy over that of float32's. loss: the difference of the two
    over the energy of the first mean. shared: elites shared with float32."""

    ratio: float
    loss: float
    shared: list[int]


def main() -> None:
    """Search, compare and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    model = draw_model(0)
    size = model.config.action_dim
    graph = PredictorGraph(model, [0.0] * size, [1.0] * size).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictor.safetensors"
        write_predictor_weights(graph, model.config, path)
        engines = {
            name: RolloutEngine.load(path, precision=name, threads=arguments.threads)
            for name in ("float32", "bfloat16", "int8")
        }
    rows: dict[str, list[Row]] = {}
    for index in range(arguments.problems):
        problem = draw_problem(model, Setting(), 1000 + index)
        kind = "reachable" if index % 2 else "another scene"
        if kind == "another scene":
            other = draw_problem(model, Setting(), 5000 + index)
            problem = dataclasses.replace(problem, goal=other.goal)
        exact = _search(problem, engines["float32"], None, index)[0]
        start, energy = _energy(problem, np.zeros_like(exact)), _energy(problem, exact)
        other_noise = _search(problem, engines["float32"], None, 100_000 + index)
        found = {
            "float32, other noise": other_noise,
            **{name: _search(problem, engines[name], engines["float32"], index) for name in TESTED},
        }
        for name, (plan, shared) in found.items():
            reached = _energy(problem, plan)
            row = Row(ratio=reached / energy, loss=(reached - energy) / start, shared=shared)
            rows.setdefault(f"{name}; goal {kind}", []).append(row)
            print(f"problem {index}, {kind}: {name} {row}", flush=True)
        figures = {name: _summary(row) for name, row in sorted(rows.items())}
        _write(figures, engines["int8"].predictor.isa, index + 1, arguments.out)
    for name, figure in figures.items():
        print(name, figure)


def _write(figures: dict[str, object], isa: str, problems: int, out: Path) -> None:
    result = {
        "date": datetime.date.today().isoformat(),
        "rerun": f"python benchmarks/planning_quality.py --problems {problems}",
        "isa": isa,
        "versions": {name: version(name) for name in ("jepa-edge", "numpy", "torch")},
        "figures": figures,
    }
    out.write_bytes(json_bytes(result))


def _search(
    problem: Problem, engine: RolloutEngine, judge: RolloutEngine | None, seed: int
) -> tuple[NDArray[np.float32], list[int]]:
    """CEM as stable-worldmodel runs it. Returns the mean and the elites shared with the judge."""
    S, H, A = problem.actions.shape
    mean, std = np.zeros((H, A), np.float32), np.ones((H, A), np.float32)
    shared: list[int] = []
    for iteration in range(ITERATIONS):
        noise = _core.standard_normal(seed, iteration, S * H * A).reshape(S, H, A)
        candidates = mean + std * noise
        candidates[0] = mean
        elite = _elite(problem, engine, candidates)
        if judge is not None and (iteration % 3 == 0 or iteration + 1 == ITERATIONS):
            shared.append(len(set(elite) & set(_elite(problem, judge, candidates))))
        mean = candidates[elite].mean(axis=0)
        std = candidates[elite].std(axis=0, ddof=1)
    return mean, shared


def _elite(
    problem: Problem, engine: RolloutEngine, candidates: NDArray[np.float32]
) -> NDArray[np.int64]:
    costs = engine.goal_energies(
        problem.history[:, None], problem.past, candidates, problem.goal[None]
    )
    return np.argsort(costs, kind="stable")[:ELITES]


def _energy(problem: Problem, plan: NDArray[np.float32]) -> float:
    latents = reference_latents(problem.model, problem.history, problem.past, plan[None])
    return float(np.square(latents[0, -1] - problem.goal.astype(np.float64)).sum())


def _overlap(shared: NDArray[np.int64]) -> dict[str, object]:
    return {
        "shared_elites_mean_at_iterations_0_3_to_27_29": shared.mean(axis=0).round(2).tolist(),
        "shared_elites_fewest_at_the_same": shared.min(axis=0).tolist(),
    }


def _summary(rows: list[Row]) -> dict[str, object]:
    ratio, loss = np.array([row.ratio for row in rows]), np.array([row.loss for row in rows])
    shared = np.array([row.shared for row in rows if row.shared])
    return {
        "problems": len(rows),
        **(_overlap(shared) if shared.size else {}),
        "energy_ratio_median": float(np.median(ratio)),
        "energy_ratio_mean": float(ratio.mean()),
        "energy_ratio_standard_error": float(ratio.std() / len(ratio) ** 0.5),
        "energy_ratio_range": [float(ratio.min()), float(ratio.max())],
        "plans_within_1_percent_or_better": float((ratio <= 1.01).mean()),
        "loss_of_first_energy_mean": float(loss.mean()),
        "loss_of_first_energy_worst": float(loss.max()),
    }


if __name__ == "__main__":
    main()
