# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge labels`: give a bundle a text head and the labels that it shall know."""

from __future__ import annotations

from pathlib import Path

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, needs_extra, print_json

_EPILOG = """\b
Examples:
  jepa-edge labels vjepa2.jepa --head head.onnx --bank bank.safetensors --out labelled.jepa
  jepa-edge labels vjepa2.jepa --head head.safetensors --bank bank.safetensors \\
      --labels labels.txt --out labelled.jepa

\b
The head maps `latents` (B, N, D) to `embedding` (B, E). The bank holds `embeddings` (L, E),
computed once by the text encoder that the head was trained for. Calibrations stay valid; a
signature does not: sign again.
Exit codes: 0 written; 2 parts that do not fit together.
"""


@click.command("labels", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option("--head", type=BUNDLE, required=True, help="ONNX, or a TextPredictor's safetensors.")
@click.option("--bank", type=BUNDLE, required=True, help="Safetensors with `embeddings` (L, E).")
@click.option(
    "--labels", type=BUNDLE, help="One label per line.  [default: metadata `labels` of the bank]"
)
@click.option("--temperature", default=0.01, show_default=True, help="Divides similarities.")
@click.option("--out", type=BUNDLE, required=True, help="Bundle to write; may be BUNDLE itself.")
@JSON_OPTION
def command(
    bundle: Path,
    head: Path,
    bank: Path,
    labels: Path | None,
    temperature: float,
    out: Path,
    as_json: bool,
) -> None:
    """Attach a text head and a bank of labels to BUNDLE."""
    with needs_extra("export"):
        from jepa_edge.export.text import attach_text

    attached = attach_text(
        bundle, out, head=head, bank=bank, labels=labels, temperature=temperature
    )
    if as_json:
        print_json(attached)
        return
    click.echo(
        f"{out}: {attached.labels} labels, embeddings of {attached.dim} numbers, head "
        f"{1e-6 * attached.head_bytes:.2f} MB"
    )
