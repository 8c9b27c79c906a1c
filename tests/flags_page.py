# SPDX-License-Identifier: Apache-2.0
"""Reads docs/flags.md: its tables are the specification that the code is held against."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jepa_edge.flags import Level
from jepa_edge.state_machine import Event, Phase, Rules, State

PAGE = Path(__file__).parents[1] / "docs" / "flags.md"
_JUDGED = ("NOMINAL", "CAUTION", "REJECT")
_FIELDS = ("phase", "count", "live", "calm", "peak", "latched")


def tables() -> dict[tuple[str, ...], list[dict[str, str]]]:
    """All tables of the page by their header, each row as header -> cell without backticks."""
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", PAGE.read_text(), re.MULTILINE):
        lines = [[cell.strip() for cell in row[1:-1].split("|")] for row in block.splitlines()]
        header = tuple(cell.replace("`", "") for cell in lines[0])
        found[header] = [
            dict(zip(header, (cell.replace("`", "") for cell in row), strict=True))
            for row in lines[2:]
        ]
    return found


def time_line() -> dict[str, dict[int, str]]:
    """The page's time line: row name -> frame -> entry; entries end in their frame's column."""
    (block,) = re.findall(r"```\n(frame .*?)```", PAGE.read_text(), re.DOTALL)
    lines = block.splitlines()
    frames = {match.end(): int(match.group()) for match in re.finditer(r"\d+", lines[0])}
    rows: dict[str, dict[int, str]] = {}
    for line in lines[1:]:
        name = re.match(r"[a-z]+( level)?", line)
        assert name is not None
        entries = re.finditer(r"\S+", line[name.end() :])
        rows[name.group()] = {frames[name.end() + e.end()]: e.group() for e in entries}
    return rows


class Oracle:
    """Interprets the page's tables. Knows nothing of the code but the names in `State`."""

    def __init__(self, rules: Rules) -> None:
        """Raises StopIteration when the page lacks a table."""
        found = tables()
        self._rules = rules
        self._phase = next(rows for header, rows in found.items() if "next phase" in header[3:])
        self._live = next(rows for header, rows in found.items() if "next live" in header)
        self._latch = next(rows for header, rows in found.items() if "next latched" in header)
        self._level = found["phase", "level"]
        self.used: set[str] = set()

    @property
    def rows(self) -> set[str]:
        """Every row of the three tables that move the state."""
        return {str(row) for row in (*self._phase, *self._live, *self._latch)}

    def step(self, state: State, event: Event) -> State:
        """The one next state that the tables allow; AssertionError unless exactly one row fits."""
        names: dict[str, Any] = {
            **Phase.__members__,
            **Level.__members__,
            **{field: getattr(state, field) for field in _FIELDS},
            "raw": Level[event.name] if event.name in _JUDGED else None,
            "warm_up": self._rules.warm_up,
            "fall_after": self._rules.fall_after,
            "latch": self._rules.latch,
        }
        after = self._apply(self._phase, event, state.phase, names, "phase")
        after |= self._apply(self._live, event, after["phase"], names, "next phase")
        after |= self._apply(self._latch, event, state.phase, names, "phase")
        return State(**after)

    def level(self, state: State) -> Level:
        """The level that the page says is published."""
        (row,) = [row for row in self._level if _fits(row["phase"], state.phase.name)]
        names = {**Level.__members__, "live": state.live, "latched": state.latched}
        return Level(self._value(row["level"], names))

    def _apply(
        self,
        table: list[dict[str, str]],
        event: Event,
        phase: Phase,
        names: dict[str, Any],
        column: str,
    ) -> dict[str, Any]:
        fitting = [
            row
            for row in table
            if _fits(row[column], phase.name)
            and _fits(row["event"], event.name)
            and (not row["when"] or self._value(row["when"], names))
        ]
        assert len(fitting) == 1, f"{len(fitting)} rows fit {names}, {event.name}: {fitting}"
        (row,) = fitting
        self.used.add(str(row))
        results = {name: cell for name, cell in row.items() if name.startswith("next ")}
        if column == "next phase":
            results.pop("next phase")
        return {
            name.removeprefix("next "): self._value(cell, names) for name, cell in results.items()
        }

    @staticmethod
    def _value(expression: str, names: dict[str, Any]) -> Any:
        return eval(expression, {"__builtins__": {"max": max}}, names)


def _fits(cell: str, name: str) -> bool:
    listed = [part.strip() for part in cell.split(",")]
    return "any" in listed or name in listed or ("judged" in listed and name in _JUDGED)
