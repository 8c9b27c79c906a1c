# SPDX-License-Identifier: Apache-2.0
"""What all channels of the monitor cost per frame, without the model's own prediction, on one core.

    python benchmarks/channels.py

Latents of 32, 64 and 192 numbers (the examples and full-size LeWM), random heads of the sizes that
`jepa-edge calibrate` makes; medians and 99th percentiles in ms, the sizes taking turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import datetime
import itertools
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.channels import (
    BASE_CHANNELS,
    LAGS,
    Observer,
    Standardization,
    Steps,
    Whitener,
    channels,
)
from jepa_edge.density import Flow
from jepa_edge.json_text import json_bytes
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.mlp import MLP

RESULT = Path(__file__).parent / "results" / "channels.json"
SIZES = {32: 2, 64: 4, 192: 10}
"""Numbers per latent, and per action."""
REPEATS = 2000


def head(rng: np.random.Generator, *sizes: int, members: int = 0) -> MLP:
    """A random head with these layer sizes."""
    lead, bias = ((members,), (members, 1)) if members else ((), ())
    return MLP(
        center=np.zeros(sizes[0], np.float32),
        scale=np.ones(sizes[0], np.float32),
        weights=tuple(
            rng.normal(0.0, i**-0.5, (*lead, i, o)).astype(np.float32)
            for i, o in itertools.pairwise(sizes)
        ),
        biases=tuple(np.zeros((*bias, o), np.float32) for o in sizes[1:]),
    )


def observer(dim: int, action: int) -> Observer:
    """All heads at the sizes of a default calibration."""
    rng, options = np.random.default_rng(0), CalibrateOptions()
    inputs, hidden = 2 * dim + action + options.fitted_horizon, options.hidden

    def whitener(size: int) -> Whitener:
        return Whitener(mean=np.zeros(size, np.float32), whiten=np.eye(size, dtype=np.float32))

    return Observer(
        latent_variable=LatentVariable(
            base=np.ones((options.fitted_horizon, dim), np.float32),
            factor=rng.normal(0.0, 0.1, (dim, options.rank)).astype(np.float32),
            scale_head=head(rng, inputs, hidden, dim + options.rank),
            mean_heads=head(rng, inputs, hidden, dim, members=options.members),
            gain=np.ones(options.fitted_horizon, np.float32),
        ),
        recorded=whitener(dim),
        flow=Flow(
            center=np.zeros(dim, np.float32),
            scale=np.ones(dim, np.float32),
            velocity=head(rng, dim + 2, options.density_hidden, options.density_hidden, dim),
        ),
        motion=whitener(dim),
        inverse=head(rng, 3 * dim, hidden, hidden, action),
        action_mean=np.zeros(action, np.float32),
        action_std=np.ones(action, np.float32),
        action_whiten=whitener(action),
    )


def one_step(dim: int, action: int) -> Steps:
    """One frame to be judged."""
    rng = np.random.default_rng(1)
    latents = [rng.normal(size=(1, 1, dim)).astype(np.float32) for _ in range(6)]
    return Steps(
        before=latents[0],
        previous=latents[1],
        observed=latents[2],
        actions=rng.normal(size=(1, 1 + LAGS, action)).astype(np.float32),
        predicted=latents[3],
        long_previous=latents[4],
        long_predicted=latents[5],
        young=np.array([False]),
    )


def main() -> None:
    """Time all sizes in turn and write the table."""
    center = np.zeros(len(BASE_CHANNELS))
    measured = {d: (observer(d, a), one_step(d, a)) for d, a in SIZES.items()}
    width = channels(np.zeros((1, len(BASE_CHANNELS))), center).shape[1]
    standard = Standardization(
        center=np.zeros(width), high=np.ones(width), low=np.full(width, np.inf)
    )
    times: dict[int, list[float]] = {dim: [] for dim in SIZES}
    for _ in range(REPEATS):
        for dim, (watching, step) in measured.items():
            start = time.perf_counter()
            standard.score(channels(watching.measure(step), center))
            times[dim].append(1e3 * (time.perf_counter() - start))
    figures = {
        f"D={dim}": {
            "p50_ms": float(np.median(taken)),
            "p99_ms": float(np.quantile(taken, 0.99)),
        }
        for dim, taken in times.items()
    }
    for name, row in figures.items():
        print(f"{name:8s} p50 {row['p50_ms']:.3f} ms   p99 {row['p99_ms']:.3f} ms")
    result = {
        "date": datetime.date.today().isoformat(),
        "rerun": "python benchmarks/channels.py",
        "machine": f"{platform.machine()}, one thread",
        "versions": {name: version(name) for name in ("jepa-edge", "numpy")},
        "repeats": REPEATS,
        "figures": figures,
    }
    RESULT.write_bytes(json_bytes(result))


if __name__ == "__main__":
    main()
