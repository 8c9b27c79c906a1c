# SPDX-License-Identifier: Apache-2.0
"""The planner on the linear world, where the best plan is a least-squares solution."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.channels import Whitener
from jepa_edge.errors import InputError
from jepa_edge.planner import (
    NoTrustedPlanError,
    Planner,
    PlannerConfig,
    RiskConfig,
    goal_energy,
    shift_plan,
)
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


@pytest.mark.parametrize("method", ["icem", "mppi"])
def test_the_other_methods_come_near_the_least_squares_plan(
    linear_bundle: Path, world: Any, method: Any
) -> None:
    model = WorldModel.load(linear_bundle)
    problem = _problem(world)
    best = Planner(model, WIDE).plan(*problem).best_energy
    config = PlannerConfig(
        method=method, horizon=2, candidates=400, elites=40, iterations=25, clip=False
    )
    plan = Planner(model, config).plan(*problem)
    assert plan.iterations == 25
    assert plan.best_energy - best < 0.1 * (plan.energies[0] - best)


def test_the_best_candidate_has_the_energy_that_is_told(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    history, past, goal = _problem(world)
    plan = Planner(model, PlannerConfig(horizon=2, iterations=3, returned="best")).plan(
        history, past, goal
    )
    assert np.array_equal(plan.actions, plan.best_actions)
    rolled = model.rollout(history[None], np.concatenate([past, plan.actions])[None])
    np.testing.assert_allclose(goal_energy(rolled, goal), plan.best_energy, rtol=1e-5)
    assert plan.spread.shape == (2,)
    assert plan.diagnostics.evaluated == 900
    assert plan.diagnostics.diverged == plan.diagnostics.refused == 0
    assert 0.0 < plan.diagnostics.evaluate_s < plan.time_s


def test_of_several_goals_the_nearest_counts(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    history, past, goal = _problem(world)
    planner = Planner(model, PlannerConfig(horizon=2, iterations=3))
    single = planner.plan(history, past, goal)
    several = planner.plan(history, past, np.stack([goal + 1000.0, goal]))
    assert np.array_equal(single.actions, several.actions)


def test_an_objective_takes_the_goals_place(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    history, past, goal = _problem(world)
    planner = Planner(model, PlannerConfig(horizon=2, iterations=3))

    def to_goal(latents: Any, actions: Any) -> Any:
        assert latents.shape == (300, 1, 2, 1, 6)
        assert actions.shape == (300, 2, 4)
        assert not actions.flags.writeable
        return goal_energy(latents[:, 0], goal)

    expected = planner.plan(history, past, goal)
    found = planner.plan(history, past, None, objective=to_goal)
    np.testing.assert_allclose(found.actions, expected.actions, rtol=1e-4)
    with pytest.raises(InputError, match="goal=None"):
        planner.plan(history, past, goal, objective=to_goal)
    with pytest.raises(InputError, match="goal is None"):
        planner.plan(history, past, None)
    with pytest.raises(InputError, match=r"shape \(1,\), expected \(300,\)"):
        planner.plan(history, past, None, objective=lambda latents, actions: np.zeros(1))
    with pytest.raises(ZeroDivisionError):
        planner.plan(history, past, None, objective=lambda latents, actions: 1 / 0)  # type: ignore[arg-type, return-value]


def test_constraints_refuse_candidates(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    history, past, _ = _problem(world)
    planner = Planner(model, PlannerConfig(horizon=2, iterations=3))

    def left_only(latents: Any, actions: Any) -> Any:
        cost = ((actions - 256.0) ** 2).sum(axis=(1, 2))
        return np.where(actions[:, 0, 0] > 256.0, np.inf, cost)

    plan = planner.plan(history, past, None, objective=left_only)
    assert plan.best_actions[0, 0] <= 256.0
    assert plan.diagnostics.refused > 100
    with pytest.raises(NoTrustedPlanError, match="stop and ask"):
        planner.plan(history, past, None, objective=lambda z, a: np.full(len(a), np.inf))
    with pytest.raises(InputError, match="300 diverged"):
        planner.plan(history, past, None, objective=lambda z, a: np.full(len(a), np.nan))


def test_a_deadline_ends_the_search(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    history, past, _ = _problem(world)

    def slow(latents: Any, actions: Any) -> Any:
        time.sleep(0.02)
        return actions[:, 0, 0]

    planner = Planner(model, PlannerConfig(horizon=2, iterations=50))
    plan = planner.plan(history, past, None, objective=slow, deadline_s=0.1)
    assert plan.deadline_hit
    assert 1 <= plan.iterations <= 5
    assert len(plan.energies) == plan.iterations
    assert planner.plan(history, past, None, objective=slow, deadline_s=1e-9).iterations == 1
    with pytest.raises(InputError, match="deadline_s"):
        planner.plan(history, past, None, objective=slow, deadline_s=0.0)


def test_threads_get_the_plan_of_one_thread(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    config = PlannerConfig(method="icem", horizon=2, iterations=4)
    shared = Planner(model, config)
    problems = [(h + np.float32(i), p, g) for i, (h, p, g) in enumerate([_problem(world)] * 8)]
    expected = [shared.plan(*problem).actions for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda problem: shared.plan(*problem).actions, problems))
        apart = list(pool.map(lambda problem: Planner(model, config).plan(*problem), problems))
    for alone, one, other in zip(expected, together, apart, strict=True):
        assert np.array_equal(alone, one)
        assert np.array_equal(alone, other.actions)


def test_plans_move_ahead() -> None:
    plan = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert shift_plan(plan).tolist() == [[2, 3], [4, 5], [4, 5]]
    fill = np.array([9, 8], np.float32)
    assert shift_plan(plan, 2, fill).tolist() == [[4, 5], [9, 8], [9, 8]]
    assert plan.tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InputError, match="expected"):
        shift_plan(plan, 1, fill[:1])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "gradient"}, "method"),
        ({"returned": "last"}, "returned"),
        ({"init_std": 0.0}, "init_std"),
        ({"init_std": math.nan}, "init_std"),
        ({"seed": -1}, "seed"),
        ({"method": "icem", "momentum": 1.0}, "momentum"),
        ({"method": "icem", "keep_elites": 31}, "keep_elites"),
        ({"method": "icem", "population_decay": 0.5}, "population_decay"),
        ({"method": "mppi", "temperature": 0.0}, "temperature"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        PlannerConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"measure": "worst"}, "measure"),
        ({"measure": "cvar"}, "samples"),
        ({"spread_weight": 1.0}, "samples"),
        ({"trust_horizon": True}, "samples"),
        ({"samples": 0}, "samples"),
        ({"alpha": 0.0}, "alpha"),
        ({"world_weight": -1.0}, "world_weight"),
        ({"spread_discount": 1.5}, "spread_discount"),
    ],
)
def test_risk_settings_out_of_range_are_refused(settings: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        RiskConfig(**settings)


def test_terms_that_lack_their_numbers_are_refused(linear_bundle: Path) -> None:
    model = WorldModel.load(linear_bundle)

    def planner(**risk: Any) -> Planner:
        return Planner(model, PlannerConfig(risk=RiskConfig(**risk)))

    with pytest.raises(InputError, match="recorded"):
        planner(world_weight=1.0)
    with pytest.raises(InputError, match="radius"):
        planner(samples=4, trust_horizon=True)
    with pytest.raises(InputError, match="latent_variable"):
        planner(samples=4)


def test_the_world_term_pulls_towards_what_was_recorded(linear_bundle: Path, world: Any) -> None:
    model = WorldModel.load(linear_bundle)
    history, past, goal = _problem(world)
    recorded = Whitener(mean=np.zeros(6, np.float32), whiten=np.eye(6, dtype=np.float32))
    norms = []
    for weight in (0.0, 1000.0):
        config = PlannerConfig(horizon=2, risk=RiskConfig(world_weight=weight))
        plan = Planner(model, config, recorded=recorded).plan(history, past, 5.0 * goal)
        rolled = model.rollout(history[None], np.concatenate([past, plan.actions])[None])
        norms.append(float((rolled**2).mean()))
    assert norms[1] < norms[0]
