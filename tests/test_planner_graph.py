# SPDX-License-Identifier: Apache-2.0
"""Planning through a graph: absolute distances of patches, growing windows, bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge import chunks
from jepa_edge.energy_landscape import energy_landscape
from jepa_edge.errors import InputError
from jepa_edge.manifest import ActionSpec, LatentSpec
from jepa_edge.planner import Planner, PlannerConfig, goal_energy
from jepa_edge.rollout import roll
from jepa_edge.world_model import WorldModel

TOKENS, DIM, ACTION, LONGEST = 4, 5, 7, 3
LATENT = LatentSpec(tokens=TOKENS, dim=DIM, energy_tokens=3, energy_dim=4, distance="l1")
Array = NDArray[np.float32]


class GraphModel:
    """What a planner asks of a WorldModel without engine: latents move with the action.

    The last token counts the frames that the predictor saw.
    """

    def __init__(self, action: ActionSpec | None, latent: LatentSpec = LATENT) -> None:
        def require() -> ActionSpec:
            if action is None:
                raise InputError("this model takes no actions")
            return action

        class Manifest:
            history, min_history = LONGEST, 1
            require_action = staticmethod(require)

        self.manifest: Any = Manifest()
        self.manifest.latent = latent
        rng = np.random.default_rng(3)
        self.push = rng.normal(size=(ACTION, TOKENS, DIM)).astype(np.float32)
        self.batches: list[int] = []

    def engine(self, *sizes: int, precision: Any = None) -> None:
        """There is none."""

    def predict(self, history: Array, actions: Array) -> Array:
        self.batches.append(len(history))
        out = 0.9 * history[:, -1] + np.einsum("ba,and->bnd", actions[:, -1], self.push)
        out[:, -1] = history.shape[1]
        return np.asarray(out, np.float32)

    def rollout(self, history: Array, actions: Array) -> Array:
        return roll(self.predict, history, actions, LONGEST)


def spec(**given: Any) -> ActionSpec:
    values: dict[str, Any] = {"mean": (0.0,) * ACTION, "std": (0.05,) * ACTION, **given}
    return ActionSpec(dim=ACTION, block=1, **values)


def model(action: ActionSpec | None = None, latent: LatentSpec = LATENT) -> Any:
    return GraphModel(action or spec(), latent)


def problem(steps: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(steps)
    history = rng.normal(size=(steps, TOKENS, DIM)).astype(np.float32)
    past = rng.normal(size=(steps - 1, ACTION)).astype(np.float32)
    return history, past, rng.normal(size=(TOKENS, DIM)).astype(np.float32)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_goal_energy_compares_what_the_manifest_says(distance: Any) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(6, 3, TOKENS, DIM)).astype(np.float32)
    goal = rng.normal(size=(TOKENS, DIM)).astype(np.float32)
    apart = (predicted.astype(np.float64) - goal)[:, 1:, :3, :4]
    expected = np.abs(apart).mean(axis=(1, 2, 3))
    if distance == "l2":
        expected = (apart**2).sum(axis=(2, 3)).mean(axis=1)
    told = msgspec.structs.replace(LATENT, distance=distance)
    np.testing.assert_allclose(goal_energy(predicted, goal, 2, spec=told), expected, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_window_is_planned_from_and_grows(steps: int) -> None:
    seen: list[Array] = []

    def watch(latents: Array, actions: Array) -> Array:
        seen.append(latents.copy())
        return goal_energy(latents[:, 0], goal, spec=LATENT)

    history, past, goal = problem(steps)
    config = PlannerConfig(horizon=3, candidates=40, elites=4, iterations=2)
    plan = Planner(model(), config).plan(history, past, goal)
    again = Planner(model(), config).plan(history, past, None, objective=watch)
    np.testing.assert_allclose(again.actions, plan.actions, atol=1e-6)
    windows = [min(LONGEST, steps + step) for step in range(3)]
    assert np.array_equal(seen[0][0, 0, :, -1, 0], windows)
    rolled = model().rollout(history[None], np.concatenate([past, plan.best_actions])[None])
    apart = np.abs(rolled[0, -1, :3, :4].astype(np.float64) - goal[:3, :4])
    np.testing.assert_allclose(plan.best_energy, apart.mean(), rtol=1e-5)


def test_windows_that_do_not_fit_are_refused() -> None:
    history, past, goal = problem(LONGEST + 1)
    planner = Planner(model(), PlannerConfig(horizon=2, candidates=10, elites=2))
    with pytest.raises(InputError, match="history"):
        planner.plan(history, past, goal)


def test_memory_is_bounded_and_the_plan_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PlannerConfig(horizon=2, candidates=50, elites=5, iterations=3)
    inputs = problem(2)
    whole, parts = model(), model()
    expected = Planner(whole, config).plan(*inputs)
    assert set(whole.batches) == {50}
    monkeypatch.setattr(chunks, "_BYTES", 7 * 4 * (2 + 2) * TOKENS * DIM)
    found = Planner(parts, config).plan(*inputs)
    assert set(parts.batches) == {7, 1}
    assert np.array_equal(found.actions, expected.actions)

    def cost(latents: Array, actions: Array) -> Array:
        assert len(latents) == len(actions) == 50
        return goal_energy(latents[:, 0], inputs[2], spec=LATENT)

    mine = Planner(parts, config).plan(*inputs[:2], None, objective=cost)
    np.testing.assert_allclose(mine.actions, found.actions, atol=1e-6)


@pytest.mark.parametrize("clip", [True, False])
def test_held_numbers_stay_at_the_mean(clip: bool) -> None:
    mean = (0.0, 0.0, 0.0, 2.0, 0.0, 0.5, 0.0)
    action = spec(mean=mean, low=(-0.05,) * ACTION, high=(3.0,) * ACTION)
    config = PlannerConfig(
        horizon=2, candidates=60, elites=6, iterations=4, held=(3, 4, 5), clip=clip
    )
    history, past, goal = problem(1)
    plan = Planner(model(action), config).plan(
        history, past, goal, initial=np.full((2, ACTION), 0.01, np.float32)
    )
    np.testing.assert_allclose(plan.actions[:, 3:6], [mean[3:6]] * 2, atol=1e-6)
    assert (plan.actions[:, [0, 1, 2, 6]].std(axis=0) > 1e-4).all()
    for held in ((7,), (-1,), tuple(range(ACTION))):
        with pytest.raises(InputError, match="held"):
            Planner(model(), PlannerConfig(held=held))


def test_a_model_without_actions_does_not_plan() -> None:
    with pytest.raises(InputError, match="takes no actions"):
        Planner(GraphModel(None))  # type: ignore[arg-type]


def test_the_landscape_is_the_energy_of_each_action(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_BYTES", 4 * 4 * TOKENS * DIM * 10)
    history, past, goal = problem(2)
    found = energy_landscape(model(), history, past, goal, axes=(6, 0, 2), extent=0.3, steps=4)
    assert found.energies.shape == (4, 4, 4)
    np.testing.assert_allclose(found.values, [-0.3, -0.1, 0.1, 0.3], rtol=1e-6)
    push = model().push.astype(np.float64)
    expected = np.empty((4, 4, 4))
    for i, j, k in np.ndindex(4, 4, 4):
        action = np.zeros(ACTION)
        action[[6, 0, 2]] = found.values[[i, j, k]]
        latent = 0.9 * history[-1] + np.einsum("a,and->nd", action, push)
        expected[i, j, k] = np.abs(latent - goal)[:3, :4].mean()
    np.testing.assert_allclose(found.energies, expected, rtol=1e-5)
    best = np.unravel_index(expected.argmin(), expected.shape)
    assert found.best == tuple(float(found.values[i]) for i in best)


def test_a_bundles_landscape(linear_bundle: Path, world: Any) -> None:
    rng = np.random.default_rng(5)
    history = rng.normal(size=(3, 1, 6)).astype(np.float32)
    past, goal = np.full((2, 4), 256.0, np.float32), rng.normal(size=(1, 6)).astype(np.float32)
    loaded = WorldModel.load(linear_bundle)
    found = energy_landscape(loaded, history, past, goal, extent=100.0, steps=3)
    action = np.array([100.0, 0.0, -100.0, 0.0])
    reached = history[-1, 0] @ world.step.astype(np.float64) + action @ world.push
    expected = ((reached - goal[0]) ** 2).sum()
    np.testing.assert_allclose(found.energies[2, 1, 0], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"axes": (0, 1, 1)}, "axes"),
        ({"axes": (0, 1, 7)}, "axes"),
        ({"steps": 1}, "steps"),
        ({"extent": 0.0}, "extent"),
        ({"goal": np.zeros((1, DIM), np.float32)}, "goal"),
        ({"past_actions": np.zeros((2, ACTION), np.float32)}, "past_actions"),
    ],
)
def test_landscapes_that_do_not_fit_are_refused(given: dict[str, Any], told: str) -> None:
    history, past, goal = problem(2)
    inputs = {"history": history, "past_actions": past, "goal": goal, **given}
    with pytest.raises(InputError, match=told):
        energy_landscape(model(), **inputs)
