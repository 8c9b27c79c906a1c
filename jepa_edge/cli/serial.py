# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge serial`: watch a serial line, or say levels on one without a model."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import time

import click
import msgspec

from jepa_edge.cli import stop
from jepa_edge.errors import InputError

_STEP_S = 0.02

PORT = click.argument("port", metavar="PORT")
BAUD = click.option(
    "--baud", default=115200, show_default=True, help="Bits per second; USB devices do not care."
)
SECONDS = click.option(
    "--seconds",
    type=click.FloatRange(min=0.0),
    default=math.inf,
    help="End after this long.  [default: when interrupted]",
)


@click.group("serial")
def command() -> None:
    """Flags on a serial line: see docs/serial.md and docs/autopilot.md.

    PORT is a device such as /dev/ttyACM0, socket://host:port or loop://.
    """


@command.command(
    "monitor",
    epilog="""\b
Examples:
  jepa-edge serial monitor /dev/ttyUSB0
  jepa-edge serial monitor socket://192.168.0.7:2000 --json --seconds 60

\b
A frame is lost when its number is missing, corrupt when its CRC is wrong, late when its time was
over when it came. The level shown is what the decoder for microcontrollers would act on.
Exit codes: 0 the time is over; 2 bad input, or the port could never be opened.
""",
)
@PORT
@BAUD
@SECONDS
@click.option("--json", "as_json", is_flag=True, help="JSON lines: frames, then the counts.")
def monitor(port: str, baud: int, seconds: float, as_json: bool) -> None:
    """Decode the frames that come from PORT, live; MAVLink has viewers of its own."""
    from jepa_edge.serial.config import LinkConfig
    from jepa_edge.serial.monitor import (
        Heard,
        Show,
        counts_text,
        json_lines,
        listen,
        live_table,
        plain_lines,
        summary,
    )
    from jepa_edge.serial.receiver import Receiver

    # The lowest rate that a baud rate can carry is not the listener's business.
    config = LinkConfig(port=port, baud=baud, rate_hz=1.0, hold_s=2.0)
    receiver = Receiver()
    heard: Heard | None = None

    with contextlib.ExitStack() as stack:
        show: Show
        if as_json:
            show = json_lines()
        elif sys.stdout.isatty() and importlib.util.find_spec("rich"):
            show = stack.enter_context(live_table(port))
        else:
            show = plain_lines()
        try:
            for heard in listen(config, receiver, seconds):
                stop.check()
                show(receiver, heard)
        finally:
            stack.close()
            if heard is not None and as_json:
                click.echo(msgspec.json.encode(summary(receiver, heard)))
            elif heard is not None:
                click.echo(f"{heard.time_s:.1f} s: {counts_text(receiver, heard)}")
    if heard is not None and not heard.connects:
        raise InputError(f"{port} could not be opened in {seconds:g} s: {heard.error}")


@command.command(
    "send",
    epilog="""\b
Examples:
  jepa-edge serial send /dev/ttyACM0
  jepa-edge serial send /dev/ttyACM0 --levels nominal,unknown --each 5
  jepa-edge serial send udpout:127.0.0.1:14550 --protocol mavlink
""",
)
@PORT
@BAUD
@SECONDS
@click.option(
    "--protocol", type=click.Choice(["jepa", "mavlink"]), default="jepa", show_default=True
)
@click.option(
    "--rate", type=float, default=0.0, help="Flags per second.  [default: 20, MAVLink 10]"
)
@click.option(
    "--levels",
    default="nominal,caution,reject,unknown",
    show_default=True,
    metavar="LEVEL,...",
    help="One after the other, again and again.",
)
@click.option(
    "--each",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds of each level.",
)
def send(
    port: str, baud: int, seconds: float, protocol: str, rate: float, levels: str, each: float
) -> None:
    """Say made-up levels on PORT, to try a firmware or an autopilot's wiring without a model."""
    from jepa_edge.flags import Level
    from jepa_edge.serial.config import LinkConfig, LinkFlag, LinkProtocol, LinkStatus
    from jepa_edge.serial.link import SerialLink

    names = [name.strip().upper() for name in levels.split(",")]
    if not set(names) <= set(Level.__members__):
        known = ", ".join(level.name.lower() for level in Level)
        raise InputError(f"--levels is {levels!r}, expected some of {known}, with commas between")
    confidence = {Level.NOMINAL: 0.5, Level.CAUTION: 0.04, Level.REJECT: 0.004}
    config = LinkConfig(port=port, baud=baud, protocol=LinkProtocol(protocol), rate_hz=rate)
    with SerialLink(config, status=LinkStatus(variant="made up")) as link:
        start_s = time.monotonic()
        count, said, error = 0, "", ""
        while (elapsed_s := time.monotonic() - start_s) < seconds:
            stop.check()
            level = Level[names[int(elapsed_s / each) % len(names)]]
            flag = LinkFlag(level=level, confidence=confidence.get(level, math.nan), seq=count)
            link.update(flag, config.hold_s)
            count += 1
            if level.name != said:
                said = level.name
                click.echo(f"{elapsed_s:9.3f} s  {said}")
            if link.stats.error != error:
                error = link.stats.error
                click.echo(f"{elapsed_s:9.3f} s  {error or 'open'}", err=True)
            time.sleep(_STEP_S)
    sent = link.stats
    click.echo(f"{sent.flags} flags sent, {sent.skipped} left out, {sent.connects} times opened")
