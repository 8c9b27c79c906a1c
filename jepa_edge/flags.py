# SPDX-License-Identifier: Apache-2.0
"""Confidence levels and the reasons behind them. Zero is never good."""

from __future__ import annotations

import enum


class Level(enum.IntEnum):
    """How far to trust the model right now, in rising order of alarm but for UNKNOWN."""

    UNKNOWN = 0
    NOMINAL = 1
    CAUTION = 2
    REJECT = 3


class Reason(enum.IntFlag):
    """Why the level is not NOMINAL; bits may be combined. 0 means no reason."""

    NON_FINITE = 1 << 0
    STALE = 1 << 1
    CLOCK_JUMP = 1 << 2
    INPUT_MISMATCH = 1 << 3
    OUT_OF_DISTRIBUTION = 1 << 4
    INNOVATION = 1 << 5
    PREDICTED_UNCERTAINTY = 1 << 6
    UNCALIBRATED = 1 << 7
    OVERLOAD = 1 << 8
    WARMING_UP = 1 << 9
    ACTION_MISMATCH = 1 << 10
    DELAY = 1 << 11
    DRIFT = 1 << 12
    OUT_OF_DOMAIN = 1 << 13
    LATCHED = 1 << 14
    NOT_ARMED = 1 << 15

    @property
    def labels(self) -> list[str]:
        """Names of the set bits, lower case, e.g. ["stale", "innovation"]."""
        return [reason.name.lower() for reason in Reason if reason in self and reason.name]


FORCE_UNKNOWN = (
    Reason.NON_FINITE
    | Reason.STALE
    | Reason.CLOCK_JUMP
    | Reason.INPUT_MISMATCH
    | Reason.UNCALIBRATED
    | Reason.WARMING_UP
    | Reason.NOT_ARMED
)
"""With any of these there is no judgment: the level is UNKNOWN."""

FORCE_CAUTION = Reason.OVERLOAD | Reason.DRIFT | Reason.OUT_OF_DOMAIN
"""With any of these the judgment stands on weak ground: the level is CAUTION or more."""
