# SPDX-License-Identifier: Apache-2.0
"""A scripted Reacher policy whose motion is varied, bounded, and the same at all times."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_STEP_S = 0.1  # one torque command
_SPEED_PER_TORQUE = 5.0  # rad/s in the long run under a torque of 1, nominal damping
_WRIST_GOAL_RAD = 2.4  # goals stay this far from zero: clear of the wrist's stop at 2.8
_NOISE = 0.12  # standard deviation of the noise on every torque


class ReacherPolicy:
    """Swings, reaches, bursts and coasts; commands torques as a share of the largest.

    One of four maneuvers at a time, drawn at random, with a duration that has no memory, so that
    (after a short warm-up) late steps look like early ones:
    swing (45 %): torques that drift smoothly about zero; reach (30 %): drive both joints to random
    angles; burst (15 %): hold random torques of up to the largest; coast (10 %): no torque.
    """

    def __init__(self, rng: np.random.Generator, *, block: int = 1) -> None:
        """rng: source of all randomness. block: torque commands per action."""
        self._rng = rng
        self._block = block
        self._maneuver = "coast"
        self._steps_left = 0
        self._torque = np.zeros(2)
        self._goal = np.zeros(2)
        self._gain = 0.0

    def act(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next action (2 * block,) float32 in [-1, 1].

        state: true state (6,), columns as in jepa_edge.sim.reacher.STATE_NAMES.
        """
        angle = np.array([math.atan2(state[0], state[1]), math.atan2(state[2], state[3])])
        velocity = np.asarray(state[4:6], np.float64)
        torques = []
        for _ in range(self._block):
            torques.append(self._torque_for(angle, velocity))
            angle = angle + velocity * _STEP_S  # where it will be, roughly, when the next one acts
        return np.concatenate(torques).astype(np.float32)

    def _torque_for(
        self, angle: NDArray[np.float64], velocity: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the torques (2,) of one command."""
        if self._steps_left <= 0:
            self._choose()
        self._steps_left -= 1
        if self._maneuver == "swing":
            self._torque = 0.85 * self._torque + self._rng.normal(0.0, 0.25, 2)
            torque = self._torque
        elif self._maneuver == "reach":
            gap = self._goal - angle
            gap[0] = (gap[0] + math.pi) % (2 * math.pi) - math.pi  # the shoulder turns either way
            torque = self._gain * gap - velocity / (2 * _SPEED_PER_TORQUE)
            torque = np.clip(torque, -0.8, 0.8)
        else:
            torque = self._torque
        return np.clip(torque + self._rng.normal(0.0, _NOISE, 2), -1.0, 1.0)

    def _choose(self) -> None:
        """Draw the next maneuver and how many commands it lasts."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.45:
            self._maneuver, lasts = "swing", 15
            self._torque = rng.normal(0.0, 0.4, 2)
        elif kind < 0.75:
            self._maneuver, lasts = "reach", 15
            self._goal = rng.uniform([-math.pi, -_WRIST_GOAL_RAD], [math.pi, _WRIST_GOAL_RAD])
            self._gain = float(rng.uniform(0.3, 1.0))
        elif kind < 0.9:
            self._maneuver, lasts = "burst", 3
            self._torque = rng.uniform(-1.0, 1.0, 2)
        else:
            self._maneuver, lasts = "coast", 5
            self._torque = np.zeros(2)
        self._steps_left = int(rng.geometric(1.0 / lasts))
