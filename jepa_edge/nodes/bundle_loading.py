# SPDX-License-Identifier: Apache-2.0
"""Opening the bundle that a node's parameters name."""

from __future__ import annotations

from pathlib import Path

from jepa_edge.backends import PROVIDERS
from jepa_edge.bundle import Bundle
from jepa_edge.errors import InputError
from jepa_edge.keys import key_id, load_public_key
from jepa_edge.nodes.parameters import Parameter

PROVIDER = Parameter(
    name="provider",
    default="auto",
    choices=PROVIDERS,
    description="What computes: auto takes a TensorRT engine of `jepa-edge build` that fits "
    "this machine, else cpu; cpu, cuda and tensorrt-ep are ONNX Runtime's; tensorrt is such an "
    "engine, or an error.",
)
ENGINES = Parameter(
    name="engines",
    default="",
    description="Folder of those engines; empty for NAME.engines beside the bundle.",
)


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
