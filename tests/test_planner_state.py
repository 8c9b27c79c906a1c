# SPDX-License-Identifier: Apache-2.0
"""Planning with a latent that carries the robot's own state, which energies leave out."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.channels import Whitener
from jepa_edge.errors import InputError
from jepa_edge.goals import encode_goal, goal_state
from jepa_edge.manifest import LatentSpec
from jepa_edge.planner import Planner, PlannerConfig, RiskConfig, goal_energy, lowest
from jepa_edge.world_model import WorldModel

from .state_world import (
    ACTION,
    DIM,
    PATCHES,
    SEEN,
    SIZE,
    STATE,
    TOKENS,
    encoded,
    make_state_bundle,
    predicted,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    return WorldModel.load(make_state_bundle(tmp_path_factory.mktemp("state") / "state.jepa"))


def _frame(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def _start(model: WorldModel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    states = np.array([[300.0, -200.0], [300.5, -200.5]], np.float32)
    frames = np.stack([_frame(1), _frame(2)])
    return model.encode(frames, states), np.full((1, ACTION), 0.5, np.float32)


def test_the_world_term_sees_what_energies_compare(model: WorldModel) -> None:
    """A whitener of all channels, or of the state's token, would be far off."""
    rng = np.random.default_rng(3)
    recorded = Whitener(
        mean=rng.normal(size=SEEN).astype(np.float32),
        whiten=rng.normal(size=(SEEN, SEEN)).astype(np.float32),
    )
    config = PlannerConfig(
        horizon=1, candidates=30, elites=3, iterations=2, risk=RiskConfig(world_weight=2.0)
    )
    history, past = _start(model)
    goal = encode_goal(model, _frame(3))
    plan = Planner(model, config, recorded=recorded).plan(history, past, goal)
    actions = np.concatenate([past, plan.best_actions])
    latent = predicted(history[None], actions[None])[0].astype(np.float64)
    seen = latent[:PATCHES, :SEEN]
    white = (seen.mean(axis=0) - recorded.mean) @ recorded.whiten.astype(np.float64)
    expected = ((seen - goal[:PATCHES, :SEEN]) ** 2).sum() + 2.0 * (white**2).mean()
    assert plan.best_energy == pytest.approx(expected, rel=1e-4)
    whole = Whitener(mean=np.zeros(DIM, np.float32), whiten=np.eye(DIM, dtype=np.float32))
    with pytest.raises(InputError, match=f"{SEEN} channels that energies compare"):
        Planner(model, config, recorded=whole)


def test_a_latent_variable_of_the_compared_part_is_the_models(model: WorldModel) -> None:
    """Its check is told the compared channels; samples are refused for another reason."""
    seen: list[tuple[int, int]] = []

    class Variable:
        def check(self, dim: int, action: int) -> None:
            seen.append((dim, action))

    variable: Any = Variable()
    Planner(model, PlannerConfig(), latent_variable=variable)
    assert seen == [(SEEN, ACTION)]
    with pytest.raises(InputError, match="robot's own state"):
        Planner(model, PlannerConfig(risk=RiskConfig(samples=4)), latent_variable=variable)


def test_a_goal_may_be_a_picture_without_a_state(model: WorldModel) -> None:
    frame = _frame(4)
    goal = encode_goal(model, frame)
    np.testing.assert_allclose(goal, encoded(frame[None], np.zeros((1, STATE)))[0], atol=1e-5)
    states = np.array([[7.0, -9.0]], np.float32)
    other = encode_goal(model, frame, states[0])
    np.testing.assert_allclose(other, encoded(frame[None], states)[0], atol=1e-5)
    # The promise behind the zeros: what is compared does not depend on the state.
    np.testing.assert_array_equal(goal[:PATCHES, :SEEN], other[:PATCHES, :SEEN])
    history, past = _start(model)
    config = PlannerConfig(horizon=2, candidates=200, elites=20, iterations=20, init_std=3.0)
    planner = Planner(model, config)
    plans = [planner.plan(history, past, one) for one in (goal, other)]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)
    spec = model.manifest.latent
    assert plans[0].best_energy < goal_energy(history[None, -1:], goal, spec=spec)[0]


def test_a_state_that_energies_see_must_be_given(model: WorldModel) -> None:
    manifest = model.manifest
    whole = msgspec.structs.replace(manifest, latent=LatentSpec(tokens=TOKENS, dim=DIM))
    with pytest.raises(InputError, match="energies compare it too"):
        goal_state(whole, None)
    with pytest.raises(InputError, match="takes none"):
        goal_state(msgspec.structs.replace(manifest, state=None), np.zeros(2, np.float32))
    for wrong in (np.zeros(3, np.float32), np.full(STATE, np.nan, np.float32)):
        with pytest.raises(InputError, match=r"expected \(2,\)"):
            goal_state(manifest, wrong)


def test_the_lowest_energy_is_never_one_that_diverged() -> None:
    assert lowest(np.array([np.nan, 3.0, np.inf, 2.0, 2.0])) == 3
    for none in ([np.nan], [np.nan, np.inf], [np.inf]):
        with pytest.raises(InputError, match="energies is finite"):
            lowest(np.array(none))
