# SPDX-License-Identifier: Apache-2.0
"""How long work tells that it moves, without knowing who shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work moves on; the CLI turns it into a progress bar."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of the named stage are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""
