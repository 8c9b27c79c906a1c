# SPDX-License-Identifier: Apache-2.0
"""Where flags go: JSON lines, MCAP, a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from jepa_edge.session import Observation, Update


class Sink(Protocol):
    """Takes every step of a session. A context manager: leaving it closes the output."""

    def __enter__(self) -> Sink:
        """Open the output."""

    def write(self, observation: Observation, update: Update) -> None:
        """Publish one step."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the output."""
