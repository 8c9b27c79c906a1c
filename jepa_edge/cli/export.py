# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, SEED, needs_extra, print_json, progress_bars

_EPILOG = """\b
Examples:
  jepa-edge export examples/pusht/model --out pusht.jepa --calibration-data data/nominal
  jepa-edge export lewm-pusht/ --out lewm.jepa --precision fp32,fp16,int8 \\
      --calibration-data data/nominal --max-latent-error 0.05

\b
CHECKPOINT is a directory or file in one of these layouts:
  config.json + model.safetensors     ours
  config.json + weights.pt            as LeWorldModel is released
  *_weight.ckpt, *.safetensors        a bare state dict
Pickled modules (*_object.ckpt) are refused; the message says how to convert them.

\b
Exit codes: 0 done; 2 bad input or a budget that cannot be met, the old bundle is untouched.
"""


@click.command("export", epilog=_EPILOG)
@click.argument("checkpoint", type=BUNDLE)
@click.option("--out", type=BUNDLE, required=True, metavar="NAME.jepa", help="Bundle to write.")
@click.option(
    "--precision",
    default="fp32,int8",
    show_default=True,
    metavar="LIST",
    help="Comma-separated: fp32 (always included), fp16, int8.",
)
@click.option(
    "--calibration-data",
    type=BUNDLE,
    required=True,
    metavar="DIR",
    help="Recording: some episodes set the int8 scales, others check every variant.",
)
@click.option(
    "--max-latent-error",
    default=0.1,
    show_default=True,
    help="Budget of every variant: RMS latent error over RMS latent spread; 0.1 is 20 dB.",
)
@click.option(
    "--calibration-frames", default=256, show_default=True, help="Frames that set the int8 scales."
)
@click.option(
    "--spec",
    type=BUNDLE,
    metavar="FILE",
    help="JSON or TOML: observation and action of a checkpoint that does not state them.",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of every random choice."
)
@JSON_OPTION
def command(
    checkpoint: Path,
    out: Path,
    precision: str,
    calibration_data: Path,
    max_latent_error: float,
    calibration_frames: int,
    spec: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Export CHECKPOINT to ONNX, quantize it, check every variant against torch, write a bundle."""
    with needs_extra("export"):
        from jepa_edge.export.exporter import export_bundle
        from jepa_edge.export.options import ExportOptions

    options = ExportOptions(
        precisions=tuple(name.strip() for name in precision.split(",") if name.strip()),
        calibration_data=calibration_data,
        max_latent_error=max_latent_error,
        calibration_frames=calibration_frames,
        spec=spec,
        seed=seed,
        command=shlex.join(["jepa-edge", *sys.argv[1:]]),
    )
    with progress_bars() as progress:
        report = export_bundle(checkpoint, out, options, progress)
    if as_json:
        print_json(report)
        return
    click.echo(f"{out}: {report.family}")
    for variant in report.variants:
        for part in (variant.encoder, variant.predictor):
            click.echo(
                f"  {variant.precision:<6}{part.part:<10} {part.size_bytes / 1e6:7.2f} MB  "
                f"{part.latency_ms:7.2f} ms  SQNR {part.sqnr_db:6.1f} dB  "
                f"centered cosine {part.centered_cosine:.5f}"
            )
    for engine in report.engine:
        click.echo(
            f"  {engine.precision:<9} rollout engine              SQNR {engine.sqnr_db:6.1f} dB  "
            f"centered cosine {engine.centered_cosine:.5f}"
            f"{'' if engine.fits else '  not offered'}"
        )
    for warning in report.warnings:
        click.echo(f"note: {warning}", err=True)
    click.echo(f"report: {out / 'reports' / 'export.html'}")
