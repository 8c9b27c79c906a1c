# SPDX-License-Identifier: Apache-2.0
"""One thread that waits for messages and timers and calls back, one callback at a time."""

from __future__ import annotations

import ctypes as ct
import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable

from jepa_edge.dds import clib
from jepa_edge.dds.endpoints import RawReader

logger = logging.getLogger(__name__)

_READY_AT_ONCE = 64
_JOIN_S = 5.0


class Registration:
    """A reader's or timer's callback, until it is closed."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._lock = threading.RLock()  # a callback may close itself
        self._open = True

    def call(self, callback: Callable[[], None]) -> None:
        """Call back unless it is closed."""
        with self._lock:
            if self._open:
                callback()

    def close(self) -> None:
        """End it; twice does no harm. A callback that runs is waited for, except by itself."""
        self._open = False  # first, so that no other begins while this waits for one
        if self._lock.acquire(timeout=_JOIN_S):
            self._lock.release()
        else:
            logger.error("a callback has not ended %g s after it was to be closed", _JOIN_S)
        close, self._close = self._close, _nothing
        close()


def _nothing() -> None:
    """What closing again does."""


class _Timer:
    def __init__(self, period_ns: int, callback: Callable[[], None]) -> None:
        self.period_ns = period_ns
        self.callback = callback
        self.due_ns = time.monotonic_ns() + period_ns
        self.registration: Registration

    def advance(self, now_ns: int) -> None:
        """Set the next due time on the timer's own grid; periods that were missed are skipped."""
        self.due_ns += self.period_ns * (1 + (now_ns - self.due_ns) // self.period_ns)


class Dispatcher:
    """The thread of one node's callbacks.

    A callback that raises is a defect: it is logged, kept as `failure` for the main thread, and
    the others go on, so that a watchdog keeps its word until the process ends. So is whatever else
    goes wrong in the thread, even when it ends the thread: a node must not fall silent unseen.
    """

    def __init__(self, participant: int, name: str) -> None:
        lib = clib.library()
        self.failure: BaseException | None = None
        self._waitset = clib.checked(lib.dds_create_waitset(participant), "creating a waitset")
        self._guard = clib.checked(
            lib.dds_create_guardcondition(participant), "creating a guard condition"
        )
        lib.dds_waitset_attach(self._waitset, self._guard, 0)
        self._sources: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count(1)
        self._timers: dict[int, _Timer] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def on_sample(self, reader: RawReader, callback: Callable[[clib.Sample], None]) -> Registration:
        """Call back with every valid sample of a reader, which is closed with the registration."""
        number = next(self._numbers)

        def close() -> None:
            with self._lock:
                self._sources.pop(number, None)
            reader.close()

        registration = Registration(close)

        def drain() -> None:
            for sample in reader.take():
                self._call(registration, functools.partial(callback, sample))

        with self._lock:
            self._sources[number] = drain
        clib.checked(
            clib.library().dds_waitset_attach(self._waitset, reader.condition, number),
            "attaching a reader",
        )
        return registration

    def on_status(self, handle: int, mask: int, callback: Callable[[], None]) -> Registration:
        """Call back when a status of an entity changes; the callback has to read the status."""
        number = next(self._numbers)

        def close() -> None:
            with self._lock:
                self._sources.pop(number, None)

        registration = Registration(close)
        with self._lock:
            self._sources[number] = lambda: self._call(registration, callback)
        lib = clib.library()
        lib.dds_set_status_mask(handle, mask)
        clib.checked(lib.dds_waitset_attach(self._waitset, handle, number), "attaching a status")
        return registration

    def timer(self, period_s: float, callback: Callable[[], None]) -> Registration:
        """Call back every period of the steady clock."""
        number = next(self._numbers)

        def close() -> None:
            with self._lock:
                self._timers.pop(number, None)

        timer = _Timer(max(1, round(period_s * 1e9)), callback)
        timer.registration = Registration(close)
        with self._lock:
            self._timers[number] = timer
        self._wake()
        return timer.registration

    def fail(self, what: str, error: BaseException) -> None:
        """Keep the first error for the main thread, and log it; any thread may call this."""
        if self.failure is None:
            self.failure = error
        logger.error(what, exc_info=error)

    def close(self) -> None:
        """Stop the thread; no callback begins after this returns. Twice does no harm."""
        with self._lock:
            stopped, self._stopping = self._stopping, True
        if stopped:
            return
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                logger.error("a callback has not ended %g s after the stop", _JOIN_S)
                return
            self._delete()

    def _delete(self) -> None:
        lib = clib.library()
        lib.dds_delete(self._waitset)
        lib.dds_delete(self._guard)

    def _wake(self) -> None:
        clib.library().dds_set_guardcondition(self._guard, True)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:
            self.fail("the thread of the callbacks ended", error)

    def _turn(self) -> None:
        """Wait and call back. Nothing of it stays in this frame: it would keep a node alive."""
        lib = clib.library()
        ready = (ct.c_ssize_t * _READY_AT_ONCE)()
        timeout = self._until_next_timer()
        count = lib.dds_waitset_wait(self._waitset, ready, _READY_AT_ONCE, timeout)
        if count < 0 and not self._stopping:
            raise RuntimeError(f"DDS: waiting failed: {lib.dds_strretcode(count).decode()}")
        self._run_timers()
        for number in ready[: max(0, min(count, _READY_AT_ONCE))]:
            if self._stopping:
                return
            if number == 0:
                lib.dds_take_guardcondition(self._guard, ct.byref(ct.c_bool()))
            elif (source := self._sources.get(number)) is not None:
                self._guarded(source)

    def _until_next_timer(self) -> int:
        with self._lock:
            due = min((timer.due_ns for timer in self._timers.values()), default=None)
        return clib.INFINITY if due is None else max(0, due - time.monotonic_ns())

    def _run_timers(self) -> None:
        now_ns = time.monotonic_ns()
        with self._lock:
            due = [timer for timer in self._timers.values() if timer.due_ns <= now_ns]
        for timer in sorted(due, key=lambda timer: timer.due_ns):
            timer.advance(now_ns)
            self._call(timer.registration, timer.callback)

    def _call(self, registration: Registration, callback: Callable[[], None]) -> None:
        if not self._stopping:
            self._guarded(functools.partial(registration.call, callback))

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except BaseException as error:
            self.fail("a callback failed", error)
