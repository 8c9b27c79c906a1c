# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge keygen`: an Ed25519 key pair to sign bundles with."""

from __future__ import annotations

from pathlib import Path

import click

from jepa_edge.cli.common import JSON_OPTION, print_json

_EPILOG = """\b
Example:
  jepa-edge keygen --key ~/keys/bench.pem --public ~/keys/bench.pub.pem

\b
The private key stays on the bench, readable by you alone; robots get the public one.
Exit codes: 0 written; 2 a file exists already: keys are never overwritten.
"""


@click.command("keygen", epilog=_EPILOG)
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="Where the private key goes."
)
@click.option(
    "--public", required=True, type=click.Path(path_type=Path), help="Where the public key goes."
)
@JSON_OPTION
def command(key: Path, public: Path, as_json: bool) -> None:
    """Make a key pair to sign bundles with."""
    from jepa_edge.keys import generate_key

    identity = generate_key(key, public)
    if as_json:
        print_json({"key_id": identity, "private": str(key), "public": str(public)})
        return
    click.echo(f"key {identity}")
    click.echo(f"  private  {key}, mode 600: keep it on the bench, out of bundles and repositories")
    click.echo(f"  public   {public}: for `jepa-edge verify` and robots")
