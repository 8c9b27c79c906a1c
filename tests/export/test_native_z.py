# SPDX-License-Identifier: Apache-2.0
"""A model with a latent variable of its own, end to end: checkpoint, ONNX, bundle, futures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_edge import _core
from jepa_edge.errors import CheckpointError, InputError
from jepa_edge.export.exporter import ExportOptions, export_bundle
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_checkpoint import load_checkpoint, save_checkpoint
from jepa_edge.futures import NativeSampler
from jepa_edge.golden import Golden
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.world_model import WorldModel

Specs = tuple[ObservationSpec, ActionSpec]
Z, H = 5, 4


@pytest.fixture(scope="module")
def stochastic(export_config: LeWMConfig) -> LeWM:
    """Small, random, with a z of its own; the AdaLN layers, zero at first, would hide it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model = LeWM(dataclasses.replace(export_config, z_dim=Z)).requires_grad_(False)
        for name, tensor in model.state_dict().items():
            if "adaLN_modulation" in name:
                tensor.normal_(0.0, 0.15)
    return model.eval()


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    stochastic: LeWM,
    export_specs: Specs,
    export_recording: Path,
) -> Path:
    folder = tmp_path_factory.mktemp("native")
    save_checkpoint(
        folder / "model", stochastic, observation=export_specs[0], action=export_specs[1]
    )
    options = ExportOptions(
        calibration_data=export_recording,
        precisions=("int8",),
        command="jepa-edge export ...",
        calibration_frames=48,
        tuning_frames=16,
        held_out_frames=32,
        max_latent_error=0.5,
    )
    export_bundle(folder / "model", folder / "native.jepa", options)
    return folder / "native.jepa"


def torch_rollout(
    model: LeWM, history: np.ndarray, actions: np.ndarray, spec: ActionSpec, z: np.ndarray | None
) -> np.ndarray:
    scored = ((actions - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
    count = 1 if z is None else len(z)
    with torch.inference_mode():
        out = model.rollout(
            torch.from_numpy(history[:, 0]).expand(count, -1, -1),
            torch.from_numpy(scored).expand(count, -1, -1),
            None if z is None else torch.from_numpy(z),
        )
    return np.asarray(out.numpy()[:, :, None])


def test_the_released_layout_is_unchanged(export_config: LeWMConfig) -> None:
    plain = LeWM(export_config)
    assert not any("latent_noise" in name for name in plain.state_dict())
    with pytest.raises(InputError, match="z_dim 0 takes none"):
        plain.rollout(torch.zeros(1, 3, 24), torch.zeros(1, 4, 4), torch.zeros(1, 2, Z))
    with pytest.raises(InputError, match="z_dim is -1"):
        dataclasses.replace(export_config, z_dim=-1)


def test_the_checkpoint_keeps_z(bundle: Path, stochastic: LeWM) -> None:
    model, config, _ = load_checkpoint(bundle.parent / "model")
    assert config.z_dim == Z
    assert model.latent_noise is not None
    assert stochastic.latent_noise is not None
    assert torch.equal(model.latent_noise.weight, stochastic.latent_noise.weight)


def test_a_config_that_forgets_z_is_refused(bundle: Path, tmp_path: Path) -> None:
    source = bundle.parent / "model"
    text = (source / "config.json").read_text().replace(f'"z_dim": {Z}', '"z_dim": 0')
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"latent_noise\.weight"):
        load_checkpoint(tmp_path)


def test_exported_graph_computes_what_torch_does(
    bundle: Path, stochastic: LeWM, export_specs: Specs
) -> None:
    world = WorldModel.load(bundle, "fp32")
    assert world.z_dim == Z
    assert world.own_engine() is None
    golden = Golden.read(world.bundle)
    z = np.random.default_rng(1).normal(size=(len(golden.history), Z)).astype(np.float32)
    for given in (None, z):
        predicted = world.predict(golden.history, golden.actions, given)
        for row in range(4):
            expected = torch_rollout(
                stochastic,
                golden.history[row],
                golden.actions[row],
                export_specs[1],
                None if given is None else given[row : row + 1, None],
            )
            np.testing.assert_allclose(predicted[row], expected[0, 0], atol=2e-4)
    np.testing.assert_array_equal(
        world.predict(golden.history, golden.actions),
        world.predict(golden.history, golden.actions, np.zeros_like(z)),
    )
    for wrong in (z[:, :2], z[:3]):
        with pytest.raises(InputError, match=rf"expected \({len(z)}, {Z}\)"):
            world.predict(golden.history, golden.actions, wrong)


def test_sampled_futures_have_torchs_mean_and_covariance(
    bundle: Path, stochastic: LeWM, export_specs: Specs
) -> None:
    world = WorldModel.load(bundle, "fp32")
    golden = Golden.read(world.bundle)
    history = golden.history[0]
    actions = np.concatenate([golden.actions[0, :-1], golden.actions[:H, -1]])
    sampler = NativeSampler(world)
    futures = sampler.sample(history, actions, samples=3000, seed=2)
    np.testing.assert_allclose(
        futures.mean,
        torch_rollout(stochastic, history, actions, export_specs[1], None)[0],
        atol=1e-3,
    )
    z = np.random.default_rng(3).normal(size=(6000, H, Z)).astype(np.float32)
    drawn = torch_rollout(stochastic, history, actions, export_specs[1], z)
    for step in range(H):
        ours = futures.latents[:, step, 0].astype(np.float64)
        theirs = drawn[:, step, 0].astype(np.float64)
        expected = np.cov(theirs, rowvar=False)
        assert np.trace(expected) > 0.0
        gap = np.linalg.norm(np.cov(ours, rowvar=False) - expected)
        assert gap < 0.12 * np.linalg.norm(expected)
        error = 6 * np.sqrt(np.diag(expected) * (1 / 3000 + 1 / 6000))
        assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < error).all()
        assert futures.aleatoric[step] == pytest.approx(np.trace(expected) / 24, rel=0.1)
    np.testing.assert_array_equal(futures.epistemic, 0.0)


def test_the_same_z_gives_the_same_futures(
    bundle: Path, stochastic: LeWM, export_specs: Specs
) -> None:
    world = WorldModel.load(bundle, "fp32")
    golden = Golden.read(world.bundle)
    history = golden.history[1]
    actions = np.concatenate([golden.actions[1, :-1], golden.actions[:H, -1]])
    futures = NativeSampler(world).sample(history, actions, samples=8, seed=6)
    z = np.stack([_core.standard_normal(6, step, 8 * Z).reshape(8, Z) for step in range(H)], 1)
    z = (z - z.mean(axis=0)) / z.std(axis=0, ddof=1)
    expected = torch_rollout(stochastic, history, actions, export_specs[1], z.astype(np.float32))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(futures.latents, expected, atol=1e-3 * scale)
    longer = np.concatenate([golden.history[2][:1], history])
    older = np.concatenate([golden.actions[2][:1], actions])
    same = NativeSampler(world).sample(longer, older, samples=8, seed=6)
    np.testing.assert_array_equal(same.latents, futures.latents)
    with pytest.raises(InputError, match="got 1 samples"):
        NativeSampler(world).sample(history, actions, 1)
    with pytest.raises(InputError, match="expected 2 or more samples, 3 latents"):
        NativeSampler(world).sample(history[1:], actions, 4)


def test_int8_keeps_z_and_the_engine_is_left_out(bundle: Path) -> None:
    world = WorldModel.load(bundle, "int8")
    assert world.z_dim == Z
    assert world.manifest.engine is None
    assert not (bundle / "predictor.safetensors").exists()
    golden = Golden.read(world.bundle)
    z = np.random.default_rng(4).normal(size=(len(golden.history), Z)).astype(np.float32)
    mean = world.predict(golden.history, golden.actions)
    moved = world.predict(golden.history, golden.actions, z)
    assert np.abs(moved - mean).max() > 0.01 * np.abs(mean).max()


def test_a_model_without_z_has_no_native_sampler(
    tmp_path: Path, export_model: LeWM, export_specs: Specs
) -> None:
    class Plain:
        z_dim = 0
        bundle = type("Bundle", (), {"path": tmp_path})

    with pytest.raises(InputError, match="no latent variable of its own"):
        NativeSampler(Plain())  # type: ignore[arg-type]
