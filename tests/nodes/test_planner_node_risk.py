# SPDX-License-Identifier: Apache-2.0
"""The planner node's risk terms take the calibration's numbers, and refuse what they must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_edge.engine import RolloutEngine
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.manifest import LatentSpec
from jepa_edge.mlp import MLP
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.parameters import resolve
from jepa_edge.nodes.planner_parameters import (
    PARAMETERS,
    make_planner,
    planner_config,
    usual_variance,
)
from jepa_edge.nodes.planner_run import PlanRun, Status, World
from jepa_edge.nodes.planner_state import State
from jepa_edge.planner import Planner, PlannerConfig, RiskConfig
from jepa_edge.spread import SpreadCalibration
from jepa_edge.world_model import WorldModel

from ..reference_predictor import Sizes, draw, draw_problem, write
from .bus import make

SIZES = Sizes()
H, STEPS = 4, 3


def _values(**given: Any) -> Any:
    return resolve(PARAMETERS, {"horizon": 2, "iterations": 3, **given})


def test_the_defaults_are_the_planners_own() -> None:
    assert planner_config(resolve(PARAMETERS, {})) == PlannerConfig()
    chosen = planner_config(
        resolve(
            PARAMETERS,
            {
                "method": "mppi",
                "temperature": 0.1,
                "precision": "int8",
                "device": "auto",
                "risk_samples": 8,
                "risk_measure": "cvar",
                "risk_alpha": 0.25,
                "world_weight": 1.5,
                "trust_horizon": True,
            },
        )
    )
    assert chosen == PlannerConfig(
        method="mppi",
        temperature=0.1,
        precision="int8",
        device="auto",
        risk=RiskConfig(
            samples=8, measure="cvar", alpha=0.25, world_weight=1.5, trust_horizon=True
        ),
    )
    with pytest.raises(InputError, match="samples is 1"):
        planner_config(resolve(PARAMETERS, {"trust_horizon": True}))
    held = planner_config(resolve(PARAMETERS, {"held": [3.0, 5.0], "momentum": 0.15}))
    assert held == PlannerConfig(held=(3, 5), momentum=0.15)
    with pytest.raises(InputError, match="whole numbers"):
        planner_config(resolve(PARAMETERS, {"held": [0.5]}))
    small = {"method": "icem", "candidates": 4, "elites": 3}
    assert planner_config(resolve(PARAMETERS, small)).keep_elites == 3


def test_terms_take_their_numbers_from_the_calibration(
    calibrated_bundle: Path, linear_bundle: Path, world: Any
) -> None:
    """The world term of the bundle's whitener; futures need an engine, which this bundle lacks."""
    model = WorldModel.load(calibrated_bundle)
    rng = np.random.default_rng(5)
    problem = (
        rng.normal(size=(3, 1, 6)).astype(np.float32),
        np.full((2, 4), 256.0, np.float32),
        rng.normal(size=(1, 6)).astype(np.float32),
    )
    found = make_planner(model, _values(world_weight=3.0)).plan(*problem)
    config = PlannerConfig(horizon=2, iterations=3, risk=RiskConfig(world_weight=3.0))
    recorded = Monitor.load(model).observer.recorded
    assert np.array_equal(
        Planner(model, config, recorded=recorded).plan(*problem).actions, found.actions
    )
    assert not np.array_equal(make_planner(model, _values()).plan(*problem).actions, found.actions)
    with pytest.raises(InputError, match="holds no predictor for the core"):
        make_planner(model, _values(risk_samples=4, risk_measure="cvar"))
    with pytest.raises(CalibrationError, match="calibrat"):
        make_planner(WorldModel.load(linear_bundle), _values(world_weight=3.0))


def _variable(scale: float = 0.3) -> LatentVariable:
    """Noise of about this size, by heads that hardly react."""
    rng = np.random.default_rng(0)
    D, rank = SIZES.latent_dim, 2
    inputs = 2 * D + SIZES.action_dim + STEPS

    def head(outputs: int, *stack: int) -> MLP:
        one = (1,) if stack else ()
        return MLP(
            center=np.zeros(inputs, np.float32),
            scale=np.ones(inputs, np.float32),
            weights=(rng.normal(0.0, 0.02, (*stack, inputs, outputs)).astype(np.float32),),
            biases=(np.zeros((*stack, *one, outputs), np.float32),),
        )

    return LatentVariable(
        base=np.full((STEPS, D), scale, np.float32),
        factor=rng.normal(0.0, scale / 2, (D, rank)).astype(np.float32),
        scale_head=head(D + rank),
        mean_heads=head(D, 2),
        gain=np.ones(STEPS, np.float32),
    )


def _calibrated(variable: LatentVariable, usual: tuple[float, ...]) -> LatentVariable:
    calibration = SpreadCalibration(
        scale=np.array([2.0, 4.0, 8.0], np.float32),
        growth=np.ones(STEPS, np.float32),
        recency=0.0,
        radius=np.ones(STEPS, np.float32),
        alpha=0.1,
        samples=8,
        latents=3,
        usual=np.array(usual, np.float32),
    )
    return replace(variable, calibration=calibration)


def test_what_is_usual_is_told_in_the_planners_units() -> None:
    """spread = sqrt(scale x variance): the variance at which the spread is the usual one."""
    variable = _calibrated(_variable(), (0.5, 1.0, 2.0))
    found = usual_variance(variable, 5)
    np.testing.assert_allclose(found, [0.125, 0.25, 0.5, 0.5, 0.5], rtol=1e-6)
    assert variable.calibration is not None
    np.testing.assert_allclose(
        variable.calibration.spread(found[:3], None), [0.5, 1.0, 2.0], rtol=1e-6
    )
    with pytest.raises(InputError, match="run `jepa-edge calibrate` again"):
        usual_variance(_variable(), 5)


@pytest.mark.parametrize(("usual", "status"), [(1e-6, Status.NOT_TRUSTED), (1e3, Status.PLANNED)])
def test_where_nothing_is_trusted_nothing_is_planned(
    tmp_path: Path, usual: float, status: Status
) -> None:
    """The real search over the core's engine, with a trust horizon."""
    tensors, metadata = draw(SIZES)
    engine = RolloutEngine.load(write(tmp_path / "predictor.safetensors", tensors, metadata))
    problem = draw_problem(tensors, SIZES, candidates=1, horizon=H, frames=SIZES.window)
    action = SimpleNamespace(
        dim=SIZES.action_dim,
        mean=tensors["action_mean"].tolist(),
        std=(1.0 / tensors["action_inv_std"]).tolist(),
        low=(),
        high=(),
    )
    model: Any = SimpleNamespace(
        manifest=SimpleNamespace(
            action=action,
            require_action=lambda: action,
            latent=LatentSpec(tokens=SIZES.tokens, dim=SIZES.latent_dim),
            observation=SimpleNamespace(rate_hz=5.0),
            history=SIZES.window,
        ),
        engine=lambda candidates, horizon, samples=1, precision=None: engine,
    )
    variable = _calibrated(_variable(), (usual,) * STEPS)
    config = PlannerConfig(
        horizon=H,
        candidates=40,
        elites=8,
        iterations=2,
        risk=RiskConfig(samples=4, trust_horizon=True),
    )
    planner = Planner(model, config, radius=usual_variance(variable, H), latent_variable=variable)
    state = State(
        history=problem.history,
        past_actions=problem.past_actions,
        stamp=make("builtin_interfaces/msg/Time"),
        stamp_ns=0,
        received_ns=0,
    )
    published: list[Any] = []
    world = World(
        state=lambda: (state, ""),
        trust=lambda: ("", 1),
        flag=lambda: make("jepa_msgs/msg/ConfidenceFlag"),
        wait_newer=lambda than_ns, timeout_s: False,
        over=lambda state: (0, ""),
        publish=published.append,
        closing=lambda: False,
    )
    request = make("jepa_msgs/action/PlanLatent_Goal", replans=1)
    goal: Any = SimpleNamespace(
        request=request, cancelled=False, feedback=lambda message: None, succeed=lambda: None
    )
    result = PlanRun(make, planner, world, lambda _: problem.goal, 0.0).run(goal)
    assert result.status == status
    assert len(published) == (status is Status.PLANNED)
    assert ("stop and ask" in result.message) == (status is Status.NOT_TRUSTED)
