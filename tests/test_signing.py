# SPDX-License-Identifier: Apache-2.0
"""Signatures: made, checked against another implementation, dropped by any change, keys kept."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import BundleError, InputError
from jepa_edge.keys import generate_key, load_private_key, load_public_key
from jepa_edge.manifest import MANIFEST_NAME, SIGNATURE_NAME
from jepa_edge.signing import sign_bundle


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Paths of a fresh private and public key."""
    private, public = tmp_path / "keys" / "key.pem", tmp_path / "keys" / "pub.pem"
    generate_key(private, public)
    return private, public


def test_a_signed_bundle_opens_with_the_key_and_without(
    linear_bundle: Path, keys: tuple[Path, Path]
) -> None:
    before = (linear_bundle / MANIFEST_NAME).read_bytes()
    signature = sign_bundle(linear_bundle, keys[0])
    assert (linear_bundle / MANIFEST_NAME).read_bytes() == before
    trusted = load_public_key(keys[1])
    assert (
        Bundle.open(linear_bundle, trusted_key=trusted).manifest
        == Bundle.open(linear_bundle).manifest
    )
    assert signature.key_id == hashlib.sha256(trusted.public_bytes_raw()).hexdigest()
    assert sorted(p.name for p in linear_bundle.parent.iterdir()) == ["keys", "linear.jepa"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_agrees_with_the_documented_message(
    linear_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The message is rebuilt here from docs/provenance.md, not with our code."""
    sign_bundle(linear_bundle, keys[0])
    told = json.loads((linear_bundle / SIGNATURE_NAME).read_text())
    manifest = (linear_bundle / MANIFEST_NAME).read_bytes()
    header = f"jepa-edge bundle signature 1\n{told['key_id']}\n{told['signed_utc']}\n"
    (tmp_path / "message").write_bytes(header.encode() + manifest)
    (tmp_path / "raw").write_bytes(base64.b64decode(told["signature"]))
    command = [
        "openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(keys[1]),
        "-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "raw"),
    ]  # fmt: skip
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (tmp_path / "message").write_bytes(header.encode() + manifest + b"\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_unsigned_is_refused(linear_bundle: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match=r"is not signed.*jepa-edge sign"):
        Bundle.open(linear_bundle, trusted_key=load_public_key(keys[1]))


def test_another_key_is_refused(
    linear_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    generate_key(tmp_path / "other.pem", tmp_path / "other.pub")
    sign_bundle(linear_bundle, tmp_path / "other.pem")
    with pytest.raises(BundleError, match="signed by key"):
        Bundle.open(linear_bundle, trusted_key=load_public_key(keys[1]))
    # The other key's signature under our key's name.
    told = json.loads((linear_bundle / SIGNATURE_NAME).read_text())
    told["key_id"] = hashlib.sha256(load_public_key(keys[1]).public_bytes_raw()).hexdigest()
    (linear_bundle / SIGNATURE_NAME).write_text(json.dumps(told, indent=2) + "\n")
    with pytest.raises(BundleError, match="does not fit"):
        Bundle.open(linear_bundle, trusted_key=load_public_key(keys[1]))


def test_a_signature_of_another_bundle_is_refused(
    linear_bundle: Path, keys: tuple[Path, Path]
) -> None:
    other = linear_bundle.with_name("other.jepa")
    shutil.copytree(linear_bundle, other)
    base = Bundle.open(other)
    with staged_bundle(other, base=base) as staging:
        (staging / "note.json").write_text("{}")
        seal(staging, base.manifest)
    sign_bundle(other, keys[0])
    shutil.copy(other / SIGNATURE_NAME, linear_bundle / SIGNATURE_NAME)
    Bundle.open(other, trusted_key=load_public_key(keys[1]))
    with pytest.raises(BundleError, match="does not fit"):
        Bundle.open(linear_bundle, trusted_key=load_public_key(keys[1]))


def test_any_change_drops_the_signature_and_says_so(
    linear_bundle: Path, keys: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    sign_bundle(linear_bundle, keys[0])
    signed = (linear_bundle / SIGNATURE_NAME).read_bytes()
    base = Bundle.open(linear_bundle)
    with (
        caplog.at_level(logging.WARNING),
        staged_bundle(linear_bundle, base=base) as staging,
    ):
        assert not (staging / SIGNATURE_NAME).exists()
        (staging / "extra.json").write_text("{}")
        (staging / SIGNATURE_NAME).write_bytes(signed)  # as a careless caller might
        seal(staging, base.manifest)
    assert not (linear_bundle / SIGNATURE_NAME).exists()
    assert "sign it again" in caplog.text
    assert SIGNATURE_NAME not in Bundle.open(linear_bundle).manifest.files
    sign_bundle(linear_bundle, keys[0])
    Bundle.open(linear_bundle, trusted_key=load_public_key(keys[1]))


def test_signing_again_replaces_the_signature(
    linear_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    generate_key(tmp_path / "old.pem", tmp_path / "old.pub")
    sign_bundle(linear_bundle, tmp_path / "old.pem")
    sign_bundle(linear_bundle, keys[0])
    Bundle.open(linear_bundle, trusted_key=load_public_key(keys[1]))
    with pytest.raises(BundleError, match="signed by key"):
        Bundle.open(linear_bundle, trusted_key=load_public_key(tmp_path / "old.pub"))


def test_a_damaged_bundle_is_not_signed(linear_bundle: Path, keys: tuple[Path, Path]) -> None:
    (linear_bundle / "NOTES.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"NOTES\.txt.*nobody signed"):
        sign_bundle(linear_bundle, keys[0])
    (linear_bundle / "NOTES.txt").unlink()
    (linear_bundle / "encoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        sign_bundle(linear_bundle, keys[0])
    assert not (linear_bundle / SIGNATURE_NAME).exists()


def test_a_bundle_with_a_private_key_in_it_is_not_signed(
    linear_bundle: Path, keys: tuple[Path, Path]
) -> None:
    base = Bundle.open(linear_bundle)
    with staged_bundle(linear_bundle, base=base) as staging:
        shutil.copy(keys[0], staging / "note.txt")
        seal(staging, base.manifest)
    with pytest.raises(BundleError, match=r"note\.txt.*private key"):
        sign_bundle(linear_bundle, keys[0])


def test_private_keys_are_for_their_owner_and_never_overwritten(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    before = private.read_bytes(), public.read_bytes()
    for pair in ((private, tmp_path / "new.pub"), (tmp_path / "new.pem", public)):
        with pytest.raises(InputError, match="never overwritten"):
            generate_key(*pair)
    assert not (tmp_path / "new.pub").exists()
    assert not (tmp_path / "new.pem").exists()
    assert (private.read_bytes(), public.read_bytes()) == before
    private.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        load_private_key(private)


def test_no_half_of_a_pair_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    same = tmp_path / "folder" / ".." / "key.pem"
    with pytest.raises(InputError, match="both keys would go to"):
        generate_key(tmp_path / "key.pem", same)
    (tmp_path / "file").write_bytes(b"")
    impossible = tmp_path / "file" / "key.pem"
    for pair in ((tmp_path / "key.pem", impossible), (impossible, tmp_path / "key.pem")):
        with pytest.raises(InputError, match="cannot write"):
            generate_key(*pair)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}


def test_a_manifest_that_is_a_link_is_refused_with_and_without_a_key(
    linear_bundle: Path, tmp_path: Path
) -> None:
    shutil.move(linear_bundle / "manifest.json", tmp_path / "aside.json")
    (linear_bundle / "manifest.json").symlink_to(tmp_path / "aside.json")
    with pytest.raises(BundleError, match="is a link"):
        Bundle.open(linear_bundle)


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    link = tmp_path / "key.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(InputError, match="exists already"):
        generate_key(link, tmp_path / "pub.pem")
    assert not (tmp_path / "elsewhere.pem").exists()


def test_keys_stay_out_of_bundles(linear_bundle: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="inside the bundle"):
        generate_key(linear_bundle / "golden" / "key.pem", linear_bundle.parent / "p.pem")
    inside = linear_bundle / "key.pem"
    shutil.copy(keys[0], inside)
    with pytest.raises(InputError, match="inside the bundle"):
        load_private_key(inside)


def test_foreign_keys_are_refused_in_one_line(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import x25519

    foreign = x25519.X25519PrivateKey.generate()
    public = foreign.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "x.pub").write_bytes(public)
    (tmp_path / "junk.pub").write_bytes(b"junk")
    with pytest.raises(InputError, match="another kind of key"):
        load_public_key(tmp_path / "x.pub")
    with pytest.raises(InputError, match="no PEM public key"):
        load_public_key(tmp_path / "junk.pub")
    with pytest.raises(InputError, match="is a private key"):
        load_public_key(keys[0])
    with pytest.raises(InputError, match="does not exist"):
        load_public_key(tmp_path / "absent.pub")
    (tmp_path / "junk.pem").write_bytes(b"junk")
    (tmp_path / "junk.pem").chmod(0o600)
    with pytest.raises(InputError, match="no unencrypted PEM private key"):
        load_private_key(tmp_path / "junk.pem")


def test_nothing_of_this_is_imported_by_a_robot_that_does_not_verify() -> None:
    code = (
        "import sys, jepa_edge.bundle, jepa_edge.monitor, jepa_edge.session, jepa_edge.signing\n"
        "print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
