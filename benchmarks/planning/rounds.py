# SPDX-License-Identifier: Apache-2.0
"""Timing in interleaved rounds: everyone runs once per round, in an order that rotates."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SETTLE_S = 0.01
"""Pause before each run, in which the spinning threads of the one before go to sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Wall and CPU time of each round in ms, shape (rounds,); CPU time is of all threads."""

    wall_ms: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]

    def ratio(self, other: Times) -> dict[str, float]:
        """How many times longer the other takes: medians over rounds of the paired ratios."""
        return {
            "cpu": float(np.median(other.cpu_ms / self.cpu_ms)),
            "wall": float(np.median(other.wall_ms / self.wall_ms)),
        }


def race(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    settle_s: float = SETTLE_S,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Times]:
    """Time every run `rounds` times, after one round that does not count."""
    names = list(runs)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for index in range(-1, rounds):
            shift = index % len(names) if names else 0
            for name in names[shift:] + names[:shift]:
                time.sleep(settle_s)
                wall, cpu = time.perf_counter(), time.process_time()
                runs[name]()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                if index >= 0:
                    taken[name].append((1e3 * wall, 1e3 * cpu))
            progress(index + 1)
    finally:
        gc.enable()
    return {
        name: Times(wall_ms=np.array([w for w, _ in pairs]), cpu_ms=np.array([c for _, c in pairs]))
        for name, pairs in taken.items()
    }
