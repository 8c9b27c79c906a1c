# SPDX-License-Identifier: Apache-2.0
"""What the safety gate decides, and nothing else: no clock, no messages, no threads.

Times come in, in nanoseconds. `now_ns` and `received_ns` are of the steady clock and never go back
from one call to the next; `stamp_ns` and `clock_ns` are of the time base of the stamps, which may.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from jepa_edge.errors import InputError
from jepa_edge.flags import Level
from jepa_edge.nodes.messages import SECOND_NS, stamp_ns, time_ns


class GateState(enum.IntEnum):
    """What happens to commands."""

    STOPPED = 0
    SCALED = 1
    PASS = 2


class Why(enum.Enum):
    """The reason for a state; the value is what people read."""

    NO_FLAG = "no flag has come yet"
    UNKNOWN = "the flag is UNKNOWN"
    REJECT = "the flag is REJECT"
    STALE = "the flag is stale"
    NO_CLOCK = "the time base of the stamps has not started"
    FUTURE = "the flag's stamp lies in the future: the clocks differ"
    CAUTION = "the flag is CAUTION"
    NO_COMMAND = "no command has come in time"
    BAD_COMMAND = (
        "the command cannot be followed: a number is not finite, times go back, it is empty or too "
        "old, or it leaves out a joint that another one still moves"
    )
    RESUMING = "going back to full speed after a stop"
    NOMINAL = "the flag is NOMINAL"


_BY_LEVEL = {
    int(Level.NOMINAL): Why.NOMINAL,
    int(Level.CAUTION): Why.CAUTION,
    int(Level.REJECT): Why.REJECT,
}
"""What a level says; a number that is not here is UNKNOWN."""

MAX_VALID_FOR_S = 5.0
"""A consumer believes no flag for longer, unless it is told otherwise."""

_SANE_S = 3600
"""Nobody vouches for a frame that long: such a number is the mark of one that was not a number."""

_BADNESS = (Why.NOMINAL, Why.CAUTION, Why.NO_FLAG, Why.UNKNOWN, Why.REJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagReport:
    """What of a ConfidenceFlag counts here. level: as received, any number."""

    level: int
    seq: int
    stamp_ns: int
    valid_for_ns: int

    @classmethod
    def of(cls, message: Any) -> FlagReport:
        """Read a jepa_msgs/ConfidenceFlag. A valid_for that is no sane time counts as 0."""
        valid_for = message.valid_for
        sane = 0 <= valid_for.sec <= _SANE_S and 0 <= valid_for.nanosec < SECOND_NS
        return cls(
            level=int(message.level),
            seq=int(message.seq),
            stamp_ns=stamp_ns(message.header),
            valid_for_ns=time_ns(valid_for) if sane else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """Settings of the gate.

    caution: factors on linear and angular speed while the flag is CAUTION, 0 to 1; both 0 stop.
    max_valid_for_ns: a flag is believed no longer than this, whatever it says itself.
    command_timeout_ns: without a command for that long the robot is stopped; 0 for never.
    resume_ramp_ns: time in which the speed may rise from 0 to full; 0 for at once.
    stop_period_ns: time between two safe commands during a stop.
    Raises InputError for numbers outside their range.
    """

    caution: tuple[float, float]
    max_valid_for_ns: int
    command_timeout_ns: int
    resume_ramp_ns: int
    stop_period_ns: int

    def __post_init__(self) -> None:
        if not all(0.0 <= factor <= 1.0 for factor in self.caution):
            raise InputError(f"caution is {self.caution}, expected two factors from 0 to 1")
        for name, low in (
            ("max_valid_for_ns", 1),
            ("command_timeout_ns", 0),
            ("resume_ramp_ns", 0),
            ("stop_period_ns", 1),
        ):
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, expected {low} or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """linear, angular: factors on the command's speeds; 0 when STOPPED, where they say nothing."""

    state: GateState
    why: Why
    linear: float
    angular: float


class FlagWatch:
    """Which flag holds, and until when.

    Counts: flags taken, repeated ones, and restarts of the publisher, whose numbers begin anew.

    A flag holds for valid_for less its age at reception, by the steady clock: neither a stamp in
    the future nor a clock that is set back makes it hold longer than valid_for. It has to be new:
    of a later stamp, or of a higher number. What is neither is a repetition: it never makes a flag
    hold longer, only its level counts, if that is worse. After the time base went back by more than
    any flag is believed (a simulation that starts again; not a clock that is only set right) all
    stamps count as new but that of the very flag that came last. After a restart of the publisher,
    numbers of flags with older stamps say nothing. A flag from the future is none to
    hold others against.

    capped: whether the last new flag said that it holds for longer than it is believed.
    """

    def __init__(self, max_valid_for_ns: int) -> None:
        self._max_valid_for_ns = max_valid_for_ns
        self._seq = 0
        self._stamp_ns: int | None = None
        self._restarted_ns: int | None = None
        self._clock_ns = 0
        self._went_back = False
        self._received_ns: int | None = None
        self._good_until_ns = 0
        self._said = Why.NO_FLAG
        self._late: Why | None = None
        self.taken = 0
        self.repeated = 0
        self.restarts = 0
        self.capped = False

    def on_flag(self, report: FlagReport, received_ns: int, clock_ns: int) -> None:
        """Take in a flag. clock_ns: the time base of the stamps, now; 0 or less: not started."""
        self._went_back |= clock_ns < self._clock_ns - self._max_valid_for_ns
        self._clock_ns = clock_ns
        said = _BY_LEVEL.get(report.level, Why.UNKNOWN)
        if self._is_repetition(report):
            self.repeated += 1
            if _BADNESS.index(said) > _BADNESS.index(self._said):
                self._said = said
            return
        self.taken += 1
        self._said, self._received_ns = said, received_ns
        self.capped = report.valid_for_ns > self._max_valid_for_ns
        valid_for_ns = min(report.valid_for_ns, self._max_valid_for_ns)
        age_ns = clock_ns - report.stamp_ns
        self._good_until_ns = received_ns + valid_for_ns - max(age_ns, 0)
        self._late = None
        if clock_ns <= 0:
            self._late = Why.NO_CLOCK
        elif -age_ns > valid_for_ns:  # how old it is cannot be told, nor who numbered it
            self._late = Why.FUTURE if valid_for_ns > 0 else None  # else it is stale anyway
        else:
            restarted = self._stamp_ns is not None and report.seq <= self._seq
            self.restarts += restarted
            if restarted or self._went_back:
                self._restarted_ns = None if self._went_back else report.stamp_ns
            if self._stamp_ns is None or self._went_back or report.stamp_ns > self._stamp_ns:
                self._stamp_ns = report.stamp_ns
            self._seq, self._went_back = report.seq, False

    def level(self, now_ns: int) -> tuple[Level, Why]:
        """Return NOMINAL or CAUTION while such a flag holds, else UNKNOWN or REJECT, and why."""
        if self._said is Why.REJECT:
            return Level.REJECT, Why.REJECT
        if self._said in (Why.NO_FLAG, Why.UNKNOWN):
            return Level.UNKNOWN, self._said
        if self._late is not None:
            return Level.UNKNOWN, self._late
        if now_ns >= self._good_until_ns:
            return Level.UNKNOWN, Why.STALE
        if self._said is Why.CAUTION:
            return Level.CAUTION, Why.CAUTION
        return Level.NOMINAL, Why.NOMINAL

    def age_ns(self, now_ns: int) -> int | None:
        """Time since the last new flag was received; None before there was one."""
        return None if self._received_ns is None else now_ns - self._received_ns

    @property
    def good_until_ns(self) -> int:
        """Steady time at which the last new flag ends; only of use where its level is good."""
        return self._good_until_ns

    def _is_repetition(self, report: FlagReport) -> bool:
        if self._stamp_ns is None or report.stamp_ns > self._stamp_ns:
            return False
        if self._went_back:
            return (report.seq, report.stamp_ns) == (self._seq, self._stamp_ns)
        # Numbers of before a restart say nothing after it.
        before = self._restarted_ns is not None and report.stamp_ns <= self._restarted_ns
        return before or report.seq <= self._seq


class GateLogic:
    """The gate: flags and commands come in, `decide` says what may go out now.

    Not thread-safe. `stops` counts how often it went from another state to STOPPED.
    """

    def __init__(self, limits: GateLimits) -> None:
        self.limits = limits
        self.flags = FlagWatch(limits.max_valid_for_ns)
        self.stops = 0
        self._command_ns: int | None = None
        self._command_good = True
        self._speed = 0.0
        self._speed_ns = 0
        self._state = GateState.STOPPED
        self._safe_ns: int | None = None

    def on_flag(self, report: FlagReport, now_ns: int, clock_ns: int) -> None:
        """Take in a flag that was received now; clock_ns as of `FlagWatch.on_flag`."""
        self.decide(now_ns)  # what held until now decides from where the speed rises
        self.flags.on_flag(report, now_ns, clock_ns)

    def on_command(self, good: bool, now_ns: int) -> None:
        """Take note of a command. good: whether all its numbers are finite."""
        self.decide(now_ns)
        self._command_ns, self._command_good = now_ns, good

    def decide(self, now_ns: int) -> Decision:
        """Return what may go out at this time."""
        level, why = self.flags.level(now_ns)
        factors = (1.0, 1.0) if level is Level.NOMINAL else self.limits.caution
        if level not in (Level.NOMINAL, Level.CAUTION) or max(factors) == 0.0:
            return self._stopped(why, now_ns)
        if not self._command_good:
            return self._stopped(Why.BAD_COMMAND, now_ns)
        if self._overdue(now_ns):
            return self._stopped(Why.NO_COMMAND, now_ns)
        self._safe_ns = None
        allowed = self._rise(max(factors), now_ns)
        linear, angular = min(factors[0], allowed), min(factors[1], allowed)
        if allowed < max(factors):
            why = Why.RESUMING
        self._state = GateState.PASS if linear == angular == 1.0 else GateState.SCALED
        return Decision(state=self._state, why=why, linear=linear, angular=angular)

    def stop_due(self, now_ns: int) -> bool:
        """Whether a safe command has to go out by itself."""
        if self.decide(now_ns).state is not GateState.STOPPED:
            return False
        return self._safe_ns is None or now_ns - self._safe_ns >= self.limits.stop_period_ns

    def on_safe(self, now_ns: int) -> None:
        """Take note that a safe command went out."""
        self._safe_ns = now_ns

    def _stopped(self, why: Why, now_ns: int) -> Decision:
        if self._state is not GateState.STOPPED:
            self.stops += 1
        self._state = GateState.STOPPED
        self._speed, self._speed_ns = 0.0, now_ns
        return Decision(state=GateState.STOPPED, why=why, linear=0.0, angular=0.0)

    def _overdue(self, now_ns: int) -> bool:
        limit_ns = self.limits.command_timeout_ns
        if not limit_ns:
            return False
        return self._command_ns is None or now_ns - self._command_ns >= limit_ns

    def _rise(self, target: float, now_ns: int) -> float:
        """Largest factor allowed: it falls at once and rises by 1 in the ramp's time."""
        ramp_ns = self.limits.resume_ramp_ns
        risen = 1.0 if not ramp_ns else self._speed + (now_ns - self._speed_ns) / ramp_ns
        self._speed, self._speed_ns = min(target, risen), now_ns
        return self._speed
