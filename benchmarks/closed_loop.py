# SPDX-License-Identifier: Apache-2.0
"""Does reduced precision cost success? The shipped PushT model plans in closed loop, all precisions
on the same tasks with the same noise.

    make demo && python benchmarks/closed_loop.py --tasks 50
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import sys
from pathlib import Path

import numpy as np
from scipy.stats import beta

from jepa_edge.engine import PRECISIONS, instruction_sets
from jepa_edge.json_text import json_bytes
from jepa_edge.planner import PlannerConfig
from jepa_edge.world_model import WorldModel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples/pusht"))
from planning import PlanningPolicy, Policy, RandomPolicy, make_tasks, run_task  # noqa: E402

RESULT = Path(__file__).parent / "results" / "closed_loop.json"


def main() -> None:
    """Run every policy on every task and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "runs/demo/pusht.jepa")
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--policies", help="some of them, with commas; nothing is written then")
    arguments = parser.parse_args()
    model = WorldModel.load(arguments.bundle, "fp32")
    tasks = make_tasks(arguments.tasks, arguments.seed)
    config = PlannerConfig(goal_steps=3)  # the defaults otherwise: 300 candidates, 10 iterations
    policies: dict[str, Policy] = {
        precision: PlanningPolicy(model, dataclasses.replace(config, precision=precision))
        for precision in PRECISIONS
    }
    policies |= {"random": RandomPolicy(model, arguments.seed), "no-op": Policy()}
    figures = {}
    chosen = arguments.policies.split(",") if arguments.policies else list(policies)
    for name, policy in policies.items():
        if name not in chosen:
            continue
        outcomes = [run_task(policy, task) for task in tasks]
        wins, count = sum(outcome.success for outcome in outcomes), len(outcomes)
        figures[name] = {
            "success": wins,
            "tasks": count,
            "interval_95": [
                float(beta.ppf(0.025, wins, count - wins + 1)) if wins else 0.0,
                float(beta.ppf(0.975, wins + 1, count - wins)) if wins < count else 1.0,
            ],
            "median_position_px": float(np.median([o.position for o in outcomes])),
            "median_plan_s": float(np.median([o.plan_s for o in outcomes])),
        }
        print(name, figures[name], flush=True)
    if arguments.policies:
        return
    result = {
        "date": datetime.date.today().isoformat(),
        "rerun": "make demo && python benchmarks/closed_loop.py",
        "isa": instruction_sets()[0],
        "config": f"{config.candidates} candidates, {config.iterations} iterations, horizon "
        f"{config.horizon}, goal_steps {config.goal_steps}",
        "seed": arguments.seed,
        "figures": figures,
    }
    RESULT.write_bytes(json_bytes(result))


if __name__ == "__main__":
    main()
