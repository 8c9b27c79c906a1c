# SPDX-License-Identifier: Apache-2.0
"""The run-time model against the linear world's formulas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import BundleError, InputError
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.manifest import ClipSpec
from jepa_edge.metrics import centered_cosine, sqnr_db
from jepa_edge.world_model import WorldModel, encode_frames

from .passive_world import DIM, SIZE, TOKENS, expected_energy, make_passive_bundle


def test_encode_and_predict_follow_the_graphs(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    history = rng.normal(size=(5, 3, 1, 6)).astype(np.float32)
    actions = rng.uniform(0, 512, (5, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(model.encode(frames), world.encoded(frames), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        model.predict(history, actions), world.predicted(history, actions), rtol=1e-5, atol=1e-5
    )


def test_rollout_feeds_predictions_back(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    rng = np.random.default_rng(1)
    history = rng.normal(size=(2, 3, 1, 6)).astype(np.float32)
    actions = rng.uniform(0, 512, (2, 2 + 4, 4)).astype(np.float32)
    rolled = model.rollout(history, actions)
    latent = history[:, -1, 0].astype(np.float64)
    for step in range(4):
        latent = latent @ world.step + actions[:, 2 + step] @ world.push
        np.testing.assert_allclose(rolled[:, step, 0], latent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("frames", "hint"),
    [
        (np.zeros((1, 9, 8, 3), np.uint8), "resize"),
        (np.zeros((1, 3, 8, 8), np.uint8), "channels come first"),
        (np.zeros((1, 8, 8, 3), np.float32), "uint8 pixels"),
        (np.zeros((1, 8, 8, 4), np.uint8), "expected uint8"),
    ],
)
def test_a_wrong_frame_is_explained(linear_bundle: Path, frames: Any, hint: str) -> None:
    model = WorldModel.load(linear_bundle)
    with pytest.raises(InputError, match=hint):
        model.encode(frames)


def test_wrong_shapes_of_history_and_actions_are_refused(linear_bundle: Path) -> None:
    model = WorldModel.load(linear_bundle)
    history, actions = np.zeros((1, 3, 1, 6), np.float32), np.zeros((1, 3, 4), np.float32)
    with pytest.raises(InputError, match="history"):
        model.predict(history[:, :2], actions)
    with pytest.raises(InputError, match="actions"):
        model.predict(history, actions[..., :2])
    with pytest.raises(InputError, match="past"):
        model.rollout(history, actions[:, :2])


def test_an_unknown_variant_lists_the_known_ones(linear_bundle: Path) -> None:
    with pytest.raises(BundleError, match="it has fp32"):
        WorldModel.load(linear_bundle, "int8")


def test_a_model_that_misses_its_golden_outputs_does_not_load(linear_bundle: Path) -> None:
    bundle = Bundle.open(linear_bundle)
    golden = Golden.read(bundle)
    moved = Golden(
        frames=golden.frames,
        latents=golden.latents,
        history=golden.history,
        actions=golden.actions,
        predictions=golden.predictions * np.float32(1.01),
    )
    with staged_bundle(linear_bundle, base=bundle) as staging:
        moved.write(str(staging / GOLDEN_NAME))
        seal(staging, bundle.manifest)
    with pytest.raises(BundleError, match="golden"):
        WorldModel.load(linear_bundle)


def test_sqnr_and_centered_cosine_ignore_a_shared_mean() -> None:
    rng = np.random.default_rng(2)
    signal = rng.normal(size=(4000, 16))
    noisy = signal + 0.1 * rng.normal(size=signal.shape)
    assert sqnr_db(signal, noisy) == pytest.approx(20.0, abs=0.2)
    # A large mean lifts the raw cosine to 1 and must leave both of ours as they were.
    assert sqnr_db(signal + 100.0, noisy + 100.0) == pytest.approx(20.0, abs=0.2)
    expected = 1.0 / np.sqrt(1.01)
    assert centered_cosine(signal + 100.0, noisy + 100.0) == pytest.approx(expected, abs=2e-3)
    assert sqnr_db(signal, signal) == float("inf")


def test_swapped_graphs_are_told_apart(linear_bundle: Path) -> None:
    bundle = Bundle.open(linear_bundle)
    with staged_bundle(linear_bundle, base=bundle) as staging:
        (staging / "encoder.onnx").rename(staging / "x.onnx")
        (staging / "predictor.onnx").rename(staging / "encoder.onnx")
        (staging / "x.onnx").rename(staging / "predictor.onnx")
        seal(staging, bundle.manifest)
    with pytest.raises(BundleError, match="takes actions, history, expected frames"):
        WorldModel.load(linear_bundle)


@pytest.mark.parametrize("damage", ["garbage", "dtype", "keys"])
def test_golden_data_that_does_not_fit_is_refused(linear_bundle: Path, damage: str) -> None:
    bundle = Bundle.open(linear_bundle)
    golden = Golden.read(bundle)
    arrays = {n: getattr(golden, n) for n in Golden.__slots__ if getattr(golden, n) is not None}
    if damage == "dtype":
        arrays["latents"] = arrays["latents"].astype(np.float64)
    elif damage == "keys":
        del arrays["actions"]
    with staged_bundle(linear_bundle, base=bundle) as staging:
        if damage == "garbage":
            (staging / GOLDEN_NAME).write_bytes(b"garbage")
        else:
            save_file(arrays, str(staging / GOLDEN_NAME))
        seal(staging, bundle.manifest)
    with pytest.raises(BundleError, match=r"golden\.safetensors"):
        WorldModel.load(linear_bundle)


def test_masked_energy_takes_the_latents_of_its_frames_alone(tmp_path: Path) -> None:
    model = WorldModel.load(make_passive_bundle(tmp_path / "passive.jepa"))
    frames = np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    latents = model.encode(frames)
    np.testing.assert_allclose(
        model.masked_energy(frames, latents), expected_energy(frames), rtol=1e-4
    )
    for wrong in (
        latents[:2],
        latents[0],
        latents[:, :5],
        latents[:, :, :5],
        latents.mean(axis=1, keepdims=True),
    ):
        told = f"{wrong.shape}, expected {(3, TOKENS, DIM)}"
        with pytest.raises(InputError, match=re.escape(told)):
            model.masked_energy(frames, wrong)


def test_camera_frames_are_no_clips(tmp_path: Path) -> None:
    clip = ClipSpec(frames=2, tubelet=2, stride=1, hop=2)
    model = WorldModel.load(make_passive_bundle(tmp_path / "passive.jepa", clip=clip))
    with pytest.raises(InputError, match="the model takes clips: gather them"):
        encode_frames(model, np.zeros((4, SIZE, SIZE, 3), np.uint8))
