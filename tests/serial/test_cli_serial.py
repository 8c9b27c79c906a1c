# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge serial monitor` and `send`, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepa_edge.flags import Level
from jepa_edge.serial.config import LinkConfig, LinkFlag, LinkStatus
from jepa_edge.serial.frames import FlagFrame, StatusFrame, encode
from jepa_edge.serial.link import SerialLink
from jepa_edge.serial.receiver import Receiver

from .lines import Line, flag_frame, wait_for

CODE = "import sys; from jepa_edge.cli.serial import command; command(sys.argv[1:])"


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def opened(*arguments: str) -> subprocess.Popen[str]:
    """A monitor that has opened its port: what was there before is dropped then."""
    process = started("monitor", *arguments)
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith("  open\n") or '"open":true' in line:
            break
    return process


def ended(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as output, process.stderr as errors:
        told = output.read()
        assert process.wait(timeout=20) == 0, errors.read()
    return told


def relay(source: Line, target: Line, seconds: float, damage_every: int = 0) -> None:
    """Pass bytes from one pty to the other; every so many flags one byte is lost."""
    end_s, count = time.monotonic() + seconds, 0
    while time.monotonic() < end_s:
        data = source.read(0.02)
        if damage_every and len(data) == 39:
            count += 1
            data = data[:10] + data[11:] if count % damage_every == 0 else data
        if data:
            os.write(target.end, data)


def test_the_monitor_tells_every_frame_and_counts() -> None:
    with Line() as source, Line() as target:
        monitor = opened(target.path, "--json", "--seconds", "2")
        status = LinkStatus(variant="int8", model_sha256="ab" * 32, armed=True)
        with SerialLink(LinkConfig(port=source.path, rate_hz=50.0), status=status) as link:
            link.update(LinkFlag(level=Level.CAUTION, reasons=32, confidence=0.04, seq=3), 60.0)
            relay(source, target, 1.0, damage_every=10)
            relay(source, target, 0.2)  # only a later frame shows that one is lost
        records = [json.loads(line) for line in ended(monitor).splitlines()]
    summary = records.pop()
    assert {record["type"] for record in records} == {"flag", "status"}
    flags = [record for record in records if record["type"] == "flag"]
    statuses = [record for record in records if record["type"] == "status"]
    assert statuses[0]["variant"] == "int8"
    assert statuses[0]["model"] == "ab" * 8
    assert flags[-1]["level"] == "CAUTION"
    assert flags[-1]["reasons"] == ["innovation"]
    assert flags[-1]["confidence"] == pytest.approx(0.04)
    assert {flag["acted_on"] for flag in flags} == {"UNKNOWN", "CAUTION"}
    assert summary["type"] == "summary"
    assert summary["flags"] == len(flags) > 30
    assert summary["corrupt"] == summary["lost"] >= 3
    assert summary["reconnects"] == summary["restarts"] == 0


def test_the_monitor_follows_a_line_that_is_unplugged(tmp_path: Path) -> None:
    device = tmp_path / "ttyJEPA"
    first = Line(device)
    monitor = opened(str(device), "--seconds", "1.8")
    os.write(first.end, encode(flag_frame(seq=1)))
    time.sleep(0.2)
    first.close()
    with Line(device) as second:
        time.sleep(0.8)
        os.write(second.end, encode(flag_frame(seq=5)))
        output = ended(monitor)
    assert "closed: " in output
    assert "flags 2" in output
    assert "lost 3" in output
    assert "reconnects 1" in output


def test_a_port_that_never_opened_is_an_error(tmp_path: Path) -> None:
    code = "import sys; from jepa_edge.cli.app import main; main(sys.argv[1:])"
    arguments = ("serial", "monitor", str(tmp_path / "nowhere"), "--seconds", "0.3")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere could not be opened in 0.3 s: " in done.stderr
    assert "No such file" in done.stderr


def test_text_from_the_line_does_not_reach_the_terminal_raw() -> None:
    hostile = StatusFrame(
        session=1,
        seq=1,
        time_ms=1,
        armed=False,
        calibrated=False,
        period_ms=50,
        alpha=0.1,
        model=bytes(8),
        calibration=bytes(8),
        variant="\x1b[2Jx",
        software="1",
    )
    with Line() as line:
        monitor = opened(line.path, "--seconds", "0.5")
        os.write(line.end, encode(hostile))
        output = ended(monitor)
    assert "\\x1b[2Jx" in output
    assert "\x1b" not in output


def test_made_up_levels_are_sent_in_turn() -> None:
    receiver = Receiver()
    heard: list[Level] = []
    with Line() as line:
        arguments = ("--levels", "reject,nominal", "--each", "0.5", "--seconds", "1.4")
        sender = started("send", line.path, *arguments)
        wait_for(lambda: receiver.push(line.read(), 0))

        def over() -> bool:
            got = [reception.frame for reception in receiver.push(line.read(), 0)]
            heard.extend(frame.level for frame in got if isinstance(frame, FlagFrame))
            return sender.poll() is not None

        wait_for(over)
        assert "flags sent" in ended(sender)
    steady = [level for level in heard if level is not Level.UNKNOWN]
    assert set(steady) == {Level.REJECT, Level.NOMINAL}
    assert receiver.counts.corrupt == 0


def test_levels_that_are_none_are_refused() -> None:
    process = started("send", "loop://", "--levels", "fine")
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "expected some of unknown, nominal, caution, reject" in errors


def test_on_a_terminal_there_is_a_table() -> None:
    with Line() as line, Line() as terminal:
        screen = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
        command = [sys.executable, "-c", CODE, "monitor", line.path, "--seconds", "1"]
        monitor = subprocess.Popen(command, stdout=screen, stderr=screen, env=environment)
        os.close(screen)
        shown, seq, start_s = b"", 0, time.monotonic()
        while monitor.poll() is None:
            seq += 1
            now_ms = int(1e3 * (time.monotonic() - start_s))
            flag = flag_frame(seq=seq, time_ms=now_ms, level=Level.CAUTION)
            os.write(line.end, encode(flag))
            shown += terminal.read(0.02)
        shown += terminal.read(0.1)
    assert monitor.returncode == 0
    text = shown.decode(errors="replace")
    assert "delay ms" in text
    assert " CAUTION " in text
    assert "corrupt 0, lost 0" in text
