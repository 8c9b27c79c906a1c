# SPDX-License-Identifier: Apache-2.0
"""Whether a run is still like the episodes that the thresholds were calibrated on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration_file import Domain
from jepa_edge.flags import Reason

logger = logging.getLogger(__name__)

_RATE_GAPS = 10
"""Gaps between stamps that the rate is the mean of: jitter of a third of a period moves it 5 %."""

_ROUNDING = 1e-6
"""Slack for a number that never varied, relative to its size: float32 keeps seven digits."""


_RATE_ROUNDING = 1e-4
"""Slack for the rate, relative: seconds since 1970 are good to 2.4e-7 s as float64."""

_COMMANDED = 0.01
"""Share of its calibrated range by which a command has to change to count as another one."""

_LEAST_STILL = 5
"""Steps under changing commands that a state may stand beyond what the calibration's did."""

Vector = NDArray[np.generic]


class StillState:
    """Counts the steps over which the command changes and the robot's own state does not.

    A source of states that is stuck repeats its last message, bit for bit. Steps whose command is
    the one before prove nothing: a robot that is told to stand stands, and so does one that has
    reached where it was told to go. So a constant command hides a stuck source.
    """

    def __init__(self, action_low: Sequence[float], action_high: Sequence[float]) -> None:
        """action_low, action_high: the calibrated range, length A, raw units."""
        low, high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
        self._least = _COMMANDED * (high - low)
        self._state: Vector | None = None
        self._action: Vector | None = None
        self._steps = 0

    def count(self, state: Vector, action: Vector | None) -> int:
        """Take the next step, its state (S,) and the action (A,) that led to it, None for the
        first; return the steps so far."""
        moved = self._state is None or not np.array_equal(state, self._state)
        if moved:
            self._steps = 0
        elif action is not None and self._action is not None:
            change = np.abs(np.subtract(action, self._action, dtype=np.float64))
            self._steps += bool((change > self._least).any())
        self._state = np.array(state)
        self._action = None if action is None else np.array(action)
        return self._steps

    def restart(self) -> None:
        """Begin anew."""
        self._state = self._action = None
        self._steps = 0


class DomainCheck:
    """Holds actions, the robot's own state and frame rate against the calibrated domain."""

    def __init__(self, domain: Domain, tolerance: float) -> None:
        """tolerance: how far outside is still inside, as a share of the range of actions and
        states, and of the rate."""
        self._actions = _widened(domain.action_low, domain.action_high, tolerance)
        self._states = _widened(domain.state_low, domain.state_high, tolerance)
        self._still = StillState(domain.action_low, domain.action_high)
        most = domain.state_still_steps
        self._most_still = max(2 * most, most + _LEAST_STILL)
        self._rate_hz = domain.rate_hz
        self._tolerance = tolerance
        self._stamps_s: deque[float] = deque(maxlen=_RATE_GAPS + 1)

    def check(self, stamp_s: float, action: Vector | None, state: Vector | None = None) -> Reason:
        """Return OUT_OF_DOMAIN or nothing. action: (A,), raw units, finite; None for the first.

        state: (S,), raw units, finite; None in a model that takes none. The rate is judged once
        _RATE_GAPS gaps without a restart have been seen.
        """
        self._stamps_s.append(stamp_s)
        still = 0 if state is None else self._still.count(state, action)
        if still > self._most_still:
            return Reason.OUT_OF_DOMAIN
        for values, (low, high) in ((action, self._actions), (state, self._states)):
            if values is None:
                continue
            numbers = np.asarray(values, np.float64)
            if bool(((numbers < low) | (numbers > high)).any()):
                return Reason.OUT_OF_DOMAIN
        if len(self._stamps_s) > _RATE_GAPS:
            rate_hz = _RATE_GAPS / (self._stamps_s[-1] - self._stamps_s[0])
            if abs(rate_hz / self._rate_hz - 1.0) > self._tolerance + _RATE_ROUNDING:
                return Reason.OUT_OF_DOMAIN
        return Reason(0)

    def restart(self) -> None:
        """Forget the stamps and the state."""
        self._stamps_s.clear()
        self._still.restart()


def _widened(
    low: Sequence[float], high: Sequence[float], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A range, each number's, with its tolerance."""
    lows, highs = np.asarray(low, np.float64), np.asarray(high, np.float64)
    slack = tolerance * (highs - lows) + _ROUNDING * np.maximum(np.abs(lows), np.abs(highs))
    return lows - slack, highs + slack


class FalseAlarmBudget:
    """Counts judged frames in units of the longest calibration episode.

    The conformal promise is for a whole fresh episode: an alarm in at most alpha of them. Where all
    calibration episodes had one length, that is at most alpha per stretch of it, and a longer run
    spends it again in every further one. Of calibration episodes of several lengths the shorter
    ones make it less: alpha then bounds a fresh mix of the same lengths, and a stretch as long as
    the longest may exceed it.
    """

    def __init__(self, domain: Domain, warm_up: int) -> None:
        """warm_up: frames of an episode that are not judged."""
        self.period_steps = max(1, domain.steps_max + 1 - warm_up)
        self.steps = 0

    @property
    def period(self) -> int:
        """Which period the run is in, from 1 on; 0 before the first judged frame."""
        return -(-self.steps // self.period_steps)

    def count(self) -> None:
        """Count a judged frame."""
        self.steps += 1
        if self.steps == self.period_steps + 1:
            logger.warning(
                "the run is longer than the %d judged frames of the calibration's longest episode; "
                "false alarms are bounded per %d frames, call begin_episode() where a task begins",
                self.period_steps,
                self.period_steps,
            )

    def restart(self) -> None:
        """Begin an episode."""
        self.steps = 0
