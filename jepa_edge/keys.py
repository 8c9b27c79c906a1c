# SPDX-License-Identifier: Apache-2.0
"""Ed25519 keys as PEM files: made once on the bench, the public half goes to the robots."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as PublicKey

PRIVATE_MARK = b"PRIVATE KEY-----"
_MAX_BYTES = 4096


def generate_key(private_key: Path, public_key: Path) -> str:
    """Write a new key pair as PEM files, the private one readable by its owner only; return the id.

    Raises InputError when a file exists already, would lie inside a bundle, or cannot be written,
    or both are one; nothing is left behind then.
    """
    with cryptography_installed():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    if private_key.resolve() == public_key.resolve():
        raise InputError(f"both keys would go to {private_key}; choose two names")
    for path in (private_key, public_key):
        _outside_bundles(path)
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists already; a key is never overwritten, choose another")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(public_key, public, 0o644)
    try:
        _write_new(private_key, secret, 0o600)
    except InputError:
        public_key.unlink()
        raise
    return key_id(key.public_key())


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a PEM file. Raises InputError when it is no Ed25519 key of ours alone."""
    with cryptography_installed():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    _outside_bundles(path)
    payload = _read_key(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise InputError(f"{path} is open to others (mode {mode:04o}); run `chmod 600 {path}`")
    try:
        key = load_pem_private_key(payload, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path} is no unencrypted PEM private key; make one with `jepa-edge keygen`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds another kind of key, expected Ed25519; see `keygen`")
    return key


def load_public_key(path: Path) -> PublicKey:
    """Read a PEM file. Raises InputError when it is no Ed25519 public key."""
    with cryptography_installed():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    payload = _read_key(path)
    if PRIVATE_MARK in payload:
        raise InputError(f"{path} is a private key, expected the public one; keep it off the robot")
    try:
        key = load_pem_public_key(payload)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is no PEM public key; see `jepa-edge keygen`") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} holds another kind of key, expected Ed25519; see `keygen`")
    return key


def key_id(key: PublicKey) -> str:
    """Return the hex sha256 of the 32 raw bytes of a public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def _read_key(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path} does not exist, or is no file; make keys with `jepa-edge keygen`")
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)


def _write_new(path: Path, payload: bytes, mode: int) -> None:
    """Write a new file, whole or not at all. Raises InputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from error


def _outside_bundles(path: Path) -> None:
    for parent in path.resolve().parents:
        if parent.suffix == ".jepa" or (parent / MANIFEST_NAME).is_file():
            raise InputError(f"{path} lies inside the bundle {parent}; keep keys out of bundles")


@contextlib.contextmanager
def cryptography_installed() -> Iterator[None]:
    """Turn a missing `cryptography` into one line that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"signatures need the package {error.name}; "
            "install it with `pip install 'jepa-edge[sign]'`"
        ) from error
