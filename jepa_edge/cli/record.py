# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge record`: make a recording with a simulator."""

from __future__ import annotations

from pathlib import Path

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, SEED, print_json, progress_bars
from jepa_edge.errors import InputError

_EPILOG = """\b
Examples:
  jepa-edge record sim:pusht --episodes 300 --steps 40 --out data/nominal
  jepa-edge record sim:pusht --episodes 20 --fault stuck@15 --seed 7 --out data/stuck
  jepa-edge record sim:pusht --size 224 --block 5 --out data/full-size

\b
Exit codes: 0 done; 2 bad input, nothing is left behind.
"""


@click.command("record", epilog=_EPILOG)
@click.argument("source")
@click.option("--out", type=BUNDLE, required=True, help="Directory to create.")
@click.option("--episodes", default=100, show_default=True, help="Number of episodes.")
@click.option("--steps", default=40, show_default=True, help="Action blocks per episode.")
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed; different seeds share no randomness.",
)
@click.option("--fault", metavar="KIND@STEP", help="Fault from a step on, e.g. occlusion@15.")
@click.option("--size", default=64, show_default=True, help="Side of the frames in pixels.")
@click.option("--block", default=2, show_default=True, help="Environment steps (0.1 s) per action.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@JSON_OPTION
def command(
    source: str,
    out: Path,
    episodes: int,
    steps: int,
    seed: int,
    fault: str | None,
    size: int,
    block: int,
    workers: int,
    as_json: bool,
) -> None:
    """Record nominal or faulty episodes of SOURCE (sim:pusht) under its scripted policy."""
    from jepa_edge.sim import record_pusht
    from jepa_edge.sources.simulation import parse_fault

    if source != "sim:pusht":
        raise InputError(f"cannot record {source!r}; expected sim:pusht")
    kind, start = (None, 0) if fault is None else parse_fault(fault)
    with progress_bars() as progress:
        record_pusht(
            out,
            episodes,
            steps,
            seed,
            fault=kind,
            fault_start=start,
            size=size,
            block=block,
            workers=workers,
            on_progress=lambda done: progress(f"record {out.name}", done, episodes),
        )
    if as_json:
        print_json({"out": str(out), "episodes": episodes, "steps": steps, "seed": seed})
    else:
        click.echo(f"{out}: {episodes} episodes of {steps} steps")
