# SPDX-License-Identifier: Apache-2.0
"""Opening the bundle that a node's parameters name."""

from __future__ import annotations

from pathlib import Path

from jepa_edge.bundle import Bundle
from jepa_edge.errors import InputError
from jepa_edge.keys import key_id, load_public_key


def open_bundle(bundle: str, require_signature: str) -> tuple[Bundle, str]:
    """Open and verify a bundle; the second is the id of the key that signed it, or empty.

    bundle, require_signature: the parameters of these names; no signature is asked for where the
    latter is empty. Raises InputError when bundle is empty, BundleError or SignatureError when it
    cannot be opened or that key did not sign it.
    """
    if not bundle:
        raise InputError("parameter bundle is empty, expected the path of a bundle, NAME.jepa")
    trusted = load_public_key(Path(require_signature)) if require_signature else None
    opened = Bundle.open(Path(bundle), trusted_key=trusted)
    return opened, "" if trusted is None else key_id(trusted)
