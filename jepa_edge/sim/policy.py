# SPDX-License-Identifier: Apache-2.0
"""A scripted PushT policy whose motion is varied, full of contacts, and the same at all times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MARGIN = 25.0
"""Targets stay this far from the edge of the workspace, in simulator pixels."""

_LOW, _HIGH = MARGIN, 512.0 - MARGIN
_BLOCK_LOW, _BLOCK_HIGH = 130.0, 382.0  # where pushes try to bring the block: clear of the walls
_WANDER_LOW, _WANDER_HIGH = 50.0, 462.0
_CLEARANCE = 70.0  # closer than this to the block's center of gravity, the agent may hit it
_STEP_S = 0.1  # one environment step


class ScriptedPolicy:
    """Pushes the block about, wanders and jumps; commands absolute target positions.

    One of three maneuvers at a time, drawn at random and never depending on how long the run has
    lasted, so that (after a short warm-up) late steps look like early ones:
    push (65 %): go near the far side of the block as seen from a random place in the workspace,
    then drive through the block towards that place; wander (20 %): move to a random point;
    jump (15 %): command points up to 160 pixels away at once.
    """

    def __init__(self, rng: np.random.Generator, *, block: int = 2) -> None:
        """rng: source of all randomness. block: environment steps per action."""
        self._rng = rng
        self._block = block
        self._target: NDArray[np.float64] | None = None
        self._waypoints: list[NDArray[np.float64]] = []
        self._speed = 0.0
        self._steps_left = 0

    def act(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next action (2 * block,) float32, simulator pixels.

        state: true state (6,), columns as in jepa_edge.sim.pusht.STATE_NAMES.
        """
        agent = np.asarray(state[:2], np.float64)
        center = _block_center(state)
        if self._target is None:
            self._target = agent.copy()
        targets = [self._advance(agent, center) for _ in range(self._block)]
        return np.concatenate(targets).astype(np.float32)

    def _advance(
        self, agent: NDArray[np.float64], center: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Move the commanded target by one environment step and return it with noise."""
        if not self._waypoints or self._steps_left <= 0:
            self._choose(agent, center)
        assert self._target is not None
        gap = self._waypoints[0] - self._target
        distance = float(np.linalg.norm(gap))
        reach = self._speed * _STEP_S
        if distance <= reach:
            self._target = self._waypoints.pop(0)
        else:
            self._target = self._target + gap * (reach / distance)
        self._steps_left -= 1
        noise = self._rng.normal(0.0, 4.0, 2)
        return np.clip(self._target + noise, _LOW, _HIGH)

    def _choose(self, agent: NDArray[np.float64], center: NDArray[np.float64]) -> None:
        """Draw the next maneuver: its waypoints, speed (pixels/s) and longest duration."""
        rng = self._rng
        self._steps_left = 40
        self._speed = rng.uniform(90.0, 360.0)
        kind = rng.random()
        if kind < 0.65:
            waypoints = self._push(agent, center)
        elif kind < 0.85:
            waypoints = [rng.uniform(_WANDER_LOW, _WANDER_HIGH, 2)]
        else:
            self._speed = 1e6
            heading, length = rng.uniform(0.0, 2 * np.pi), rng.uniform(40.0, 160.0)
            jump = agent + length * np.array([np.cos(heading), np.sin(heading)])
            waypoints = [jump] * int(rng.integers(1, 5))
        self._waypoints = [np.clip(point, _LOW, _HIGH) for point in waypoints]

    def _push(
        self, agent: NDArray[np.float64], center: NDArray[np.float64]
    ) -> list[NDArray[np.float64]]:
        """Waypoints that bring the block from `center` towards a random place inside."""
        rng = self._rng
        goal = rng.uniform(_BLOCK_LOW, _BLOCK_HIGH, 2)
        direction = goal - center
        travel = float(np.linalg.norm(direction)) + 1e-9
        direction /= travel
        side = np.array([-direction[1], direction[0]])
        start = center - direction * rng.uniform(75.0, 100.0) + side * rng.normal(0.0, 20.0)
        # The agent touches the block about 40 pixels before its center.
        end = center + direction * (min(travel, 180.0) - 40.0) + side * rng.normal(0.0, 15.0)
        if _passes(agent, start, center):
            around = side if (agent - center) @ side > 0 else -side
            return [center + around * 110.0, start, end]
        return [start, end]


def _passes(
    start: NDArray[np.float64], end: NDArray[np.float64], point: NDArray[np.float64]
) -> bool:
    """Whether the way from start to end comes closer than _CLEARANCE to a point."""
    way = end - start
    share = np.clip((point - start) @ way / (way @ way + 1e-9), 0.0, 1.0)
    return bool(np.linalg.norm(start + share * way - point) < _CLEARANCE)


def _block_center(state: NDArray[np.float32]) -> NDArray[np.float64]:
    """Center of gravity of the T: 45 pixels along its stem from the position it reports."""
    x, y, sin, cos = (float(value) for value in state[2:6])
    return np.array([x - 45.0 * sin, y + 45.0 * cos])
