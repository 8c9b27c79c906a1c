# SPDX-License-Identifier: Apache-2.0
"""Variants of FP8 and NVFP4: ONNX Runtime never gets them, and who asks for one is told why."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from jepa_edge.backends.choice import BackendChoice
from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError
from jepa_edge.world_model import WorldModel

from ..trt.rooms import to_half, with_variants


@pytest.fixture
def bundle(linear_bundle: Path) -> Path:
    """Of fp32, fp16, and two variants that say that they are for TensorRT."""
    return with_variants(linear_bundle, {"fp16": to_half, "fp8": to_half, "nvfp4": to_half})


def test_the_manifest_tells_which_they_are(bundle: Path) -> None:
    variants = Bundle.open(bundle).manifest.variants
    needing = {name for name, spec in variants.items() if spec.needs_tensorrt}
    assert needing == {"fp8", "nvfp4"}


def test_unasked_they_are_passed_over(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = Bundle.open(bundle)
    with caplog.at_level(logging.INFO):
        (stage,) = BackendChoice().stages(opened, list(opened.manifest.variants))
    assert set(stage.backends) == {"fp32", "fp16"}
    assert "variant nvfp4 is passed over: only TensorRT runs it" in caplog.text
    assert WorldModel.load(bundle, "auto").variant in ("fp32", "fp16")


@pytest.mark.parametrize("provider", ["auto", "cpu"])
@pytest.mark.parametrize("variant", ["fp8", "nvfp4"])
def test_asked_for_by_name_they_are_refused_in_words(
    bundle: Path, variant: str, provider: str
) -> None:
    told = (
        f"only TensorRT runs {variant}, and no engine of it is used here; run "
        f"`jepa-edge build {bundle}` on the robot, or take another variant"
    )
    with pytest.raises(BundleError) as caught:
        WorldModel.load(bundle, variant, provider=provider)  # type: ignore[arg-type]
    assert str(caught.value) == f"{bundle}: {told}"


def test_inspect_replays_the_others(bundle: Path) -> None:
    from jepa_edge.cli.inspect import command

    done = CliRunner().invoke(command, [str(bundle), "--replay"])
    assert done.exit_code == 0, done.output
    told = {line.split()[0]: line for line in done.output.splitlines()[1:]}
    assert "for TensorRT only" in told["fp8"]
    assert "golden" not in told["fp8"]
    assert "golden pass" in told["fp32"]
    assert "for TensorRT only" not in told["fp32"]
