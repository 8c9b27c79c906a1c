# SPDX-License-Identifier: Apache-2.0
"""Every way that we could think of to change a signed bundle. None may be accepted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError
from jepa_edge.keys import generate_key
from jepa_edge.manifest import MANIFEST_NAME, SIGNATURE_NAME, canonical_bytes, parse_manifest
from jepa_edge.signing import check_signature, sign_bundle


def names(path: Path) -> list[str]:
    """All files of a bundle."""
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def test_the_bundle_under_attack_holds_what_matters(signed: Any) -> None:
    assert names(signed.path) == [
        "calibration/fp32.json",
        "calibration/fp32.map.safetensors",
        "calibration/fp32.safetensors",
        "encoder.onnx",
        "golden/golden.safetensors",
        MANIFEST_NAME,
        SIGNATURE_NAME,
        "predictor.onnx",
    ]


def test_every_byte_of_every_file(signed: Any) -> None:
    """Through Bundle.open: one bit of each byte, another one from byte to byte."""
    for name in names(signed.path):
        file = signed.path / name
        original = file.read_bytes()
        with file.open("r+b", buffering=0) as stream:
            for position, byte in enumerate(original):
                os.pwrite(stream.fileno(), bytes([byte ^ (1 << position % 8)]), position)
                assert not signed.opens(), f"{name}, byte {position}"
                os.pwrite(stream.fileno(), bytes([byte]), position)
        assert file.read_bytes() == original
    assert signed.opens()


def test_every_bit_of_the_signature_and_every_value_at_its_ends(signed: Any) -> None:
    """The last characters of base64 hold unused bits, which a careless decoder drops."""
    manifest = (signed.path / MANIFEST_NAME).read_bytes()
    file = signed.path / SIGNATURE_NAME
    original = file.read_bytes()
    ends = [original.index(b"=="), original.index(b"==") - 1, len(original) - 1]
    changes = [(at, 1 << bit) for at in range(len(original)) for bit in range(8)]
    changes += [(at, value) for at in ends for value in range(1, 256)]
    for position, change in changes:
        altered = bytearray(original)
        altered[position] ^= change
        file.write_bytes(altered)
        with pytest.raises(BundleError):
            check_signature(signed.path, manifest, signed.trusted)
    file.write_bytes(original)
    assert signed.opens()


def test_truncation_and_extension(signed: Any) -> None:
    for name in names(signed.path):
        file = signed.path / name
        original = file.read_bytes()
        for cut in {0, 1, len(original) // 2, len(original) - 1}:
            file.write_bytes(original[:cut])
            assert not signed.opens(), f"{name} cut to {cut}"
        for tail in (b"\0", b"\n", b" ", original, b"{}"):
            file.write_bytes(original + tail)
            assert not signed.opens(), f"{name} and {tail[:8]!r}"
        file.write_bytes(original)
    assert signed.opens()


def test_files_removed_swapped_or_moved(signed: Any, tmp_path: Path) -> None:
    listed = names(signed.path)
    for name in listed:
        (signed.path / name).rename(tmp_path / "aside")
        assert not signed.opens(), f"without {name}"
        (tmp_path / "aside").rename(signed.path / name)
    for first in listed:
        for second in listed:
            if first < second:
                payloads = [(signed.path / n).read_bytes() for n in (first, second)]
                (signed.path / first).write_bytes(payloads[1])
                (signed.path / second).write_bytes(payloads[0])
                assert not signed.opens(), f"{first} for {second}"
                for name, payload in zip((first, second), payloads, strict=True):
                    (signed.path / name).write_bytes(payload)
    assert signed.opens()


@pytest.mark.parametrize(
    "name",
    [
        "extra.json",
        "calibration/int8.json",
        "selftest/fp32.json",
        "golden/.hidden",
        "manifest.json.old",
        "new/folder/file",
        "__pycache__/x.pyc",
    ],
)
def test_added_files(signed: Any, name: str) -> None:
    file = signed.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    assert not signed.opens()
    file.unlink()
    for folder in file.relative_to(signed.path).parents[:-1]:
        if not any((signed.path / folder).iterdir()):
            assert not signed.opens(), "an empty folder that is not the bundle's"
            (signed.path / folder).rmdir()
    assert signed.opens()


def test_links(signed: Any, tmp_path: Path) -> None:
    """Even to the very bytes that were signed: what a link points at can change after the check."""
    for name in names(signed.path):
        file = signed.path / name
        shutil.move(file, tmp_path / "aside")
        file.symlink_to(tmp_path / "aside")
        assert not signed.opens(), f"{name}, a link out of the bundle"
        file.unlink()
        shutil.copy(tmp_path / "aside", signed.path / "inside")
        file.symlink_to(signed.path / "inside")
        assert not signed.opens(), f"{name}, a link within the bundle"
        (signed.path / "inside").unlink()
        file.unlink()
        shutil.move(tmp_path / "aside", file)
    shutil.move(signed.path / "golden", tmp_path / "folder")
    (signed.path / "golden").symlink_to(tmp_path / "folder")
    assert not signed.opens(), "a folder that is a link"
    (signed.path / "golden").unlink()
    shutil.move(tmp_path / "folder", signed.path / "golden")
    os.mkfifo(signed.path / "pipe")
    assert not signed.opens(), "a pipe"
    (signed.path / "pipe").unlink()
    assert signed.opens()


def first_line_twice(text: str) -> str:
    """The same key and value two times: a parser that takes either one sees no difference."""
    head, brace, tail = text.partition("{\n")
    line = tail.splitlines(keepends=True)[0]
    return head + brace + line + tail


def other_first(text: str) -> str:
    """A key two times, first with another value: many parsers take the last one."""
    return text.replace("{\n", '{\n  "algorithm": "none",\n  "family": "evil",\n', 1)


@pytest.mark.parametrize("target", [MANIFEST_NAME, SIGNATURE_NAME, "calibration/fp32.json"])
@pytest.mark.parametrize(
    "change",
    [
        first_line_twice,
        other_first,
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("  ", "\t"),
        lambda text: text.replace('"schema_version"', '"schema_versio\\u006e"'),
    ],
)
def test_json_that_means_the_same(signed: Any, target: str, change: Callable[[str], str]) -> None:
    file = signed.path / target
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_bytes(changed.encode())
    assert not signed.opens()


def test_a_whole_new_manifest(signed: Any) -> None:
    """An attacker who keeps all hashes in order, and only lacks the key."""
    file = signed.path / MANIFEST_NAME
    manifest = parse_manifest(file.read_bytes(), "manifest")
    (signed.path / "predictor.onnx").write_bytes(b"my own network")
    digest = hashlib.sha256(b"my own network").hexdigest()
    evil = msgspec.structs.replace(manifest, files={**manifest.files, "predictor.onnx": digest})
    file.write_bytes(canonical_bytes(evil))
    Bundle.open(signed.path)  # whole in itself
    assert not signed.opens()
    (signed.path / SIGNATURE_NAME).unlink()
    assert not signed.opens()


def test_another_signer(signed: Any, tmp_path: Path) -> None:
    generate_key(tmp_path / "evil.pem", tmp_path / "evil.pub")
    sign_bundle(signed.path, tmp_path / "evil.pem")
    assert not signed.opens()


@pytest.mark.parametrize("name", [MANIFEST_NAME, SIGNATURE_NAME])
def test_a_manifest_that_lists_itself_or_its_signature(signed: Any, name: str) -> None:
    manifest = parse_manifest((signed.path / MANIFEST_NAME).read_bytes(), "manifest")
    evil = msgspec.structs.replace(manifest, files={**manifest.files, name: "0" * 64})
    (signed.path / MANIFEST_NAME).write_bytes(canonical_bytes(evil))
    with pytest.raises(BundleError, match="among its own files"):
        Bundle.open(signed.path)


def test_a_signature_of_enormous_size_is_not_read_whole(signed: Any) -> None:
    with (signed.path / SIGNATURE_NAME).open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse
    assert not signed.opens()


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"algorithm": "none"},
        {"algorithm": "ED25519"},
        {"signature": ""},
        {"signature": "A" * 86 + "=="},
        {"key_id": "0" * 64},
        {"signed_utc": "2036-01-01T00:00:00+00:00"},
        {"surplus": 1},
        {"signature": None},
    ],
)
def test_another_signature_file(signed: Any, change: dict[str, object]) -> None:
    file = signed.path / SIGNATURE_NAME
    document = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps(document, indent=2) + "\n")
    assert not signed.opens()
