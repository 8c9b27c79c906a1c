# SPDX-License-Identifier: Apache-2.0
"""Closed-loop planning in the simulator, beside a random and a no-op policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.planner import Planner, PlannerConfig
from jepa_edge.sim import PushTSim, warm_up
from jepa_edge.world_model import WorldModel

GOAL_OFFSET = 12
"""The goal is where the scripted policy got to after this many blocks (24 environment steps)."""

BUDGET = 2 * GOAL_OFFSET
"""Blocks that a policy may use."""

MIN_BLOCK_MOTION = 30.0
"""Only goals that move the block at least this far, pixels: otherwise doing nothing wins."""

SUCCESS_POSITION = 20.0
SUCCESS_ANGLE = math.pi / 9
"""Success as in DINO-WM's and LeWorldModel's PushT evaluation: agent and block within 20 pixels
(one norm over the four numbers) and the block's angle within 20 degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Bring the simulator from one state to another. Both (6,) float32; goal_frame is its image."""

    start: NDArray[np.float32]
    goal: NDArray[np.float32]
    goal_frame: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where a policy was when it succeeded or its budget ended, by `distance`.

    position: norm over agent and block positions, pixels. angle: radians. plan_s: seconds spent
    planning per plan, 0 for the baselines. frames: what was seen, (steps + 1, H, W, 3) uint8.
    """

    success: bool
    position: float
    angle: float
    block: float
    plan_s: float
    frames: NDArray[np.uint8]


class Policy:
    """Acts in closed loop; told the goal image once per task."""

    name = "no-op"

    def begin(self, sim: PushTSim, task: Task) -> None:
        """Start a task."""

    def act(self, sim: PushTSim) -> NDArray[np.float32]:
        """Return the next action block: by default, stay where the agent is."""
        return np.tile(sim.state[:2], sim.block).astype(np.float32)

    @property
    def plan_s(self) -> float:
        """Median seconds per plan."""
        return 0.0


class RandomPolicy(Policy):
    """Draws actions from the training distribution's mean and standard deviation."""

    name = "random"

    def __init__(self, model: WorldModel, seed: int) -> None:
        self._spec = model.manifest.action
        self._rng = np.random.default_rng(seed)

    def act(self, sim: PushTSim) -> NDArray[np.float32]:
        """Draw one block."""
        drawn = self._rng.normal(self._spec.mean, self._spec.std)
        return np.clip(drawn, 0.0, 512.0).astype(np.float32)


class PlanningPolicy(Policy):
    """Replans every `replan` blocks from frames; of the true state it knows where it starts."""

    name = "planner"

    def __init__(self, model: WorldModel, config: PlannerConfig, replan: int = 2) -> None:
        self._model = model
        self._planner = Planner(model, config)
        self._replan = replan
        self._times: list[float] = []

    def begin(self, sim: PushTSim, task: Task) -> None:
        """Encode the goal and start with a standing history."""
        latents = self._model.encode(np.stack([task.goal_frame, sim.frame]))
        self._goal = latents[0]
        history = self._model.manifest.history
        self._latents = [latents[1]] * history
        # The agent has been holding its place; its first frame shows where that is.
        hold = np.tile(sim.state[:2], sim.block).astype(np.float32)
        self._actions = [hold] * (history - 1)
        self._queue: list[NDArray[np.float32]] = []
        self._remaining: NDArray[np.float32] | None = None
        self._fresh = True

    def act(self, sim: PushTSim) -> NDArray[np.float32]:
        """Take the next planned block, planning anew when it is time."""
        if not self._fresh:
            self._latents = [*self._latents[1:], self._model.encode(sim.frame[None])[0]]
        self._fresh = False
        if not self._queue:
            plan = self._planner.plan(
                np.stack(self._latents),
                np.stack(self._actions),
                self._goal,
                initial=self._remaining,
            )
            self._times.append(plan.time_s)
            kept = plan.actions[self._replan :]
            filler = np.repeat(plan.actions[-1:], len(plan.actions) - len(kept), axis=0)
            self._remaining = np.concatenate([kept, filler])
            self._queue = list(plan.actions[: self._replan])
        action = self._queue.pop(0)
        self._actions = [*self._actions[1:], action]
        return action

    @property
    def plan_s(self) -> float:
        """Median seconds per plan."""
        return float(np.median(self._times)) if self._times else 0.0


def make_tasks(count: int, seed: int) -> list[Task]:
    """Draw tasks: states that the scripted policy really went through, GOAL_OFFSET blocks apart."""
    tasks: list[Task] = []
    attempt = 0
    while len(tasks) < count:
        rng = np.random.default_rng([seed, attempt])
        attempt += 1
        sim = PushTSim(int(rng.integers(2**31)))
        policy = warm_up(sim, rng)
        start = sim.state
        for _ in range(GOAL_OFFSET):
            sim.advance(policy.act(sim.state))
        goal = sim.state
        if np.linalg.norm(goal[2:4] - start[2:4]) < MIN_BLOCK_MOTION:
            continue
        tasks.append(Task(start=start, goal=goal, goal_frame=sim.frame))
    return tasks


def run_task(policy: Policy, task: Task) -> Outcome:
    """Run a policy until success or the budget's end."""
    sim = PushTSim()
    sim.reset(0, task.start)
    policy.begin(sim, task)
    frames = [sim.frame]
    position, angle, block = distance(sim.state, task.goal)
    success = False
    for _ in range(BUDGET):
        sim.advance(policy.act(sim))
        frames.append(sim.frame)
        position, angle, block = distance(sim.state, task.goal)
        success = position < SUCCESS_POSITION and angle < SUCCESS_ANGLE
        if success:
            break
    return Outcome(
        success=success,
        position=position,
        angle=angle,
        block=block,
        plan_s=policy.plan_s,
        frames=np.stack(frames),
    )


def distance(state: NDArray[np.float32], goal: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return (agent and block position in pixels, block angle in radians, block in pixels)."""
    position = float(np.linalg.norm(state[:4] - goal[:4]))
    angle = math.atan2(state[4], state[5]) - math.atan2(goal[4], goal[5])
    angle = abs((angle + math.pi) % (2 * math.pi) - math.pi)
    return position, angle, float(np.linalg.norm(state[2:4] - goal[2:4]))


def compare(
    model: WorldModel,
    config: PlannerConfig,
    *,
    tasks: int,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> tuple[list[Task], dict[str, list[Outcome]]]:
    """Run planner, random and no-op on the same tasks."""
    drawn = make_tasks(tasks, seed)
    policies = (PlanningPolicy(model, config), RandomPolicy(model, seed), Policy())
    outcomes: dict[str, list[Outcome]] = {policy.name: [] for policy in policies}
    total = tasks * len(policies)
    for policy in policies:
        for task in drawn:
            outcomes[policy.name].append(run_task(policy, task))
            on_progress(sum(map(len, outcomes.values())), total)
    return drawn, outcomes
