# SPDX-License-Identifier: Apache-2.0
"""MC-dropout against torch's own repeated forward passes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jepa_edge.errors import InputError
from jepa_edge.export.dropout import DropoutSampler
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_checkpoint import save_checkpoint
from jepa_edge.manifest import ActionSpec, ObservationSpec

Specs = tuple[ObservationSpec, ActionSpec]
H = 3


@pytest.fixture
def given(export_specs: Specs) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    history = rng.normal(size=(3, 1, 24)).astype(np.float32)
    spec = export_specs[1]
    return history, rng.normal(spec.mean, spec.std, (2 + H, 4)).astype(np.float32)


def test_it_samples_what_repeated_forward_passes_do(
    export_model: LeWM, export_specs: Specs, given: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    history, actions = given
    spec = export_specs[1]
    save_checkpoint(tmp_path / "m", export_model, observation=export_specs[0], action=spec)
    sampler = DropoutSampler.load(tmp_path / "m")
    futures = sampler.sample(history, actions, samples=2000, seed=3)
    scored = torch.from_numpy(((actions - spec.mean) / spec.std).astype(np.float32))[None]
    past = torch.from_numpy(history[:, 0])[None]
    np.testing.assert_allclose(
        futures.mean[:, 0], export_model.rollout(past, scored)[0].numpy(), atol=1e-4
    )
    # Oracle: torch's train() on the predictor, one pass at a time; it has no batch norm inside.
    assert not any(isinstance(m, nn.BatchNorm1d) for m in export_model.predictor.modules())
    torch.manual_seed(11)
    export_model.predictor.train()
    try:
        passes = [export_model.rollout(past, scored)[0].numpy() for _ in range(1500)]
    finally:
        export_model.eval()
    drawn = np.stack(passes).astype(np.float64)
    expected = drawn.var(axis=0, ddof=1).mean(axis=1)
    assert (expected > 0.0).all()
    np.testing.assert_allclose(futures.epistemic, expected, rtol=0.12)
    np.testing.assert_allclose(futures.spread, np.sqrt(expected), rtol=0.06)
    np.testing.assert_array_equal(futures.aleatoric, 0.0)
    standard_error = np.sqrt(2.0 * drawn.var(axis=0) / 1500)
    gap = np.abs(futures.latents[:, :, 0].mean(axis=0) - drawn.mean(axis=0))
    assert (gap < 6 * standard_error).all()
    again = sampler.sample(history, actions, samples=2000, seed=3)
    np.testing.assert_array_equal(again.latents, futures.latents)
    other = sampler.sample(history, actions, samples=2000, seed=4)
    assert np.abs(other.latents - futures.latents).max() > 0.0


def test_it_leaves_the_model_and_the_generator_alone(
    export_model: LeWM, export_specs: Specs, given: tuple[np.ndarray, np.ndarray]
) -> None:
    state = torch.random.get_rng_state()
    DropoutSampler(export_model, export_specs[1]).sample(*given, samples=2)
    assert not any(module.training for module in export_model.modules())
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_checkpoint_without_dropout_is_refused(
    export_config: LeWMConfig, export_specs: Specs
) -> None:
    config = dataclasses.replace(export_config, dropout=0.0, embedding_dropout=0.0)
    with pytest.raises(InputError, match="no dropout"):
        DropoutSampler(LeWM(config), export_specs[1])
    config = dataclasses.replace(export_config, dropout=0.0, embedding_dropout=0.1)
    DropoutSampler(LeWM(config), export_specs[1])


def test_what_does_not_fit_is_refused(
    export_model: LeWM, export_specs: Specs, given: tuple[np.ndarray, np.ndarray]
) -> None:
    history, actions = given
    sampler = DropoutSampler(export_model, export_specs[1])
    for arguments in (
        (history, actions, 1),
        (history[:, :, :5], actions, 4),
        (history, actions[:2], 4),
        (history, actions[:, :3], 4),
    ):
        with pytest.raises(InputError, match="expected 2 or more samples"):
            sampler.sample(*arguments)
