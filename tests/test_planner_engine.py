# SPDX-License-Identifier: Apache-2.0
"""The planner on the core's own rollouts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.channels import Whitener
from jepa_edge.engine import RolloutEngine
from jepa_edge.errors import InputError
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.manifest import LatentSpec
from jepa_edge.mlp import MLP
from jepa_edge.planner import NoTrustedPlanError, Planner, PlannerConfig, RiskConfig, goal_energy

from .reference_predictor import Problem, Sizes, draw, draw_problem, write

SIZES = Sizes()
H, S = 4, 60
CONFIG = PlannerConfig(horizon=H, candidates=S, elites=8, iterations=5)
FUTURES = RiskConfig(samples=6)
NOISE_STEPS = 3

MakeModel = Callable[..., Any]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return draw_problem(draw(SIZES)[0], SIZES, candidates=1, horizon=H, frames=SIZES.window)


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """What a planner asks of a WorldModel, with the predictor in the core."""
    tensors, metadata = draw(SIZES)
    path = write(tmp_path_factory.mktemp("engine") / "predictor.safetensors", tensors, metadata)
    spec = SimpleNamespace(
        dim=SIZES.action_dim,
        mean=tensors["action_mean"].tolist(),
        std=(1.0 / tensors["action_inv_std"]).tolist(),
        low=(),
        high=(),
    )
    latent = LatentSpec(tokens=SIZES.tokens, dim=SIZES.latent_dim)

    def make(threads: int = 1) -> Any:
        engine = RolloutEngine.load(path, threads=threads)
        return SimpleNamespace(
            manifest=SimpleNamespace(
                require_action=lambda: spec,
                latent=latent,
                history=SIZES.window,
                min_history=None,
            ),
            engine=lambda candidates, horizon, samples=1, precision=None: engine,
            rolled=engine,
        )

    return make


def _variable(scale: float = 0.3) -> LatentVariable:
    """Noise of about this size, by heads that hardly react."""
    rng = np.random.default_rng(0)
    D, rank = SIZES.latent_dim, 2
    inputs = 2 * D + SIZES.action_dim + NOISE_STEPS

    def head(outputs: int, *stack: int) -> MLP:
        one = (1,) if stack else ()
        return MLP(
            center=np.zeros(inputs, np.float32),
            scale=np.ones(inputs, np.float32),
            weights=(rng.normal(0.0, 0.02, (*stack, inputs, outputs)).astype(np.float32),),
            biases=(np.zeros((*stack, *one, outputs), np.float32),),
        )

    return LatentVariable(
        base=np.full((NOISE_STEPS, D), scale, np.float32),
        factor=rng.normal(0.0, scale / 2, (D, rank)).astype(np.float32),
        scale_head=head(D + rank),
        mean_heads=head(D, 2),
        gain=np.ones(NOISE_STEPS, np.float32),
    )


def _plan(planner: Planner, problem: Problem, **options: Any) -> Any:
    return planner.plan(problem.history, problem.past_actions, problem.goal, **options)


@pytest.mark.parametrize("method", ["cem", "icem", "mppi"])
def test_it_is_the_search_over_the_engines_rollouts(
    make_model: MakeModel, problem: Problem, method: Any
) -> None:
    model = make_model()
    config = PlannerConfig(
        method=method, horizon=H, candidates=S, elites=8, iterations=5, goal_steps=2
    )
    planner = Planner(model, config)
    plan = _plan(planner, problem)

    def evaluate(actions: NDArray[np.float32]) -> NDArray[np.float32]:
        given = problem.history, problem.past_actions, actions
        return np.asarray(model.rolled.goal_energies(*given, problem.goal, 2))

    found = planner._search.plan(evaluate)
    np.testing.assert_allclose(plan.actions, found.actions, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(plan.energies, found.energies, rtol=1e-5)
    assert plan.energies[-1] < plan.energies[0]
    once = evaluate(plan.best_actions[None])
    np.testing.assert_allclose(once[0], plan.best_energy, rtol=1e-5)


@pytest.mark.parametrize("samples", [1, 6])
def test_the_plan_does_not_depend_on_threads(
    make_model: MakeModel, problem: Problem, samples: int
) -> None:
    config = PlannerConfig(
        method="icem", horizon=H, candidates=S, elites=8, risk=RiskConfig(samples=samples)
    )
    plans = [
        _plan(Planner(make_model(threads), config, latent_variable=_variable()), problem)
        for threads in (1, 2, 3)
    ]
    for plan in plans[1:]:
        assert np.array_equal(plan.actions, plans[0].actions)
        assert np.array_equal(plan.energies, plans[0].energies)


def test_plans_at_the_same_time_are_those_of_one_after_another(
    make_model: MakeModel, problem: Problem
) -> None:
    model = make_model()
    shared = Planner(model, CONFIG)
    histories = [problem.history + np.float32(0.1 * i) for i in range(8)]

    def with_shared(history: Any) -> Any:
        return shared.plan(history, problem.past_actions, problem.goal).actions

    def with_own(history: Any) -> Any:
        own = Planner(model, CONFIG)
        return own.plan(history, problem.past_actions, problem.goal).actions

    expected = [with_shared(history) for history in histories]
    with ThreadPoolExecutor(4) as pool:
        for run in (with_shared, with_own):
            for one, alone in zip(pool.map(run, histories), expected, strict=True):
                assert np.array_equal(one, alone)


def test_the_history_may_still_be_growing(make_model: MakeModel, problem: Problem) -> None:
    planner = Planner(make_model(), CONFIG)
    plan = planner.plan(problem.history[-1:], problem.past_actions[:0], problem.goal)
    assert np.isfinite(plan.actions).all()
    with pytest.raises(InputError, match="history"):
        planner.plan(np.concatenate([problem.history] * 2), problem.past_actions, problem.goal)


def test_an_objective_sees_the_futures(make_model: MakeModel, problem: Problem) -> None:
    planner = Planner(
        make_model(),
        PlannerConfig(horizon=H, candidates=S, elites=8, risk=FUTURES),
        latent_variable=_variable(),
    )
    seen = []

    def objective(latents: Any, actions: Any) -> Any:
        assert latents.shape == (S, 6, H, SIZES.tokens, SIZES.latent_dim)
        assert actions.shape == (S, H, SIZES.action_dim)
        assert not latents.flags.writeable
        assert not latents.flags.owndata
        seen.append(latents.std(axis=1).mean())
        flat = latents.reshape(-1, *latents.shape[2:])
        return goal_energy(flat, problem.goal).reshape(S, 6).mean(axis=1)

    own = planner.plan(problem.history, problem.past_actions, None, objective=objective)
    assert len(seen) == own.iterations
    assert min(seen) > 0.05
    np.testing.assert_allclose(own.energies, _plan(planner, problem).energies, rtol=1e-4)
    with pytest.raises(ZeroDivisionError):
        planner.plan(
            problem.history, problem.past_actions, None, objective=lambda latents, actions: 1 / 0
        )
    with pytest.raises(InputError, match="the objective returned"):
        planner.plan(
            problem.history, problem.past_actions, None, objective=lambda z, a: np.zeros(3)
        )
    # What failed leaves nothing behind.
    assert np.array_equal(_plan(planner, problem).actions, _plan(planner, problem).actions)


def test_risk_measures_of_the_futures_are_ordered(make_model: MakeModel, problem: Problem) -> None:
    model, energies = make_model(), {}
    for measure in ("mean", "mean_plus_std", "cvar"):
        config = PlannerConfig(
            horizon=H,
            candidates=S,
            elites=8,
            iterations=1,
            risk=RiskConfig(samples=6, measure=measure),  # type: ignore[arg-type]
        )
        plan = _plan(Planner(model, config, latent_variable=_variable()), problem)
        energies[measure] = plan.best_energy
    assert energies["mean"] < energies["mean_plus_std"]
    assert energies["mean"] < energies["cvar"]


def test_the_horizon_is_trusted_as_far_as_calibrated(
    make_model: MakeModel, problem: Problem
) -> None:
    model = make_model()
    config = PlannerConfig(
        horizon=H, candidates=S, elites=8, risk=RiskConfig(samples=6, trust_horizon=True)
    )

    def plan(radius: Any) -> Any:
        planner = Planner(
            model, config, radius=np.asarray(radius, np.float32), latent_variable=_variable()
        )
        return _plan(planner, problem)

    free = PlannerConfig(horizon=H, candidates=S, elites=8, risk=FUTURES)
    everywhere = _plan(Planner(model, free, latent_variable=_variable()), problem)
    assert np.array_equal(plan([1e6] * H).actions, everywhere.actions)
    with pytest.raises(NoTrustedPlanError, match="stop and ask"):
        plan([0.0] * H)

    def first_step(latents: Any, actions: Any) -> Any:
        return ((latents[:, :, 0] - problem.goal) ** 2).sum(axis=(2, 3)).mean(axis=1)

    planner = Planner(model, free, latent_variable=_variable())
    judged = planner.plan(problem.history, problem.past_actions, None, objective=first_step)
    np.testing.assert_allclose(plan([1e6, 0.0, 0.0, 0.0]).energies, judged.energies, rtol=1e-4)


def test_the_world_term_reaches_the_engine(make_model: MakeModel, problem: Problem) -> None:
    D = SIZES.latent_dim
    recorded = Whitener(mean=np.zeros(D, np.float32), whiten=np.eye(D, dtype=np.float32))
    config = PlannerConfig(horizon=H, candidates=S, elites=8, risk=RiskConfig(world_weight=2.0))
    model = make_model()
    planner = Planner(model, config, recorded=recorded)
    plan = _plan(planner, problem)
    rolled = model.rolled.rollout(
        problem.history, problem.past_actions, plan.best_actions[None]
    ).astype(np.float64)
    expected = ((rolled[0, -1] - problem.goal) ** 2).sum() + 2.0 * (rolled[0] ** 2).mean()
    np.testing.assert_allclose(plan.best_energy, expected, rtol=1e-5)


def test_a_planner_of_another_size_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    planner = Planner(model, CONFIG)
    small = _core.Engine(model.rolled.predictor, S - 1, H, 1, 1)
    with pytest.raises(ValueError, match="no room"):
        _core.EngineEvaluator(small, planner._judge, None)
