# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge evaluate`: what a calibrated monitor sees, what it misses, how often it cries wolf."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jepa_edge.backends import Provider
from jepa_edge.cli.bag_options import (
    bag_options,
    read_bag_options,
    refuse_for_recording,
    tell_left_out,
)
from jepa_edge.cli.common import (
    BUNDLE,
    JSON_OPTION,
    SEED,
    needs_extra,
    print_json,
    progress_bars,
    provider_options,
)

if TYPE_CHECKING:
    from jepa_edge.calibration.evaluation import EvaluationReport

_EPILOG = """\b
Examples:
  jepa-edge evaluate pusht.jepa --nominal data/test --faults all --out evaluation
  jepa-edge evaluate pusht.jepa --nominal data/test --faults occlusion@15,blur:0.1@15 --json
  jepa-edge evaluate arm.jepa --nominal data/test --faults gripper=data/gripper@20
  jepa-edge evaluate reacher.jepa --nominal data/test --faults sim:reacher \\
      --baselines --calibration-data data/nominal --cache cache --out evaluation

\b
Faults, separated by commas or by repeating --faults:
  all                          every fault of the library that a recording can show
  NAME[:SEVERITY][@ONSET]      one of them, e.g. blur:0.1@15
  NAME=DIR[@ONSET]             recorded runs; ONSET is the first frame that shows the fault
  sim:ROBOT                    every fault of the library, simulated; sim:ROBOT/NAME for one

\b
Exit codes: 0 done, whatever was found; 2 bad input, or a bundle without calibration.
"""


@click.command("evaluate", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--nominal",
    type=BUNDLE,
    required=True,
    metavar="DIR|BAG",
    help="Nominal episodes that the calibration has not seen: a recording, or bags.",
)
@click.option("--faults", multiple=True, required=True, metavar="LIST", help="See below.")
@click.option("--variant", default="auto", show_default=True, help="Calibrated variant; auto.")
@provider_options
@click.option(
    "--onset",
    type=click.IntRange(min=0),
    help="Step of faults that name none.  [default: 3/8 of a calibrated episode]",
)
@click.option(
    "--fault-episodes", default=40, show_default=True, help="Episodes per injected fault."
)
@click.option("--baselines", is_flag=True, help="Compare with published detectors.")
@click.option(
    "--calibration-data",
    type=BUNDLE,
    metavar="DIR",
    help="The calibration's own recording, which baselines need.",
)
@click.option("--out", type=BUNDLE, metavar="DIR", help="Write evaluation.html and .json there.")
@click.option("--cache", type=BUNDLE, metavar="DIR", help="Keep encoded episodes for next time.")
@click.option("--samples", default=50, show_default=True, help="Futures per window, 32 or more.")
@click.option("--workers", default=2, show_default=True, help="Threads that encode and score.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of faults and samples.")
@bag_options
@JSON_OPTION
def command(
    bundle: Path,
    nominal: Path,
    faults: tuple[str, ...],
    variant: str,
    provider: Provider,
    engines: Path | None,
    onset: int | None,
    fault_episodes: int,
    baselines: bool,
    calibration_data: Path | None,
    out: Path | None,
    cache: Path | None,
    samples: int,
    workers: int,
    seed: int,
    as_json: bool,
    **bag: Any,
) -> None:
    """Measure what the calibrated monitor of BUNDLE detects, and what it does not."""
    if baselines != (calibration_data is not None):
        raise click.UsageError("--baselines and --calibration-data DIR go together; pass both")
    if not any("=" in fault for fault in faults):  # NAME=DIR may name bags
        refuse_for_recording(nominal)
    with needs_extra("calibration"):
        from jepa_edge.calibration.evaluation import EvaluateOptions, evaluate
        from jepa_edge.calibration.evaluation.files import write_files
    from jepa_edge.bags.recording import open_recording
    from jepa_edge.channels import LONG
    from jepa_edge.monitor import Monitor
    from jepa_edge.world_model import WorldModel

    options = EvaluateOptions(
        onset=onset,
        fault_episodes=fault_episodes,
        calibration_data=calibration_data,
        samples=samples,
        cache=cache,
        seed=seed,
        workers=workers,
        bag=read_bag_options(**bag),
        command=shlex.join(["jepa-edge", *sys.argv[1:]]),
    )
    model = WorldModel.load(
        bundle, variant, calibrated_only=True, provider=provider, engines=engines
    )
    monitor = Monitor.load(model)
    horizon = max(monitor.calibration.horizon, LONG)
    with progress_bars() as progress:
        recording = open_recording(
            nominal,
            model.manifest,
            options.bag,
            horizon=horizon,
            progress=lambda done, total: progress(f"read {nominal.name}", done, total),
        )
        report = evaluate(model, monitor, recording, faults, options, progress)
    tell_left_out(recording)
    if out is not None:
        with needs_extra("calibration"):
            write_files(out, report)
    for warning in report.warnings:
        click.echo(f"note: {warning}", err=True)
    if as_json:
        print_json(report)
        return
    _print(report)
    if out is not None:
        click.echo(f"report: {out / 'evaluation.html'}")


def _print(report: EvaluationReport) -> None:
    """The summary on a terminal."""
    alarms = report.alarms
    said = alarms.false_alarms
    promise = "no share guaranteed" if report.bounds_loss else f"alpha {report.caution_alpha:g}"
    click.echo(
        f"{report.provenance.bundle} {report.provenance.variant}: {said.count} of {said.trials} "
        f"nominal episodes alarm, 95 % interval {said.low:.3f} to {said.high:.3f}, "
        f"{promise}; {alarms.alarms_per_hour.value:.1f} alarms per hour"
    )
    width = max(len(fault.fault) for fault in alarms.faults)
    for fault in alarms.faults:
        seen = fault.detected
        delay = "" if fault.delay_median is None else f", after {fault.delay_median:.0f} frames"
        note = "  NOT SHOWN TO BE SEEN" if fault.fault in report.undetected else ""
        click.echo(f"  {fault.fault:<{width}}  {seen.count} of {seen.trials}{delay}{note}")
    for name, why in report.skipped.items():
        click.echo(f"  {name:<{width}}  not run: {why}")
    own = report.accuracy
    click.echo(
        f"  balanced accuracy {own.balanced.value:.3f}, time-weighted "
        f"{own.time_weighted.value:.3f}, AUROC {report.ranking.auroc:.3f}"
    )
    for row in report.baselines:
        gain = row.gain_balanced
        click.echo(
            f"  {row.name}: balanced accuracy {row.accuracy.balanced.value:.3f}; the monitor's "
            f"gain {gain.value:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
        )
