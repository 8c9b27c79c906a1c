# SPDX-License-Identifier: Apache-2.0
"""The core's energies of predicted latents against the formulas, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.channels import Whitener
from jepa_edge.manifest import LatentSpec
from jepa_edge.planner import goal_energy

Array = NDArray[np.float64]

OFF: dict[str, Any] = {
    "goal_steps": 1,
    "risk": "mean",
    "kappa": 1.0,
    "alpha": 0.1,
    "world_weight": 0.0,
    "spread_weight": 0.0,
    "spread_discount": 1.0,
    "trust_horizon": False,
    "radius": (),
    "world_mean": (),
    "world_whiten": (),
    "distance": "l2",
    "energy_tokens": 0,
    "energy_dim": 0,
}


def _energies(latents: NDArray[np.float32], goals: NDArray[np.float32], **given: Any) -> Any:
    S, M, H, N, D = latents.shape
    shape = {"candidates": S, "samples": M, "horizon": H, "tokens": N, "dim": D}
    return _core.Objective(**shape, **{**OFF, **given}).energies(latents, goals)


def _expected(latents: Array, goals: Array, options: dict[str, Any]) -> Array:
    """E of DESIGN.md, written out candidate by candidate."""
    _, M, H, N, D = latents.shape
    tokens, channels = options["energy_tokens"] or N, options["energy_dim"] or D
    latents, goals = latents[..., :tokens, :channels], goals[..., :tokens, :channels]
    result = []
    for futures in latents:
        trusted, penalty = H, 0.0
        if options["radius"]:
            u = futures.var(axis=0, ddof=1).mean(axis=(1, 2))
            over = np.maximum(u - np.asarray(options["radius"]), 0.0)
            powers = options["spread_discount"] ** np.arange(1, H + 1)
            penalty = options["spread_weight"] * float((powers * over).sum())
            if options["trust_horizon"] and (over > 0).any():
                trusted = int(np.argmax(over > 0))
        if trusted == 0:
            result.append(math.inf)
            continue
        steps = futures[:, max(0, trusted - options["goal_steps"]) : trusted]
        apart = steps[:, :, None] - goals
        if options["distance"] == "l1":
            distances = np.abs(apart).mean(axis=(3, 4)).min(axis=2).mean(axis=1)
        else:
            distances = (apart**2).sum(axis=(3, 4)).min(axis=2).mean(axis=1)
        if options["risk"] == "mean":
            energy = distances.mean()
        elif options["risk"] == "mean_plus_std":
            energy = distances.mean() + options["kappa"] * distances.std(ddof=1)
        else:
            count = math.ceil(round(options["alpha"] * M, 9))
            energy = np.sort(distances)[-count:].mean()
        if options["world_weight"]:
            whiten = np.asarray(options["world_whiten"]).reshape(channels, channels)
            white = (futures[:, :trusted].mean(axis=2) - options["world_mean"]) @ whiten
            energy += options["world_weight"] * (white**2).mean()
        result.append(float(energy) + penalty)
    return np.asarray(result)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_energies_are_the_formula(data: st.DataObject) -> None:
    S, H, N = (data.draw(st.integers(1, 6)) for _ in range(3))
    M, D, G = (
        data.draw(st.integers(2, 40)),
        data.draw(st.integers(1, 21)),
        data.draw(st.integers(1, 3)),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    latents = rng.normal(size=(S, M, H, N, D)).astype(np.float32)
    goals = rng.normal(size=(G, N, D)).astype(np.float32)
    options = {
        **OFF,
        "goal_steps": data.draw(st.integers(1, H)),
        "risk": data.draw(st.sampled_from(["mean", "mean_plus_std", "cvar"])),
        "kappa": data.draw(st.floats(0.0, 5.0)),
        "alpha": data.draw(st.sampled_from([0.05, 0.1, 0.3, 0.5, 1.0])),
        "distance": data.draw(st.sampled_from(["l2", "l1"])),
        "energy_tokens": data.draw(st.integers(0, N)),
        "energy_dim": data.draw(st.integers(0, D)),
    }
    if data.draw(st.booleans()):
        options["world_weight"] = data.draw(st.floats(0.1, 5.0))
        seen = options["energy_dim"] or D
        options["world_mean"] = rng.normal(size=seen).astype(np.float32).tolist()
        options["world_whiten"] = rng.normal(size=seen**2).astype(np.float32).tolist()
    if data.draw(st.booleans()):
        options["radius"] = rng.uniform(0.5, 1.6, H).astype(np.float32).tolist()
        options["spread_weight"] = data.draw(st.sampled_from([0.0, 2.5]))
        options["spread_discount"] = data.draw(st.sampled_from([0.5, 0.9, 1.0]))
        options["trust_horizon"] = data.draw(st.booleans())
    found = _energies(latents, goals, **options)
    expected = _expected(latents.astype(np.float64), goals.astype(np.float64), options)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_the_world_energy_is_the_distance_from_the_recorded_latents() -> None:
    rng = np.random.default_rng(0)
    recorded = Whitener(
        mean=rng.normal(size=192).astype(np.float32),
        whiten=rng.normal(0.0, 0.07, (192, 192)).astype(np.float32),
    )
    latents = rng.normal(size=(4, 1, 3, 2, 192)).astype(np.float32)
    found = _energies(
        latents,
        np.empty((0, 2, 192), np.float32),
        world_weight=1.0,
        world_mean=recorded.mean.tolist(),
        world_whiten=recorded.whiten.reshape(-1).tolist(),
    )
    expected = recorded.score(latents.mean(axis=3).reshape(-1, 192)).reshape(4, 3).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), samples=st.integers(2, 30))
@settings(max_examples=50, deadline=None)
def test_cvar_lies_between_the_mean_and_the_worst(seed: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(5, samples, 2, 1, 3)).astype(np.float32)
    goal = rng.normal(size=(1, 1, 3)).astype(np.float32)
    mean, all_of_them, tail, worst = (
        _energies(latents, goal, risk=risk, alpha=alpha)
        for risk, alpha in (("mean", 0.1), ("cvar", 1.0), ("cvar", 0.3), ("cvar", 1e-6))
    )
    np.testing.assert_allclose(all_of_them, mean, rtol=1e-6)
    assert (tail >= mean * (1 - 1e-6)).all()
    assert (worst >= tail * (1 - 1e-6)).all()
    distances = ((latents[:, :, -1].astype(np.float64) - goal) ** 2).sum(axis=(2, 3))
    np.testing.assert_allclose(worst, distances.max(axis=1), rtol=1e-6)


@pytest.mark.parametrize(("tokens", "dim"), [(3, 8), (4, 6), (3, 6)])
def test_the_robots_own_state_is_in_no_term(tokens: int, dim: int) -> None:
    """A token of the state as V-JEPA 2-AC's, channels of it as DINO-WM's, and both."""
    rng = np.random.default_rng(8)
    latents = rng.normal(size=(5, 6, 2, 4, 8)).astype(np.float32)
    latents[..., tokens:, :], latents[..., dim:] = 1e4, -1e4
    latents[:, ::2, :, tokens:] += 50.0
    goal = rng.normal(size=(1, 4, 8)).astype(np.float32)
    options = {
        **OFF,
        "world_weight": 2.0,
        "world_mean": rng.normal(size=dim).astype(np.float32).tolist(),
        "world_whiten": rng.normal(size=dim**2).astype(np.float32).tolist(),
        "radius": [0.9, 0.9],
        "spread_weight": 3.0,
        "energy_tokens": tokens,
        "energy_dim": dim,
    }
    expected = _expected(latents.astype(np.float64), goal.astype(np.float64), options)
    np.testing.assert_allclose(_energies(latents, goal, **options), expected, rtol=2e-5)
    assert (expected < 1e3).all()


@pytest.mark.parametrize("mark", [np.nan, np.inf])
@pytest.mark.parametrize(("token", "channel"), [(3, 0), (0, 7)])
def test_a_state_that_is_not_finite_is_no_good_future(
    mark: float, token: int, channel: int
) -> None:
    latents = np.zeros((3, 2, 2, 4, 8), np.float32)
    latents[1, 1, -1, token, channel] = mark
    goal = np.ones((1, 4, 8), np.float32)
    found = _energies(latents, goal, energy_tokens=3, energy_dim=6)
    np.testing.assert_array_equal(found, [18.0, np.nan, 18.0])
    spec = LatentSpec(tokens=4, dim=8, energy_tokens=3, energy_dim=6)
    alone = goal_energy(latents[:, 1], goal[0], spec=spec)
    np.testing.assert_array_equal(alone, [18.0, np.nan, 18.0])
