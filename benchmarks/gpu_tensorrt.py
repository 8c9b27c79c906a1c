# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge build` on this machine, and what its engines gain over ONNX Runtime.

    benchmarks/gpu.sh tensorrt                       # needs TensorRT, cuda-python and a bundle
    python benchmarks/gpu_tensorrt.py --bundle robot.jepa

The build's own record is kept as it is: candidates, golden outputs, realised precisions, latencies
at p50 and p99. Encoder and predictor then take turns with ONNX Runtime on the CPU and, where its
build has it, on the GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from planning.machine import describe_machine, today, versions

from jepa_edge.backends.choice import Provider
from jepa_edge.errors import JepaEdgeError
from jepa_edge.golden import Golden
from jepa_edge.trt.race import time_interleaved, timed_calls
from jepa_edge.world_model import WorldModel

HERE = Path(__file__).parent
RESULT = HERE / "results" / "gpu_tensorrt.json"
BUNDLE = HERE.parent / "runs/demo/pusht.jepa"
RIVALS: tuple[Provider, ...] = ("cpu", "cuda")


def main() -> None:
    """Build, time, print, and write the JSON."""
    arguments = _parse()
    if not arguments.bundle.is_dir():
        sys.exit(f"{arguments.bundle} is not there; `make demo` writes it, or pass --bundle")
    cli = "from jepa_edge.cli import main; main()"
    command = [sys.executable, "-c", cli, "build", str(arguments.bundle), "--json"]
    if arguments.force:
        command.append("--force")
    built = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if built.returncode != 0:
        sys.exit(built.returncode)
    report = json.loads(built.stdout)
    variant = report["record"]["variant"]
    engine = WorldModel.load(arguments.bundle, variant, provider="tensorrt")
    models = {"tensorrt": engine}
    for provider in RIVALS:
        rival = _rival(arguments.bundle, variant, provider)
        if rival is not None:
            models[provider] = rival
    golden = Golden.read(engine.bundle)
    calls: dict[str, dict[tuple[str, int], Callable[[], object]]] = {
        name: timed_calls(model, golden, arguments.candidates) for name, model in models.items()
    }
    rows = [
        {
            "runs on": models[name].runtime,
            "graph": timing.graph,
            "batch": timing.batch,
            "p50_ms": timing.median_ms,
            "p99_ms": float(np.percentile(timing.times_ms, 99)),
        }
        for name, timings in time_interleaved(calls).items()
        for timing in timings
    ]
    for row in rows:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()))
    result: dict[str, Any] = {
        "date": today(),
        "rerun": "benchmarks/gpu.sh tensorrt",
        "machine": describe_machine(),
        "versions": versions(),
        "bundle": arguments.bundle.name,
        "build": {key: value for key, value in report.items() if key != "folder"},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {arguments.out}")


def _rival(bundle: Path, variant: str, provider: Provider) -> WorldModel | None:
    """ONNX Runtime's model, or None where it cannot run here, which is told."""
    try:
        return WorldModel.load(bundle, variant, provider=provider)
    except JepaEdgeError as error:
        print(f"{provider}: {error}")
        return None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="(default: runs/demo/...)")
    parser.add_argument("--out", type=Path, default=RESULT, help="(default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=300, help="a plan's batch (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build although engines are there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
