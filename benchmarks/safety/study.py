# SPDX-License-Identifier: Apache-2.0
"""Run the safety study of PROTOCOL.md on recorded episodes; writes benchmarks/results/safety.json.

    python benchmarks/safety/study.py --data runs/safety

Records what is missing (15 to 20 minutes), exports both robots, then calibrates and evaluates every
robot, variant and seed on two processes. Below --data everything is kept: recordings, encoded
episodes and results; remove its folder `results` to calibrate and evaluate anew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jepa_edge.cli.common import progress_bars
from jepa_edge.export.exporter import export_bundle
from jepa_edge.export.options import ExportOptions
from jepa_edge.progress import Progress
from safety import protocol
from safety.combine import combine
from safety.one import Job, run_job
from safety.record import record_all
from safety.tables import write_results


def export_robots(root: Path, progress: Progress) -> None:
    """Export every robot's bundle once; int8 is made on the first seed's calibration episodes."""
    for robot, checkpoint in protocol.ROBOTS.items():
        bundle = root / robot / f"{robot}.jepa"
        if not bundle.exists():
            export_bundle(
                checkpoint,
                bundle,
                ExportOptions(
                    precisions=protocol.VARIANTS,
                    calibration_data=root / robot / "seed1/calibration",
                    command="benchmarks/safety/study.py",
                ),
                progress,
            )


def run_all(root: Path, jobs: Sequence[Job], workers: int, progress: Progress) -> None:
    """Run the jobs on several processes; results lie beside the data, one file per job."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(partial(run_job, root), jobs), start=1):
            progress("calibrate and evaluate", done, len(jobs))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=protocol.ROOT / "runs/safety")
    parser.add_argument("--out", type=Path, default=protocol.ROOT / "benchmarks/results")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    root: Path = arguments.data
    jobs = [
        Job(robot=robot, variant=variant, seed=seed)
        for seed in protocol.SEEDS
        for robot in protocol.ROBOTS
        for variant in protocol.VARIANTS
    ]
    with progress_bars() as progress:
        record_all(root, arguments.workers, progress)
        export_robots(root, progress)
        started = time.monotonic()
        missing = [job for job in jobs if not job.result(root).exists()]
        run_all(root, missing, arguments.workers, progress)
        seconds = time.monotonic() - started
        results = combine([pickle.loads(job.result(root).read_bytes()) for job in jobs])
    write_results(arguments.out, results, len(missing), seconds)


if __name__ == "__main__":
    main()
