# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge verify`: is this bundle, to the byte, what the owner of a key signed?"""

from __future__ import annotations

from pathlib import Path

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, print_json

_EPILOG = """\b
Example:
  jepa-edge verify pusht.jepa --key ~/keys/bench.pub.pem

\b
Exit codes: 0 signed by that key and unaltered; 2 unsigned, another key, altered, or files added.
"""


@click.command("verify", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="The signer's public key, PEM."
)
@JSON_OPTION
def command(bundle: Path, key: Path, as_json: bool) -> None:
    """Check the signature of BUNDLE and the hash of every file."""
    from jepa_edge.bundle import Bundle
    from jepa_edge.keys import load_public_key
    from jepa_edge.manifest import SIGNATURE_NAME
    from jepa_edge.signing import read_signature

    opened = Bundle.open(bundle, trusted_key=load_public_key(key))
    signature = read_signature(bundle / SIGNATURE_NAME, str(bundle))
    manifest = opened.manifest
    if as_json:
        print_json(
            {
                "key_id": signature.key_id,
                "signed_utc": signature.signed_utc,
                "manifest_sha256": manifest.sha256,
                "files": len(manifest.files),
            }
        )
        return
    click.echo(
        f"{bundle}: signed by key {signature.key_id} at {signature.signed_utc}, "
        f"all {len(manifest.files)} files as they were"
    )
