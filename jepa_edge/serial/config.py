# SPDX-License-Identifier: Apache-2.0
"""What a link is told when it is made, what it is told to say, and what it tells of itself."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from jepa_edge.errors import InputError
from jepa_edge.flags import Level
from jepa_edge.serial.frames import FLAG_WIRE_SIZE, STATUS_WIRE_SIZE

MAX_RATE_HZ = 1000.0
MAX_HOLD_S = 60.0
_MAX_LINE_USE = 0.9
"""Share of the line that may be taken; the rest is for gaps."""


class LinkProtocol(enum.Enum):
    """What goes over the line: frames of docs/serial.md, or MAVLink 2."""

    JEPA = "jepa"
    MAVLINK = "mavlink"


_USUAL_RATE_HZ = {LinkProtocol.JEPA: 20.0, LinkProtocol.MAVLINK: 10.0}
_FLAG_BYTES = {LinkProtocol.JEPA: FLAG_WIRE_SIZE, LinkProtocol.MAVLINK: 2 * 30}
"""Bytes on the wire per flag: a frame; two NAMED_VALUE_FLOAT of MAVLink 2."""
_BYTES_PER_S = {LinkProtocol.JEPA: STATUS_WIRE_SIZE, LinkProtocol.MAVLINK: 21 + 2 * 66}
"""Bytes on the wire per second beside flags: a status; a HEARTBEAT and at most two STATUSTEXT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """One line. port: a device, socket://host:port, loop://, or for MAVLink also what pymavlink
    calls udpout:host:port, udpin:host:port, udpbcast:host:port.

    rate_hz: flags per second, 0 for the protocol's own (20, MAVLink 10). hold_s: the longest that a
    receiver may act on one flag, even one that would be valid for longer; so the longest that a cut
    line goes unnoticed. max_backoff_s: longest pause between two attempts to open the port.
    system_id, component_id: of MAVLink.
    Raises InputError for numbers out of range, for a rate that the baud rate cannot carry, and for
    UDP without MAVLink.
    """

    port: str
    baud: int = 115200
    protocol: LinkProtocol = LinkProtocol.JEPA
    rate_hz: float = 0.0
    hold_s: float = 0.5
    max_backoff_s: float = 2.0
    system_id: int = 1
    component_id: int = 191

    def __post_init__(self) -> None:
        checks = (
            ("port", bool(self.port), "a device or a URL"),
            ("baud", 1 <= self.baud <= 20_000_000, "1 to 20000000"),
            ("rate_hz", _is_rate(self.rate_hz), f"1 to {MAX_RATE_HZ:g}, or 0 for the usual"),
            ("hold_s", 0.0 < self.hold_s <= MAX_HOLD_S, f"above 0, at most {MAX_HOLD_S:g}"),
            ("max_backoff_s", 0.1 <= self.max_backoff_s <= 60.0, "0.1 to 60"),
            ("system_id", 1 <= self.system_id <= 255, "1 to 255"),
            ("component_id", 1 <= self.component_id <= 255, "1 to 255"),
        )
        for name, good, expected in checks:
            if not good:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected {expected}")
        if self.hold_s * self.rate < 2.0:
            raise InputError(
                f"hold_s is {self.hold_s:g}, expected two periods of {1.0 / self.rate:g} s or "
                "more: a single lost frame would interrupt the flag"
            )
        if self.is_udp and self.protocol is not LinkProtocol.MAVLINK:
            raise InputError(
                f"port is {self.port!r}, which only protocol mavlink can use; for frames name a "
                "device such as /dev/ttyACM0, socket://host:port or loop://"
            )
        per_flag, per_s = _FLAG_BYTES[self.protocol], _BYTES_PER_S[self.protocol]
        needed = (self.rate * per_flag + per_s) * 10.0
        usable = _MAX_LINE_USE * self.baud
        if self.is_device and needed > usable:
            possible = math.floor((usable / 10.0 - per_s) / per_flag)
            raise InputError(
                f"{self.rate:g} flags per second and what goes with them need {needed:.0f} bit/s, "
                f"the line has {self.baud} and is used to {_MAX_LINE_USE:.0%}; raise baud"
                + (f", or lower rate_hz to {possible}" if possible >= 1 else "")
            )

    @property
    def rate(self) -> float:
        """Flags per second."""
        return self.rate_hz or _USUAL_RATE_HZ[self.protocol]

    @property
    def is_device(self) -> bool:
        """Whether port is a device, whose baud rate is real (but for USB, where it is not)."""
        return "://" not in self.port and not self.is_udp

    @property
    def is_udp(self) -> bool:
        """Whether port is one of pymavlink's names for UDP."""
        return self.port.startswith(("udpout:", "udpin:", "udpbcast:"))


def _is_rate(rate_hz: float) -> bool:
    """Whether it is 0 or a rate; at less than 1 a receiver takes every gap for a silence."""
    return rate_hz == 0.0 or 1.0 <= rate_hz <= MAX_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFlag:
    """What is sent of a flag. reasons: bits of Reason. confidence: NaN when there is none."""

    level: Level
    reasons: int = 0
    latched: bool = False
    confidence: float = math.nan
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """Who is speaking. model, calibration: SHA-256 of the variant and of its calibration, hex, as
    many digits as known. alpha: share of nominal episodes that may reach CAUTION.

    Raises InputError when a SHA-256 is no hexadecimal number.
    """

    variant: str = ""
    model_sha256: str = ""
    calibration_sha256: str = ""
    alpha: float = math.nan
    armed: bool = False

    def __post_init__(self) -> None:
        for name in ("model_sha256", "calibration_sha256"):
            digits = getattr(self, name)
            if len(digits) % 2 or not set(digits) <= set("0123456789abcdefABCDEF"):
                raise InputError(f"{name} is {digits!r}, expected hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStats:
    """How a link fares. flags: sent. skipped: left out because the reader does not read. stalls:
    times that the output was thrown away for it. connects: times that the port was opened. error:
    why the port is not open, or was lost last; empty while all is well."""

    connected: bool = False
    flags: int = 0
    skipped: int = 0
    stalls: int = 0
    connects: int = 0
    error: str = ""
