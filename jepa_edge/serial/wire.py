# SPDX-License-Identifier: Apache-2.0
"""What is said at one moment, and the frames of docs/serial.md that say it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Protocol

from jepa_edge.flags import Level, Reason
from jepa_edge.serial.config import LinkFlag, LinkStatus
from jepa_edge.serial.frames import FlagFrame, StatusFrame, codec, encode
from jepa_edge.version import __version__

STATUS_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A flag as of now. expired: none came, or its time is over. valid_for_s: from now on."""

    flag: LinkFlag
    expired: bool
    valid_for_s: float


def expired(last: LinkFlag | None) -> Said:
    """What is said without a flag: UNKNOWN, stale. A latch shows, for it will come back."""
    latched = last is not None and last.latched
    flag = LinkFlag(
        level=Level.UNKNOWN,
        reasons=int(Reason.STALE | (Reason.LATCHED if latched else 0)),
        latched=latched,
        confidence=math.nan,
        seq=0 if last is None else last.seq,
    )
    return Said(flag=flag, expired=True, valid_for_s=0.0)


class Wire(Protocol):
    """Turns what is said into bytes. Times: seconds since the link's start."""

    def connected(self) -> None:
        """A receiver may be new: introduce yourself before the next flag."""

    def introduce(self, status: LinkStatus) -> None:
        """Say this of yourself from now on."""

    def say(self, said: Said, now_s: float) -> bytes:
        """Return the bytes of one period, a flag and what else is due."""


class FrameWire:
    """Frames: the status first and once a second, then flags."""

    def __init__(self, rate_hz: float) -> None:
        """rate_hz: how often `say` is called. Raises MissingDependencyError without cobs."""
        codec()
        # From the system, not from a seed: two starts must differ.
        self._session = int.from_bytes(os.urandom(4), "little")
        self._seq = 0
        self._period_ms = round(1e3 / rate_hz)
        self._status = LinkStatus()
        self._status_due_s = -math.inf

    def connected(self) -> None:
        self._status_due_s = -math.inf

    def introduce(self, status: LinkStatus) -> None:
        self._status = status
        self._status_due_s = -math.inf

    def say(self, said: Said, now_s: float) -> bytes:
        time_ms = int(now_s * 1e3)
        sent = b""
        if now_s >= self._status_due_s:
            self._status_due_s = now_s + STATUS_PERIOD_S
            sent += encode(self._status_frame(time_ms))
        flag = said.flag
        return sent + encode(
            FlagFrame(
                session=self._session,
                seq=self._next(),
                time_ms=time_ms,
                level=flag.level,
                latched=flag.latched,
                expired=said.expired,
                reasons=flag.reasons,
                confidence=flag.confidence,
                flag_seq=flag.seq,
                valid_for_ms=int(said.valid_for_s * 1e3),
            )
        )

    def _status_frame(self, time_ms: int) -> StatusFrame:
        status = self._status
        return StatusFrame(
            session=self._session,
            seq=self._next(),
            time_ms=time_ms,
            armed=status.armed,
            calibrated=bool(status.calibration_sha256),
            period_ms=self._period_ms,
            alpha=status.alpha,
            model=_prefix(status.model_sha256),
            calibration=_prefix(status.calibration_sha256),
            variant=status.variant,
            software=__version__,
        )

    def _next(self) -> int:
        self._seq += 1
        return self._seq - 1


def _prefix(sha256: str) -> bytes:
    """Return the first eight bytes of a hexadecimal digest."""
    return bytes.fromhex(sha256[:16])
