# SPDX-License-Identifier: Apache-2.0
"""Record every episode of the safety study; what is there already is kept.

python benchmarks/safety/record.py --data runs/safety
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jepa_edge.cli.common import progress_bars
from jepa_edge.faults import Injection, parse_fault
from jepa_edge.progress import Progress
from jepa_edge.sim import record
from safety import protocol

HEALTHY = "healthy"
"""The same runs as the faulty ones, without a fault."""


def recordings(root: Path, robot: str) -> Iterator[tuple[Path, int, int, Injection | None]]:
    """Yield folder, number of episodes, seed and fault of every recording of one robot."""
    for seed in protocol.SEEDS:
        base = root / robot / f"seed{seed}"
        calibration, nominal = protocol.calibration_seed(seed), protocol.nominal_seed(seed)
        yield base / "calibration", protocol.CALIBRATION_EPISODES, calibration, None
        yield base / "nominal", protocol.NOMINAL_EPISODES, nominal, None
        few, fault_seed = protocol.FAULT_EPISODES, protocol.fault_seed(seed)
        yield base / HEALTHY, few, fault_seed, None
        for fault in sorted({*protocol.HELD_OUT_SIMULATED, *protocol.SHIFTED}):
            injection = parse_fault(f"{fault}@{protocol.ONSET}")
            yield base / fault_folder(fault), few, fault_seed, injection


def fault_folder(fault: str) -> str:
    """Folder name of a simulated fault."""
    return fault.replace(":", "_")


def record_all(root: Path, workers: int, progress: Progress) -> None:
    """Record whatever is missing; runs of the scripted policies, whatever the models are."""
    for robot in protocol.ROBOTS:
        for folder, episodes, seed, injection in recordings(root, robot):
            if folder.exists():
                continue
            folder.parent.mkdir(parents=True, exist_ok=True)
            stage = f"record {robot} {folder.parent.name} {folder.name}"
            record(
                robot,
                folder,
                episodes,
                protocol.STEPS,
                seed,
                injection=injection,
                workers=workers,
                on_progress=lambda done, s=stage, n=episodes: progress(s, done, n),  # type: ignore[misc]
            )


def main() -> None:
    """Parse the command line and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=protocol.ROOT / "runs/safety")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with progress_bars() as progress:
        record_all(arguments.data, arguments.workers, progress)


if __name__ == "__main__":
    main()
