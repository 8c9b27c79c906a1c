# SPDX-License-Identifier: Apache-2.0
"""One start line: build every contestant, check its costs against float64, then race them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from planning import onnx_rivals, openvino_rivals, ours, torch_rivals
from planning.contestant import EAGER, Contestant, Entry
from planning.flops import exact_flops, naive_flops
from planning.onnx_files import OnnxFiles
from planning.problem import Problem, cost_error, elites_shared, reference_costs
from planning.rounds import Times, race

ENTRIES: tuple[Entry, ...] = (
    *torch_rivals.ENTRIES,
    *onnx_rivals.ENTRIES,
    *openvino_rivals.ENTRIES,
    *ours.ENTRIES,
)
MAX_FLOAT32_ERROR = 1e-4
"""A float32 contestant that is further from float64 computes something else, and is not timed."""


@dataclass(slots=True, kw_only=True)
class Field:
    """The contestants that run, what they computed, and why the others do not."""

    entries: dict[str, Entry] = field(default_factory=dict)
    built: dict[str, Contestant] = field(default_factory=dict)
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)


def select(only: str | None) -> list[Entry]:
    """Entries of which a comma-separated part of `only` is in the name; eager always runs."""
    parts = [part.strip().lower() for part in only.split(",")] if only else [""]
    return [e for e in ENTRIES if e.name == EAGER or any(p in e.name.lower() for p in parts)]


def line_up(problem: Problem, entries: Sequence[Entry], threads: int, files: OnnxFiles) -> Field:
    """Build and check contestants. One that fails is kept by name with the reason."""
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    exact, elites, start = reference_costs(problem), problem.setting.elites, Field()
    for entry in entries:
        try:
            contestant = entry.build(problem, threads, files)
            costs = contestant.costs(problem.actions)
            if costs.shape != exact.shape or not np.isfinite(costs).all():
                raise ValueError(f"costs {costs.shape} are not {exact.shape} finite numbers")
            error = cost_error(costs, exact)
            if entry.precision == "float32" and error > MAX_FLOAT32_ERROR:
                raise ValueError(f"cost error {error:.1e} exceeds {MAX_FLOAT32_ERROR:.0e}")
        except Exception as reason:  # whatever a runtime raises, the others still run
            text = (str(reason).strip().splitlines() or [""])[0]
            start.failed.append({"name": entry.name, "reason": f"{type(reason).__name__}: {text}"})
            print(f"  skipped {entry.name}: {type(reason).__name__}: {text}", flush=True)
            continue
        start.entries[entry.name], start.built[entry.name] = entry, contestant
        start.accuracy[entry.name] = {
            "max_relative_cost_error": error,
            "elites": elites_shared(costs, exact, elites),
        }
    return start


def run_field(
    problem: Problem,
    entries: Sequence[Entry],
    threads: int,
    rounds: int,
    files: OnnxFiles,
    peaks: dict[str, float | None],
) -> dict[str, Any]:
    """Race all contestants on one problem and return their rows."""
    start = line_up(problem, entries, threads, files)

    def show(done: int) -> None:
        print(f"\r  round {done}/{rounds}", end="", file=sys.stderr, flush=True)

    calls = {
        name: (lambda contestant=contestant: contestant.costs(problem.actions))
        for name, contestant in start.built.items()
    }
    times = race(calls, rounds, progress=show)
    print("\r" + " " * 30 + "\r", end="", file=sys.stderr, flush=True)
    config, setting = problem.model.config, problem.setting
    exact = exact_flops(config, setting)
    return {
        "setting": {
            "observed_frames": setting.frames,
            "candidates": setting.candidates,
            "horizon": setting.horizon,
            "elites": setting.elites,
            "window": config.history,
            "naive_gflop": naive_flops(config, setting) / 1e9,
            "exact_gflop": exact / 1e9,
        },
        "threads": threads,
        "rounds": rounds,
        "contestants": [
            _row(entry, start, times, exact, threads, peaks) for entry in start.entries.values()
        ],
        "failed": start.failed,
    }


def _row(
    entry: Entry,
    start: Field,
    times: dict[str, Times],
    exact: int,
    threads: int,
    peaks: dict[str, float | None],
) -> dict[str, Any]:
    """One contestant's figures. GFLOP/s are of the exact algorithm, whatever it does itself."""
    mine = times[entry.name]
    cpu_ms, wall_ms = float(np.median(mine.cpu_ms)), float(np.median(mine.wall_ms))
    rivals = [
        e.name
        for e in start.entries.values()
        if not e.ours and e.precision == entry.precision and e.name != entry.name
    ]
    row: dict[str, Any] = {
        "name": entry.name,
        "precision": entry.precision,
        "cpu_ms": cpu_ms,
        "wall_ms": wall_ms,
        "wall_ms_quartiles": [float(q) for q in np.quantile(mine.wall_ms, (0.25, 0.75))],
        **start.accuracy[entry.name],
        "times_faster_than_eager": mine.ratio(times[EAGER]) if EAGER in times else None,
        "times_faster_than_best_rival": None,
        "cores_used": float(np.median(mine.cpu_ms / mine.wall_ms)),
        "gflops_per_core": exact / cpu_ms / 1e6,
        "gflops_wall": exact / wall_ms / 1e6,
        "share_of_peak": None,
    }
    if rivals:
        best = min(rivals, key=lambda name: float(np.median(times[name].cpu_ms)))
        row["best_rival"] = best
        row["times_faster_than_best_rival"] = mine.ratio(times[best])
    if peak := peaks.get(entry.precision):
        row["share_of_peak"] = {
            "cpu": row["gflops_per_core"] / peak,
            "wall": row["gflops_wall"] / threads / peak,
        }
    return row
