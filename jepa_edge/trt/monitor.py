# SPDX-License-Identifier: Apache-2.0
"""How far a build is, and how it is stopped: TensorRT's progress monitor as our Progress."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from jepa_edge.progress import Progress
from jepa_edge.trt.library import Library, Messages


class Phases:
    """Phases that nest, each in one step of its parent: how far all of it is."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int]] = []
        self._done: dict[str, int] = {}
        self._furthest = 0.0

    def start(self, name: str, steps: int) -> None:
        """Open a phase within the newest open one."""
        self._open.append((name, max(steps, 1)))
        self._done[name] = 0

    def step(self, name: str, step: int) -> None:
        """Count a step of an open phase, numbered from 0."""
        self._done[name] = step + 1

    def finish(self, name: str) -> None:
        """Close a phase."""
        self._open = [phase for phase in self._open if phase[0] != name]

    def percent(self) -> int:
        """Return how much is done, never less than before."""
        share, part = 1.0, 0.0
        for name, steps in self._open:
            part += share * min(self._done[name], steps) / steps
            share /= steps
        self._furthest = max(self._furthest, min(part, 1.0))
        return int(100 * self._furthest)


def make_monitor(library: Library, messages: Messages, name: str, progress: Progress) -> Any:
    """Return an IProgressMonitor that reports TensorRT's phases as percents of "building <name>".

    What `progress` raises is kept in `messages`, and ends the build at its next step.
    """
    base = library.module.IProgressMonitor
    phases = Phases()

    def report() -> bool:
        if messages.caught is None:
            try:
                progress(f"building {name}", phases.percent(), 100)
            except BaseException as error:
                messages.caught = error
        return messages.caught is None

    def start(this: Any) -> None:
        base.__init__(this)

    def phase_start(_: Any, phase: str, parent: str | None, steps: int) -> None:
        phases.start(phase, steps)
        report()

    def step_complete(_: Any, phase: str, step: int) -> bool:
        phases.step(phase, step)
        return report()

    def phase_finish(_: Any, phase: str) -> None:
        phases.finish(phase)

    members = {
        "__init__": start,
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    return type("Monitor", (base,), members)()


@contextlib.contextmanager
def interrupts_kept(messages: Messages) -> Iterator[None]:
    """Keep Ctrl-C for the next step of TensorRT, and raise it when the block ends.

    Python would raise it in whichever callback runs, and TensorRT would not know what that is.
    """
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def keep(*_: object) -> None:
        messages.caught = KeyboardInterrupt()

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    messages.reraise()
