# SPDX-License-Identifier: Apache-2.0
"""Stopping on SIGTERM at safe points, so that nothing half-written stays.

Raising from the signal handler itself is not enough: an exception that lands in a C library's
callback (pymunk's, while the simulator draws) is printed and lost, and the work goes on.
"""

from __future__ import annotations

import signal
import sys

_EXIT_CODE = 128 + signal.SIGTERM
_requested = False


def install() -> None:
    """Take SIGTERM: the first ends the work at the next `check`, a second one at once."""
    signal.signal(signal.SIGTERM, _request)


def check() -> None:
    """Exit with 143 if a stop was requested; called between units of work."""
    if _requested:
        sys.exit(_EXIT_CODE)


def _request(*_: object) -> None:
    global _requested
    if _requested:
        sys.exit(_EXIT_CODE)
    _requested = True
