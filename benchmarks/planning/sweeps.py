# SPDX-License-Identifier: Apache-2.0
"""How the time grows with candidates, horizon and threads: our engine and eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from jepa_edge.export.families.lewm import LeWM
from planning import ours
from planning.contestant import EAGER, Contestant, Entry
from planning.onnx_files import OnnxFiles
from planning.problem import Problem, Setting, draw_problem
from planning.rounds import race
from planning.torch_rivals import ENTRIES as TORCH

CANDIDATES, HORIZONS, THREADS = (64, 300, 1024, 2048), (1, 5, 16), (1, 2)


def run_sweeps(
    model: LeWM, rounds: int, files: OnnxFiles, *, seed: int, quick: bool
) -> dict[str, Any]:
    """Return rows of each sweep; eager runs a third of the rounds. Threads turn within a race."""
    eager = next(entry for entry in TORCH if entry.name == EAGER)
    points = {
        "candidates": [Setting(candidates=S) for S in CANDIDATES],
        "horizon": [Setting(horizon=H) for H in HORIZONS],
    }
    if quick:
        points = {name: settings[:2] for name, settings in points.items()}
    measured: dict[Setting, list[dict[str, Any]]] = {}
    for settings in points.values():
        for setting in settings:
            if setting not in measured:
                problem = draw_problem(model, setting, seed)
                print(f"  sweep {setting.key}", flush=True)
                rows = _measure(problem, ours.ENTRIES, rounds, files)
                measured[setting] = rows + _measure(problem, (eager,), max(2, rounds // 3), files)
    return {
        "fixed": {"observed_frames": Setting().frames},
        **{
            name: [row for setting in settings for row in measured[setting]]
            for name, settings in points.items()
        },
    }


def _measure(
    problem: Problem, entries: tuple[Entry, ...], rounds: int, files: OnnxFiles
) -> list[dict[str, Any]]:
    calls: dict[str, Callable[[], object]] = {}
    keys: dict[str, tuple[str, int]] = {}
    for entry in entries:
        for threads in THREADS:
            try:
                contestant = entry.build(problem, threads, files)
                contestant.costs(problem.actions)
            except Exception as reason:  # reported where the contestants line up
                print(f"    skipped {entry.name}: {type(reason).__name__}", flush=True)
                break
            key = f"{entry.name} {threads}"
            keys[key] = (entry.name, threads)
            calls[key] = _with_threads(contestant, problem, threads)
    times = race(calls, rounds)
    setting = problem.setting
    return [
        {
            "name": name,
            "threads": threads,
            "candidates": setting.candidates,
            "horizon": setting.horizon,
            "cpu_ms": float(np.median(times[key].cpu_ms)),
            "wall_ms": float(np.median(times[key].wall_ms)),
            "speedup_over_one_thread": times[key].ratio(times[f"{name} 1"])["wall"],
            "rounds": rounds,
        }
        for key, (name, threads) in keys.items()
    ]


def _with_threads(contestant: Contestant, problem: Problem, threads: int) -> Callable[[], object]:
    def run() -> object:
        torch.set_num_threads(threads)
        return contestant.costs(problem.actions)

    return run
