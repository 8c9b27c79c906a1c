# SPDX-License-Identifier: Apache-2.0
"""Lines for the tests: a pty pair, frames, and a wait."""

from __future__ import annotations

import os
import select
import time
import tty
from collections.abc import Callable
from pathlib import Path

from jepa_edge.flags import Level
from jepa_edge.serial.frames import FlagFrame


class Line:
    """A pty pair: the link opens `path`, the test holds the other end."""

    def __init__(self, link: Path | None = None) -> None:
        """link: a symbolic link to be set to the device, as udev does."""
        self.end, slave = os.openpty()
        tty.setraw(self.end)
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self.end, False)
        if link is not None:
            link.unlink(missing_ok=True)
            link.symlink_to(self.path)
            self.path = str(link)

    def read(self, timeout_s: float = 0.0) -> bytes:
        """What came, at most 64 KiB; nothing after the time, or while the other end is closed."""
        if not select.select([self.end], [], [], timeout_s)[0]:
            return b""
        try:
            return os.read(self.end, 65536)
        except OSError:
            time.sleep(0.005)
            return b""

    def close(self) -> None:
        """Unplug it."""
        if self.end >= 0:
            os.close(self.end)
            self.end = -1

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for(condition: Callable[[], object], timeout_s: float = 8.0) -> None:
    """Return as soon as the condition holds; fail the test when it does not in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come about in time"
        time.sleep(0.002)


def flag_frame(
    *,
    seq: int = 0,
    time_ms: int = 0,
    session: int = 7,
    level: Level = Level.NOMINAL,
    valid_for_ms: int = 500,
) -> FlagFrame:
    """A flag's frame."""
    return FlagFrame(
        session=session,
        seq=seq,
        time_ms=time_ms,
        level=level,
        latched=False,
        expired=False,
        reasons=0,
        confidence=0.25,
        flag_seq=seq,
        valid_for_ms=valid_for_ms,
    )
