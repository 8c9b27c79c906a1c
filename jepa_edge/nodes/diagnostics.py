# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says: every node's message, and what the world model's is made of.

Key names are those of the field.

Sources: Autoware's max_allowed_processing_time_ms and max_acceptable_consecutive_delay_ms;
greenwave_monitor's frame_rate_node, frame_rate_msg and current_delay_from_realtime_ms.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jepa_edge.flags import Level
from jepa_edge.nodes.messages import Make, header, seconds
from jepa_edge.session import Flag

ARRAY = "diagnostic_msgs/msg/DiagnosticArray"
_STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
_KEY_VALUE = "diagnostic_msgs/msg/KeyValue"

_WINDOW = 32
"""Frames that a rate is the mean of."""


class Severity(enum.IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


SEVERITIES = {
    Level.UNKNOWN: Severity.STALE,
    Level.NOMINAL: Severity.OK,
    Level.CAUTION: Severity.WARN,
    Level.REJECT: Severity.ERROR,
}


def status_array(
    make: Make,
    node: str,
    part: str,
    severity: Severity,
    message: str,
    values: Mapping[str, object],
    now_ns: int,
) -> Any:
    """Return a DiagnosticArray of one status, "node: part". node: fully qualified name.

    now_ns: time on the base of the stamps.
    """
    status = make(
        _STATUS,
        level=int(severity),
        name=f"{node.strip('/')}: {part}",
        message=message,
        hardware_id=node,
        values=[make(_KEY_VALUE, key=key, value=_text(v)) for key, v in values.items()],
    )
    return make(ARRAY, header=header(make, now_ns, ""), status=[status])


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Where the time of one frame went, seconds. wait: from its receipt until a worker took it, and
    for a state that was waited for."""

    wait_s: float
    decode_s: float
    model_s: float
    publish_s: float

    @property
    def processing_s(self) -> float:
        """From taking the frame to having published everything."""
        return self.decode_s + self.model_s + self.publish_s


class Diagnostics:
    """Gathers what happens in the node's threads; `message` may be called from any."""

    def __init__(
        self,
        *,
        name: str,
        period_s: float,
        max_allowed_s: float,
        max_delay_s: float,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: of the node. period_s: of the model. max_allowed_s: processing time beyond which it
        warns. max_delay_s: how long that may go on before it is an error."""
        self._name = name
        self._period_s = period_s
        self._max_allowed_s = max_allowed_s
        self._max_delay_s = max_delay_s
        self._steady = steady
        self._lock = threading.Lock()
        self._at_s: deque[float] = deque(maxlen=_WINDOW)
        self._stamps_s: deque[float] = deque(maxlen=_WINDOW)
        self._flag: Flag | None = None
        self._times: StageTimes | None = None
        self._delay_s = 0.0
        self._slow_since_s: float | None = None
        self._failure = ""
        self.watchdog_count = 0
        self.failures = 0

    def on_frame(self, flag: Flag, times: StageTimes, now_s: float) -> None:
        """A frame was judged and published. now_s: time on the base of the stamps."""
        with self._lock:
            self._at_s.append(self._steady())
            self._stamps_s.append(flag.stamp_s)
            self._flag, self._times = flag, times
            self._delay_s = now_s - flag.stamp_s
            self._failure = ""
            slow = times.processing_s > self._max_allowed_s
            if not slow:
                self._slow_since_s = None
            elif self._slow_since_s is None:
                self._slow_since_s = self._steady() - times.processing_s

    def on_watchdog(self, flag: Flag) -> None:
        """The watchdog published a flag."""
        with self._lock:
            self._flag = flag
            self.watchdog_count += 1

    def on_failure(self, error: BaseException) -> None:
        """A frame could not be processed; it is an error until one can."""
        with self._lock:
            self._failure = f"{type(error).__name__}: {error}"
            self.failures += 1

    def message(self, make: Make, now_ns: int, counters: dict[str, object]) -> Any:
        """Return a DiagnosticArray. counters: what others count, by key."""
        with self._lock:
            severity, text = self._judged()
            values = {**self._values(seconds(now_ns)), **counters}
        return status_array(make, self._name, "world model", severity, text, values, now_ns)

    def _judged(self) -> tuple[Severity, str]:
        if self._failure:
            return Severity.ERROR, f"inference failed: {self._failure}"
        flag = self._flag
        if flag is None:
            return Severity.STALE, "no frame yet"
        severity = SEVERITIES[flag.level]
        text = flag.level.name + (f": {', '.join(flag.reasons)}" if flag.reasons else "")
        if self._slow_since_s is not None and severity is not Severity.STALE:
            slow_s = self._steady() - self._slow_since_s
            worse = Severity.ERROR if slow_s > self._max_delay_s else Severity.WARN
            text += f"; frames take longer than {1e3 * self._max_allowed_s:.0f} ms"
            severity = max(severity, worse)
        return severity, text

    def _values(self, now_s: float) -> dict[str, object]:
        flag, times = self._flag, self._times
        idle_s = self._steady() - self._at_s[-1] if self._at_s else 0.0
        stale = idle_s > 3.0 * self._period_s
        values: dict[str, object] = {
            "frame_rate_node": 0.0 if stale else _rate(self._at_s),
            "frame_rate_msg": 0.0 if stale else _rate(self._stamps_s),
            "current_delay_from_realtime_ms": 1e3 * (self._delay_s + idle_s),
        }
        if times is not None:
            values["processing_time_ms"] = 1e3 * times.processing_s
            values["wait_ms"] = 1e3 * times.wait_s
            values["decode_ms"] = 1e3 * times.decode_s
            values["model_ms"] = 1e3 * times.model_s
            values["publish_ms"] = 1e3 * times.publish_s
        if flag is not None:
            values["level"] = flag.level.name
            values["reasons"] = ", ".join(flag.reasons)
            values["latched"] = flag.latched
            values["seq"] = flag.seq
            values["flag_age_ms"] = 1e3 * (now_s - flag.stamp_s)
        values["watchdog_count"] = self.watchdog_count
        values["inference_failures"] = self.failures
        return values


def _rate(times_s: deque[float]) -> float:
    """Mean rate, 1/s; 0 for fewer than two, or where time does not go on."""
    span_s = times_s[-1] - times_s[0] if len(times_s) > 1 else 0.0
    return (len(times_s) - 1) / span_s if span_s > 0.0 else 0.0


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3f}" if isinstance(value, float) else str(value)
