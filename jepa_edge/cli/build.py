# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge build`: TensorRT engines of a bundle, on the machine that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, print_json, progress_bars, refuse_options
from jepa_edge.errors import BundleError, InputError, printable

if TYPE_CHECKING:
    from jepa_edge.trt.build import BuildReport
    from jepa_edge.trt.dry_run import DryRun

_EPILOG = """\b
Examples:
  jepa-edge build pusht.jepa
  jepa-edge build pusht.jepa --variant int8_fp16,fp16 --workspace-gb 1
  jepa-edge build pusht.jepa --dry-run

\b
Engines lie in NAME.engines beside the bundle, in a folder per machine: they run only with the same
TensorRT, GPU and system, and only while the bundle's graphs are the same. Anything else is refused
with the command that builds them again.

\b
Exit codes: 0 done; 2 no engine could be kept; 130 interrupted. But for 0, old engines stay.
"""

_REAL_ONLY = ("out", "workspace_gb", "dla", "version_compatible", "hardware_compatible", "level")


@click.command("build", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--variant",
    metavar="LIST",
    help="Comma-separated variants to race.  [default: all that this GPU has the precision of]",
)
@click.option(
    "--out", type=BUNDLE, metavar="DIR", help="Folder of engines.  [default: NAME.engines]"
)
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    help="Largest batch of the predictor: what the planner tries at once.  [default: 300]",
)
@click.option(
    "--workspace-gb",
    type=float,
    help="Scratch memory of a layer.  [default: half of what is free, a quarter below 12 GB]",
)
@click.option(
    "--optimization-level",
    "level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="How long TensorRT searches for fast kernels.",
)
@click.option(
    "--dla", type=click.IntRange(min=0), metavar="N", help="Use DLA core N, the GPU for the rest."
)
@click.option(
    "--version-compatible", is_flag=True, help="Run on later TensorRTs of the same major version."
)
@click.option(
    "--hardware-compatible",
    is_flag=True,
    help="Run on other GPUs from Ampere on, slower; no Jetson supports it.",
)
@click.option("--force", is_flag=True, help="Build although the engines there fit.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Parse and compile every graph on this CPU with TensorRT-RTX, and keep nothing.",
)
@JSON_OPTION
def command(
    bundle: Path,
    variant: str | None,
    out: Path | None,
    candidates: int | None,
    workspace_gb: float | None,
    level: int,
    dla: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the engines of BUNDLE here: race its variants, keep the fastest that is right.

    Every candidate is held against the golden outputs and along a rollout before it may win.
    """
    from jepa_edge.bundle import Bundle
    from jepa_edge.planner_config import PlannerConfig
    from jepa_edge.trt.build import BuildOptions, build_engines
    from jepa_edge.trt.dry_run import dry_run as run_dry
    from jepa_edge.trt.workshop import this_machine

    names = () if variant is None else tuple(n.strip() for n in variant.split(",") if n.strip())
    if variant is not None and not names:
        raise InputError("--variant names none, expected names from the manifest, as int8,fp16")
    batch = PlannerConfig().candidates if candidates is None else candidates
    if dry_run:
        refuse_options("--dry-run", {*_REAL_ONLY, "force"})
        with progress_bars() as progress:
            found = run_dry(Bundle.open(bundle), names, candidates=batch, progress=progress)
        if as_json:
            print_json(found)
        else:
            _print_dry_run(found)
        refused = [row.refused for row in found.rows if row.refused]
        if refused:
            raise BundleError(
                f"{bundle}: {len(refused)} of {len(found.rows)} graphs refused, first: {refused[0]}"
            )
        return
    options = BuildOptions(
        variants=names,
        out=out,
        workspace_gb=workspace_gb,
        dla=dla,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        optimization_level=level,
        candidates=batch,
        force=force,
    )
    opened, workshop = Bundle.open(bundle), this_machine()
    try:
        with progress_bars() as progress:
            report = build_engines(opened, options, workshop, progress)
    except OSError as error:
        raise BundleError(
            f"engines cannot be written ({error}); pass --out with a writable folder that has room"
        ) from error
    if as_json:
        print_json(report)
    else:
        _print_report(bundle, report)
    for note in (*report.record.warnings, *report.notes):
        click.echo(f"note: {printable(note)}", err=True)


def _print_dry_run(found: DryRun) -> None:
    from jepa_edge.trt.dry_run import SHOWS

    click.echo(f"{found.bundle}: {found.library}, no GPU used")
    click.echo(
        f"  {'variant':<11} {'graph':<15} {'for':>5} {'layers':>6} {'plan':>9} {'time':>8}  "
        "products and convolutions"
    )
    for row in found.rows:
        what = "REFUSED" if row.refused else _counts(row.precisions)
        target = row.target if row.target[:1].isdigit() else "here"
        click.echo(
            f"  {row.variant:<11} {row.graph:<15} {target:>5} {row.layers:>6} "
            f"{row.plan_bytes / 1e6:>6.2f} MB {row.seconds:>6.1f} s  {what}"
        )
    click.echo(SHOWS)


def _print_report(bundle: Path, report: BuildReport) -> None:
    record = report.record
    machine = record.key.machine
    made = f"built in {record.build_s:.0f} s" if report.built else "was there already and fits"
    lines = [
        f"{bundle} {record.variant}: {machine.library} {machine.version}, {machine.device}",
        f"  {record.reason}",
    ]
    lines += [
        f"  {file:<32} {plan.bytes / 1e6:7.2f} MB  layers: {_counts(plan.layers)}"
        for file, plan in record.plans.items()
    ]
    lines += [
        f"  {latency.graph:<12} batch {latency.batch:<5} p50 {latency.p50_ms:8.2f} ms  "
        f"p99 {latency.p99_ms:8.2f} ms"
        for latency in record.latencies
    ]
    golden = ", ".join(f"{name} {db:.1f} dB" for name, db in record.golden_db.items())
    lines.append(f"  golden outputs: {golden}")
    lines += [  # the slower ones are in the reason
        f"  not kept: {one.variant}: {one.outcome}" for one in record.race if one.total_ms is None
    ]
    lines.append(f"  device memory about {record.device_memory_bytes / 1e6:.0f} MB")
    for line in (*lines, f"{made}: {report.folder}"):
        click.echo(printable(line))  # an old record may be a stranger's


def _counts(precisions: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in precisions.items()) or "none"
