# SPDX-License-Identifier: Apache-2.0
"""The planner on the linear world, where the best plan is a least-squares solution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.planner import Planner, PlannerConfig, goal_energy
from jepa_edge.world_model import WorldModel

WIDE = PlannerConfig(horizon=2, candidates=400, elites=40, iterations=25, init_std=2.0, clip=False)


def _problem(world: Any) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(5)
    history = rng.normal(size=(3, 1, 6)).astype(np.float32)
    past = np.full((2, 4), 256.0, np.float32)
    goal = rng.normal(size=(1, 6)).astype(np.float32)
    return history, past, goal


def test_it_finds_the_least_squares_plan(linear_bundle: Path, world: Any) -> None:
    history, past, goal = _problem(world)
    plan = Planner(WorldModel.load(linear_bundle), WIDE).plan(history, past, goal)
    step, push = world.step.astype(np.float64), world.push.astype(np.float64)
    drift = history[-1, 0] @ step @ step
    jacobian = np.concatenate([push @ step, push])
    _, residual, *_ = np.linalg.lstsq(jacobian.T, goal[0] - drift, rcond=None)
    best = float(residual[0]) if residual.size else 0.0
    reached = float(np.sum((drift + plan.actions.reshape(-1) @ jacobian - goal[0]) ** 2))
    start = float(np.sum((drift + np.full(8, 256.0) @ jacobian - goal[0]) ** 2))
    assert reached - best < 0.02 * (start - best)


def test_the_seed_decides_the_plan(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    problem = _problem(world)
    first, again = (Planner(model, WIDE).plan(*problem) for _ in range(2))
    assert np.array_equal(first.actions, again.actions)
    other = PlannerConfig(horizon=2, iterations=2, seed=1)
    base = PlannerConfig(horizon=2, iterations=2, seed=0)
    plans = [Planner(model, config).plan(*problem).actions for config in (base, other)]
    assert not np.array_equal(*plans)


def test_limits_hold(linear_bundle: Path, world: Any) -> None:
    config = PlannerConfig(horizon=3, iterations=8, init_std=10.0)
    plan = Planner(WorldModel.load(linear_bundle), config).plan(*_problem(world))
    assert plan.actions.min() >= 0.0
    assert plan.actions.max() <= 512.0


def test_it_starts_from_the_plan_it_is_given(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    problem = _problem(world)
    good = Planner(model, WIDE).plan(*problem)
    short = PlannerConfig(horizon=2, iterations=1, init_std=0.05, clip=False)
    warm = Planner(model, short).plan(*problem, initial=good.actions)
    cold = Planner(model, short).plan(*problem)
    assert warm.energies[0] < cold.energies[0]
    with pytest.raises(InputError, match="initial"):
        Planner(model, short).plan(*problem, initial=good.actions[:1])


def test_goal_steps_average_the_last_distances() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(7, 5, 1, 6)).astype(np.float32)
    goal = rng.normal(size=(1, 6)).astype(np.float32)
    squared = ((predicted.astype(np.float64) - goal) ** 2).sum(axis=(2, 3))
    np.testing.assert_allclose(goal_energy(predicted, goal), squared[:, -1], rtol=1e-5)
    np.testing.assert_allclose(
        goal_energy(predicted, goal, 3), squared[:, -3:].mean(axis=1), rtol=1e-5
    )
    with pytest.raises(InputError, match="goal_steps"):
        PlannerConfig(horizon=3, goal_steps=4)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="elites"):
        PlannerConfig(candidates=10, elites=30)
