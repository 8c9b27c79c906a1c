# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge calibrate`: recorded runs become a latent variable and thresholds."""

from __future__ import annotations

from pathlib import Path

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, SEED, needs_extra, print_json, progress_bars

_EPILOG = """\b
Examples:
  jepa-edge calibrate pusht.jepa --data data/nominal --alpha 0.05
  jepa-edge calibrate pusht.jepa --data data/nominal --variant int8 --json

\b
Whole episodes are split: some fit the heads, others set the thresholds, the rest is the report's.
alpha 0.05 means: at most 5 % of nominal episodes raise CAUTION or more.
Exit codes: 0 done; 2 bad input, or too few episodes for alpha; the bundle is untouched.
"""


@click.command("calibrate", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--data", type=BUNDLE, required=True, metavar="DIR", help="Recording of nominal episodes."
)
@click.option(
    "--alpha", default=0.05, show_default=True, help="Share of nominal episodes that may alarm."
)
@click.option(
    "--variant",
    default="auto",
    show_default=True,
    help="Variant to calibrate; auto takes the fastest here, all takes every one.",
)
@click.option("--horizon", default=5, show_default=True, help="Steps ahead to calibrate.")
@click.option("--samples", default=32, show_default=True, help="Futures per window in the report.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of split and fit.")
@JSON_OPTION
def command(
    bundle: Path,
    data: Path,
    alpha: float,
    variant: str,
    horizon: int,
    samples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Fit the latent variable of BUNDLE and set its thresholds on recorded nominal runs."""
    with needs_extra("calibration"):
        from jepa_edge.calibration.calibrate import calibrate_bundle
        from jepa_edge.calibration.options import CalibrateOptions

    options = CalibrateOptions(
        alpha=alpha, variant=variant, horizon=horizon, samples=samples, seed=seed
    )
    with progress_bars() as progress:
        report = calibrate_bundle(bundle, data, options, progress)
    if as_json:
        print_json(report)
        return
    for name, result in report.variants.items():
        calibration, alarms = result.calibration, result.false_alarms
        inside = sum(coverage.accepted for coverage in result.coverage)
        click.echo(
            f"{bundle} {name}: {calibration.thresholds.episodes} conformal episodes, "
            f"CAUTION above {calibration.thresholds.caution:.3f}, "
            f"REJECT above {calibration.thresholds.reject:.3f}"
        )
        click.echo(
            f"  held out: {alarms.count} of {alarms.trials} nominal episodes alarm; coverage "
            f"inside its 99 % interval at {inside} of {len(result.coverage)} alphas and horizons; "
            f"spread against error: Spearman {result.spread.overall.value:.2f}"
        )
        for warning in result.warnings:
            click.echo(f"note: {warning}", err=True)
        click.echo(f"report: {bundle / 'reports' / f'calibration_{name}.html'}")
