# SPDX-License-Identifier: Apache-2.0
"""One CEM iteration of a full-size LeWorldModel, in every runtime people use, and in ours.

    python benchmarks/planning_speed.py             # everything; about 40 minutes on two cores
    python benchmarks/planning_speed.py --quick     # a few rounds of one setting, minutes
    python benchmarks/planning_speed.py --only jepa,openvino --parts race

Weights are drawn (nothing of this size is shipped), the same for all; so are history, goal and
noise. Every contestant's costs are held against float64 before it is timed. Contestants take turns
in rounds; ratios are medians of the rounds' paired ratios.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from planning.field import run_field, select
from planning.machine import describe_machine, today, versions
from planning.onnx_files import OnnxFiles
from planning.ours import measured_peaks
from planning.plots import draw_all
from planning.problem import Setting, draw_model, draw_problem
from planning.single_step import run_single_step
from planning.sweeps import run_sweeps
from planning.tables import print_race, print_single_step, print_sweeps, print_whole_plan
from planning.whole_plan import run_whole_plan

RESULT = Path(__file__).parent / "results" / "planning.json"
MAX_LOAD = 0.5
PARTS = ("race", "sweeps", "single", "whole")


def main() -> None:
    """Run the chosen parts, print them, write JSON and plots."""
    arguments = _parse()
    parts = arguments.parts.split(",")
    result: dict[str, Any] = {
        "date": today(),
        "rerun": "python benchmarks/planning_speed.py",
        "machine": describe_machine(),
        "versions": versions(),
        "seed": arguments.seed,
        "peak_gflops_per_core": measured_peaks(),
    }
    if (load := result["machine"]["load_average"]) > MAX_LOAD:
        print(
            f"load average {load:.1f}: others use these cores; OpenMP's barriers then cost PyTorch "
            "and ONNX Runtime several times their time at two threads, so quote nothing of this run"
        )
    model = draw_model(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        files = OnnxFiles(arguments.graphs or Path(scratch))
        if "race" in parts:
            result["races"] = _races(arguments, model, files, result["peak_gflops_per_core"])
        if "sweeps" in parts:
            rounds = 3 if arguments.quick else max(3, arguments.rounds // 2)
            sweeps = run_sweeps(model, rounds, files, seed=arguments.seed, quick=arguments.quick)
            print_sweeps(sweeps)
            result["sweeps"] = sweeps
        if "single" in parts:
            repeats = 20 if arguments.quick else arguments.repeats
            single = run_single_step(
                model, repeats, files, seed=arguments.seed, quick=arguments.quick
            )
            print_single_step(single)
            result["single_step"] = single
        if "whole" in parts:
            problem = draw_problem(model, Setting(), arguments.seed)
            repeats = 1 if arguments.quick else 5
            result["whole_plan"] = [
                run_whole_plan(problem, repeats, threads, files) for threads in arguments.threads
            ]
            print_whole_plan(result["whole_plan"])
    result["machine"]["load_average_after"] = describe_machine()["load_average"]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    print(f"\nwrote {arguments.out}")
    try:
        for path in draw_all(result, arguments.out.parent):
            print(f"wrote {path}")
    except ImportError as error:
        print(f"no plots: {error}; pip install matplotlib")


def _races(
    arguments: argparse.Namespace, model: Any, files: OnnxFiles, peaks: dict[str, float | None]
) -> list[dict[str, Any]]:
    """Race in each setting and at each number of threads."""
    races = []
    for frames in (1,) if arguments.quick else arguments.frames:
        setting = Setting(frames=frames)
        problem = draw_problem(model, setting, arguments.seed)
        for threads in (1,) if arguments.quick else arguments.threads:
            print(f"\nbuilding for {threads} thread(s), {setting.key}", flush=True)
            rounds = 3 if arguments.quick else arguments.rounds
            entries = select(arguments.only)
            races.append(run_field(problem, entries, threads, rounds, files, peaks))
            print_race(races[-1])
    return races


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of a race (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=300, help="of a single step (%(default)s)")
    parser.add_argument(
        "--only", help="parts of contestants' names, with commas; eager always runs"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="(default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="of the races (default: 1 2)"
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[1, 3], help="observed latents T (default: 1 3)"
    )
    parser.add_argument("--quick", action="store_true", help="one setting, one thread, few rounds")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--graphs",
        type=Path,
        help="keep exported graphs here and use those that are there: same seed, same code only",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
