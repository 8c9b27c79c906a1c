# SPDX-License-Identifier: Apache-2.0
"""Settings of a search, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from jepa_edge.engine import CUDA_PRECISIONS, PRECISIONS, CudaPrecision, Precision
from jepa_edge.errors import InputError

Method = Literal["cem", "icem", "mppi"]
RiskMeasure = Literal["mean", "mean_plus_std", "cvar"]
Returned = Literal["mean", "best"]
PlanDevice = Literal["cpu", "cuda", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskConfig:
    """How uncertainty enters the energy of a candidate; everything is off by default.

    E = measure(E_goal) + world_weight * E_world
        + spread_weight * sum_h spread_discount^h max(0, u_h - radius_h), h = 1 to H.

    samples: futures per candidate, drawn with the latent variable, the same z for all candidates.
    measure: of the futures' goal energies: their mean, mean + kappa * std (ddof 1), or "cvar", the
    mean of the worst ceil(alpha * samples). E_world: squared whitened distance per dimension of
    the predicted latents, mean over their tokens, from the recorded ones; mean over futures and
    steps. u_h: variance of the futures (ddof 1) per latent number at step h. trust_horizon: end
    the horizon of goal and world terms before the first step with u_h > radius_h, and refuse
    candidates whose first step is above it.
    Raises InputError for numbers outside their range.
    """

    samples: int = 1
    measure: RiskMeasure = "mean"
    kappa: float = 1.0
    alpha: float = 0.1
    world_weight: float = 0.0
    spread_weight: float = 0.0
    spread_discount: float = 1.0
    trust_horizon: bool = False

    def __post_init__(self) -> None:
        one_of("measure", self.measure, get_args(RiskMeasure))
        in_range("samples", self.samples, 1, math.inf)
        in_range("alpha", self.alpha, 0.0, 1.0, open_low=True)
        in_range("spread_discount", self.spread_discount, 0.0, 1.0, open_low=True)
        for name in ("kappa", "world_weight", "spread_weight"):
            in_range(name, getattr(self, name), 0.0, math.inf)
        if self.samples < 2 and (
            self.needs_radius or self.measure == "cvar" or self.measure == "mean_plus_std"
        ):
            raise InputError(
                f"samples is {self.samples}, expected at least 2: measure {self.measure!r}, "
                "spread_weight and trust_horizon compare the futures of a candidate"
            )

    @property
    def needs_radius(self) -> bool:
        """Whether a term compares the spread with its calibrated radius."""
        return self.trust_horizon or self.spread_weight > 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerConfig:
    """Settings of the search; the defaults are LeWorldModel's for PushT, with fewer iterations.

    method: "cem", "icem" or "mppi". horizon: action blocks. goal_steps: how many of the last
    predicted latents are held against the goal; 1 is upstream's energy, more make a plan get there
    early and stay. candidates, elites, iterations: of the search; for MPPI, elites are the
    candidates that are weighted. init_std: first standard deviation, in units of the training
    actions' own. clip: hold candidates within the manifest's action limits (upstream's iCEM does,
    its CEM and MPPI do not). held: which of a block's numbers are not searched but stay at the mean
    training action, e.g. (3, 4, 5), the angles of V-JEPA 2-AC. returned: the plan is the last
    distribution's mean, as upstream, or the best candidate evaluated. precision: of the rollout
    engine; None for the fastest one that met the bundle's accuracy budget. device: "cuda" rolls out
    and searches on the GPU (jepa_edge.cuda), with the same random numbers, and has the precisions
    float16 and float8 beside the CPU's; None is float16 there where that reproduces the golden
    outputs. "auto" takes the GPU where one is there and able, and logs why it does not.

    momentum: of CEM and iCEM, weight of the old mean and standard deviation; None for 0 in CEM and
    0.1 in iCEM. V-JEPA 2-AC's CEM has 0.15.
    iCEM: noise_beta: exponent of the noise's spectrum over the horizon, 0 is white. keep_elites:
    carried over to the next iteration. population_decay: iteration i has
    max(candidates * decay^-i, 2 * elites) candidates; 1 is upstream's, 1.25 Pinneri's.
    deterministic: kept elites are not evaluated again; False for an objective that gives the same
    actions another energy the next time.
    MPPI: temperature: of the softmax, in units of energy.
    Raises InputError for settings that contradict one another.
    """

    method: Method = "cem"
    horizon: int = 5
    goal_steps: int = 1
    candidates: int = 300
    elites: int = 30
    iterations: int = 10
    init_std: float = 1.0
    clip: bool = True
    held: tuple[int, ...] = ()
    seed: int = 0
    returned: Returned = "mean"
    noise_beta: float = 2.0
    keep_elites: int = 5
    momentum: float | None = None
    population_decay: float = 1.0
    deterministic: bool = True
    temperature: float = 0.5
    precision: Precision | CudaPrecision | None = None
    device: PlanDevice = "cpu"
    risk: RiskConfig = field(default_factory=RiskConfig)

    def __post_init__(self) -> None:
        one_of("method", self.method, get_args(Method))
        one_of("device", self.device, get_args(PlanDevice))
        if self.precision is not None:
            on_gpu = self.device == "cuda"
            one_of("precision", self.precision, CUDA_PRECISIONS if on_gpu else PRECISIONS)
        one_of("returned", self.returned, get_args(Returned))
        if not 1 <= self.goal_steps <= self.horizon:
            raise InputError(
                f"goal_steps is {self.goal_steps}, expected 1 to the horizon, {self.horizon}"
            )
        if not (self.horizon >= 1 and 2 <= self.elites <= self.candidates and self.iterations >= 1):
            raise InputError(
                f"horizon {self.horizon}, candidates {self.candidates}, elites {self.elites}, "
                f"iterations {self.iterations}: expected horizon and iterations of at least 1 and "
                "2 <= elites <= candidates"
            )
        in_range("init_std", self.init_std, 0.0, math.inf, open_low=True)
        in_range("seed", self.seed, 0, 2**64 - 1)
        if self.method != "mppi" and self.momentum is not None:
            in_range("momentum", self.momentum, 0.0, 1.0, open_high=True)
        if self.method == "icem":
            in_range("noise_beta", self.noise_beta, -math.inf, math.inf)
            in_range("keep_elites", self.keep_elites, 0, min(self.elites, self.candidates - 1))
            in_range("population_decay", self.population_decay, 1.0, math.inf)
        if self.method == "mppi":
            in_range("temperature", self.temperature, 0.0, math.inf, open_low=True)


def one_of(name: str, value: str, expected: tuple[str, ...]) -> None:
    """Raise InputError unless value is one of those expected."""
    if value not in expected:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(expected)}")


def in_range(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise InputError unless value is finite and in the range."""
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below and math.isfinite(value)):
        raise InputError(
            f"{name} is {value}, expected a finite number "
            f"{'above' if open_low else 'of at least'} {low} and "
            f"{'below' if open_high else 'at most'} {high}"
        )
