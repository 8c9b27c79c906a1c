# SPDX-License-Identifier: Apache-2.0
"""Listens to a line as the microcontroller would, and shows what came."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
import msgspec

from jepa_edge.flags import Level, Reason
from jepa_edge.serial.config import LinkConfig
from jepa_edge.serial.frames import FlagFrame, StatusFrame
from jepa_edge.serial.ports import check_port, open_port, pauses_s, why
from jepa_edge.serial.receiver import Receiver, Reception
from jepa_edge.sinks.terminal import LEVEL_STYLES

_POLL_S = 0.005
_REFRESH_S = 0.2
_MAX_BACKOFF_S = 1.0
_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one look at the line gave. level: to act on at time_s, seconds since listening began.

    error: why the port is not open, empty while it is. connects: times that it was opened.
    """

    time_s: float
    receptions: list[Reception]
    level: Level
    error: str
    connects: int


Show = Callable[[Receiver, Heard], None]


def listen(config: LinkConfig, receiver: Receiver, seconds: float) -> Iterator[Heard]:
    """Yield whenever something came or changed, and a few times a second, for so many seconds.

    Opens the port again when it is lost. Raises InputError when no port can have that name.
    """
    check_port(config)
    start_s = time.monotonic()
    connects, error = 0, "not open yet"
    pauses = pauses_s(_MAX_BACKOFF_S)

    def heard(receptions: list[Reception]) -> Heard:
        now_s = time.monotonic()
        level = receiver.level(int(1e3 * now_s))
        return Heard(
            time_s=now_s - start_s,
            receptions=receptions,
            level=level,
            error=error,
            connects=connects,
        )

    while time.monotonic() - start_s < seconds:
        try:
            with contextlib.closing(open_port(config)) as port:
                connects, error, pauses = connects + 1, "", pauses_s(_MAX_BACKOFF_S)
                last = heard([])
                yield last
                while time.monotonic() - start_s < seconds:
                    data = port.read()
                    receptions = receiver.push(data, int(1e3 * time.monotonic())) if data else []
                    now = heard(receptions)
                    overdue = now.time_s - last.time_s >= _REFRESH_S
                    if receptions or now.level is not last.level or overdue:
                        last = now
                        yield now
                    if not data:
                        time.sleep(_POLL_S)
        except OSError as lost:
            error = why(lost)
        yield heard([])
        time.sleep(next(pauses))


def summary(receiver: Receiver, heard: Heard) -> dict[str, Any]:
    """Return the counts of what was heard."""
    return {
        "type": "summary",
        "seconds": round(heard.time_s, 3),
        "reconnects": max(heard.connects - 1, 0),
        **asdict(receiver.counts),
    }


def json_lines() -> Show:
    """Return what prints JSON lines: one per frame, and one whenever the port is opened or lost."""
    said: tuple[str, int] | None = None

    def show(receiver: Receiver, heard: Heard) -> None:
        nonlocal said
        if said != (heard.error, heard.connects):
            said = (heard.error, heard.connects)
            port = {"type": "port", "open": not heard.error, "error": heard.error}
            click.echo(msgspec.json.encode(port))
        for record in _records(heard):
            click.echo(msgspec.json.encode(record))

    return show


def plain_lines() -> Show:
    """Return what prints a line whenever the port, the sender or the level changes."""
    said: dict[str, object] = {}

    def changed(what: str, value: object) -> bool:
        before = said.get(what)
        said[what] = value
        return before != value

    def show(receiver: Receiver, heard: Heard) -> None:
        at = f"{heard.time_s:9.3f} s  "
        if changed("port", (heard.error, heard.connects)):
            click.echo(at + (f"closed: {heard.error}" if heard.error else "open"))
        status = receiver.status
        if status is not None and changed("status", sender(status)):
            click.echo(at + sender(status))
        reasons = 0 if receiver.flag is None else receiver.flag.reasons
        if changed("level", (heard.level, reasons)):
            click.echo(at + level_text(receiver, heard))

    return show


@contextmanager
def live_table(title: str) -> Iterator[Show]:
    """Yield what shows the latest flags in a table that redraws itself. Needs rich."""
    from rich.live import Live

    rows: deque[tuple[Heard, Reception]] = deque(maxlen=_ROWS)
    drawn_s = -math.inf
    with Live(auto_refresh=False) as live:

        def show(receiver: Receiver, heard: Heard) -> None:
            nonlocal drawn_s
            rows.extend((heard, r) for r in heard.receptions if isinstance(r.frame, FlagFrame))
            if heard.time_s - drawn_s >= _REFRESH_S / 2:
                drawn_s = heard.time_s
                live.update(_table(title, receiver, heard, list(rows)), refresh=True)

        yield show


def sender(status: StatusFrame) -> str:
    """Return who is speaking, in one line; text from the line is shown escaped."""
    model = status.model.hex() if any(status.model) else "not named"
    calibration = status.calibration.hex() if status.calibrated else "none"
    return (
        f"session {status.session:08x}: jepa-edge {status.software!r}, variant {status.variant!r}, "
        f"model {model}, calibration {calibration}, alpha {status.alpha:g}, "
        f"{'armed' if status.armed else 'not armed'}, every {status.period_ms} ms"
    )


def level_text(receiver: Receiver, heard: Heard) -> str:
    """Return the level to act on and why."""
    flag = receiver.flag
    if flag is None:
        return f"{heard.level.name}: no flag has come"
    reasons = ", ".join(Reason(flag.reasons).labels)
    if flag.level is heard.level:
        return heard.level.name + (f": {reasons}" if reasons else "")
    return f"{heard.level.name}: the last flag, {flag.level.name}, is over or its age not yet known"


def counts_text(receiver: Receiver, heard: Heard) -> str:
    """Return the counts in one line."""
    counted = asdict(receiver.counts)
    counted["reconnects"] = max(heard.connects - 1, 0)
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counted.items())


def _records(heard: Heard) -> list[dict[str, Any]]:
    """Return the frames that were heard as JSON-ready values."""
    found = []
    for reception in heard.receptions:
        frame = reception.frame
        record: dict[str, Any] = {
            "type": "flag" if isinstance(frame, FlagFrame) else "status",
            "received_s": round(heard.time_s, 4),
            "delay_ms": reception.delay_ms,
            **asdict(frame),
        }
        record["session"] = f"{frame.session:08x}"
        if isinstance(frame, FlagFrame):
            record["level"] = frame.level.name
            record["reasons"] = Reason(frame.reasons).labels
            record["acted_on"] = heard.level.name
        else:
            record["model"] = frame.model.hex()
            record["calibration"] = frame.calibration.hex()
        found.append(record)
    return found


def _table(
    title: str, receiver: Receiver, heard: Heard, rows: list[tuple[Heard, Reception]]
) -> Any:
    from rich.table import Table
    from rich.text import Text

    about = [title] + ([sender(receiver.status)] if receiver.status else [])
    about.append(f"closed: {heard.error}" if heard.error else level_text(receiver, heard))
    table = Table(title=Text("\n".join(about)), caption=counts_text(receiver, heard))
    for name in ("time s", "frame", "flag", "level", "confidence", "valid ms", "delay ms"):
        table.add_column(name, justify="left" if name == "level" else "right")
    table.add_column("reasons", min_width=24)
    for at, reception in rows:
        frame = reception.frame
        if isinstance(frame, FlagFrame):
            table.add_row(
                f"{at.time_s:.2f}",
                str(frame.seq),
                str(frame.flag_seq),
                Text(f" {frame.level.name:8s}", style=LEVEL_STYLES[frame.level]),
                f"{frame.confidence:.3f}",
                str(frame.valid_for_ms),
                str(reception.delay_ms),
                ", ".join(Reason(frame.reasons).labels),
            )
    return table
