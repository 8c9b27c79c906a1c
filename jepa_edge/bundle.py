# SPDX-License-Identifier: Apache-2.0
"""A bundle on disk: verified on opening, replaced as a whole on writing."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jepa_edge.atomic import staged_directory
from jepa_edge.errors import BundleError
from jepa_edge.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    Manifest,
    canonical_bytes,
    parse_manifest,
)
from jepa_edge.signing import check_contents, check_signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as PublicKey

logger = logging.getLogger(__name__)

SUFFIX = ".jepa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened bundle whose files were all checked against their sha256.

    trusted: whether it was opened with a trusted key, so that all of it is signed.
    """

    path: Path
    manifest: Manifest
    trusted: bool = False

    @classmethod
    def open(cls, path: Path | str, *, trusted_key: PublicKey | None = None) -> Bundle:
        """Read and verify a bundle.

        trusted_key: from `jepa_edge.signing.load_public_key`; the bundle must carry its signature,
        and then holds regular files only, and no file or folder that it does not list.
        Raises BundleError when it is missing, renamed, truncated, altered, or reaches outside, or
        is not signed by the trusted key.
        """
        path = Path(path)
        check_name(path)
        if not path.is_dir():
            raise BundleError(f"{path} does not exist, or is no directory; check the path")
        manifest_path = path / MANIFEST_NAME
        if manifest_path.is_symlink():
            raise BundleError(f"{manifest_path} is a link; copy the bundle again as regular files")
        if not manifest_path.is_file():
            raise BundleError(
                f"{path} is not a bundle: it has no {MANIFEST_NAME}; "
                "make one with `jepa-edge export CHECKPOINT --out NAME.jepa`"
            )
        payload = manifest_path.read_bytes()
        if trusted_key is not None:
            check_signature(path, payload, trusted_key)
        manifest = parse_manifest(payload, str(manifest_path))
        if trusted_key is not None:
            check_contents(path, {MANIFEST_NAME, SIGNATURE_NAME, *manifest.files})
        for name, expected in manifest.files.items():
            _verify(path, name, expected)
        return cls(path=path, manifest=manifest, trusted=trusted_key is not None)

    def file(self, name: str) -> Path:
        """Return the path of a listed file. Raises BundleError for any other name."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} lists no file {name!r}; it was not exported with it")
        return self.path / name


def check_name(path: Path) -> None:
    """Raise BundleError unless path ends in .jepa, so that nothing else is ever replaced."""
    if path.suffix != SUFFIX:
        raise BundleError(f"{path} is not named like a bundle; expected NAME{SUFFIX}")


@contextmanager
def staged_bundle(path: Path, *, base: Bundle | None = None) -> Iterator[Path]:
    """Yield a directory to fill; `seal` it inside, and it replaces path when the block ends.

    base: an opened bundle whose listed files are copied in first; its signature is not, since what
    is sealed here was not signed. On an error path is untouched.
    Raises BundleError when path is something else than a bundle, or holds files that are not the
    bundle's: nothing of yours is deleted.
    """
    check_name(path)
    if path.exists():
        _check_replaceable(path)
    with staged_directory(path) as staging:
        if base is not None:
            for name in base.manifest.files:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(base.path / name, staging / name)
        yield staging
        if not (staging / MANIFEST_NAME).is_file():
            raise BundleError(f"{path} was not sealed: no {MANIFEST_NAME} was written")
        signed = (path / SIGNATURE_NAME).exists()
    if signed:
        logger.warning("%s was signed, and is not any more: it changed; sign it again", path)


def seal(staging: Path, manifest: Manifest) -> Manifest:
    """Hash every file below staging into the manifest, write it, and return it.

    A signature that lies there goes: it cannot be one of the new manifest.
    """
    (staging / SIGNATURE_NAME).unlink(missing_ok=True)
    for file in staging.rglob("*"):
        if file.is_file():
            # safetensors writes files that only their owner may read; bundles are for copying.
            file.chmod(0o644)
    files = {
        file.relative_to(staging).as_posix(): sha256_file(file)
        for file in sorted(staging.rglob("*"))
        if file.is_file() and file != staging / MANIFEST_NAME
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    payload = canonical_bytes(manifest)
    (staging / MANIFEST_NAME).write_bytes(payload)
    return parse_manifest(payload, MANIFEST_NAME)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_replaceable(path: Path) -> None:
    try:
        payload = (path / MANIFEST_NAME).read_bytes()
        listed = msgspec.json.decode(payload, type=dict[str, object])
        owned = {MANIFEST_NAME, SIGNATURE_NAME, *msgspec.convert(listed["files"], dict[str, str])}
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, KeyError) as error:
        raise BundleError(
            f"{path} exists and is not a bundle; remove it or choose another name"
        ) from error
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    strays = sorted(present - owned)
    if strays:
        raise BundleError(
            f"{path} holds {strays[0]!r}, which is not part of the bundle and would be lost; "
            "move it away first"
        )


def _verify(root: Path, name: str, expected: str) -> None:
    file = root / name
    if not file.is_file():
        raise BundleError(
            f"{root} lacks {name!r}, which its manifest lists; it was renamed or removed: "
            "copy the bundle again or export again"
        )
    if root.resolve() not in file.resolve().parents:
        raise BundleError(f"{root}: {name!r} is a link that leaves the bundle; refused")
    actual = sha256_file(file)
    if actual != expected:
        raise BundleError(
            f"{root}: {name!r} is damaged (sha256 {actual[:12]}, the manifest says "
            f"{expected[:12]}); copy the bundle again or export again"
        )
