# SPDX-License-Identifier: Apache-2.0
"""What is said as MAVLink 2, for an autopilot: docs/autopilot.md. Needs the extra `mavlink`."""

from __future__ import annotations

import math
from typing import Any

from jepa_edge.errors import MissingDependencyError
from jepa_edge.flags import Level, Reason
from jepa_edge.serial.config import LinkConfig, LinkStatus
from jepa_edge.serial.wire import Said

HEARTBEAT_PERIOD_S = 1.0
_TEXT_SIZE = 50
"""Characters of one STATUSTEXT."""


class MavlinkWire:
    """HEARTBEAT every second, NAMED_VALUE_FLOAT jepa_flag and jepa_conf, STATUSTEXT on a change."""

    def __init__(self, config: LinkConfig) -> None:
        """Raises MissingDependencyError without pymavlink."""
        try:
            from pymavlink.dialects.v20 import common
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "MAVLink needs the package pymavlink; install it with `pip install "
                "'jepa-edge[mavlink]'`"
            ) from error
        self._common = common
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

    def connected(self) -> None:
        self._heartbeat_due_s = -math.inf
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
        if flag.level != self._told:
            self._told = flag.level
            text = f"JEPA {flag.level.name}"
            if flag.reasons:
                text += ": " + ", ".join(Reason(flag.reasons).labels)
            self._mavlink.statustext_send(self._severity[flag.level], text.encode()[:_TEXT_SIZE])
        return self._buffer.taken()


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
