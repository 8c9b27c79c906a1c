# SPDX-License-Identifier: Apache-2.0
"""The link: a thread that owns the port and says the latest flag at a fixed rate."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jepa_edge.errors import InputError
from jepa_edge.serial.config import LinkConfig, LinkFlag, LinkProtocol, LinkStats, LinkStatus
from jepa_edge.serial.mavlink import MavlinkWire
from jepa_edge.serial.ports import Port, check_port, open_port, pauses_s, why
from jepa_edge.serial.wire import FrameWire, Said, Wire, expired

logger = logging.getLogger(__name__)

_GOOD_AFTER_S = 1.0
"""A connection that lasted this long ends the back-off."""
_BACKLOG = 128
"""Bytes that may wait in the kernel, three flags: more means that the line does not keep up."""
_STALLED_AFTER_S = 0.25
_CLOSE_TIMEOUT_S = 6.0
"""More than a connection attempt takes."""


class SerialLink:
    """Keeps the other end of a line informed; `update` costs the caller a few microseconds.

    Every period of `config.rate` goes out what holds at that moment: the flag with what is left of
    its time, or UNKNOWN when there is none. Nothing old waits behind: while the reader does not
    read, flags are left out, and what the kernel still holds is thrown away. A port that is lost or
    not there yet is opened again and again, with pauses that double up to `config.max_backoff_s`.
    """

    def __init__(
        self,
        config: LinkConfig,
        *,
        status: LinkStatus | None = None,
        received: Callable[[bytes], None] | None = None,
    ) -> None:
        """received: called by the link's thread with what the other end sends.

        Raises InputError when no port can have that name, MissingDependencyError without the
        packages of the protocol.
        """
        check_port(config)
        self.config = config
        self._wire = _wire(config)
        self._received = received
        self._status = status or LinkStatus()
        self._introduced: LinkStatus | None = None
        # A flag and when it expires, one reference: the thread sees the old pair or the new one.
        self._latest: tuple[LinkFlag, float] | None = None
        self._stats = LinkStats()
        self._started_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jepa-serial-link", daemon=True)

    def start(self) -> None:
        """Start to send; does not wait for the port. Raises InputError the second time."""
        if self._stop.is_set() or self._thread.ident is not None:
            raise InputError("a serial link is started once; make a new SerialLink")
        self._started_s = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Say UNKNOWN once more and close the port. Twice does no harm."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)

    def __enter__(self) -> SerialLink:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, flag: LinkFlag, valid_for_s: float) -> None:
        """Say this flag from now on, for so many seconds. From any thread; never waits."""
        self._latest = (flag, time.monotonic() + valid_for_s)

    def introduce(self, status: LinkStatus) -> None:
        """Say this of the sender from now on. From any thread; never waits."""
        self._status = status

    @property
    def stats(self) -> LinkStats:
        """How the link fares."""
        return self._stats

    def _run(self) -> None:
        pauses = pauses_s(self.config.max_backoff_s)
        while not self._stop.is_set():
            opened_s = math.inf
            try:
                with contextlib.closing(open_port(self.config)) as port:
                    opened_s = time.monotonic()
                    self._serve(port)
            except OSError as error:
                self._lost(why(error))
            except Exception as error:  # without the thread the line would be dead for good
                logger.exception("serial link to %s", self.config.port)
                self._lost(f"{type(error).__name__}: {error}")
            if time.monotonic() - opened_s >= _GOOD_AFTER_S:
                pauses = pauses_s(self.config.max_backoff_s)
            self._stop.wait(next(pauses))

    def _serve(self, port: Port) -> None:
        """Send until the link is closed; raises OSError when the line is lost."""
        self._note(connected=True, connects=self._stats.connects + 1, error="")
        logger.info("serial link: %s is open", self.config.port)
        self._wire.connected()
        period_s = 1.0 / self.config.rate
        due_s = flowing_s = time.monotonic()
        while True:
            last = self._stop.is_set()
            if (data := port.read()) and self._received is not None:
                self._received(data)
            if self._status is not self._introduced:
                self._introduced = self._status
                self._wire.introduce(self._introduced)
            now_s = time.monotonic()
            if port.waiting() <= _BACKLOG:
                said = self._said(math.inf if last else now_s)
                sent = port.write(self._wire.say(said, now_s - self._started_s))
                flowing_s = now_s
            else:
                sent = False
            if sent:
                self._note(flags=self._stats.flags + 1)
            else:
                self._note(skipped=self._stats.skipped + 1)
            if last:
                break
            # Whatever waits was true once; a reader that wakes up shall not take it for now.
            full = not sent and flowing_s == now_s
            if full or now_s - flowing_s > _STALLED_AFTER_S:
                self._note(stalls=self._stats.stalls + 1)
                port.discard()
                flowing_s = now_s
            due_s += period_s
            if due_s < now_s:  # the machine was busy elsewhere: do not hurry after it
                due_s = now_s + period_s
            self._stop.wait(max(0.0, due_s - time.monotonic()))
        self._note(connected=False)

    def _said(self, now_s: float) -> Said:
        """What holds at that time; at infinity all is over."""
        latest = self._latest
        if latest is None:
            return expired(None)
        flag, until_s = latest
        left_s = min(until_s - now_s, self.config.hold_s)
        if not left_s > 0.001:  # also NaN; less than the frame's millisecond is over
            return expired(flag)
        return Said(flag=flag, expired=False, valid_for_s=left_s)

    def _lost(self, error: str) -> None:
        if error != self._stats.error:
            logger.warning("serial link: %s; trying again", error)
        self._note(connected=False, error=error)

    def _note(self, **changes: Any) -> None:
        self._stats = replace(self._stats, **changes)


def _wire(config: LinkConfig) -> Wire:
    if config.protocol is LinkProtocol.MAVLINK:
        return MavlinkWire(config)
    return FrameWire(config.rate)
