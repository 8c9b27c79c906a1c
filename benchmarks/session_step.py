# SPDX-License-Identifier: Apache-2.0
"""One camera frame to one flag, beside what PyTorch needs for the model alone.

    python benchmarks/session_step.py --bundle runs/demo/pusht.jepa

All contestants take turns in one run, one thread each; medians and 99th percentiles in ms.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import torch

from jepa_edge.export.families.lewm_checkpoint import load_checkpoint
from jepa_edge.export.graphs import EncoderGraph, PredictorGraph
from jepa_edge.golden import Golden
from jepa_edge.monitor import Monitor
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.sources.simulation import SimulationSource
from jepa_edge.world_model import WorldModel

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "session_step.json"


def main() -> None:
    """Time every contestant and write the table."""
    parser = argparse.ArgumentParser(description="Frame-to-flag latency.")
    parser.add_argument("--bundle", type=Path, default=ROOT / "runs/demo/pusht.jepa")
    parser.add_argument("--repeats", type=int, default=150)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    contestants = _contestants(arguments.bundle)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.repeats):
        for name, step in contestants.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    figures = {
        name: {"p50_ms": float(np.median(taken)), "p99_ms": float(np.quantile(taken, 0.99))}
        for name, taken in times.items()
    }
    for name, row in figures.items():
        print(f"{name:58s} p50 {row['p50_ms']:7.2f} ms   p99 {row['p99_ms']:7.2f} ms")
    result = {
        "date": datetime.date.today().isoformat(),
        "rerun": "make demo && python benchmarks/session_step.py",
        "machine": f"{platform.machine()}, one thread",
        "versions": {name: version(name) for name in ("jepa-edge", "onnxruntime", "torch")},
        "repeats": arguments.repeats,
        "figures": figures,
    }
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def _contestants(bundle: Path) -> dict[str, Callable[[], object]]:
    model, _, extras = load_checkpoint(ROOT / "examples/pusht/model")
    encoder = EncoderGraph(model, extras.observation.mean, extras.observation.std).eval()
    predictor = PredictorGraph(model, extras.action.mean, extras.action.std).eval()
    int8 = WorldModel.load(bundle, "int8")
    fp32 = WorldModel.load(bundle, "fp32")
    golden = Golden.read(int8.bundle)
    frame, history = torch.from_numpy(golden.frames[:1]), torch.from_numpy(golden.history[:1])
    actions = torch.from_numpy(golden.actions[:1])

    @torch.inference_mode()
    def eager() -> None:
        encoder(frame)
        predictor(history, actions)

    def runtime(loaded: WorldModel) -> Callable[[], object]:
        def step() -> None:
            loaded.encode(golden.frames[:1])
            loaded.predict(golden.history[:1], golden.actions[:1])

        return step

    return {
        "PyTorch eager, encode + predict": eager,
        "ONNX Runtime fp32, encode + predict": runtime(fp32),
        "ONNX Runtime int8, encode + predict": runtime(int8),
        "Session int8, flag without sampled futures": _stream(int8, samples=0),
        "Session int8, flag and 32 sampled futures of 5 steps": _stream(int8, samples=32),
    }


def _stream(model: WorldModel, samples: int) -> Callable[[], object]:
    source = SimulationSource("pusht", model.manifest, steps=40, seed=1, fault=None)
    episode = list(source)
    session = Session(model, Monitor.load(model), SessionConfig(samples=samples))
    count = 0

    def step() -> None:
        nonlocal count
        seen = episode[1 + count % 40]
        stamp_s = count / model.manifest.observation.rate_hz
        session.step(Observation(stamp_s=stamp_s, frame=seen.frame, action=seen.action))
        count += 1

    for _ in range(10):  # fill the history
        step()
    return step


if __name__ == "__main__":
    main()
