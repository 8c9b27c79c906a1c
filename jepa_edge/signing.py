# SPDX-License-Identifier: Apache-2.0
"""Ed25519 signatures of bundles: who vouches for every byte of one. See docs/provenance.md.

Signed is the manifest, which lists the sha256 of every other file. The library `cryptography` is
needed for all of this, and imported only when it is used.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from jepa_edge.atomic import write_atomically
from jepa_edge.errors import BundleError
from jepa_edge.json_text import json_bytes
from jepa_edge.keys import PRIVATE_MARK, cryptography_installed, key_id, load_private_key
from jepa_edge.manifest import MANIFEST_NAME, SIGNATURE_NAME, Sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as PublicKey

_CONTEXT = b"jepa-edge bundle signature 1\n"
"""What is signed begins with this: no signature made for another purpose passes for one of ours."""
_MAX_BYTES = 4096


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of manifest.sig. key_id: sha256 of the raw public key. signed_utc: the signer's clock.

    signature: base64 of the 64 bytes over `signed_message`, which holds every other field.
    """

    schema_version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key_id: Sha256
    signed_utc: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\Z")]
    signature: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{86}==\Z")]


def signed_message(manifest: bytes, key_id: str, signed_utc: str) -> bytes:
    """Return the bytes that are signed: context, key, time, then all of manifest.json."""
    return _CONTEXT + f"{key_id}\n{signed_utc}\n".encode() + manifest


def read_signature(path: Path, where: str) -> Signature:
    """Read manifest.sig. Raises BundleError unless it is there, and is what we would write."""
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"{where} is not signed: it has no {SIGNATURE_NAME}; sign it on the bench with "
            "`jepa-edge sign NAME.jepa --key key.pem`"
        )
    with path.open("rb") as file:
        payload = file.read(_MAX_BYTES + 1)
    try:
        signature = msgspec.json.decode(payload, type=Signature)
        raw = base64.b64decode(signature.signature, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
        raise BundleError(f"{path} is damaged ({error}); copy the bundle again") from error
    exact = msgspec.structs.replace(signature, signature=base64.b64encode(raw).decode())
    if json_bytes(exact) != payload:
        raise BundleError(f"{path} was altered after it was written; copy the bundle again")
    return signature


def check_signature(root: Path, manifest: bytes, trusted: PublicKey) -> Signature:
    """Check root's manifest.sig over the bytes of its manifest.json, and return what it says.

    Raises BundleError when it is unsigned, signed by another key, or either file was altered.
    """
    with cryptography_installed():
        from cryptography.exceptions import InvalidSignature
    signature = read_signature(root / SIGNATURE_NAME, str(root))
    expected = key_id(trusted)
    if signature.key_id != expected:
        raise BundleError(
            f"{root} is signed by key {signature.key_id[:12]}, trusted is {expected[:12]}; "
            "pass the signer's public key, or do not use this bundle"
        )
    message = signed_message(manifest, signature.key_id, signature.signed_utc)
    try:
        trusted.verify(base64.b64decode(signature.signature), message)
    except InvalidSignature as error:
        raise BundleError(
            f"{root}: the signature of key {expected[:12]} does not fit {MANIFEST_NAME}; one of "
            "the two was altered: copy the bundle again, or do not use it"
        ) from error
    return signature


def check_contents(root: Path, listed: set[str]) -> None:
    """Raise BundleError unless root holds regular files only, and only those that are listed.

    Folders are those of listed files.
    """
    folders = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and name in folders:
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BundleError(f"{root}: {name!r} is a link or no file at all; refused")
        if name not in listed:
            raise BundleError(
                f"{root} holds {name!r}, which nobody signed; remove it, or do not use this bundle"
            )


def sign_bundle(path: Path, private_key: Path) -> Signature:
    """Verify a bundle, sign its manifest, and put manifest.sig into it; an older one is replaced.

    Raises BundleError when the bundle is damaged or holds files that it does not list, InputError
    when the key cannot be used: unreadable, open to others, or inside a bundle.
    """
    from jepa_edge.bundle import Bundle  # it needs us to open with a trusted key

    key = load_private_key(private_key)
    bundle = Bundle.open(path)
    check_contents(bundle.path, {MANIFEST_NAME, SIGNATURE_NAME, *bundle.manifest.files})
    for name in bundle.manifest.files:
        if PRIVATE_MARK in (bundle.path / name).read_bytes():
            raise BundleError(
                f"{bundle.path}: {name!r} holds a private key; take it out of the bundle, and make "
                "a new key with `jepa-edge keygen`: this one may have been copied"
            )
    manifest = (bundle.path / MANIFEST_NAME).read_bytes()
    identity = key_id(key.public_key())
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    raw = key.sign(signed_message(manifest, identity, now))
    signature = Signature(key_id=identity, signed_utc=now, signature=base64.b64encode(raw).decode())
    root = bundle.path.resolve()
    # Not within: a crash must leave nothing there that nobody signed.
    write_atomically(root / SIGNATURE_NAME, json_bytes(signature), temporary_in=root.parent)
    check_signature(bundle.path, manifest, key.public_key())
    return signature
