# SPDX-License-Identifier: Apache-2.0
"""Bundles: what is written is read back, and nothing damaged, foreign or half-written gets in."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import msgspec
import pytest

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import BundleError
from jepa_edge.manifest import MANIFEST_NAME, Manifest, canonical_bytes


def test_what_is_sealed_opens_again(linear_bundle: Path) -> None:
    bundle = Bundle.open(linear_bundle)
    assert bundle.manifest.latent.dim == 6
    assert set(bundle.manifest.files) == {
        "encoder.onnx",
        "predictor.onnx",
        "golden/golden.safetensors",
    }


def test_every_flipped_bit_is_refused(linear_bundle: Path) -> None:
    rng = random.Random(0)
    files = [path for path in linear_bundle.rglob("*") if path.is_file()]
    for _ in range(200):
        file = rng.choice(files)
        payload = bytearray(file.read_bytes())
        position = rng.randrange(len(payload))
        payload[position] ^= 1 << rng.randrange(8)
        original = file.read_bytes()
        file.write_bytes(payload)
        with pytest.raises(BundleError):
            Bundle.open(linear_bundle)
        file.write_bytes(original)
    Bundle.open(linear_bundle)


@pytest.mark.parametrize("name", ["encoder.onnx", MANIFEST_NAME, "golden/golden.safetensors"])
def test_a_truncated_file_is_refused(linear_bundle: Path, name: str) -> None:
    file = linear_bundle / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BundleError, match=r"damaged|manifest"):
        Bundle.open(linear_bundle)


def test_a_renamed_file_is_named(linear_bundle: Path) -> None:
    (linear_bundle / "encoder.onnx").rename(linear_bundle / "encoder2.onnx")
    with pytest.raises(BundleError, match=r"lacks 'encoder\.onnx'"):
        Bundle.open(linear_bundle)


def test_a_directory_of_another_name_is_refused(linear_bundle: Path) -> None:
    other = linear_bundle.with_name("model")
    linear_bundle.rename(other)
    with pytest.raises(BundleError, match=r"NAME\.jepa"):
        Bundle.open(other)


@pytest.mark.parametrize("path", ["../outside.onnx", "/etc/passwd", "a/../../b", "c:\\x", ""])
def test_a_path_that_leaves_the_bundle_is_refused(linear_bundle: Path, path: str) -> None:
    manifest = Bundle.open(linear_bundle).manifest
    files = {**manifest.files, path: "0" * 64}
    evil = msgspec.structs.replace(manifest, files=files)
    (linear_bundle / MANIFEST_NAME).write_bytes(canonical_bytes(evil))
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(linear_bundle)


def test_a_link_that_leaves_the_bundle_is_refused(linear_bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    shutil.move(linear_bundle / "encoder.onnx", outside)
    (linear_bundle / "encoder.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="link that leaves"):
        Bundle.open(linear_bundle)


def test_unknown_keys_and_versions_are_refused(linear_bundle: Path) -> None:
    file = linear_bundle / MANIFEST_NAME
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "surprise": 1}))
    with pytest.raises(BundleError, match="surprise"):
        Bundle.open(linear_bundle)
    file.write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(BundleError, match="schema version 99"):
        Bundle.open(linear_bundle)
    file.write_text("[1]")
    with pytest.raises(BundleError):
        Bundle.open(linear_bundle)


def test_a_failed_write_leaves_the_old_bundle(linear_bundle: Path) -> None:
    before = {path: path.read_bytes() for path in linear_bundle.rglob("*") if path.is_file()}

    def fail_half_way() -> None:
        with staged_bundle(linear_bundle) as staging:
            (staging / "encoder.onnx").write_bytes(b"half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_half_way()
    after = {path: path.read_bytes() for path in linear_bundle.rglob("*") if path.is_file()}
    assert after == before
    assert [path.name for path in linear_bundle.parent.iterdir()] == [linear_bundle.name]


def test_a_new_bundle_replaces_the_old_one_whole(linear_bundle: Path) -> None:
    old = Bundle.open(linear_bundle)
    with staged_bundle(linear_bundle, base=old) as staging:
        (staging / "extra.json").write_text("{}")
        seal(staging, old.manifest)
    names = {p.relative_to(linear_bundle).as_posix() for p in linear_bundle.rglob("*.*")}
    assert names == {*old.manifest.files, "extra.json", MANIFEST_NAME}
    assert "extra.json" in Bundle.open(linear_bundle).manifest.files


def test_something_else_is_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious.jepa"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="not a bundle"), staged_bundle(precious):
        pass
    assert (precious / "thesis.tex").exists()


def test_the_variant_digest_follows_its_graphs(linear_bundle: Path) -> None:
    manifest: Manifest = Bundle.open(linear_bundle).manifest
    files = {**manifest.files, "predictor.onnx": "1" * 64}
    changed = msgspec.structs.replace(manifest, files=files)
    assert changed.variant_sha256("fp32") != manifest.variant_sha256("fp32")


def test_a_variant_name_cannot_lead_out_of_the_bundle(linear_bundle: Path) -> None:
    manifest = Bundle.open(linear_bundle).manifest
    variants = {**manifest.variants, "../../evil": manifest.variants["fp32"]}
    evil = msgspec.structs.replace(manifest, variants=variants)
    (linear_bundle / MANIFEST_NAME).write_bytes(canonical_bytes(evil))
    with pytest.raises(BundleError, match="damaged or not a manifest"):
        Bundle.open(linear_bundle)


def test_a_foreign_manifest_and_stray_files_are_never_replaced(
    linear_bundle: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "extension.jepa"
    foreign.mkdir()
    (foreign / MANIFEST_NAME).write_text('{"name": "my browser extension"}')
    with pytest.raises(BundleError, match="not a bundle"), staged_bundle(foreign):
        pass
    (linear_bundle / "NOTES.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"NOTES\.txt"), staged_bundle(linear_bundle):
        pass
    assert (linear_bundle / "NOTES.txt").exists()


def test_a_linked_bundle_is_replaced_where_it_lies(linear_bundle: Path) -> None:
    link = linear_bundle.with_name("link.jepa")
    link.symlink_to(linear_bundle)
    old = Bundle.open(link)
    with staged_bundle(link, base=old) as staging:
        (staging / "extra.json").write_text("{}")
        seal(staging, old.manifest)
    assert link.is_symlink()
    assert (linear_bundle / "extra.json").exists()
    assert sorted(p.name for p in linear_bundle.parent.iterdir()) == ["linear.jepa", "link.jepa"]


def test_a_failed_write_takes_its_new_parents_with_it(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_bundle(tmp_path / "a" / "b" / "c.jepa"):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []
