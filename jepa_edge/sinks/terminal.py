# SPDX-License-Identifier: Apache-2.0
"""Flags on a terminal: a live table with rich, plain lines without it."""

from __future__ import annotations

from collections import deque
from types import TracebackType

import click

from jepa_edge.flags import Level
from jepa_edge.session import Observation, Update

_STYLES = {
    Level.UNKNOWN: "white on grey37",
    Level.NOMINAL: "black on green3",
    Level.CAUTION: "black on yellow3",
    Level.REJECT: "white on red3",
}
_ROWS = 16


class PlainSink:
    """One line whenever the level or its reasons change."""

    def __init__(self) -> None:
        self._last: tuple[Level, int] | None = None

    def __enter__(self) -> PlainSink:
        return self

    def write(self, observation: Observation, update: Update) -> None:
        """Print a line if the flag changed."""
        flag = update.flag
        if (flag.level, flag.reason_bits) != self._last:
            reasons = ", ".join(flag.reasons) or "no reason"
            click.echo(f"{flag.stamp_s:10.3f} s  frame {flag.seq:5d}  {flag.level.name}: {reasons}")
            self._last = (flag.level, flag.reason_bits)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return


class LiveTableSink:
    """The latest frames in a table that redraws itself."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._updates: deque[Update] = deque(maxlen=_ROWS)
        self._live = Live(console=Console(), auto_refresh=False)

    def __enter__(self) -> LiveTableSink:
        self._live.__enter__()
        return self

    def write(self, observation: Observation, update: Update) -> None:
        """Add a row and redraw."""
        from rich.table import Table
        from rich.text import Text

        self._updates.append(update)
        table = Table(title=self._title)
        for name in ("frame", "stamp s", "level", "score / caution", "spread", "latency ms"):
            table.add_column(name, justify="left" if name == "level" else "right")
        table.add_column("reasons", min_width=24)
        for item in self._updates:
            flag = item.flag
            spread = "-"
            if item.futures is not None:
                spread = f"{item.futures.aleatoric[0]:.3f} .. {item.futures.aleatoric[-1]:.3f}"
            table.add_row(
                str(flag.seq),
                f"{flag.stamp_s:.2f}",
                Text(f" {flag.level.name:8s}", style=_STYLES[flag.level]),
                f"{flag.score:.2f} / {flag.caution_threshold:.2f}",
                spread,
                f"{1e3 * flag.latency_s:.1f}",
                ", ".join(flag.reasons),
            )
        self._live.update(table, refresh=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)
