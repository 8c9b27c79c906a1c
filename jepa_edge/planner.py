# SPDX-License-Identifier: Apache-2.0
"""Planning in latent space: CEM, iCEM and MPPI of the C++ core, under a deadline if need be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.channels import Whitener
from jepa_edge.chunks import rows_per_chunk
from jepa_edge.engine import CudaPrecision, Precision
from jepa_edge.errors import InputError, NoTrustedPlanError
from jepa_edge.gpu_search import GpuSearch, ObjectiveArguments, SearchArguments
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.manifest import ActionSpec, LatentSpec
from jepa_edge.planner_config import PlannerConfig, RiskConfig, in_range
from jepa_edge.world_model import WorldModel

if TYPE_CHECKING:
    from jepa_edge import _cuda

__all__ = [
    "NoTrustedPlanError",
    "Objective",
    "Plan",
    "PlanDiagnostics",
    "Planner",
    "PlannerConfig",
    "RiskConfig",
    "goal_energy",
    "lowest",
    "shift_plan",
]


class Objective(Protocol):
    """A user's own cost, in place of the distance to a goal."""

    def __call__(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.floating]:
        """Return the energy of every candidate, (S,), lower is better; +inf refuses a candidate.

        latents: (S, M, H, N, D) float32, the predicted futures, M samples of each candidate, not
        finite where one diverged. actions: (S, H, A) float32, raw units. Both are views of the
        planner's memory: read-only, overwritten by the next iteration; copy what must last.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiagnostics:
    """How the search went.

    evaluated: candidates rolled out; diverged, refused: how many of those gave no finite energy.
    evaluate_s: seconds spent rolling out and judging; the rest of the plan's time is the search.
    """

    evaluated: int
    diverged: int
    refused: int
    evaluate_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A planned action sequence.

    actions: (H, A) float32, raw units. energies: (iterations,) float32, mean energy of the elites.
    spread: (H,) float32, standard deviation of the last elites at each step, root mean square over
    the action's numbers, in units of the training actions' own. best_actions: (H, A) float32, the
    best candidate evaluated, of energy best_energy. iterations: done. deadline_hit: whether it
    stopped before the last iteration for lack of time. time_s: seconds that the search took.
    """

    actions: NDArray[np.float32]
    energies: NDArray[np.float32]
    spread: NDArray[np.float32]
    best_actions: NDArray[np.float32]
    best_energy: float
    iterations: int
    deadline_hit: bool
    diagnostics: PlanDiagnostics
    time_s: float


def goal_energy(
    predicted: NDArray[np.float32],
    goal: NDArray[np.float32],
    steps: int = 1,
    *,
    spec: LatentSpec | None = None,
) -> NDArray[np.float32]:
    """Distance of the last predicted latents to the goal, averaged over `steps`: (S,) float32.

    predicted: (S, H, N, D). goal: (N, D). spec: the manifest's `latent`, which says what is
    compared and how: sums of squares ("l2") or means of absolute values ("l1"). None: squares of
    all numbers. NaN where one of those latents is not finite anywhere: what is not compared, the
    robot's own state, tells a prediction that diverged too.
    """
    tokens, dim = goal.shape if spec is None else spec.compared
    last = predicted[:, -steps:]
    apart = last[..., :tokens, :dim] - goal[:tokens, :dim]
    if spec is not None and spec.distance == "l1":
        energies = np.abs(apart).mean(axis=(2, 3), dtype=np.float64)
    else:
        energies = np.sum(apart**2, axis=(2, 3))
    finite = np.isfinite(last).all(axis=(1, 2, 3))
    return np.asarray(np.where(finite, energies.mean(axis=1), np.nan), np.float32)


def lowest(energies: NDArray[np.floating]) -> int:
    """Return the flat index of the lowest energy; what diverged, NaN, counts as infinite.

    Raises InputError when none is finite.
    """
    counted = np.where(np.isnan(energies), np.inf, energies)
    best = int(np.argmin(counted))
    if not np.isfinite(counted.reshape(-1)[best]):
        raise InputError(
            f"none of {energies.size} energies is finite: all predictions diverged, expected one "
            "at least that did not; check that history, state, actions and goal fit the model"
        )
    return best


def shift_plan(
    actions: NDArray[np.float32], blocks: int = 1, fill: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return a plan moved `blocks` ahead, to start the next search from: (H, A) float32.

    actions: (H, A) raw units, as planned. fill: (A,) raw units for the freed blocks at the end,
    such as the mean training action; None repeats the last block.
    Raises InputError on other shapes.
    """
    if actions.ndim != 2 or blocks < 0 or (fill is not None and fill.shape != actions.shape[1:]):
        raise InputError(
            f"actions have shape {actions.shape}, fill {None if fill is None else fill.shape}, "
            f"blocks is {blocks}: expected (H, A), (A,) and 0 or more"
        )
    filler = None if fill is None else np.ascontiguousarray(fill, np.float32)
    return _core.shift_plan(np.ascontiguousarray(actions, np.float32), blocks, filler)


class Planner:
    """Searches the action sequence of lowest energy: stable-worldmodel's solvers, in the core.

    precision: of the engine that rolls out; None where the model's own rollout or TensorRT does.

    On the CPU the rollout runs in the core where the bundle holds its predictor for it, else
    through `WorldModel.rollout`. Random numbers are a function of seed, iteration and index alone,
    and plans are the same at any number of threads. Calls from several threads wait for one
    another: for plans in parallel give each thread a planner of its own.
    """

    def __init__(
        self,
        model: WorldModel,
        config: PlannerConfig | None = None,
        *,
        radius: NDArray[np.floating] | None = None,
        recorded: Whitener | None = None,
        latent_variable: LatentVariable | None = None,
    ) -> None:
        """Reserve all memory of the search.

        radius: (H,) calibrated spread of the prediction per step, latent units squared, for
        spread_weight and trust_horizon. recorded: fitted to the recorded latents, for world_weight.
        latent_variable: of the bundle's calibration, draws the futures where there are several.
        Raises InputError when a term lacks its numbers, or the model cannot draw samples; with
        device "cuda", as `jepa_edge.cuda.rollout_for` does.
        """
        self.model = model
        self.precision: Precision | CudaPrecision | None = None
        self.config = config = config or PlannerConfig()
        risk, manifest = config.risk, model.manifest
        spec, latent = manifest.require_action(), manifest.latent
        tokens, dim = latent.compared
        self._action_dim = spec.dim
        if risk.needs_radius and (radius is None or radius.shape != (config.horizon,)):
            raise InputError(
                f"radius is {None if radius is None else radius.shape}, expected one per step, "
                f"({config.horizon},): spread_weight and trust_horizon compare with it"
            )
        if risk.world_weight > 0.0 and (recorded is None or recorded.whiten.shape != (dim, dim)):
            raise InputError(
                f"world_weight needs recorded, the whitener of the {dim} channels that energies "
                "compare of the recorded latents; calibrate the bundle and pass its "
                "monitor.observer.recorded"
            )
        if latent_variable is not None:
            try:
                latent_variable.check(dim, spec.dim)
            except ValueError as error:
                raise InputError(
                    f"latent_variable is not this model's ({error}); pass the one of its bundle"
                ) from None
        if risk.samples > 1 and latent_variable is None:
            raise InputError(
                f"samples is {risk.samples} but there is no latent_variable to draw them; pass the "
                "calibration's or ask for one sample"
            )
        if risk.samples > 1 and (tokens, dim) != (latent.tokens, latent.dim):
            raise InputError(
                f"samples is {risk.samples}, but this model's latents carry the robot's own state, "
                "which takes none of the noise that the core adds to a latent; ask for one sample"
            )
        low, high = _limits(spec, config)
        search = SearchArguments(
            method=config.method,
            horizon=config.horizon,
            action_dim=spec.dim,
            candidates=config.candidates,
            elites=config.elites,
            iterations=config.iterations,
            init_std=config.init_std,
            seed=config.seed,
            returned=config.returned,
            action_mean=spec.mean,
            action_std=spec.std,
            low=low,
            high=high,
            noise_beta=config.noise_beta,
            keep_elites=config.keep_elites,
            momentum=config.momentum,
            population_decay=config.population_decay,
            deterministic=config.deterministic,
            temperature=config.temperature,
        )
        judged = ObjectiveArguments(
            candidates=config.candidates,
            samples=risk.samples,
            horizon=config.horizon,
            tokens=latent.tokens,
            dim=latent.dim,
            goal_steps=config.goal_steps,
            risk=risk.measure,
            kappa=risk.kappa,
            alpha=risk.alpha,
            world_weight=risk.world_weight,
            spread_weight=risk.spread_weight,
            spread_discount=risk.spread_discount,
            trust_horizon=risk.trust_horizon,
            radius=() if radius is None else radius.tolist(),
            world_mean=() if recorded is None else recorded.mean.tolist(),
            world_whiten=() if recorded is None else recorded.whiten.reshape(-1).tolist(),
            distance=latent.distance,
            energy_tokens=tokens,
            energy_dim=dim,
        )
        self._search = _core.Planner(**search)
        self._judge = _core.Objective(**judged)
        self._engine: _core.EngineEvaluator | None = None
        self._gpu = GpuSearch.choose(model, config, search, judged, latent_variable)
        if self._gpu is not None:
            self.precision = self._gpu.precision
            return
        sizes = (config.candidates, config.horizon, risk.samples)
        engine = model.engine(*sizes, precision=cast("Precision | None", config.precision))
        if engine is not None:
            self.precision = engine.precision
            variable = None
            if risk.samples > 1 and latent_variable is not None:
                variable = _core.LatentVariable(latent_variable.to_arrays())
            self._engine = _core.EngineEvaluator(engine.core(*sizes), self._judge, variable)
        if self._engine is None and risk.samples > 1:
            raise InputError(
                f"samples is {risk.samples}, but this bundle holds no predictor for the core, "
                "which alone draws them; export it again or ask for one sample"
            )

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the search runs."""
        return "cpu" if self._gpu is None else "cuda"

    def plan(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        goal: NDArray[np.float32] | None,
        *,
        initial: NDArray[np.float32] | None = None,
        deadline_s: float | None = None,
        objective: Objective | None = None,
    ) -> Plan:
        """Search the action sequence whose rollout ends nearest to the goal.

        history: (T, N, D) float32, oldest first. past_actions: (T - 1, A) float32, raw units,
        between the history's latents. goal: (N, D) float32, or (G, N, D) of which the nearest
        counts; None with an objective. initial: (H, A) raw actions to start from, e.g.
        `shift_plan` of the previous plan; None starts from the mean training action. deadline_s:
        seconds from this call on; the search stops before an iteration that is not expected to be
        done by then, and does one in any case. objective: takes the goal's place.
        Raises InputError on other shapes, and when fewer candidates than elites have a finite
        energy; NoTrustedPlanError when all were refused; whatever the objective raises.
        """
        start = time.perf_counter()
        goals = self._goals(goal, objective)
        self._check(history, past_actions, goals, initial)
        if initial is not None:
            initial = np.ascontiguousarray(initial, np.float32)
        if deadline_s is not None:
            in_range("deadline_s", deadline_s, 0.0, math.inf, open_low=True)
            deadline_s -= time.perf_counter() - start
        history = np.ascontiguousarray(history, np.float32)
        past_actions = np.ascontiguousarray(past_actions, np.float32)
        found: _core.PlanResult | _cuda.PlanResult
        if self._gpu is not None:
            found = self._gpu.plan(history, past_actions, goals, initial, deadline_s)
        elif self._engine is not None:
            user = None if objective is None else _checked(objective)
            found = self._search.plan_on_engine(
                self._engine, history, past_actions, goals, user, initial, deadline_s
            )
        else:
            evaluate = self._evaluator(history, past_actions, goals, objective)
            found = self._search.plan(evaluate, initial, deadline_s)
        self._raise(found)
        return Plan(
            actions=found.actions,
            energies=found.energies,
            spread=found.spread,
            best_actions=found.best_actions,
            best_energy=found.best_energy,
            iterations=found.iterations,
            deadline_hit=found.deadline_hit,
            diagnostics=PlanDiagnostics(
                evaluated=found.evaluated,
                diverged=found.diverged,
                refused=found.refused,
                evaluate_s=found.evaluate_s,
            ),
            time_s=time.perf_counter() - start,
        )

    def _goals(
        self, goal: NDArray[np.float32] | None, objective: Objective | None
    ) -> NDArray[np.float32]:
        """Goals as (G, N, D); none for an objective."""
        latent = self.model.manifest.latent
        if objective is not None:
            if self._gpu is not None:
                raise InputError(
                    "an objective in Python cannot judge on the GPU; plan with device='cpu'"
                )
            if goal is not None:
                raise InputError("got a goal and an objective, expected one; pass goal=None")
            if self.config.risk.trust_horizon:
                raise InputError("trust_horizon cuts the goal term and does not go with objective")
            return np.empty((0, latent.tokens, latent.dim), np.float32)
        if goal is None:
            raise InputError("goal is None, expected a latent (N, D), or an objective")
        goals = np.ascontiguousarray(goal[None] if goal.ndim == 2 else goal, np.float32)
        if not len(goals):
            raise InputError(f"goal has shape {goal.shape}, expected at least one")
        return goals

    def _check(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        goals: NDArray[np.float32],
        initial: NDArray[np.float32] | None,
    ) -> None:
        manifest = self.model.manifest
        latent = (manifest.latent.tokens, manifest.latent.dim)
        # The engine's window may still be growing, and so may that of some graphs.
        shortest = 1 if self._engine is not None else manifest.min_history or manifest.history
        if self._gpu is not None:
            shortest = self._gpu.shortest_history
        steps = min(max(len(history), shortest), manifest.history)
        for name, array, expected in (
            ("history", history, (steps, *latent)),
            ("past_actions", past_actions, (steps - 1, self._action_dim)),
            ("goal", goals, (len(goals), *latent)),
            ("initial", initial, (self.config.horizon, self._action_dim)),
        ):
            if array is not None and (array.shape != expected or not np.isfinite(array).all()):
                raise InputError(
                    f"{name} has shape {array.shape}, expected {expected} finite numbers"
                )

    def _evaluator(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        goals: NDArray[np.float32],
        objective: Objective | None,
    ) -> Callable[[NDArray[np.float32]], NDArray[np.floating]]:
        """Judge actions (S, H, A) through the model's own rollout, in chunks of bounded memory.

        Only a user's objective keeps the futures of all candidates.
        """
        user = None if objective is None else _checked(objective)
        latent, horizon = self.model.manifest.latent, self.config.horizon
        # One row holds the history, repeated for a candidate, and its future.
        chunk = rows_per_chunk((len(history) + horizon) * latent.size)

        def rolled(actions: NDArray[np.float32]) -> NDArray[np.float32]:
            histories = np.repeat(history[None], len(actions), axis=0)
            past = np.repeat(past_actions[None], len(actions), axis=0)
            futures = self.model.rollout(histories, np.concatenate([past, actions], axis=1))
            return np.ascontiguousarray(futures, np.float32)[:, None]

        def evaluate(actions: NDArray[np.float32]) -> NDArray[np.floating]:
            energies = np.empty(len(actions), np.float32)
            kept = []
            for start in range(0, len(actions), chunk):
                futures = rolled(actions[start : start + chunk])
                energies[start : start + chunk] = self._judge.energies(futures, goals)
                if user is not None:
                    kept.append(futures)
            if user is None:
                return energies
            latents = kept[0] if len(kept) == 1 else np.concatenate(kept)
            broken = ~np.isfinite(latents).all(axis=(1, 2, 3, 4))
            return np.where(broken, np.float32(np.nan), energies + user(latents, actions))

        return evaluate

    def _raise(self, found: _core.PlanResult | _cuda.PlanResult) -> None:
        if found.status == "ok":
            return
        config, risk = self.config, self.config.risk
        told = (
            f"of {found.evaluated} candidates {found.diverged} diverged and {found.refused} were "
            "refused"
        )
        if found.status == "no_trusted_candidate":
            why = (
                "every candidate's first step is above its radius"
                if risk.trust_horizon
                else "the objective refused every candidate"
            )
            raise NoTrustedPlanError(f"{told}: {why}; stop and ask, or plan from another state")
        if found.status == "too_few_finite":
            wanted = "1" if config.method == "mppi" else f"{config.elites} elites"
            raise InputError(
                f"{told}: too few gave a finite energy in iteration {found.iterations + 1}, "
                f"expected {wanted}; lower init_std, set action limits or relax the constraints"
            )
        raise InputError(
            f"the search ended with status {found.status!r}, the engine with "
            f"{found.evaluator_status}; check that history, actions and goal fit the bundle"
        )


def _limits(spec: ActionSpec, config: PlannerConfig) -> tuple[list[float], list[float]]:
    """What candidates are clamped to, raw units; empty lists for nothing at all."""
    if len(set(config.held)) == spec.dim or not set(config.held) <= set(range(spec.dim)):
        raise InputError(
            f"held is {config.held}, expected some, not all, of the numbers 0 to {spec.dim - 1} of "
            "the action"
        )
    bounded = config.clip and bool(spec.low) and bool(spec.high)
    if not bounded and not config.held:
        return [], []
    free = np.full(spec.dim, np.inf, np.float32)
    low = np.array(spec.low, np.float32) if bounded else -free
    high = np.array(spec.high, np.float32) if bounded else free
    for index in config.held:
        # The core wants low below high: the nearest numbers around the mean.
        mean = np.float32(spec.mean[index])
        low[index], high[index] = np.nextafter(mean, -free[0]), np.nextafter(mean, free[0])
    return low.tolist(), high.tolist()


def _checked(
    objective: Objective,
) -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]:
    """The objective, with its answer's shape checked."""

    def judge(latents: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32]:
        energies = np.asarray(objective(latents, actions), np.float32)
        if energies.shape != (len(actions),):
            raise InputError(
                f"the objective returned shape {energies.shape}, expected ({len(actions)},): one "
                "energy per candidate"
            )
        return energies

    return judge
