# SPDX-License-Identifier: Apache-2.0
"""Flags on a terminal: a live table with rich, plain lines without it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from jepa_edge.errors import printable
from jepa_edge.flags import Level
from jepa_edge.selective import Published
from jepa_edge.session import Flag, Observation, Update
from jepa_edge.sinks import Sink

LEVEL_STYLES = {
    Level.UNKNOWN: "white on grey37",
    Level.NOMINAL: "black on green3",
    Level.CAUTION: "black on yellow3",
    Level.REJECT: "white on red3",
}
_ROWS = 16


def plain_lines() -> Sink:
    """Return a sink that prints a line whenever the level, its reasons or the best label change."""
    last: tuple[Level, int] | None = None
    label: str | None = None

    def write(observation: Observation, update: Update) -> None:
        nonlocal last, label
        flag = update.flag
        if isinstance(update, Published) and update.labels and update.labels[0].text != label:
            best = update.labels[0]
            label = best.text
            click.echo(
                f"{flag.stamp_s:10.3f} s  frame {flag.seq:5d}  label: {printable(best.text)} "
                f"({best.probability:.2f})"
            )
        if (flag.level, flag.reason_bits) != last:
            told = flag.level.name
            if flag.reasons:
                told += ": " + ", ".join(flag.reasons)
            elif flag.level > Level.NOMINAL:
                told += ": held until calmer frames have come"
            click.echo(f"{flag.stamp_s:10.3f} s  frame {flag.seq:5d}  {told}")
            last = (flag.level, flag.reason_bits)

    return write


class Tally:
    """A sink that counts levels, for one line at the end."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Level, 0)
        self._first: dict[Level, Flag] = {}
        self._last: Flag | None = None

    def __call__(self, observation: Observation, update: Update) -> None:
        flag = self._last = update.flag
        self._counts[flag.level] += 1
        self._first.setdefault(flag.level, flag)

    def line(self) -> str:
        """Return how many frames had which level, and where the first alarm of each was."""
        counts = ", ".join(f"{level.name} {count}" for level, count in self._counts.items())
        told = [f"{sum(self._counts.values())} frames: {counts}"]
        told += [
            f"first {level.name} at frame {self._first[level].seq}"
            for level in (Level.CAUTION, Level.REJECT)
            if level in self._first
        ]
        if self._last is not None and self._last.latched:
            told.append("latched until a reset")
        return "; ".join(told)


@contextmanager
def live_table(title: str) -> Iterator[Sink]:
    """Yield a sink that shows the latest frames in a table that redraws itself. Needs rich."""
    from rich.live import Live

    updates: deque[Update] = deque(maxlen=_ROWS)
    with Live(auto_refresh=False) as live:

        def write(observation: Observation, update: Update) -> None:
            updates.append(update)
            live.update(_table(title, list(updates)), refresh=True)

        yield write


def _table(title: str, updates: Sequence[Update]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for name in ("frame", "stamp s", "level", "score / caution", "spread", "latency ms"):
        table.add_column(name, justify="left" if name == "level" else "right")
    table.add_column("reasons", min_width=24)
    for update in updates:
        flag = update.flag
        spread = "-"
        if update.futures is not None:
            spread = f"{update.futures.aleatoric[0]:.3f} .. {update.futures.aleatoric[-1]:.3f}"
        table.add_row(
            str(flag.seq),
            f"{flag.stamp_s:.2f}",
            Text(f" {flag.level.name:8s}", style=LEVEL_STYLES[flag.level]),
            f"{flag.score:.2f} / {flag.caution_threshold:.2f}",
            spread,
            f"{1e3 * flag.latency_s:.1f}",
            ", ".join(flag.reasons),
        )
    return table
