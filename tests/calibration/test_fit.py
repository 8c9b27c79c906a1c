# SPDX-License-Identifier: Apache-2.0
"""Fits against a world whose noise is known: its covariance, its gain, its actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.dataset import EncodedEpisode, Windows, make_windows, roll_episodes
from jepa_edge.calibration.fit import action_use, fit_latent_variable, fit_observer
from jepa_edge.calibration.fit_heads import fit_whitener
from jepa_edge.calibration.fit_scale import negative_log_likelihood, transitions_of
from jepa_edge.calibration.fit_spread import lengthen
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.spread import pick_windows, realized_error
from jepa_edge.calibration.thresholds import window_energies
from jepa_edge.channels import episode_steps
from jepa_edge.futures import recent_energy
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.progress import silent

D, A, HISTORY, HORIZON = 6, 2, 3, 5
OPTIONS = CalibrateOptions(rank=2, hidden=32, members=4)


class World:
    """z' = M z + B a + exp(a_0 / 2) * correlated noise: the first action makes it louder."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(D, D)))
        self.step = (0.8 * rotation).astype(np.float32)
        self.push = rng.normal(size=(A, D)).astype(np.float32)
        direction = rng.normal(size=D)
        self.covariance = 0.01 * np.eye(D) + 0.05 * np.outer(direction, direction)
        self.root = np.linalg.cholesky(self.covariance)

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The exact conditional mean, (B, 1, D)."""
        return (history[:, -1, 0] @ self.step + actions[:, -1] @ self.push)[:, None]

    def episodes(self, count: int, steps: int, seed: int) -> list[EncodedEpisode]:
        rng = np.random.default_rng(seed)
        runs = []
        for index in range(count):
            actions = rng.normal(size=(steps, A)).astype(np.float32)
            latents = np.empty((steps + 1, 1, D), np.float32)
            latents[0] = rng.normal(size=D)
            for t in range(steps):
                noise = self.root @ rng.normal(size=D) * scale_of(actions[t])
                latents[t + 1, 0] = latents[t, 0] @ self.step + actions[t] @ self.push + noise
            runs.append(EncodedEpisode(name=str(index), latents=latents, actions=actions))
        return runs


def scale_of(action: NDArray[np.float32]) -> float:
    return float(np.exp(0.5 * action[0]))


def windows_of(world: World, episodes: list[EncodedEpisode]) -> Windows:
    return make_windows(world, episodes, HISTORY, HORIZON)


@pytest.fixture(scope="module")
def world() -> World:
    torch.set_num_threads(1)
    return World()


@pytest.fixture(scope="module")
def held_out(world: World) -> Windows:
    return windows_of(world, world.episodes(60, 20, seed=2))


@pytest.fixture(scope="module")
def variable(world: World) -> LatentVariable:
    fit = windows_of(world, world.episodes(240, 20, seed=1))
    gain = windows_of(world, world.episodes(40, 20, seed=3))
    return fit_latent_variable(world, fit, gain, OPTIONS, silent)


def test_windows_hold_what_was_recorded(world: World) -> None:
    episodes = world.episodes(3, 9, seed=4)
    windows = windows_of(world, episodes)
    assert len(windows) == 3 * (9 - (HISTORY - 1) - HORIZON + 1)
    row = 3  # the second window of the second episode
    np.testing.assert_array_equal(windows.episode[row], 1)
    np.testing.assert_array_equal(windows.history[row], episodes[1].latents[0:3])
    row = 4
    np.testing.assert_array_equal(windows.history[row], episodes[1].latents[1:4])
    np.testing.assert_array_equal(windows.observed[row], episodes[1].latents[4:9])
    np.testing.assert_array_equal(windows.actions[row], episodes[1].actions[1:8])
    latent = windows.history[row, -1, 0]
    for step in range(HORIZON):
        latent = latent @ world.step + windows.actions[row, 2 + step] @ world.push
        np.testing.assert_allclose(windows.predicted[row, step, 0], latent, atol=1e-4)


def test_fitted_covariance_is_the_true_one(
    world: World, variable: LatentVariable, held_out: Windows
) -> None:
    transitions = transitions_of(held_out, 1)
    variance, factor = variable.gaussian(transitions)
    fitted = np.einsum("bdr,ber->bde", factor, factor) + np.einsum(
        "bd,de->bde", variance, np.eye(D)
    )
    scale = np.exp(transitions.action[:, 0].astype(np.float64))
    for low, high in ((-1.5, -0.5), (-0.5, 0.5), (0.5, 1.5)):
        chosen = (transitions.action[:, 0] > low) & (transitions.action[:, 0] < high)
        average = fitted[chosen].mean(axis=0)
        expected = scale[chosen].mean() * world.covariance
        assert np.abs(average - expected).max() < 0.3 * np.abs(expected).max()
        assert np.trace(average) == pytest.approx(np.trace(expected), rel=0.15)


def test_innovation_energy_is_chi_squared(variable: LatentVariable, held_out: Windows) -> None:
    energies = window_energies(variable, held_out)
    assert energies[:, 0].mean() == pytest.approx(1.0, abs=0.12)
    one_per_episode = energies[::14, 0][:60] * D
    assert stats.kstest(one_per_episode, stats.chi2(D).cdf).pvalue > 0.01


def test_sampled_spread_grows_as_the_error_does(
    world: World, variable: LatentVariable, held_out: Windows
) -> None:
    """Innovations are white here, so that the gain must be 1 and the spread the error."""
    np.testing.assert_allclose(variable.gain, 1.0, atol=0.15)
    latents, mean, _ = variable.rollouts(
        world, held_out.history[:200], held_out.actions[:200], samples=64
    )
    np.testing.assert_allclose(mean, held_out.predicted[:200], atol=1e-4)
    spread = latents.var(axis=1, ddof=1).mean(axis=(0, 2, 3))
    residual = held_out.observed[:200] - held_out.predicted[:200]
    np.testing.assert_allclose(spread, np.mean(residual**2, axis=(0, 2, 3)), rtol=0.25)


def test_published_spread_is_the_realized_error_per_horizon(
    world: World, variable: LatentVariable, held_out: Windows
) -> None:
    """The gain is fitted, so that little is left for the scale; noise of late says little here."""
    assert variable.calibration is not None
    np.testing.assert_allclose(variable.calibration.scale, 1.0, atol=0.2)
    assert variable.calibration.recency <= 0.3
    part = pick_windows(lengthen(held_out), 11, 0)
    recent = recent_energy(world, part.history, part.actions, HISTORY)
    latents, _, epistemic = variable.rollouts(
        world, part.history[:, -HISTORY:], part.actions[:, -(HISTORY - 1 + HORIZON) :], samples=32
    )
    variance = latents.var(axis=1, ddof=1).mean(axis=(2, 3)) + epistemic
    spread = variable.calibration.spread(variance, recent).astype(np.float64)
    ratio = np.sqrt(np.mean(realized_error(part) ** 2, axis=0) / np.mean(spread**2, axis=0))
    np.testing.assert_allclose(ratio, 1.0, atol=0.15)  # heavy-tailed: log-normal loudness


def test_heads_disagree_more_far_from_the_data(variable: LatentVariable, held_out: Windows) -> None:
    near = transitions_of(held_out, 1)
    far = transitions_of(
        Windows(
            history=held_out.history + 8.0,
            actions=held_out.actions,
            predicted=held_out.predicted + 8.0,
            observed=held_out.observed,
            episode=held_out.episode,
        ),
        1,
    )
    assert np.median(variable.disagreement(far)) > 5 * np.median(variable.disagreement(near))
    assert np.median(variable.disagreement(near)) < 0.1 * np.median(variable.spread(near))


def test_likelihood_is_scipys() -> None:
    rng = np.random.default_rng(0)
    log_variance = rng.normal(size=(5, D))
    factor, residual = rng.normal(size=(5, D, 3)), rng.normal(size=(5, D))
    dense = [np.diag(np.exp(v)) + f @ f.T for v, f in zip(log_variance, factor, strict=True)]
    expected = -np.mean(
        [
            stats.multivariate_normal(cov=c).logpdf(r) + 0.5 * D * np.log(2 * np.pi)
            for c, r in zip(dense, residual, strict=True)
        ]
    )
    tensors = (torch.from_numpy(x.astype(np.float32)) for x in (log_variance, factor, residual))
    assert negative_log_likelihood(*tensors).item() == pytest.approx(expected / D, rel=1e-4)


def test_a_model_that_listens_is_told_from_a_deaf_one(world: World, held_out: Windows) -> None:
    commanded, shuffled = action_use(world, held_out, 4, seed=0)
    assert shuffled / commanded > 5.0

    class Deaf:
        def predict(
            self, history: NDArray[np.float32], actions: NDArray[np.float32]
        ) -> NDArray[np.float32]:
            return history[:, -1]

    commanded, shuffled = action_use(Deaf(), held_out, 4, seed=0)
    assert shuffled == pytest.approx(commanded)


def test_inverse_dynamics_find_wrong_actions(world: World, variable: LatentVariable) -> None:
    observer = fit_observer(variable, world.episodes(60, 20, seed=5), OPTIONS, silent)
    right, wrong = [], []
    for run in world.episodes(20, 20, seed=6):
        rolled = roll_episodes(world, [run], HISTORY, HORIZON)[0]
        for actions, energies in ((run.actions, right), (-run.actions, wrong)):
            steps = episode_steps(rolled, run.latents, actions, HISTORY)
            energies.append(observer.inverse_energies(steps)[:, 0])
    assert np.mean(right) == pytest.approx(1.0, abs=0.35)
    assert np.median(wrong) > 5 * np.median(right)


def test_whitener_is_the_mahalanobis_distance() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(D, D))
    values = (rng.normal(size=(4000, D)) @ root + 3.0).astype(np.float32)
    whitener = fit_whitener(values)
    centered = values - values.mean(axis=0)
    expected = np.einsum(
        "bd,de,be->b", centered, np.linalg.inv(np.cov(centered, rowvar=False)), centered
    )
    np.testing.assert_allclose(whitener.score(values), expected / D, rtol=0.05, atol=0.02)
