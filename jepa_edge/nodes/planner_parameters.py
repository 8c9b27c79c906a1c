# SPDX-License-Identifier: Apache-2.0
"""Parameters of the planner node, and the search that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from jepa_edge.engine import CUDA_PRECISIONS, PRECISIONS
from jepa_edge.errors import InputError
from jepa_edge.image_fit import FITS, MODEL_FIT
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.bundle_loading import ENGINES, PROVIDER
from jepa_edge.nodes.parameters import Parameter, Value
from jepa_edge.nodes.qos import PROFILES
from jepa_edge.planner import Planner
from jepa_edge.planner_config import (
    Method,
    PlanDevice,
    PlannerConfig,
    Returned,
    RiskConfig,
    RiskMeasure,
)
from jepa_edge.session_config import MAX_HORIZON
from jepa_edge.world_model import AUTO, WorldModel

_PLAN, _RISK = PlannerConfig(), RiskConfig()

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(name="bundle", default="", description="Path of the bundle, NAME.jepa."),
    Parameter(
        name="variant", default=AUTO, description="Variant of the bundle, auto: the fastest."
    ),
    PROVIDER,
    ENGINES,
    Parameter(name="threads", default=1, description="Threads of the model.", low=1, high=256),
    Parameter(
        name="require_signature",
        default="",
        description="Path of a public key, PEM: refuse a bundle that it did not sign.",
    ),
    Parameter(name="method", default=_PLAN.method, description="Search.", choices=get_args(Method)),
    Parameter(
        name="horizon",
        default=_PLAN.horizon,
        description="Action blocks of a plan.",
        low=1,
        high=MAX_HORIZON,
    ),
    Parameter(
        name="goal_steps",
        default=_PLAN.goal_steps,
        description="How many of the last predicted latents are held against the goal.",
        low=1,
        high=MAX_HORIZON,
    ),
    Parameter(
        name="candidates",
        default=_PLAN.candidates,
        description="Candidates per iteration.",
        low=2,
        high=100_000,
    ),
    Parameter(
        name="elites",
        default=_PLAN.elites,
        description="Candidates that the next iteration is drawn around.",
        low=2,
        high=100_000,
    ),
    Parameter(
        name="iterations",
        default=_PLAN.iterations,
        description="Iterations of a search.",
        low=1,
        high=10_000,
    ),
    Parameter(
        name="init_std",
        default=_PLAN.init_std,
        description="First standard deviation, in units of the training actions' own.",
        low=1e-6,
        high=1e6,
    ),
    Parameter(
        name="clip",
        default=_PLAN.clip,
        description="Whether candidates stay within the action limits of the bundle.",
    ),
    Parameter(
        name="held",
        default=(),
        description="Which numbers of an action block, counted from 0, are not searched but stay "
        "at the mean training action, such as 3, 4, 5, the angles of V-JEPA 2-AC.",
        numbers=True,
    ),
    Parameter(
        name="momentum",
        default=-1.0,
        description="Weight of the old mean and standard deviation in CEM and iCEM; V-JEPA 2-AC's "
        "CEM has 0.15. Below 0: the method's own, 0 in CEM and 0.1 in iCEM.",
        low=-1.0,
        high=0.999,
    ),
    Parameter(name="seed", default=_PLAN.seed, description="Of the search.", low=0, high=2**63 - 1),
    Parameter(
        name="returned",
        default=_PLAN.returned,
        description="What the plan is: the mean of the last iteration, or the best candidate.",
        choices=get_args(Returned),
    ),
    Parameter(
        name="temperature",
        default=_PLAN.temperature,
        description="Of MPPI's softmax, in units of energy.",
        low=1e-9,
        high=1e9,
    ),
    Parameter(
        name="precision",
        default="",
        description="Of the rollout engine; empty: the fastest that is accurate enough. float16 "
        "and float8 are the GPU's.",
        choices=("", *PRECISIONS, *(name for name in CUDA_PRECISIONS if name not in PRECISIONS)),
    ),
    Parameter(
        name="device",
        default=_PLAN.device,
        description="Where a search runs: auto takes the GPU where the GPU core is built in and a "
        "GPU is able, else the CPU.",
        choices=get_args(PlanDevice),
    ),
    Parameter(
        name="risk_samples",
        default=_RISK.samples,
        description="Futures drawn per candidate; 1 for the model's own prediction alone.",
        low=1,
        high=10_000,
    ),
    Parameter(
        name="risk_measure",
        default=_RISK.measure,
        description="What of the futures' energies counts.",
        choices=get_args(RiskMeasure),
    ),
    Parameter(
        name="risk_kappa",
        default=_RISK.kappa,
        description="Weight of the standard deviation in mean_plus_std.",
        low=0.0,
        high=1e6,
    ),
    Parameter(
        name="risk_alpha",
        default=_RISK.alpha,
        description="Share of the worst futures in cvar.",
        low=1e-6,
        high=1.0,
    ),
    Parameter(
        name="world_weight",
        default=_RISK.world_weight,
        description="Weight of the distance of what is imagined from what was recorded.",
        low=0.0,
        high=1e6,
    ),
    Parameter(
        name="spread_weight",
        default=_RISK.spread_weight,
        description="Weight of spread beyond what is usual.",
        low=0.0,
        high=1e6,
    ),
    Parameter(
        name="spread_discount",
        default=_RISK.spread_discount,
        description="Factor on that weight per step.",
        low=1e-6,
        high=1.0,
    ),
    Parameter(
        name="trust_horizon",
        default=_RISK.trust_horizon,
        description="Whether a candidate ends where its spread is beyond what is usual.",
    ),
    Parameter(
        name="image_fit",
        default=MODEL_FIT,
        description="How a goal image of another size is fitted; as the node that judges does it.",
        choices=FITS,
    ),
    Parameter(
        name="max_state_age_s",
        default=0.0,
        description="An older latent is nothing to plan from, s; nor is a plan published if the "
        "newest one is older when its search ends; 0 for 2 periods of the model.",
        low=0.0,
        high=3600.0,
    ),
    Parameter(
        name="replan_period_s",
        default=0.0,
        description="Least time between two searches of one goal, s; 0: from every latent.",
        low=0.0,
        high=3600.0,
    ),
    Parameter(
        name="max_candidates",
        default=_PLAN.candidates,
        description="Most candidates that score_actions takes in one call, and, times horizon, "
        "most steps: the work of an iteration, during which the node takes in nothing else.",
        low=1,
        high=100_000,
    ),
    Parameter(
        name="search_nice",
        default=10,
        description="How far below the node's own the priority of a search is (Linux): a machine "
        "that is short of cores judges frames first.",
        low=0,
        high=19,
    ),
    Parameter(
        name="input_qos",
        default="DEFAULT",
        description="QoS of jepa/embedding; as output_qos of the world model.",
        choices=tuple(PROFILES),
    ),
    Parameter(
        name="output_qos",
        default="RELIABLE",
        description="QoS of jepa/planned_actions.",
        choices=tuple(PROFILES),
    ),
)


def planner_config(values: Mapping[str, Value]) -> PlannerConfig:
    """Return the search's settings. Raises InputError where they contradict one another."""

    def same(*names: str) -> dict[str, Any]:
        return {name: values[name] for name in names}

    risk = {name: values[f"risk_{name}"] for name in ("samples", "measure", "kappa", "alpha")}
    plan = same(
        "method",
        "horizon",
        "goal_steps",
        "candidates",
        "elites",
        "iterations",
        "init_std",
        "clip",
        "seed",
        "returned",
        "temperature",
    )
    weights = same("world_weight", "spread_weight", "spread_discount", "trust_horizon")
    momentum = float(cast(float, values["momentum"]))
    settings: dict[str, Any] = {
        **plan,
        "precision": values["precision"] or None,
        "device": values["device"],
        "held": _held(cast(tuple[float, ...], values["held"])),
        "momentum": momentum if momentum >= 0.0 else None,
    }
    if values["method"] == "icem":  # its kept elites have no parameter of their own
        settings["keep_elites"] = min(_PLAN.keep_elites, int(settings["elites"]))
        if settings["keep_elites"] >= settings["candidates"]:
            raise InputError(
                f"candidates is {settings['candidates']}, expected more than the "
                f"{settings['keep_elites']} elites that iCEM keeps"
            )
    arguments: dict[str, Any] = {**risk, **weights}
    return PlannerConfig(**settings, risk=RiskConfig(**arguments))


def _held(numbers: tuple[float, ...]) -> tuple[int, ...]:
    """ROS has no empty array of integers that a file could hold: doubles, which must be whole."""
    if not all(number.is_integer() for number in numbers):
        raise InputError(f"parameter held is {numbers}, expected whole numbers from 0 on")
    return tuple(int(number) for number in numbers)


def make_planner(model: WorldModel, values: Mapping[str, Value]) -> Planner:
    """Return the planner; with the bundle's calibration where a term of the energy needs it.

    Raises InputError or CalibrationError for terms that the bundle has no numbers for.
    """
    config = planner_config(values)
    risk = config.risk
    if risk.samples < 2 and risk.world_weight == 0.0:
        return Planner(model, config)
    monitor = Monitor.load(model)
    variable = monitor.latent_variable
    return Planner(
        model,
        config,
        radius=usual_variance(variable, config.horizon) if risk.needs_radius else None,
        recorded=monitor.observer.recorded if risk.world_weight > 0.0 else None,
        latent_variable=variable,
    )


def usual_variance(variable: LatentVariable, horizon: int) -> NDArray[np.float32]:
    """Variance of sampled futures that is usual in nominal runs, per step: (H,) float32.

    In squared latent units per number, as the planner compares: the spread that nominal windows
    stay below with probability 1 - alpha, without the scale that made it an error to expect. Leaves
    out the ensemble's disagreement, which the planner's futures do not have.
    Raises InputError when the calibration has no such spread.
    """
    calibration = variable.calibration
    if calibration is None or calibration.usual is None:
        raise InputError(
            "spread_weight and trust_horizon need the usual spread, which this bundle's "
            "calibration does not have; run `jepa-edge calibrate` again"
        )
    steps = np.minimum(np.arange(horizon), len(calibration.usual) - 1)
    variance = calibration.usual[steps].astype(np.float64) ** 2 / calibration.scale[steps]
    return np.asarray(variance, np.float32)
