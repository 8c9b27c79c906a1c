# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge selftest`: does the calibration hold on this machine?"""

from __future__ import annotations

from pathlib import Path

import click

from jepa_edge.backends import Provider
from jepa_edge.cli.common import (
    BUNDLE,
    JSON_OPTION,
    print_json,
    progress_bars,
    provider_options,
)
from jepa_edge.errors import CalibrationError

_EPILOG = """\b
Example:
  jepa-edge selftest pusht.jepa --variant int8

\b
Needed where the inference runtime or the kind of processor is not the calibration's: until it
passed, every flag says UNKNOWN, not_armed. Exit codes: 0 passed and remembered; 2 refused to arm.
"""


@click.command("selftest", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--variant",
    default="auto",
    show_default=True,
    help="Variant to test; pass the one that the robot runs. auto takes the one that "
    "`jepa-edge run` would here.",
)
@provider_options
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the result is remembered.  [default: $XDG_STATE_HOME/jepa-edge]",
)
@click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="PUB.PEM",
    help="Refuse the bundle unless this key signed it.",
)
@JSON_OPTION
def command(
    bundle: Path,
    variant: str,
    provider: Provider,
    engines: Path | None,
    state: Path | None,
    require_signature: Path | None,
    as_json: bool,
) -> None:
    """Replay the stored episodes of BUNDLE, with and without faults, and arm its monitor here.

    The counts of false alarms, coverage and detection must lie in the intervals that the bench
    set. Thresholds are never changed by it.
    """
    from jepa_edge.bundle import Bundle
    from jepa_edge.keys import load_public_key
    from jepa_edge.monitor import Monitor
    from jepa_edge.selftest import run_selftest
    from jepa_edge.world_model import WorldModel

    trusted = None if require_signature is None else load_public_key(require_signature)
    model = WorldModel.load(
        Bundle.open(bundle, trusted_key=trusted),
        variant,
        calibrated_only=True,
        provider=provider,
        engines=engines,
    )
    with progress_bars() as progress:
        report = run_selftest(Monitor.load(model, state=state), state=state, progress=progress)
    if as_json:
        print_json(report)
    else:
        where = f"{report.binding.runtime} on {report.binding.device_class}"
        click.echo(f"{bundle} {report.variant}: {where}, {report.seconds:.1f} s")
        for difference in report.differences or ("as it was calibrated",):
            click.echo(f"  {difference}")
        click.echo(f"  {'check':<32} {'here':>5} {'bench':>6} {'accepted':>10} {'of':>4}")
        for result in report.results:
            check = result.check
            accepted = f"{check.low} to {check.high}"
            click.echo(
                f"  {check.name:<32} {result.here:>5} {check.bench:>6} {accepted:>10} "
                f"{check.trials:>4}{'' if result.passed else '  OUTSIDE'}"
            )
    if not report.passed:
        raise CalibrationError(
            f"self-test of {bundle} {report.variant} refused to arm this machine: "
            f"{'; '.join(report.failures)}; calibrate on this kind of machine and runtime"
        )
    if not as_json:
        click.echo(f"passed: {report.record}")
