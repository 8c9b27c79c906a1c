# SPDX-License-Identifier: Apache-2.0
"""Golden outputs and rollouts, with variants whose graphs are really damaged."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.golden import Golden
from jepa_edge.trt.golden_check import GoldenCheck, check_golden, reference_rollout
from jepa_edge.world_model import WorldModel

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def add_variant(
    path: Path, file: str, tensor: str, change: Change, sqnr_db: float = 100.0
) -> Bundle:
    """Give a bundle a variant "fp16" that is fp32's with one changed weight in one graph."""
    base = Bundle.open(path)
    spec = base.manifest.variants["fp32"]
    with staged_bundle(path, base=base) as staging:
        folder = staging / "variants/fp16"
        folder.mkdir(parents=True)
        graphs = {}
        for name, graph in spec.graphs.items():
            target = f"variants/fp16/{graph.file}"
            shutil.copyfile(base.path / graph.file, staging / target)
            graphs[name] = msgspec.structs.replace(graph, file=target, sqnr_db=sqnr_db)
        model = onnx.load(str(folder / file))
        for weight in model.graph.initializer:
            if weight.name == tensor:
                changed = change(numpy_helper.to_array(weight))
                weight.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor))
        onnx.save(model, str(folder / file))
        variant = msgspec.structs.replace(spec, precision="fp16", **graphs)
        variants = {**base.manifest.variants, "fp16": variant}
        seal(staging, msgspec.structs.replace(base.manifest, variants=variants))
    return Bundle.open(path)


def checked(bundle: Bundle, variant: str, steps: int = 5) -> GoldenCheck:
    """Check a variant on ONNX Runtime."""
    model = WorldModel(bundle, variant, OnnxRuntimeBackend())
    return check_golden(model, Golden.read(bundle), steps=steps)


def test_the_reference_passes_itself(linear_bundle: Path) -> None:
    check = checked(Bundle.open(linear_bundle), "fp32")
    assert check.passed
    assert check.note == ""
    names = ["encoder", "predictor", *(f"rollout step {n}" for n in range(1, 6))]
    assert [output.output for output in check.outputs] == names
    assert set(check.sqnr_db) == {"encoder", "predictor", "rollout"}
    assert all(output.sqnr_db == 200.0 for output in check.outputs[2:])


def test_the_reference_rollout_is_the_worlds(linear_bundle: Path, world: object) -> None:
    """An oracle of its own: the matrices, without any window or graph."""
    golden = Golden.read(Bundle.open(linear_bundle))
    rolled = reference_rollout(Bundle.open(linear_bundle), golden, 4)
    assert rolled is not None
    assert golden.history is not None
    assert golden.actions is not None
    latent = golden.history[:, -1, 0].astype(np.float64)
    for step in range(4):
        taken = np.roll(golden.actions[:, -1], -step, axis=0)
        latent = latent @ world.step + taken @ world.push  # type: ignore[attr-defined]
        np.testing.assert_allclose(rolled[:, step, 0], latent, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "tensor", "graph"),
    [("encoder.onnx", "encode", "encoder"), ("predictor.onnx", "step", "predictor")],
)
def test_a_damaged_graph_fails_and_is_named(
    linear_bundle: Path, file: str, tensor: str, graph: str
) -> None:
    noise = np.random.default_rng(5)
    bundle = add_variant(
        linear_bundle, file, tensor, lambda w: w + 0.05 * noise.normal(size=w.shape) * w.std()
    )
    check = checked(bundle, "fp16")
    assert not check.passed
    assert check.failed_graphs == [graph]
    assert f"{graph} " in check.told()
    assert checked(bundle, "fp32").passed


def test_an_error_that_one_step_hides_fails_along_the_rollout(linear_bundle: Path) -> None:
    """A predictor that is within the budget of one step, and whose error grows."""

    def grow(step: NDArray[np.float32]) -> NDArray[np.float32]:
        values, vectors = np.linalg.eig(step.astype(np.complex128))
        fastest = np.abs(values) >= np.abs(values).max() - 1e-9
        values[fastest] *= 1.9  # above 1: it grows from step to step
        changed = vectors @ np.diag(values) @ np.linalg.inv(vectors)
        return np.real(changed).astype(np.float32)

    bundle = add_variant(linear_bundle, "predictor.onnx", "step", grow, sqnr_db=6.5)
    check = checked(bundle, "fp16")
    by_name = {output.output: output for output in check.outputs}
    assert by_name["predictor"].passed
    assert not by_name["rollout step 5"].passed
    assert check.failed_graphs == ["predictor"]
    assert checked(bundle, "fp16", steps=0).passed


def test_a_result_that_is_not_a_number_fails(linear_bundle: Path) -> None:
    bundle = add_variant(linear_bundle, "predictor.onnx", "push", lambda w: np.full_like(w, np.nan))
    check = checked(bundle, "fp16")
    assert check.failed_graphs == ["predictor"]
    assert check.sqnr_db["predictor"] == -np.inf


def test_a_bundle_without_fp32_is_checked_without_a_rollout(linear_bundle: Path) -> None:
    bundle = add_variant(linear_bundle, "predictor.onnx", "push", lambda w: w)
    alone = dataclasses.replace(
        bundle,
        manifest=msgspec.structs.replace(
            bundle.manifest, variants={"fp16": bundle.manifest.variants["fp16"]}
        ),
    )
    check = checked(alone, "fp16")
    assert check.passed
    assert "no fp32 to compare with" in check.note
    assert "no fp32" in check.told()
