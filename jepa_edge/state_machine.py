# SPDX-License-Identifier: Apache-2.0
"""From what single frames say to the level that is published. The tables are in docs/flags.md.

Pure: no clock, no arrays, no memory but `State`, which has finitely many values.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from jepa_edge.flags import Level


class Event(enum.IntEnum):
    """What one frame says, or a request. NOMINAL, CAUTION and REJECT have their `Level`'s value.

    INVALID: no frame, or one that cannot be judged. UNJUDGED: a valid frame without a verdict yet.
    """

    INVALID = 0
    NOMINAL = 1
    CAUTION = 2
    REJECT = 3
    UNJUDGED = 4
    RESET = 5


class Phase(enum.Enum):
    """WARM_UP: not enough valid frames. START_UP: judged, nothing latches yet. RUN: all rules."""

    WARM_UP = "warm_up"
    START_UP = "start_up"
    RUN = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Numbers of the tables.

    warm_up: valid frames before the first judged one. fall_after: calmer frames in a row that
    lower the level; as many judged frames make the start-up. latch: lowest level that latches.
    """

    warm_up: int
    fall_after: int = 3
    latch: Level | None = Level.REJECT


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that is remembered.

    count: valid frames of the warm-up, or judged frames of the start-up, so far. live: the level
    without the latch. calm, peak: frames in a row below live, and the highest of them. latched:
    UNKNOWN when nothing is.
    """

    phase: Phase = Phase.WARM_UP
    count: int = 0
    live: Level = Level.UNKNOWN
    calm: int = 0
    peak: Level = Level.UNKNOWN
    latched: Level = Level.UNKNOWN

    @property
    def level(self) -> Level:
        """The level to publish."""
        return Level.UNKNOWN if self.phase is Phase.WARM_UP else max(self.live, self.latched)


def advance(state: State, event: Event, rules: Rules) -> State:
    """Return the state after an event. A RESET that `refusal` refuses changes nothing."""
    if event is Event.RESET:
        return state if refusal(state, rules) else replace(state, latched=Level.UNKNOWN)
    warming_up = state.phase is Phase.WARM_UP
    if event is Event.INVALID or (event is Event.UNJUDGED and not warming_up):
        return State(latched=state.latched)
    if warming_up and (event is Event.UNJUDGED or state.count < rules.warm_up):
        # A verdict that comes before its time is not believed.
        return replace(state, count=min(state.count + 1, rules.warm_up))
    raw = Level(event.value)
    return _latch(state, raw, rules, _settle(_next_phase(state, rules), raw, rules))


def refusal(state: State, rules: Rules) -> str:
    """Why a RESET would be refused now; empty when it would be accepted or nothing is latched."""
    if state.latched is Level.UNKNOWN:
        return ""
    if state.phase is Phase.WARM_UP:
        return f"{state.latched.name} stays latched: no valid judgment now"
    if state.phase is Phase.START_UP:
        return (
            f"{state.latched.name} stays latched: starting up, "
            f"{rules.fall_after - state.count} more judged frames to come"
        )
    if state.live >= state.latched:
        return (
            f"{state.latched.name} stays latched: the fault is present, {state.calm} of "
            f"{rules.fall_after} calmer frames in a row have come since {state.live.name}"
        )
    return ""


def _next_phase(state: State, rules: Rules) -> State:
    """Count a judged frame."""
    if state.phase is Phase.RUN:
        return state
    judged = 1 if state.phase is Phase.WARM_UP else state.count + 1
    if judged < rules.fall_after:
        return replace(state, phase=Phase.START_UP, count=judged)
    return replace(state, phase=Phase.RUN, count=0)


def _settle(state: State, raw: Level, rules: Rules) -> State:
    """Rise at once; fall, after enough calmer frames in a row, to the highest of them."""
    if raw >= state.live:
        return replace(state, live=raw, calm=0, peak=Level.UNKNOWN)
    peak = max(state.peak, raw)
    if state.calm + 1 < rules.fall_after:
        return replace(state, calm=state.calm + 1, peak=peak)
    return replace(state, live=peak, calm=0, peak=Level.UNKNOWN)


def _latch(before: State, raw: Level, rules: Rules, after: State) -> State:
    """Latch a frame's own level, not one that hysteresis merely holds."""
    if before.phase is not Phase.RUN or rules.latch is None or raw < rules.latch:
        return after
    return replace(after, latched=max(after.latched, raw))
