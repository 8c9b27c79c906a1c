# SPDX-License-Identifier: Apache-2.0
"""The threads around a session: one steps it with the latest frame, one watches that one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_edge.flags import Level
from jepa_edge.nodes.diagnostics import Diagnostics, StageTimes
from jepa_edge.nodes.inputs import Frame, Inputs
from jepa_edge.nodes.mailbox import Mailbox
from jepa_edge.nodes.messages import seconds
from jepa_edge.nodes.watchdog import Watchdog
from jepa_edge.session import Flag, Observation, Session, Update

logger = logging.getLogger(__name__)

_POLL_S = 0.002
"""How long the watchdog waits for the session: a service holds it for less, a step for longer."""

_ORDER_S = 0.1
"""How long a flag waits for the one before it, which another thread is about to publish."""

_LOG_EVERY = 100

_SIMULATED_NS = 100_000_000
"""A clock that differs from the system's by more is a simulated one."""


_Entry = tuple[Frame, float, int]
"""A frame, when it was received (perf_counter), and the number of its episode."""


class Outputs(Protocol):
    """Where results go. Called from the loop's threads, never by two at once for flags."""

    def flag(self, flag: Flag, frame: Frame | None) -> None:
        """Publish a flag; frame: what it judges, None for the watchdog's."""

    def rest(
        self,
        frame: Frame,
        observation: Observation,
        update: Update,
        state: NDArray[np.float32] | None,
    ) -> None:
        """Publish what goes with a flag that is published already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """Times in seconds. period_s: of the model. valid_for_s: how long a flag holds. check_s: how
    often the watchdog looks. state_wait_s: how long a frame waits for the robot's state."""

    period_s: float
    valid_for_s: float
    check_s: float
    state_wait_s: float = 0.0


class FrameLoop:
    """Runs between `start` and `stop`; the session's methods are called by nobody else.

    A frame that fails to be processed, whatever the error, gives an UNKNOWN flag, a line in the log
    and an error in the diagnostics; the loop goes on with the next, for as long as frames come.
    """

    def __init__(
        self,
        session: Session,
        inputs: Inputs,
        outputs: Outputs,
        diagnostics: Diagnostics,
        limits: LoopLimits,
        now_ns: Callable[[], int],
    ) -> None:
        """now_ns: time on the base of the stamps."""
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._diagnostics = diagnostics
        self._limits = limits
        self._now_ns = now_ns
        self._stepping = threading.Lock()  # held while the session is used
        self._clock = _SimulatedClock(now_ns, limits.valid_for_s)
        self._order = InOrder()
        self._mailbox: Mailbox[_Entry] = Mailbox()
        self._watchdog: Watchdog | None = None
        self._worker: threading.Thread | None = None
        self._dropped = 0
        self._episode = 0

    @property
    def dropped(self) -> int:
        """Frames that were replaced by newer ones before their turn came, or whose episode was
        over by then."""
        return self._dropped + self._mailbox.dropped

    def start(self) -> None:
        """Start both threads; the watchdog's first flag comes if no frame does."""
        limits = self._limits
        self._dropped += self._mailbox.dropped
        self._mailbox = Mailbox()
        self._inputs.forget()
        self._clock.mark(limits.valid_for_s)
        self._order.open()
        self._watchdog = Watchdog(
            self._alarm,
            first_s=limits.valid_for_s,
            repeat_s=limits.period_s,
            check_s=limits.check_s,
            name="jepa watchdog",
        )
        mailbox, watchdog = self._mailbox, self._watchdog
        self._worker = threading.Thread(
            target=self._work, args=(mailbox, watchdog), name="jepa worker", daemon=True
        )
        self._worker.start()

    def stop(self) -> None:
        """End both threads, and say UNKNOWN, so that nobody goes on with the last flag for as long
        as it holds. A step under way is not waited for longer than a period: its flag, UNKNOWN too,
        is published after the next `start`, so that no number is missing."""
        self._mailbox.close()
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None
        if self._worker is not None:
            self._worker.join(self._limits.period_s)
            self._worker = None
        flag = self._session.stalled()
        try:
            self._order.run(flag.seq, lambda: self._outputs.flag(flag, None))
        except Exception:  # by an end of the process that has taken the middleware already
            logger.exception("the last flag could not be published")
        self._order.close()

    def on_image(self, message: object) -> None:
        """Take an image message, if the model gets it; cheap."""
        episode = self._episode
        frame = self._inputs.on_image(message, self._now_ns())
        if frame is not None:
            self._mailbox.put((frame, time.perf_counter(), episode))

    def begin_episode(self) -> tuple[bool, str]:
        """Begin an episode between two steps; return whether it began, and why not. A frame that
        came before it and was not judged yet is left out: it does not show the new episode."""

        def begin() -> tuple[bool, str]:
            self._session.begin_episode()
            self._inputs.restart()
            self._episode += 1  # last: no frame that came before the restart counts as new
            return True, "the episode began; the warm-up begins anew"

        return self._between_steps(begin)

    def reset_latch(self) -> tuple[bool, str]:
        """Reset the latch between two steps; return whether it was accepted, and why not."""

        def reset() -> tuple[bool, str]:
            answer = self._session.reset_latch()
            return answer.accepted, answer.reason

        return self._between_steps(reset)

    def _between_steps(self, act: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
        if not self._stepping.acquire(timeout=self._limits.period_s):
            limit_ms = 1e3 * self._limits.period_s
            return False, f"a step has been running for more than {limit_ms:.0f} ms; try again"
        try:
            return act()
        finally:
            self._stepping.release()

    def _work(self, mailbox: Mailbox[_Entry], watchdog: Watchdog) -> None:
        while (entry := mailbox.take()) is not None:
            if entry[2] != self._episode:
                self._dropped += 1
                continue
            try:
                self._process(entry, mailbox, watchdog)
            except Exception as error:
                try:
                    self._failed(error, mailbox, watchdog)
                except Exception:
                    logger.exception("not even the flag of a failed frame could be published")

    def _process(self, entry: _Entry, mailbox: Mailbox[_Entry], watchdog: Watchdog) -> None:
        frame, received_s, episode = entry
        self._inputs.wait_for_state(frame, self._limits.state_wait_s)
        taken_s = time.perf_counter()
        observation = self._inputs.observation(frame)
        state = observation.state
        if self._session.model.manifest.state is None:  # published all the same
            state = self._inputs.state(frame)
        decoded_s = time.perf_counter()
        with self._stepping:
            if episode != self._episode:
                self._dropped += 1
                return
            update = self._session.step(observation)
            # Before the watchdog can have the session: it must not take this frame for missing.
            self._feed(watchdog, update.flag)
        stepped_s = time.perf_counter()
        self._order.run(update.flag.seq, lambda: self._outputs.flag(update.flag, frame))
        if mailbox.closed:  # stopped meanwhile
            return
        self._outputs.rest(frame, observation, update, state)
        times = StageTimes(
            wait_s=taken_s - received_s,
            decode_s=decoded_s - taken_s,
            model_s=stepped_s - decoded_s,
            publish_s=time.perf_counter() - stepped_s,
        )
        self._diagnostics.on_frame(update.flag, times, seconds(self._now_ns()))

    def _feed(self, watchdog: Watchdog, flag: Flag) -> None:
        """Put the alarm off for as long as consumers may believe a flag; one that says UNKNOWN is
        as good as new, for there is nothing in it to believe."""
        age_s = 0.0
        if flag.level is not Level.UNKNOWN:
            age_s = min(max(seconds(self._now_ns()) - flag.stamp_s, 0.0), flag.valid_for_s)
        self._clock.mark(flag.valid_for_s - age_s)
        watchdog.feed(flag.valid_for_s - age_s)

    def _failed(self, error: Exception, mailbox: Mailbox[_Entry], watchdog: Watchdog) -> None:
        if self._diagnostics.failures % _LOG_EVERY == 0:
            logger.error("a frame could not be processed; its flag is UNKNOWN", exc_info=error)
        self._diagnostics.on_failure(error)
        if mailbox.closed:
            return
        flag = self._session.stalled()  # whatever state the error left, the next step begins anew
        self._feed(watchdog, flag)
        self._order.run(flag.seq, lambda: self._outputs.flag(flag, None))

    def _alarm(self) -> bool:
        """Nothing was published in time: say so, whatever the other thread is doing."""
        watchdog = self._watchdog
        if self._clock.in_time():
            return False
        polled = None
        if self._stepping.acquire(timeout=_POLL_S):
            try:
                if watchdog is not None and not watchdog.overdue:
                    return False
                polled = self._session.poll()
            finally:
                self._stepping.release()
        # A step that does not end; or a clock of the stamps that stands still, or was set back.
        flag = polled or self._session.stalled()
        self._clock.mark(self._limits.period_s)
        self._order.run(flag.seq, lambda: self._outputs.flag(flag, None))
        self._diagnostics.on_watchdog(flag)
        if self._diagnostics.watchdog_count % _LOG_EVERY == 1:
            logger.warning(
                "no frame was judged within %.3f s: UNKNOWN, %s",
                flag.valid_for_s,
                "no image came in time"
                if polled
                else "inference had not ended (if that is usual, take a faster variant or raise "
                "max_age_s), or the clock stands still or was set back",
            )
        return True


class _SimulatedClock:
    """Simulated time may be slower than the steady clock, by which the watchdog looks: what is
    overdue on that is not yet overdue then, as long as the simulation goes on."""

    def __init__(self, now_ns: Callable[[], int], patience_s: float) -> None:
        """now_ns: time on the base of the stamps. patience_s: a clock that has not moved for this
        long, steady, stands."""
        self._now_ns = now_ns
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._marked_ns = self._seen_ns = now_ns()
        self._seen_s = time.monotonic()
        self._holds_s = 0.0

    def mark(self, holds_s: float) -> None:
        """From now on, something holds for that long."""
        with self._lock:
            self._look()
            self._marked_ns, self._holds_s = self._seen_ns, holds_s

    def in_time(self) -> bool:
        """Whether what was marked still holds by a simulated clock that goes on."""
        with self._lock:
            moves = self._look() or time.monotonic() - self._seen_s < self._patience_s
            since_s = seconds(self._seen_ns - self._marked_ns)
            simulated = abs(self._seen_ns - time.time_ns()) > _SIMULATED_NS
            return simulated and moves and 0.0 <= since_s < self._holds_s

    def _look(self) -> bool:
        """Whether the clock has moved since the last look."""
        now_ns = self._now_ns()
        if now_ns == self._seen_ns:
            return False
        self._seen_ns, self._seen_s = now_ns, time.monotonic()
        return True


class InOrder:
    """Lets flags out in the order of their numbers, though two threads make them; closed, it keeps
    them until it is opened again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0
        self._open = True
        self._kept: list[Callable[[], None]] = []

    def run(self, number: int, publish: Callable[[], None]) -> None:
        """Publish once all before it are; one that never comes is waited for shortly."""
        with self._changed:
            self._changed.wait_for(lambda: number <= self._next, _ORDER_S)
            try:
                if self._open:
                    publish()
                else:
                    self._kept.append(publish)
            finally:
                self._next = max(self._next, number + 1)
                self._changed.notify_all()

    def close(self) -> None:
        """Let nothing out once this returns."""
        with self._changed:
            self._open = False

    def open(self) -> None:
        """Let out what was kept, and what comes."""
        with self._changed:
            kept, self._kept = self._kept, []
            self._open = True
            for publish in kept:
                publish()
