# SPDX-License-Identifier: Apache-2.0
"""Whole searches in turns, by the wall clock: each ends with its plan on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[], NDArray[np.float32]]
"""Runs a whole search and returns its plan, (H, A)."""

_WARMUPS = 3  # compile, capture, settle


def race(runs: Mapping[str, Run], rounds: int, warmups: int = _WARMUPS) -> list[dict[str, Any]]:
    """Return a row per run: its name, median and p99 in ms, and its plan."""
    plans, times = {}, {name: np.empty(rounds) for name in runs}
    for name, run in runs.items():
        for _ in range(warmups):
            plans[name] = run()
    names = list(runs)
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            runs[name]()
            times[name][index] = 1e3 * (time.perf_counter() - start)
    return [
        {
            "name": name,
            "median_ms": float(np.median(times[name])),
            "p99_ms": float(np.percentile(times[name], 99)),
            "plan": plans[name],
        }
        for name in runs
    ]
