# SPDX-License-Identifier: Apache-2.0
"""Notices, on the steady clock, that nothing was heard for too long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Watchdog:
    """Calls back from its own thread when its time is up, and again every `repeat_s` until fed.

    Nothing else runs in that thread, so that neither inference nor the middleware can hold it up.
    """

    def __init__(
        self,
        alarm: Callable[[], bool],
        *,
        first_s: float,
        repeat_s: float,
        check_s: float,
        name: str = "watchdog",
    ) -> None:
        """alarm: returns whether it was one; else it is asked again after check_s. first_s: time
        until the first alarm if never fed. check_s: how often it looks; an alarm is late by that at
        most. An alarm that raises is logged, and the next one comes."""
        self._alarm = alarm
        self._repeat_s = repeat_s
        self._check_s = check_s
        self._lock = threading.Lock()
        self._due_s = time.monotonic() + first_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()

    def feed(self, for_s: float) -> None:
        """Put the next alarm off: it comes in that many seconds from now."""
        with self._lock:
            self._due_s = time.monotonic() + for_s

    @property
    def overdue(self) -> bool:
        """Whether its time is up; an alarm asks it again once it has the lock that it needs."""
        with self._lock:
            return time.monotonic() >= self._due_s

    def close(self) -> None:
        """End it; no alarm begins after this returns, unless it is called by an alarm."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._check_s):
            with self._lock:
                now_s, due_s = time.monotonic(), self._due_s
            if now_s < due_s:
                continue
            alarmed = True
            try:
                alarmed = self._alarm()
            except Exception:
                logger.exception("the watchdog's alarm failed; it goes on")
            with self._lock:
                if alarmed and self._due_s == due_s:  # not fed meanwhile
                    self._due_s = now_s + self._repeat_s
