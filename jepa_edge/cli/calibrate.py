# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge calibrate`: recorded runs become a latent variable and thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

_EPILOG = """\b
Examples:
  jepa-edge calibrate pusht.jepa --data data/nominal --alpha 0.05
  jepa-edge calibrate pusht.jepa --data data/nominal --variant int8 --json
  jepa-edge calibrate pusht.jepa --data bags/nominal --image-topic /camera/image_raw
  jepa-edge calibrate pusht.jepa --data data/nominal --max-risk 0.1 --risk-data data/incidents

\b
Whole episodes are split: some fit the heads, others set the thresholds, the rest is the report's.
alpha 0.05 means: at most 5 % of nominal episodes pass the CAUTION threshold.
--max-risk R --risk-data DIR: CAUTION is lowered until the mean loss that you recorded (array `loss`
of each episode: what acting on the model costs at each frame) is at most R (Learn then Test);
the share of nominal episodes that alarm is then measured, not guaranteed.
Exit codes: 0 done; 2 bad input, or too few episodes for alpha; the bundle is untouched.
"""


@click.command("calibrate", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--data",
    type=BUNDLE,
    required=True,
    metavar="DIR|BAG",
    help="Recording of nominal episodes, a bag, or a directory of bags (docs/bags.md).",
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
@provider_options
@click.option("--horizon", default=5, show_default=True, help="Steps ahead to calibrate.")
@click.option(
    "--conformal", default=0, help="Episodes that set thresholds; 0 takes 35 % or what alpha needs."
)
@click.option(
    "--groups", default=3, show_default=True, help="Groups by action size with own radii; 0: none."
)
@click.option("--max-risk", type=float, help="Mean loss per episode that CAUTION must keep to.")
@click.option("--risk-delta", default=0.05, show_default=True, help="1 - confidence in --max-risk.")
@click.option("--risk-data", type=BUNDLE, metavar="DIR", help="Runs with a recorded `loss`.")
@click.option(
    "--selftest-episodes",
    default=24,
    show_default=True,
    help="Held-out episodes stored in the bundle for `jepa-edge selftest`; 0: none.",
)
@click.option("--samples", default=32, show_default=True, help="Futures per window in the report.")
@click.option("--cache", type=BUNDLE, metavar="DIR", help="Keep encoded episodes for next time.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of split and fit.")
@bag_options
@JSON_OPTION
def command(
    bundle: Path,
    data: Path,
    alpha: float,
    variant: str,
    provider: Provider,
    engines: Path | None,
    horizon: int,
    conformal: int,
    groups: int,
    max_risk: float | None,
    risk_delta: float,
    risk_data: Path | None,
    selftest_episodes: int,
    samples: int,
    cache: Path | None,
    seed: int,
    as_json: bool,
    **bag: Any,
) -> None:
    """Fit the latent variable of BUNDLE and set its thresholds on recorded nominal runs."""
    refuse_for_recording(data)
    with needs_extra("calibration"):
        from jepa_edge.calibration.calibrate import calibrate_bundle
        from jepa_edge.calibration.options import CalibrateOptions
    from jepa_edge.bags.recording import open_recording
    from jepa_edge.bundle import Bundle

    options = CalibrateOptions(
        alpha=alpha,
        variant=variant,
        provider=provider,
        engines=engines,
        horizon=horizon,
        conformal=conformal,
        groups=groups,
        max_risk=max_risk,
        risk_delta=risk_delta,
        selftest_episodes=selftest_episodes,
        samples=samples,
        seed=seed,
        cache=cache,
    )
    with progress_bars() as progress:
        recording = open_recording(
            data,
            Bundle.open(bundle).manifest,
            read_bag_options(**bag),
            horizon=options.fitted_horizon,
            progress=lambda done, total: progress(f"read {data.name}", done, total),
        )
        report = calibrate_bundle(bundle, recording, options, progress, risk_data=risk_data)
    tell_left_out(recording)
    if as_json:
        print_json(report)
        return
    for name, result in report.variants.items():
        calibration, alarms = result.calibration, result.false_alarms
        click.echo(
            f"{bundle} {name}: {calibration.thresholds.episodes} conformal episodes, "
            f"CAUTION above {calibration.thresholds.caution:.3f}, "
            f"REJECT above {calibration.thresholds.reject:.3f}"
        )
        told = f"  held out: {alarms.count} of {alarms.trials} nominal episodes alarm"
        if result.spread is not None:
            inside = sum(coverage.accepted for coverage in result.coverage)
            told += (
                f"; coverage inside its 99 % interval at {inside} of {len(result.coverage)} alphas "
                f"and horizons; spread against error: Spearman {result.spread.overall.value:.2f}"
            )
        click.echo(told)
        if calibration.risk is not None:
            risk = calibration.risk
            click.echo(
                f"  loss at most {risk.max_risk:g} with confidence {1 - risk.delta:g}: CAUTION no "
                f"higher than {risk.threshold:.3f} (mean loss {risk.risk:.4f} in {risk.episodes} "
                "episodes)"
            )
        for warning in result.warnings:
            click.echo(f"note: {warning}", err=True)
        click.echo(f"report: {bundle / 'reports' / f'calibration_{name}.html'}")
