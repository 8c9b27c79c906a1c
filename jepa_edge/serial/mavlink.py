# SPDX-License-Identifier: Apache-2.0
"""What is said as MAVLink 2, for an autopilot: docs/autopilot.md. Needs the extra `mavlink`."""

from __future__ import annotations

import importlib
import math
from typing import Any

from jepa_edge.errors import MissingDependencyError
from jepa_edge.flags import Level, Reason
from jepa_edge.serial.config import LinkConfig, LinkStatus
from jepa_edge.serial.wire import Said

HEARTBEAT_PERIOD_S = 1.0
TEXT_PERIOD_S = 1.0
"""Between two texts, so that a level that flaps does not fill the line and the screen."""
_TEXT_SIZE = 50
"""Characters of one STATUSTEXT."""


class MavlinkWire:
    """HEARTBEAT every second, NAMED_VALUE_FLOAT jepa_flag and jepa_conf, STATUSTEXT on a change:
    at most one a second, but REJECT at once."""

    def __init__(self, config: LinkConfig) -> None:
        """Raises MissingDependencyError without pymavlink."""
        self._common = common = pymavlink("dialects.v20.common")
        self._buffer = _Buffer()
        self._mavlink: Any = common.MAVLink(
            self._buffer, srcSystem=config.system_id, srcComponent=config.component_id
        )
        self._severity = {
            Level.UNKNOWN: common.MAV_SEVERITY_WARNING,
            Level.NOMINAL: common.MAV_SEVERITY_INFO,
            Level.CAUTION: common.MAV_SEVERITY_WARNING,
            Level.REJECT: common.MAV_SEVERITY_CRITICAL,
        }
        self._heartbeat_due_s = -math.inf
        self._told: Level | None = None
        self._text_due_s = -math.inf

    def connected(self) -> None:
        self._heartbeat_due_s = self._text_due_s = -math.inf
        self._told = None

    def introduce(self, status: LinkStatus) -> None:
        """MAVLink has no message for it."""

    def say(self, said: Said, now_s: float) -> bytes:
        flag, common = said.flag, self._common
        if now_s >= self._heartbeat_due_s:
            self._heartbeat_due_s = now_s + HEARTBEAT_PERIOD_S
            self._mavlink.heartbeat_send(
                common.MAV_TYPE_ONBOARD_CONTROLLER,
                common.MAV_AUTOPILOT_INVALID,
                0,
                0,
                common.MAV_STATE_UNINIT if said.expired else common.MAV_STATE_ACTIVE,
            )
        time_ms = int(now_s * 1e3) & 0xFFFFFFFF
        # Scripts on an autopilot compare without asking for NaN first; no confidence is none.
        confidence = flag.confidence if math.isfinite(flag.confidence) else 0.0
        self._mavlink.named_value_float_send(time_ms, b"jepa_conf", confidence)
        # Last: PX4 has one topic for all names, and a slow reader sees the latest alone.
        self._mavlink.named_value_float_send(time_ms, b"jepa_flag", float(flag.level))
        text_due = now_s >= self._text_due_s or flag.level is Level.REJECT
        if flag.level is not self._told and text_due:
            self._told, self._text_due_s = flag.level, now_s + TEXT_PERIOD_S
            text = f"JEPA {flag.level.name}"
            if flag.reasons:
                text += ": " + ", ".join(Reason(flag.reasons).labels)
            self._mavlink.statustext_send(self._severity[flag.level], text.encode()[:_TEXT_SIZE])
        return self._buffer.taken()


def pymavlink(module: str) -> Any:
    """Return a module of pymavlink. Raises MissingDependencyError without it."""
    try:
        return importlib.import_module(f"pymavlink.{module}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "MAVLink needs the package pymavlink; install it with `pip install "
            "'jepa-edge[mavlink]'`"
        ) from error


class _Buffer:
    """The file that pymavlink writes to."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        self._data += data

    def taken(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data
