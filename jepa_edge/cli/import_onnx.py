# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge import-onnx`: your own model's ONNX files become a bundle."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, SEED, needs_extra, print_json, progress_bars
from jepa_edge.errors import InputError

_EPILOG = """\b
Examples:
  jepa-edge import-onnx --encoder enc.onnx --predictor pred.onnx --write-spec model.toml
  jepa-edge import-onnx --encoder enc.onnx --predictor pred.onnx --spec model.toml \\
      --out mine.jepa --calibration-data data/nominal

\b
Names and shapes are read from the graphs. A file that fits is kept bit for bit; pixels as float
(B, 3, H, W), other names, a latent without a token axis are bridged, and every change is told.
docs/import_onnx.md shows what a model must take and give.

\b
Exit codes: 0 done; 2 a graph or the spec does not fit, the old bundle is untouched.
"""


@click.command("import-onnx", epilog=_EPILOG)
@click.option("--encoder", type=BUNDLE, required=True, metavar="FILE", help="Frames to latents.")
@click.option(
    "--predictor", type=BUNDLE, metavar="FILE", help="Latents and actions to the next latent."
)
@click.option(
    "--mask-predictor", type=BUNDLE, metavar="FILE", help="Visible tokens to hidden ones."
)
@click.option(
    "--masks", type=BUNDLE, metavar="FILE", help="Safetensors: visible (K, V) and hidden (K, M)."
)
@click.option("--spec", type=BUNDLE, metavar="FILE", help="TOML: what the graphs do not tell.")
@click.option("--out", type=BUNDLE, metavar="NAME.jepa", help="Bundle to write.")
@click.option(
    "--calibration-data",
    type=BUNDLE,
    metavar="DIR",
    help="Recording for the golden inputs; without it pictures are drawn.",
)
@click.option(
    "--write-spec", type=BUNDLE, metavar="FILE", help="Write a spec to fill in, and nothing else."
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of every random choice."
)
@JSON_OPTION
def command(
    encoder: Path,
    predictor: Path | None,
    mask_predictor: Path | None,
    masks: Path | None,
    spec: Path | None,
    out: Path | None,
    calibration_data: Path | None,
    write_spec: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Make a bundle of a model's own ONNX files, checked against ONNX Runtime on those files."""
    with needs_extra("export"):
        from jepa_edge.export.import_onnx import ImportOptions, import_onnx
        from jepa_edge.export.import_onnx_file import read_graph
        from jepa_edge.export.import_onnx_template import template

    if write_spec is not None:
        given = {"encoder": encoder, "predictor": predictor, "mask_predictor": mask_predictor}
        files = [read_graph(path, part) for part, path in given.items() if path is not None]
        if write_spec.exists():
            raise InputError(f"{write_spec} exists already; remove it or choose another name")
        try:
            write_spec.write_text(template(files), encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot write {write_spec} ({error.strerror}); choose a folder that is there"
            ) from error
        click.echo(f"{write_spec}: fill in what says FILL IN, then pass it with --spec")
        return
    if spec is None or out is None:
        raise InputError(
            "an import needs --spec and --out; --write-spec model.toml writes a spec to fill in"
        )
    options = ImportOptions(
        encoder=encoder,
        spec=spec,
        predictor=predictor,
        mask_predictor=mask_predictor,
        masks=masks,
        calibration_data=calibration_data,
        seed=seed,
        command=shlex.join(["jepa-edge", *sys.argv[1:]]),
    )
    with progress_bars() as progress:
        report = import_onnx(out, options, progress)
    if as_json:
        print_json(report)
        return
    click.echo(f"{out}: {report.family}, golden inputs from {report.golden_from}")
    for part in report.parts:
        click.echo(
            f"  {part.part:<15}{part.size_bytes / 1e6:8.2f} MB  {part.latency_ms:7.2f} ms  "
            f"{part.sqnr_db:5.1f} dB to {part.source}"
        )
        for ours, theirs in part.mapping.items():
            click.echo(f"    {ours} = {theirs}")
        for change in part.changes:
            click.echo(f"    changed: {change}")
        if not part.changes:
            click.echo("    kept bit for bit")
    for warning in report.warnings:
        click.echo(f"note: {warning}", err=True)
