# SPDX-License-Identifier: Apache-2.0
"""A small signed bundle, calibration and engine files included, free to be attacked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file, save_file

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import BundleError
from jepa_edge.keys import generate_key, load_public_key
from jepa_edge.manifest import heads_name
from jepa_edge.signing import sign_bundle

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SKIPPED = ("reports/", "selftest/")
"""Left out of the bundle under attack: they are files like any other, and large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signed bundle and the key that it must be signed by."""

    path: Path
    trusted: Ed25519PublicKey

    def opens(self) -> bool:
        """Whether it is accepted; anything but acceptance or BundleError is a defect."""
        try:
            Bundle.open(self.path, trusted_key=self.trusted)
        except BundleError:
            return False
        return True


@pytest.fixture
def signed(tmp_path: Path, calibrated_bundle: Path) -> Signed:
    """The linear world's calibrated bundle, signed; small, so that every byte can be attacked."""
    path = tmp_path / "linear.jepa"
    base = Bundle.open(calibrated_bundle)
    with staged_bundle(path) as staging:
        for name in base.manifest.files:
            if not name.startswith(SKIPPED):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(base.path / name, staging / name)
        heads = staging / heads_name("fp32")
        arrays = load_file(heads)
        save_file({name: array for name, array in arrays.items() if array.size < 200}, heads)
        seal(staging, base.manifest)
    generate_key(tmp_path / "key.pem", tmp_path / "pub.pem")
    sign_bundle(path, tmp_path / "key.pem")
    result = Signed(path=path, trusted=load_public_key(tmp_path / "pub.pem"))
    assert result.opens()
    return result
