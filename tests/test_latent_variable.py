# SPDX-License-Identifier: Apache-2.0
"""The core against dense linear algebra, and sampled rollouts against a world that is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.errors import InputError
from jepa_edge.latent_variable import LatentVariable, Transitions
from jepa_edge.mlp import MLP

D, R, A, H, K = 5, 2, 3, 4, 6
SEED = 11


class Damped:
    """z' = 0.5 z + a @ push, whatever came before."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.push = rng.normal(size=(A, D)).astype(np.float32)
        self.calls = 0

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Predict (B, 1, D)."""
        self.calls += 1
        return np.float32(0.5) * history[:, -1] + (actions[:, -1] @ self.push)[:, None]


def constant_head(outputs: NDArray[np.float32], inputs: int) -> MLP:
    """A head that answers the same to every input; outputs (O,) or (K, O)."""
    weight = np.zeros((*outputs.shape[:-1], inputs, outputs.shape[-1]), np.float32)
    bias = outputs if outputs.ndim == 1 else outputs[:, None]
    return MLP(
        center=np.zeros(inputs, np.float32),
        scale=np.ones(inputs, np.float32),
        weights=(weight,),
        biases=(bias,),
    )


def constant_variable(rng: np.random.Generator) -> LatentVariable:
    """A latent variable with the same covariance everywhere."""
    inputs = 2 * D + A + H
    return LatentVariable(
        base=np.tile(rng.uniform(0.1, 0.4, D).astype(np.float32), (H, 1)),
        factor=rng.normal(0.0, 0.7, (D, R)).astype(np.float32),
        scale_head=constant_head(rng.normal(0.0, 0.5, D + R).astype(np.float32), inputs),
        mean_heads=constant_head(rng.normal(size=(K, D)).astype(np.float32), inputs),
        gain=np.ones(H, np.float32),
    )


def covariance(variable: LatentVariable) -> NDArray[np.float64]:
    """The dense covariance that `constant_variable` means, in float64."""
    raw = variable.scale_head.biases[0].astype(np.float64)
    logs = 3.0 * np.tanh(raw / 3.0)
    base = variable.base[0].astype(np.float64)
    factor = base[:, None] * variable.factor * np.exp(0.5 * logs[D:])
    return np.diag(base**2 * np.exp(logs[:D])) + factor @ factor.T


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def transitions(rng: np.random.Generator, batch: int, tokens: int = 1) -> Transitions:
    return Transitions(
        previous=rng.normal(size=(batch, tokens, D)).astype(np.float32),
        predicted=rng.normal(size=(batch, tokens, D)).astype(np.float32),
        action=rng.normal(size=(batch, A)).astype(np.float32),
        step=rng.integers(1, H + 3, batch),
    )


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert _core.philox4x32(list(counter), list(key)) == expected


def test_standard_normal_is_normal_and_streams_are_independent() -> None:
    first = _core.standard_normal(3, 0, 100_001).astype(np.float64)
    second = _core.standard_normal(3, 1, 100_001).astype(np.float64)
    standard_error = 1.0 / np.sqrt(first.size)
    assert abs(first.mean()) < 4 * standard_error
    assert abs(first.var() - 1.0) < 4 * np.sqrt(2.0) * standard_error
    assert abs(np.mean(first**4) - 3.0) < 4 * np.sqrt(96.0) * standard_error
    assert abs(np.mean(first * second)) < 4 * standard_error
    np.testing.assert_array_equal(_core.standard_normal(3, 0, 10), first[:10].astype(np.float32))


def test_energy_and_samples_agree_with_dense_algebra(rng: np.random.Generator) -> None:
    batch, dim, rank = 9, 12, 4
    variance = rng.uniform(0.05, 2.0, (batch, dim)).astype(np.float32)
    factor = rng.normal(size=(batch, dim, rank)).astype(np.float32)
    residual = rng.normal(size=(batch, dim)).astype(np.float32)
    dense = np.einsum("bdr,ber->bde", factor, factor, dtype=np.float64)
    dense += np.einsum("bd,de->bde", variance.astype(np.float64), np.eye(dim))
    expected = [r @ np.linalg.solve(s, r) / dim for r, s in zip(residual, dense, strict=True)]
    np.testing.assert_allclose(
        _core.innovation_energy(variance, factor, residual), expected, rtol=2e-5
    )
    z = rng.normal(size=(batch, dim + rank)).astype(np.float32)
    roots = np.sqrt(variance.astype(np.float64))
    wanted = roots * z[:, :dim] + np.einsum("bdr,br->bd", factor, z[:, dim:])
    np.testing.assert_allclose(_core.sample(variance, factor, z), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 3])
def test_energy_spread_and_disagreement_mean_what_they_say(
    rng: np.random.Generator, tokens: int
) -> None:
    variable, given = constant_variable(rng), transitions(rng, 7, tokens)
    observed = rng.normal(size=given.predicted.shape).astype(np.float32)
    dense = covariance(variable)
    residual = (observed - given.predicted).astype(np.float64)
    solved = np.linalg.solve(dense, residual[..., None])[..., 0]
    expected = np.mean(np.sum(residual * solved, axis=2), axis=1) / D
    np.testing.assert_allclose(variable.energy(given, observed), expected, rtol=1e-4)
    np.testing.assert_allclose(variable.spread(given), np.trace(dense) / D, rtol=1e-5)
    means = variable.mean_heads.biases[0][:, 0].astype(np.float64) * variable.base[0]
    np.testing.assert_allclose(variable.disagreement(given), means.var(axis=0).mean(), rtol=1e-4)


def test_rollout_spreads_as_a_linear_gaussian_world_does(rng: np.random.Generator) -> None:
    variable, world = constant_variable(rng), Damped(rng)
    history = rng.normal(size=(3, 1, D)).astype(np.float32)
    actions = rng.normal(size=(2 + H, A)).astype(np.float32)
    futures = variable.rollout(world, history, actions, samples=4000, seed=5)
    assert futures.latents.shape == (4000, H, 1, D)
    assert world.calls == H
    expected_mean, expected = history[-1, 0].astype(np.float64), np.zeros((D, D))
    for step in range(H):
        expected_mean = 0.5 * expected_mean + actions[2 + step] @ world.push
        expected = 0.25 * expected + covariance(variable)
        np.testing.assert_allclose(futures.mean[step, 0], expected_mean, rtol=1e-4, atol=1e-4)
        sampled = np.cov(futures.latents[:, step, 0].astype(np.float64), rowvar=False)
        assert np.abs(sampled - expected).max() < 0.08 * np.abs(expected).max()
        assert futures.aleatoric[step] == pytest.approx(np.trace(expected) / D, rel=0.06)
        np.testing.assert_allclose(
            futures.latents[:, step, 0].mean(axis=0),
            futures.mean[step, 0],
            atol=5 * np.sqrt(np.diag(expected).max() / 4000),
        )
    np.testing.assert_allclose(
        futures.epistemic, variable.disagreement(transitions(rng, 1))[0], rtol=1e-4
    )


def test_random_numbers_are_common_to_all_actions_and_fixed_by_the_seed(
    rng: np.random.Generator,
) -> None:
    variable, world = constant_variable(rng), Damped(rng)
    history = rng.normal(size=(3, 1, D)).astype(np.float32)
    one, two = (rng.normal(size=(2 + H, A)).astype(np.float32) for _ in range(2))
    first = variable.rollout(world, history, one, samples=16, seed=5)
    second = variable.rollout(world, history, two, samples=16, seed=5)
    deviations = [f.latents - f.mean for f in (first, second)]
    np.testing.assert_allclose(deviations[0], deviations[1], atol=1e-5)
    np.testing.assert_array_equal(
        first.latents, variable.rollout(world, history, one, samples=16, seed=5).latents
    )
    other = variable.rollout(world, history, one, samples=16, seed=6)
    assert np.abs(other.latents - first.latents).max() > 0.01
    fewer = variable.rollout(world, history, one[: 2 + 2], samples=16, seed=5)
    np.testing.assert_array_equal(fewer.latents, first.latents[:, :2])


def test_few_samples_spread_as_much_as_many(rng: np.random.Generator) -> None:
    variable, world = constant_variable(rng), Damped(rng)
    history = rng.normal(size=(3, 1, D)).astype(np.float32)
    actions = rng.normal(size=(3, A)).astype(np.float32)
    expected = np.trace(covariance(variable)) / D
    spreads = [
        variable.rollout(world, history, actions, samples=8, seed=seed).aleatoric[0]
        for seed in range(50)
    ]
    assert np.mean(spreads) == pytest.approx(expected, rel=0.1)
    assert np.std(spreads) < 0.3 * expected  # about 0.5 without the scaling


def test_many_histories_at_once_give_what_one_at_a_time_gives(rng: np.random.Generator) -> None:
    variable, world = constant_variable(rng), Damped(rng)
    history = rng.normal(size=(4, 3, 2, D)).astype(np.float32)
    actions = rng.normal(size=(4, 2 + H, A)).astype(np.float32)
    latents, mean, epistemic = variable.rollouts(world, history, actions, samples=8, seed=2)
    for index in range(4):
        single = variable.rollout(world, history[index], actions[index], samples=8, seed=2)
        np.testing.assert_allclose(latents[index], single.latents, atol=1e-5)
        np.testing.assert_allclose(mean[index], single.mean, atol=1e-5)
        np.testing.assert_allclose(epistemic[index], single.epistemic, rtol=1e-5)


def test_arrays_survive_storage(rng: np.random.Generator) -> None:
    variable, given = constant_variable(rng), transitions(rng, 4)
    again = LatentVariable.from_arrays(variable.to_arrays())
    np.testing.assert_array_equal(again.spread(given), variable.spread(given))
    np.testing.assert_array_equal(again.disagreement(given), variable.disagreement(given))


def test_check_wants_the_shapes_of_its_own_world(rng: np.random.Generator) -> None:
    variable = constant_variable(rng)
    variable.check(D, A)
    with pytest.raises(ValueError, match=r"base is float32 with shape \(4, 5\).*\(4, 6\)"):
        variable.check(D + 1, A)
    with pytest.raises(ValueError, match=r"scale_head.center .* expected float32 with \(18,\)"):
        variable.check(D, A + 1)


@pytest.mark.parametrize(("samples", "blocks"), [(1, 6), (8, 2)])
def test_rollout_refuses_too_few_samples_or_actions(
    rng: np.random.Generator, samples: int, blocks: int
) -> None:
    history = np.zeros((3, 1, D), np.float32)
    actions = np.zeros((blocks, A), np.float32)
    with pytest.raises(InputError, match="expected 2 or more samples"):
        constant_variable(rng).rollout(Damped(rng), history, actions, samples)
