# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge build --dry-run`, and what `build` says where nothing can be built."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError
from jepa_edge.trt.dry_run import dry_run

from .rooms import to_half, to_int8, unknown_operator, with_variants

RTX = importlib.util.find_spec("tensorrt_rtx") is not None
pytestmark = pytest.mark.skipif(not RTX, reason="tensorrt_rtx is not installed")


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "jepa-edge"), "build", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in line


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_every_graph_of_every_variant_is_built_and_nothing_is_kept(linear_bundle: Path) -> None:
    with_variants(linear_bundle, {"fp16": to_half, "int8": to_int8()})
    before = contents(linear_bundle.parent)
    done = cli(linear_bundle, "--dry-run", "--json", "--candidates", 20)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["library"].startswith("TensorRT-RTX 1.")
    rows = {(row["variant"], row["graph"]): row for row in found["rows"]}
    assert set(rows) == {
        (variant, graph)
        for variant in ("fp32", "fp16", "int8")
        for graph in ("encoder", "predictor")
    }
    for (variant, graph), row in rows.items():
        assert row["refused"] == ""
        assert row["target"] == "8.6"
        assert row["plan_bytes"] > 10_000
        assert row["precisions"] == {variant: 1 if graph == "encoder" else 2}
    assert contents(linear_bundle.parent) == before


def test_the_table_says_what_it_shows_and_what_not(linear_bundle: Path) -> None:
    done = cli(linear_bundle, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 fp32" in done.stdout
    assert "does not show that a Jetson's TensorRT builds them" in done.stdout
    assert "REFUSED" not in done.stdout


def test_a_refused_node_is_named_and_the_rest_is_still_told(linear_bundle: Path) -> None:
    with_variants(linear_bundle, {"fp16": to_half, "int8": unknown_operator})
    done = cli(linear_bundle, "--dry-run")
    refused(done, "2 of 6 graphs refused, first: ", "int8 encoder", "node odd_one (Det)")
    assert done.stdout.count("REFUSED") == 2
    assert done.stdout.count("fp16") >= 2


def test_only_what_was_asked_for_is_built_and_the_plans_can_be_kept(
    linear_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"fp16": to_half, "int8w": to_half}))
    found = dry_run(bundle, ["fp16"], candidates=2, keep_plans=tmp_path)
    assert {row.variant for row in found.rows} == {"fp16"}
    assert found.passed
    for row in found.rows:
        plan = tmp_path / f"fp16-{row.graph}.plan"
        assert plan.stat().st_size == row.plan_bytes
    with pytest.raises(BundleError, match="has no variant 'int4', it has fp32, fp16, int8w"):
        dry_run(bundle, ["int4"], candidates=2)


def test_bad_options_are_one_line(linear_bundle: Path, tmp_path: Path) -> None:
    refused(cli(tmp_path / "x.jepa", "--dry-run"), "x.jepa does not exist")
    refused(cli(linear_bundle, "--dry-run", "--variant", "int8"), "has no variant 'int8'")
    refused(cli(linear_bundle, "--dry-run", "--variant", " , "), "--variant names none")
    refused(cli(linear_bundle, "--dry-run", "--force"), "--dry-run has no use for --force")
    refused(cli(linear_bundle, "--dry-run", "--out", tmp_path), "has no use for --out")
    refused(cli(linear_bundle, "--candidates", 0), "candidates")
    refused(cli(linear_bundle, "--workspace-gb", -1), "workspace_gb is -1.0, expected 0.001")
    refused(cli(linear_bundle, "--workspace-gb", "nan"), "workspace_gb is nan")
    refused(cli(linear_bundle, "--optimization-level", 6), "optimization-level")


def _no_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None or not _no_driver(),
    reason="this machine has TensorRT or an NVIDIA driver",
)
def test_a_machine_that_cannot_build_says_where_to_go(linear_bundle: Path) -> None:
    before = contents(linear_bundle.parent)
    refused(cli(linear_bundle), "TensorRT", "Jetson")
    assert contents(linear_bundle.parent) == before
    assert not linear_bundle.with_suffix(".engines").exists()


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_a_dry_run(linear_bundle: Path, kind: signal.Signals, code: int) -> None:
    many = {f"fp16_{index}": to_half for index in range(16)}
    with_variants(linear_bundle, many)
    command = [str(Path(sys.executable).parent / "jepa-edge"), "-vv", "build", str(linear_bundle)]
    names = ",".join(many)
    process = subprocess.Popen(
        [*command, "--dry-run", "--variant", names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "jepa_edge.trt" in line:  # TensorRT has begun
            break
    time.sleep(0.2)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err[-2000:]
    assert "Traceback" not in err
    assert "REFUSED" not in out
