# SPDX-License-Identifier: Apache-2.0
"""One goal of jepa/plan_latent: searched once, or again and again from the newest latent."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError, JepaEdgeError, NoTrustedPlanError
from jepa_edge.nodes.backend import Goal
from jepa_edge.nodes.messages import Make, duration
from jepa_edge.nodes.planner_messages import flat, read_deadline_s
from jepa_edge.nodes.planner_state import State
from jepa_edge.planner import Plan, Planner, goal_energy, shift_plan

logger = logging.getLogger(__name__)

_ACTION = "jepa_msgs/action/PlanLatent"
_LOOK_S = 0.02
"""How often a wait looks whether the goal was cancelled."""


class Status(IntEnum):
    """As in PlanLatent.action."""

    FAILED = 0
    PLANNED = 1
    REACHED = 2
    NOT_TRUSTED = 3
    NO_STATE = 4
    BAD_GOAL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a run asks of its node; all of it may be called from any thread.

    state: the newest State, or None and why not. trust: why the model is not to be trusted now,
    empty if it is, and the flag's level. flag: the newest flag's message. wait_newer: of
    `StateHistory`. over: how many blocks of a plan from a state are over by now, and why no plan is
    to be published, if the newest state is lost meanwhile. publish: a plan (H, A). closing: whether
    the node goes down.
    """

    state: Callable[[], tuple[State | None, str]]
    trust: Callable[[], tuple[str, int]]
    flag: Callable[[], Any]
    wait_newer: Callable[[int, float], bool]
    over: Callable[[State], tuple[int, str]]
    publish: Callable[[NDArray[np.float32]], None]
    closing: Callable[[], bool]


class PlanRun:
    """Works on one goal in the thread of `run`.

    What it publishes, feeds back and returns begins with the block that is due when the search
    ends: the ones before are left out. status: of the goal; empty while it is at work. searches:
    that gave a plan. search_s: how long the last search took.
    """

    def __init__(
        self,
        make: Make,
        planner: Planner,
        world: World,
        read_goal: Callable[[Any], NDArray[np.float32]],
        replan_period_s: float,
    ) -> None:
        """read_goal: request to latent (N, D), raises InputError. replan_period_s: 0 searches from
        every latent."""
        self._make, self._planner, self._world = make, planner, world
        self._read_goal = read_goal
        self._replan_period_s = replan_period_s
        rate_hz = planner.model.manifest.observation.rate_hz
        self._period_ns = round(1e9 / rate_hz)
        self._plan: Plan | None = None
        self._state: State | None = None
        self._actions = np.empty((0, 0), np.float32)
        self.status = ""
        self.searches = 0
        self.search_s = math.nan
        self._energy = math.nan
        self._deadline_hit = False

    def run(self, goal: Goal) -> Any:
        """Return the PlanLatent_Result; an error of any kind is a status and a message."""
        try:
            status, message = self._search(goal)
        except NoTrustedPlanError as error:
            status, message = Status.NOT_TRUSTED, str(error)
        except JepaEdgeError as error:
            status, message = Status.FAILED, str(error)
        except Exception as error:  # the client waits for an answer, whatever went wrong
            logger.exception("planning failed")
            status, message = Status.FAILED, f"{type(error).__name__}: {error}"
        if status in (Status.PLANNED, Status.REACHED) and not self._ended(goal):
            goal.succeed()
        self.status = status.name
        logger.info("plan_latent: %s after %d searches: %s", status.name, self.searches, message)
        return self._result(status, message)

    def _search(self, goal: Goal) -> tuple[Status, str]:
        request = goal.request
        try:
            latent, deadline_s = self._read_goal(request), read_deadline_s(request.deadline)
        except InputError as error:
            return Status.BAD_GOAL, str(error)
        while not self._ended(goal):
            begun_s = time.monotonic()
            state, why = self._world.state()
            if state is None:
                return Status.NO_STATE, why
            self._energy = self._distance(state, latent)
            why, _ = self._world.trust()
            if why:
                return Status.NOT_TRUSTED, why
            if request.goal_energy > 0.0 and self._energy <= request.goal_energy:
                return Status.REACHED, f"energy {self._energy:g} at the newest latent"
            found = self._planner.plan(
                state.history,
                state.past_actions,
                latent,
                initial=self._warm_start(state),
                deadline_s=deadline_s,
            )
            self.search_s = found.time_s
            why, level = self._world.trust()  # it may have changed while we searched
            if why:
                return Status.NOT_TRUSTED, why
            if self._ended(goal):
                break
            over, why = self._world.over(state)
            if not why and over >= len(found.actions):
                why = f"all {over} blocks of the plan were over when its search was; set a deadline"
            if why:
                return Status.NO_STATE, why
            self._plan, self._state, self._actions = found, state, found.actions[over:]
            self.searches += 1
            self._deadline_hit = self._deadline_hit or found.deadline_hit
            self._world.publish(self._actions)
            self._feedback(goal, found, state, level)
            if self.searches == request.replans:
                return Status.PLANNED, f"{self.searches} searches done"
            self._wait(goal, state, begun_s)
        return Status.FAILED if self._plan is None else Status.PLANNED, "cancelled"

    def _distance(self, state: State, goal: NDArray[np.float32]) -> float:
        """Energy of the newest latent; infinite where it overflows."""
        spec = self._planner.model.manifest.latent
        with np.errstate(over="ignore"):
            return float(goal_energy(state.history[None, -1:], goal, spec=spec)[0])

    def _ended(self, goal: Goal) -> bool:
        return goal.cancelled or self._world.closing()

    def _warm_start(self, state: State) -> NDArray[np.float32] | None:
        """The plan before, moved on by the blocks that are over; None where none of it is left."""
        if self._plan is None or self._state is None:
            return None
        blocks = round((state.stamp_ns - self._state.stamp_ns) / self._period_ns)
        actions = self._plan.actions
        return shift_plan(actions, blocks) if 0 <= blocks < len(actions) else None

    def _wait(self, goal: Goal, state: State, begun_s: float) -> None:
        """Wait for the next latent and for the period; end early where the state goes stale."""
        while not self._ended(goal):
            due_s = begun_s + self._replan_period_s - time.monotonic()
            if due_s > 0.0:
                time.sleep(min(due_s, _LOOK_S))
            elif self._world.wait_newer(state.stamp_ns, _LOOK_S) or self._world.state()[0] is None:
                return

    def _feedback(self, goal: Goal, found: Plan, state: State, level: int) -> None:
        goal.feedback(
            self._make(
                f"{_ACTION}_Feedback",
                stamp=state.stamp,
                replan=self.searches,
                energy=self._energy,
                best_energy=found.best_energy,
                actions=flat(self._actions),
                search_time=duration(self._make, found.time_s),
                level=level,
            )
        )

    def _result(self, status: Status, message: str) -> Any:
        plan = self._plan
        horizon, width = self._actions.shape
        return self._make(
            f"{_ACTION}_Result",
            status=int(status),
            message=message,
            horizon=horizon,
            action_dim=width,
            actions=flat(self._actions),
            best_energy=math.nan if plan is None else plan.best_energy,
            energy=self._energy,
            replans=self.searches,
            deadline_hit=self._deadline_hit,
            flag=self._world.flag(),
        )
