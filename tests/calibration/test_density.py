# SPDX-License-Identifier: Apache-2.0
"""Densities of latents: what is familiar, what is not, and how surely the two are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from jepa_edge.calibration.fit_density import fit_flow, fit_rnd
from jepa_edge.density import Flow
from jepa_edge.progress import silent

DIM = 4


def ring(count: int, seed: int) -> NDArray[np.float32]:
    """A noisy ring in the first two numbers: no Gaussian fits it, its middle is empty."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0.0, 2.0 * np.pi, count)
    around = 3.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rest = rng.normal(0.0, 0.5, (count, DIM - 2))
    values = np.concatenate([around + rng.normal(0.0, 0.2, (count, 2)), rest], axis=1)
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def flow() -> Flow:
    values = ring(6000, 0)
    return fit_flow(values, np.arange(6000) // 30, 128, 0, silent)


def test_correlated_gaussians_lead_back_to_unit_noise() -> None:
    rng = np.random.default_rng(0)
    mix = np.array([[2.0, 0, 0, 0], [1.0, 1, 0, 0], [0, -0.5, 1, 0], [0, 0, 0, 3]])
    values = (rng.normal(size=(8000, DIM)) @ mix.T + 5.0).astype(np.float32)
    flow = fit_flow(values[:6000], np.arange(6000) // 30, 128, 0, silent)
    scores = flow.score(values[6000:])
    assert np.mean(scores) == pytest.approx(1.0, abs=0.15)
    # The squared norm of four unit normals over 4 has a variance of 1/2.
    assert np.var(scores) == pytest.approx(0.5, rel=0.6)


def test_what_lies_off_the_ring_is_unfamiliar(flow: Flow) -> None:
    nominal = ring(1000, 2)
    moved = nominal.copy()
    moved[:, 3] += 3.0
    far = 2.0 * nominal
    for other in (moved, far):
        scores = np.concatenate([flow.score(nominal), flow.score(other)])
        assert roc_auc_score(np.repeat([0, 1], 1000), scores) > 0.95


def test_a_network_imitates_the_random_one_only_where_there_was_data() -> None:
    rnd = fit_rnd(ring(6000, 0), np.arange(6000) // 30, 64, 0, silent)
    nominal = ring(1000, 2)
    assert np.mean(rnd.score(nominal)) == pytest.approx(1.0, abs=0.3)
    scores = np.concatenate([rnd.score(nominal), rnd.score(2.0 * nominal)])
    assert roc_auc_score(np.repeat([0, 1], 1000), scores) > 0.95


def test_the_same_seed_gives_the_same_flow() -> None:
    values = ring(600, 3)
    first, second = (fit_flow(values, np.arange(600) // 30, 16, 7, silent) for _ in range(2))
    for name, array in first.to_arrays("f").items():
        np.testing.assert_array_equal(array, second.to_arrays("f")[name])
