# SPDX-License-Identifier: Apache-2.0
"""A bundle small enough to know by heart: both graphs are linear, written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.bundle import seal, staged_bundle
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.manifest import (
    ActionSpec,
    GraphSpec,
    LatentSpec,
    Manifest,
    ObservationSpec,
    Provenance,
    TensorSpec,
    VariantSpec,
)
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter

# The same examples in every run: a failure in CI is one that can be had again at a desk.
settings.register_profile("reproducible", derandomize=True)
settings.load_profile("reproducible")

SIZE, DIM, ACTION, HISTORY = 8, 6, 4, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearWorld:
    """The model's matrices: latent = mean color @ encode; next = last @ step + action @ push."""

    encode: NDArray[np.float32]
    step: NDArray[np.float32]
    push: NDArray[np.float32]

    def encoded(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the encoder must give, (B, 1, D)."""
        return (frames.astype(np.float32).mean(axis=(1, 2)) @ self.encode)[:, None]

    def predicted(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What the predictor must give, (B, 1, D)."""
        return (history[:, -1, 0] @ self.step + actions[:, -1] @ self.push)[:, None]


def linear_world() -> LinearWorld:
    """Draw the matrices; the spectral radius of `step` is below 1."""
    rng = np.random.default_rng(7)
    step = rng.normal(size=(DIM, DIM)).astype(np.float32)
    return LinearWorld(
        encode=rng.normal(size=(3, DIM)).astype(np.float32) / 128.0,
        step=np.float32(0.8) * step / np.abs(np.linalg.eigvals(step)).max().astype(np.float32),
        push=rng.normal(size=(ACTION, DIM)).astype(np.float32) / 256.0,
    )


def write_graphs(world: LinearWorld, encoder: Path, predictor: Path) -> None:
    """Write the two ONNX files."""

    def constant(name: str, value: NDArray[np.generic]) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    encode = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "hw"], ["color"], keepdims=0),
            helper.make_node("MatMul", ["color", "encode"], ["flat"]),
            helper.make_node("Unsqueeze", ["flat", "one"], ["latents"]),
        ],
        "encoder",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["B", 1, DIM])],
        [
            constant("hw", np.array([1, 2], np.int64)),
            constant("one", np.array([1], np.int64)),
            constant("encode", world.encode),
        ],
    )
    predict = helper.make_graph(
        [
            helper.make_node("Gather", ["history", "last"], ["latent"], axis=1),
            helper.make_node("Gather", ["actions", "last"], ["action"], axis=1),
            helper.make_node("MatMul", ["latent", "step"], ["moved"]),
            helper.make_node("MatMul", ["action", "push"], ["pushed"]),
            helper.make_node("Unsqueeze", ["pushed", "one"], ["pushed_token"]),
            helper.make_node("Add", ["moved", "pushed_token"], ["prediction"]),
        ],
        "predictor",
        [
            helper.make_tensor_value_info("history", TensorProto.FLOAT, ["B", HISTORY, 1, DIM]),
            helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["B", HISTORY, ACTION]),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["B", 1, DIM])],
        [
            constant("last", np.array(HISTORY - 1, np.int64)),
            constant("one", np.array([1], np.int64)),
            constant("step", world.step),
            constant("push", world.push),
        ],
    )
    for graph, path in ((encode, encoder), (predict, predictor)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def make_bundle(path: Path, world: LinearWorld) -> Path:
    """Write a whole, sealed bundle of the linear world."""
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    history = rng.normal(size=(8, HISTORY, 1, DIM)).astype(np.float32)
    actions = rng.uniform(0, 512, (8, HISTORY, ACTION)).astype(np.float32)
    with staged_bundle(path) as staging:
        write_graphs(world, staging / "encoder.onnx", staging / "predictor.onnx")
        (staging / "golden").mkdir()
        Golden(
            frames=frames,
            latents=world.encoded(frames),
            history=history,
            actions=actions,
            predictions=world.predicted(history, actions),
        ).write(str(staging / GOLDEN_NAME))
        seal(staging, _manifest(staging))
    return path


def _manifest(staging: Path) -> Manifest:
    def graph(file: str, inputs: tuple[TensorSpec, ...], output: TensorSpec) -> GraphSpec:
        return GraphSpec(
            file=file,
            inputs=inputs,
            outputs=(output,),
            size_bytes=(staging / file).stat().st_size,
            sqnr_db=100.0,
            centered_cosine=1.0,
            latency_ms=0.1,
        )

    latent = TensorSpec(name="latents", dtype="float32", shape=(-1, 1, DIM))
    frames = TensorSpec(name="frames", dtype="uint8", shape=(-1, SIZE, SIZE, 3))
    history = TensorSpec(name="history", dtype="float32", shape=(-1, HISTORY, 1, DIM))
    actions = TensorSpec(name="actions", dtype="float32", shape=(-1, HISTORY, ACTION))
    return Manifest(
        family="linear",
        observation=ObservationSpec(
            height=SIZE, width=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), rate_hz=5.0
        ),
        action=ActionSpec(
            dim=ACTION,
            block=2,
            mean=(256.0,) * ACTION,
            std=(100.0,) * ACTION,
            low=(0.0,) * ACTION,
            high=(512.0,) * ACTION,
            units="pixel",
        ),
        latent=LatentSpec(tokens=1, dim=DIM),
        history=HISTORY,
        variants={
            "fp32": VariantSpec(
                precision="fp32",
                realized={"fp32": 3},
                encoder=graph("encoder.onnx", (frames,), latent),
                predictor=graph("predictor.onnx", (history, actions), latent),
            )
        },
        provenance=Provenance(
            checkpoint="none",
            checkpoint_sha256="0" * 64,
            created_utc="2026-01-01T00:00:00Z",
            command="tests",
            tools={},
        ),
        files={},
    )


@pytest.fixture(scope="session")
def world() -> LinearWorld:
    """The linear world's matrices."""
    return linear_world()


@pytest.fixture
def linear_bundle(tmp_path: Path, world: LinearWorld) -> Path:
    """A fresh bundle of the linear world, free to be damaged."""
    return make_bundle(tmp_path / "linear.jepa", world)


def color_episode(seed: int, steps: int = 24) -> Episode:
    """A run whose frames' mean color follows the actions, with noise: stationary from the start."""
    rng = np.random.default_rng([41, seed])
    actions = rng.uniform(0.0, 512.0, (steps, ACTION)).astype(np.float32)
    color = rng.normal(128.0, 10.0, 3)
    frames = np.empty((steps + 1, SIZE, SIZE, 3), np.uint8)
    for step in range(steps + 1):
        noise = rng.normal(0.0, 4.0, (SIZE, SIZE, 3))
        frames[step] = np.clip(np.round(color + noise), 0, 255)
        if step < steps:
            pushed = 0.06 * (actions[step, :3] - 256.0)
            color = 128.0 + 0.7 * (color - 128.0) + pushed + rng.normal(0.0, 1.5, 3)
    return Episode(
        name=f"color {seed}", frames=frames, actions=actions, stamps_s=np.arange(steps + 1) / 5.0
    )


@pytest.fixture(scope="session")
def make_episode() -> Callable[[int], Episode]:
    """Makes color episodes by seed; the calibration's are 0 to 119."""
    return color_episode


@pytest.fixture(scope="session")
def calibrated_bundle(tmp_path_factory: pytest.TempPathFactory, world: LinearWorld) -> Path:
    """The linear world's bundle, calibrated on color episodes at alpha 0.1. Do not alter it."""
    from jepa_edge.calibration.calibrate import calibrate_bundle
    from jepa_edge.calibration.options import CalibrateOptions

    root = tmp_path_factory.mktemp("calibrated")
    with RecordingWriter(root / "runs", RecordingInfo(rate_hz=5.0, action_dim=ACTION)) as writer:
        for seed in range(120):
            writer.add(color_episode(seed))
    bundle = make_bundle(root / "linear.jepa", world)
    calibrate_bundle(bundle, root / "runs", CalibrateOptions(alpha=0.1))
    return bundle
