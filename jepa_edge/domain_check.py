# SPDX-License-Identifier: Apache-2.0
"""Whether a run is still like the episodes that the thresholds were calibrated on."""

from __future__ import annotations

import logging
from collections import deque

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration_file import Domain
from jepa_edge.flags import Reason

logger = logging.getLogger(__name__)

_RATE_GAPS = 10
"""Gaps between stamps that the rate is the mean of: jitter of a third of a period moves it 5 %."""

_ROUNDING = 1e-6
"""Slack for an action that never varied, relative to its size: float32 keeps seven digits."""


_RATE_ROUNDING = 1e-4
"""Slack for the rate, relative: seconds since 1970 are good to 2.4e-7 s as float64."""


class DomainCheck:
    """Holds actions and frame rate against the calibrated domain."""

    def __init__(self, domain: Domain, tolerance: float) -> None:
        """tolerance: how far outside is still inside, as a share of action range and of rate."""
        low = np.asarray(domain.action_low, np.float64)
        high = np.asarray(domain.action_high, np.float64)
        slack = tolerance * (high - low) + _ROUNDING * np.maximum(np.abs(low), np.abs(high))
        self._low, self._high = low - slack, high + slack
        self._rate_hz = domain.rate_hz
        self._tolerance = tolerance
        self._stamps_s: deque[float] = deque(maxlen=_RATE_GAPS + 1)

    def check(self, stamp_s: float, action: NDArray[np.float32] | None) -> Reason:
        """Return OUT_OF_DOMAIN or nothing. action: (A,), raw units, finite; None for the first.

        The rate is judged once _RATE_GAPS gaps without a restart have been seen.
        """
        self._stamps_s.append(stamp_s)
        if action is not None and bool(((action < self._low) | (action > self._high)).any()):
            return Reason.OUT_OF_DOMAIN
        if len(self._stamps_s) > _RATE_GAPS:
            rate_hz = _RATE_GAPS / (self._stamps_s[-1] - self._stamps_s[0])
            if abs(rate_hz / self._rate_hz - 1.0) > self._tolerance + _RATE_ROUNDING:
                return Reason.OUT_OF_DOMAIN
        return Reason(0)

    def restart(self) -> None:
        """Forget the stamps."""
        self._stamps_s.clear()


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
