# SPDX-License-Identifier: Apache-2.0
"""The other end of the line: bytes to frames, and frames to the level that may be acted on.

The same rules as csrc/mcu/jepa_link.c, which tests/serial/test_mcu.py holds against this. For a
companion computer that listens, and for `jepa-edge serial monitor`.
"""

from __future__ import annotations

from dataclasses import dataclass

from jepa_edge.flags import Level
from jepa_edge.serial.frames import (
    MAX_PAYLOAD,
    FlagFrame,
    Frame,
    Refusal,
    StatusFrame,
    codec,
    decode,
)

SETTLE_MS = 500
"""For this long the transit delay must not have fallen by more than the tolerance before a level is
believed: a backlog that drains shows as a falling delay."""
SETTLE_TOLERANCE_MS = 20
BACKLOG_MS = 100
"""A frame that took so much longer than another before the delay is known, or a delay that falls by
so much later, shows a backlog too: that time starts again."""
FORGET_MS = 2000
"""After a longer silence the sender's clock is learned anew."""
DRIFT_MS = 1000
"""The clocks may drift apart by one millisecond in so many, 0.1 %. A delay that grows more slowly
than that is not seen."""
_WORD = 0xFFFFFFFF


class Decoder:
    """Cuts a stream of bytes into what lies between delimiters; holds one frame at most."""

    def __init__(self) -> None:
        """Raises MissingDependencyError without cobs."""
        codec()
        self._stuffed = bytearray()
        self._too_long = False

    def push(self, data: bytes) -> list[Frame | Refusal]:
        """Take bytes as they came; return the frames that they complete, and the damaged ones."""
        found: list[Frame | Refusal] = []
        *ended, rest = data.split(b"\0")
        for piece in ended:
            self._keep(piece)
            if self._too_long:
                found.append(Refusal.CORRUPT)
            elif self._stuffed:
                found.append(decode(bytes(self._stuffed)))
            self._stuffed.clear()
            self._too_long = False
        self._keep(rest)
        return found

    def _keep(self, piece: bytes) -> None:
        self._stuffed += piece
        if len(self._stuffed) > MAX_PAYLOAD + 1:
            self._stuffed.clear()
            self._too_long = True


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a receiver has seen. repeated: replays and duplicates, refused. late: flags whose time
    was over when they came. restarts: new sessions after the first."""

    flags: int = 0
    statuses: int = 0
    corrupt: int = 0
    lost: int = 0
    repeated: int = 0
    late: int = 0
    restarts: int = 0
    other_version: int = 0
    unknown_type: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """An accepted frame. delay_ms: how much longer it was under way than the fastest of late."""

    frame: Frame
    delay_ms: int


class Receiver:
    """Says which level may be acted on now. All times are of one steady clock, milliseconds."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.flag: FlagFrame | None = None
        self.status: StatusFrame | None = None
        self._decoder = Decoder()
        self._session: int | None = None
        self._seq = 0
        self._clock: _Clock | None = None
        self._received_ms = 0
        self._remaining_ms = 0

    def push(self, data: bytes, now_ms: int) -> list[Reception]:
        """Take bytes that came at now_ms; return the frames accepted from them."""
        accepted = []
        for found in self._decoder.push(data):
            if isinstance(found, Refusal):
                self._refuse(found)
                continue
            if (reception := self._accept(found, now_ms)) is not None:
                accepted.append(reception)
        return accepted

    def level(self, now_ms: int) -> Level:
        """Return the level to act on: UNKNOWN unless a flag of a known age is still valid."""
        if self.flag is None or self._clock is None or not self._clock.settled:
            return Level.UNKNOWN
        if now_ms - self._received_ms >= self._remaining_ms:
            return Level.UNKNOWN
        return self.flag.level

    def _refuse(self, refusal: Refusal) -> None:
        if refusal is Refusal.CORRUPT:
            self.counts.corrupt += 1
        elif refusal is Refusal.VERSION:
            self.counts.other_version += 1
        else:
            self.counts.unknown_type += 1

    def _accept(self, frame: Frame, now_ms: int) -> Reception | None:
        if frame.session != self._session:
            self.counts.restarts += self._session is not None
            self._session, self._clock, self._remaining_ms = frame.session, None, 0
        else:
            step = (frame.seq - self._seq) & _WORD
            if step == 0 or step > _WORD // 2:
                self.counts.repeated += 1
                return None
            self.counts.lost += step - 1
        self._seq = frame.seq
        if self._clock is None or now_ms - self._clock.last_ms > FORGET_MS:
            self._clock = _Clock()
        delay_ms = self._clock.delay_ms(frame.time_ms, now_ms)
        if isinstance(frame, StatusFrame):
            self.counts.statuses += 1
            self.status = frame
        else:
            self.counts.flags += 1
            self.flag = frame
            self._received_ms = now_ms
            valid_ms = 0 if frame.expired else frame.valid_for_ms
            self._remaining_ms = max(valid_ms - delay_ms, 0)
            self.counts.late += valid_ms > 0 and self._remaining_ms == 0
        return Reception(frame=frame, delay_ms=delay_ms)


class _Clock:
    """Tells how long a frame was under way, but for the shortest transit, without a common clock.

    The smallest difference of arrival and sending seen of late stands for no delay. It may rise by
    what the clocks drift apart. When it falls by more than that, or frames take longer before it is
    settled, a backlog is being read.
    """

    def __init__(self) -> None:
        self.settled = False
        self.last_ms = 0
        self._offset: int | None = None
        self._anchor = 0
        self._anchored_ms = 0
        self._drifted_ms = 0

    def delay_ms(self, sent_ms: int, now_ms: int) -> int:
        measured = now_ms - sent_ms
        self.last_ms = now_ms
        if self._offset is None:
            self._offset = self._anchor = measured
            self._anchored_ms = self._drifted_ms = now_ms
            return 0
        drift = (now_ms - self._drifted_ms) // DRIFT_MS
        self._drifted_ms += drift * DRIFT_MS
        delay = _signed(measured - self._offset - drift)
        self._offset += drift + min(delay, 0)
        fall = max(_signed(self._anchor - drift - self._offset), 0)
        self._anchor = self._offset + fall
        if fall > (BACKLOG_MS if self.settled else SETTLE_TOLERANCE_MS):
            self._anchor, self._anchored_ms, self.settled = self._offset, now_ms, False
        elif not self.settled and delay > BACKLOG_MS:
            self._anchored_ms = now_ms
        elif now_ms - self._anchored_ms >= SETTLE_MS:
            self.settled = True
        return max(delay, 0)


def _signed(number: int) -> int:
    """Return number modulo 2^32 as a signed word, as the microcontroller's arithmetic does."""
    return (number + 0x80000000 & _WORD) - 0x80000000
