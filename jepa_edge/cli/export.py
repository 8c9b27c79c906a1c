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
  config.json + *.safetensors         transformers: V-JEPA 2, I-JEPA; shards too
  *.pt, *.pth.tar, *.ckpt             V-JEPA 2, 2.1, 2-AC, I-JEPA, DINO-WM, JEPA-WM
Pickled modules (*_object.ckpt) are refused; the message says how to convert them.

\b
Exit codes: 0 done; 2 bad input or a budget that cannot be met, the old bundle is untouched.
"""


@click.command("export", epilog=_EPILOG)
@click.argument("checkpoint", type=BUNDLE)
@click.option("--out", type=BUNDLE, required=True, metavar="NAME.jepa", help="Bundle to write.")
@click.option(
    "--precision",
    metavar="LIST",
    help="Comma-separated: fp32 (always included), fp16, int8; int8w and int4w store weights in 8 "
    "and 4 bits and compute in float; for TensorRT int8_fp16, and through NVIDIA Model-Optimizer "
    "fp8, int4, nvfp4.  [default: fp32,int8, or fp32 without --calibration-data]",
)
@click.option(
    "--calibration-data",
    type=BUNDLE,
    metavar="DIR",
    help="Recording: some episodes set the int8 scales, others check every variant. Without one, "
    "drawn pictures check whether the graphs are right, and there is no int8.",
)
@click.option(
    "--family", metavar="NAME", help="Family of the checkpoint.  [default: told by its tensors]"
)
@click.option(
    "--no-fp32", is_flag=True, help="Leave fp32 out of the bundle: for models of gigabytes."
)
@click.option(
    "--gpu-predictor",
    is_flag=True,
    help="Store V-JEPA 2-AC's predictor for planning on a GPU without TensorRT too: 1.2 GB.",
)
@click.option(
    "--max-latent-error",
    default=0.1,
    show_default=True,
    help="Budget of every variant: RMS latent error over RMS latent spread; 0.1 is 20 dB.",
)
@click.option(
    "--max-rollout-error",
    type=float,
    help="Budget of every variant after each of up to 5 steps.  [default: 3 times "
    "--max-latent-error]",
)
@click.option(
    "--min-rank-correlation",
    type=float,
    help="Least rank correlation of planner costs with torch's.  [default: 0.857 for a "
    "--max-latent-error of 0.1, from its rollout error]",
)
@click.option(
    "--calibration-frames", default=256, show_default=True, help="Frames that set the int8 scales."
)
@click.option(
    "--spec",
    type=BUNDLE,
    metavar="FILE",
    help="JSON or TOML: model, observation, action and state of a checkpoint that does not state "
    "them (docs/families.md).",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of every random choice."
)
@JSON_OPTION
def command(
    checkpoint: Path,
    out: Path,
    precision: str | None,
    calibration_data: Path | None,
    family: str | None,
    no_fp32: bool,
    gpu_predictor: bool,
    max_latent_error: float,
    max_rollout_error: float | None,
    min_rank_correlation: float | None,
    calibration_frames: int,
    spec: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Export CHECKPOINT to ONNX, quantize it, check every variant against torch, write a bundle."""
    with needs_extra("export"):
        from jepa_edge.export.exporter import export_bundle
        from jepa_edge.export.options import ExportOptions

    if precision is None:
        precision = "fp32" if calibration_data is None else "fp32,int8"
    options = ExportOptions(
        precisions=tuple(name.strip() for name in precision.split(",") if name.strip()),
        calibration_data=calibration_data,
        family=family,
        keep_fp32=not no_fp32,
        gpu_predictor=gpu_predictor,
        max_latent_error=max_latent_error,
        max_rollout_error=max_rollout_error,
        min_rank_correlation=min_rank_correlation,
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
        for part in variant.graphs:
            click.echo(
                f"  {variant.precision:<10}{part.part:<15} {part.size_bytes / 1e6:7.2f} MB  "
                f"{'simulated ' if part.latency_ms is None else f'{part.latency_ms:7.2f} ms'}  "
                f"SQNR {part.sqnr_db:6.1f} dB  centered cosine {part.centered_cosine:.5f}"
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
