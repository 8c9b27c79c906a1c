# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge sign`: vouch for every byte of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, print_json

_EPILOG = """\b
Example:
  jepa-edge sign pusht.jepa --key ~/keys/bench.pem

\b
The signature lies in the bundle as manifest.sig. Any change to the bundle, such as another
calibration, drops it: sign last.
Exit codes: 0 signed; 2 a damaged bundle, files in it that are not its own, or a bad key.
"""


@click.command("sign", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    help="Private key, PEM, from `jepa-edge keygen`.",
)
@JSON_OPTION
def command(bundle: Path, key: Path, as_json: bool) -> None:
    """Verify BUNDLE and sign its manifest, which lists the sha256 of every file."""
    from jepa_edge.signing import sign_bundle

    signature = sign_bundle(bundle, key)
    if as_json:
        print_json(signature)
        return
    click.echo(f"{bundle}: signed by key {signature.key_id} at {signature.signed_utc}")
