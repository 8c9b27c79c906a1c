# SPDX-License-Identifier: Apache-2.0
"""keygen, sign, verify, selftest and run --require-signature, as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def _cli(*arguments: object, state: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "jepa-edge"), *map(str, arguments)]
    environment = {**os.environ, **({} if state is None else {"XDG_STATE_HOME": str(state)})}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def _refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in errors[0]


@pytest.fixture
def bundle(calibrated_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated_bundle, tmp_path / "linear.jepa"))


@pytest.mark.parametrize("verb", ["keygen", "sign", "verify", "selftest"])
def test_every_verb_explains_itself(verb: str) -> None:
    done = _cli(verb, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"jepa-edge {verb}" in done.stdout


def test_from_key_to_verified_run(bundle: Path, tmp_path: Path) -> None:
    private, public, other = tmp_path / "k.pem", tmp_path / "k.pub", tmp_path / "o.pub"
    made = json.loads(_cli("keygen", "--key", private, "--public", public, "--json").stdout)
    assert _cli("keygen", "--key", tmp_path / "o.pem", "--public", other).returncode == 0
    _refused(_cli("keygen", "--key", private, "--public", tmp_path / "x"), "never overwritten")
    _refused(_cli("verify", bundle, "--key", public), "not signed", "jepa-edge sign")
    source = ("--source", bundle.parent / "none", "--rate", 0)
    _refused(_cli("run", bundle, *source, "--require-signature", public), "not signed")

    signed = json.loads(_cli("sign", bundle, "--key", private, "--json").stdout)
    assert signed["key_id"] == made["key_id"]
    told = json.loads(_cli("verify", bundle, "--key", public, "--json").stdout)
    assert told["key_id"] == made["key_id"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert told["manifest_sha256"] == manifest["sha256"]
    assert told["files"] == len(manifest["files"])
    _refused(_cli("verify", bundle, "--key", other), "signed by key", made["key_id"][:12])
    _refused(_cli("run", bundle, *source, "--require-signature", other), "signed by key")
    # The signature is no obstacle any more; the next thing that is wrong is.
    _refused(_cli("run", bundle, *source, "--require-signature", public), "none")


def test_selftest_prints_a_table_and_remembers(bundle: Path, tmp_path: Path) -> None:
    done = _cli("selftest", bundle, state=tmp_path / "state")
    assert done.returncode == 0, done.stderr
    assert "false alarms" in done.stdout
    assert "coverage, horizon 5" in done.stdout
    assert "detects freeze" in done.stdout
    assert len(list((tmp_path / "state" / "jepa-edge").glob("selftest-*.json"))) == 1
    told = json.loads(_cli("selftest", bundle, "--state", tmp_path / "own", "--json").stdout)
    assert told["passed"] is True
    assert Path(told["record"]).parent == tmp_path / "own"


def test_a_selftest_that_fails_says_what_left_its_interval(bundle: Path, tmp_path: Path) -> None:
    """The plan asks for more than the device counts: false alarms that nobody may have."""
    import msgspec

    from jepa_edge.bundle import Bundle, seal, staged_bundle
    from jepa_edge.json_text import json_bytes
    from jepa_edge.selftest_file import SelfTest, selftest_name

    base = Bundle.open(bundle)
    name = selftest_name("fp32")
    selftest = msgspec.json.decode((bundle / name).read_bytes(), type=SelfTest)
    trials = selftest.checks[0].trials
    strict = msgspec.structs.replace(selftest.checks[0], low=trials, high=trials)
    changed = msgspec.structs.replace(selftest, checks=(strict, *selftest.checks[1:]))
    with staged_bundle(bundle, base=base) as staging:
        (staging / name).write_bytes(json_bytes(changed))
        seal(staging, base.manifest)
    done = _cli("selftest", bundle, "--state", tmp_path / "state")
    _refused(done, "refused to arm", f"accepted are {trials} to {trials}")
    assert "OUTSIDE" in done.stdout
    assert not list((tmp_path / "state").glob("*"))
