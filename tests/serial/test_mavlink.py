# SPDX-License-Identifier: Apache-2.0
"""An autopilot hears heartbeats, named values and texts, as pymavlink decodes them elsewhere."""

from __future__ import annotations

import itertools
import json
import math
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jepa_edge.flags import Level, Reason
from jepa_edge.serial.config import LinkConfig, LinkFlag, LinkProtocol
from jepa_edge.serial.link import SerialLink
from jepa_edge.serial.mavlink import MavlinkWire
from jepa_edge.serial.wire import Said, expired

from .lines import Line

READER = Path(__file__).with_name("mavlink_reader.py")
CAUTION = LinkFlag(
    level=Level.CAUTION, reasons=int(Reason.DRIFT | Reason.OVERLOAD), confidence=0.03125, seq=4
)


def heard(port: str, where: str, descriptor: int | None = None) -> list[dict[str, Any]]:
    """Say CAUTION for a second, then nothing for half a one; return what a reader decodes."""
    reader = subprocess.Popen(
        [sys.executable, str(READER), where, "15"],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=() if descriptor is None else (descriptor,),
    )
    assert reader.stdout is not None
    with reader.stdout as told:
        assert told.readline() == "ready\n"
        config = LinkConfig(
            port=port,
            protocol=LinkProtocol.MAVLINK,
            rate_hz=10.0,
            system_id=42,
            component_id=193,
        )
        link = SerialLink(config)
        link.update(CAUTION, 1.0)
        with link:
            time.sleep(1.55)
        time.sleep(0.2)
        reader.terminate()
        messages = [json.loads(line) for line in told]
    assert reader.wait(timeout=10) == -signal.SIGTERM
    return messages


def check(messages: list[dict[str, Any]]) -> None:
    assert {(m["system"], m["component"]) for m in messages} == {(42, 193)}
    kinds = {m["mavpackettype"] for m in messages}
    assert kinds == {"HEARTBEAT", "NAMED_VALUE_FLOAT", "STATUSTEXT"}
    beats = [m for m in messages if m["mavpackettype"] == "HEARTBEAT"]
    assert len(beats) == 2
    assert {(m["type"], m["autopilot"]) for m in beats} == {(18, 8)}  # onboard, no autopilot
    assert [m["system_status"] for m in beats] == [4, 0]  # active, then nothing to say
    assert beats[1]["at_s"] - beats[0]["at_s"] == pytest.approx(1.0, abs=0.15)
    named = [m for m in messages if m["mavpackettype"] == "NAMED_VALUE_FLOAT"]
    by_name = {name: [m for m in named if m["name"] == name] for name in ("jepa_flag", "jepa_conf")}
    assert len(named) == sum(map(len, by_name.values()))
    assert [m["name"] for m in named[:4]] == ["jepa_conf", "jepa_flag"] * 2
    levels = [m["value"] for m in by_name["jepa_flag"]]
    assert 12 <= len(levels) <= 17
    assert [level for level, _ in itertools.groupby(levels)] == [2.0, 0.0]
    assert 8 <= levels.count(2.0) <= 11
    confidences = [m["value"] for m in by_name["jepa_conf"]]
    assert [number for number, _ in itertools.groupby(confidences)] == [0.03125, 0.0]
    times = [m["time_boot_ms"] for m in by_name["jepa_flag"]]
    assert times == sorted(times)
    texts = [(m["severity"], m["text"]) for m in messages if m["mavpackettype"] == "STATUSTEXT"]
    assert texts == [(4, "JEPA CAUTION: overload, drift"), (4, "JEPA UNKNOWN: stale")]


def test_over_a_serial_line() -> None:
    with Line() as line:
        check(heard(line.path, str(line.end), line.end))


def test_over_udp_as_pymavlink_names_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    check(heard(f"udpout:127.0.0.1:{number}", f"udpin:127.0.0.1:{number}"))


def test_texts_come_on_a_change_of_the_level_alone() -> None:
    from pymavlink.dialects.v20 import common

    wire = MavlinkWire(LinkConfig(port="loop://", protocol=LinkProtocol.MAVLINK))
    parser = common.MAVLink(None)
    texts: list[tuple[float, int, str]] = []
    levels = [Level.NOMINAL] * 3 + [Level.REJECT] * 3 + [Level.CAUTION] * 2 + [Level.NOMINAL] * 2
    for step, level in enumerate(levels):  # one a second
        reasons = 0 if level is Level.NOMINAL else (1 << 16) - 1 >> step  # other bits each time
        flag = LinkFlag(level=level, reasons=reasons, confidence=math.nan)
        said = Said(flag=flag, expired=False, valid_for_s=0.5)
        texts += [
            (step, message.severity, message.text)
            for message in parser.parse_buffer(wire.say(said, 1.0 * step))
            if message.get_type() == "STATUSTEXT"
        ]
    assert [(step, severity) for step, severity, _ in texts] == [(0, 6), (3, 2), (6, 4), (8, 6)]
    assert texts[0][2] == "JEPA NOMINAL"
    assert texts[1][2].startswith("JEPA REJECT: non_finite, stale")
    assert len(texts[1][2]) == 50
    wire.connected()  # a new listener is told where things stand
    (text,) = [
        message.text
        for message in parser.parse_buffer(wire.say(expired(None), 9.5))
        if message.get_type() == "STATUSTEXT"
    ]
    assert text == "JEPA UNKNOWN: stale"


def texts_of(levels: list[Level]) -> list[tuple[int, str]]:
    """Step and level of each text when these levels are said, ten a second."""
    from pymavlink.dialects.v20 import common

    wire = MavlinkWire(LinkConfig(port="loop://", protocol=LinkProtocol.MAVLINK))
    parser = common.MAVLink(None)
    return [
        (step, message.text.removeprefix("JEPA "))
        for step, level in enumerate(levels)
        for message in parser.parse_buffer(
            wire.say(Said(flag=LinkFlag(level=level), expired=False, valid_for_s=0.5), 0.1 * step)
        )
        if message.get_type() == "STATUSTEXT"
    ]


def test_a_level_that_flaps_gives_one_text_a_second() -> None:
    texts = texts_of([Level.CAUTION, Level.NOMINAL, Level.NOMINAL] * 40)
    assert len(texts) <= 12
    assert all(later - step >= 10 for (step, _), (later, _) in itertools.pairwise(texts))


def test_reject_is_told_at_once_and_the_last_level_in_the_end() -> None:
    levels = [Level.NOMINAL] * 3 + [Level.CAUTION] * 2 + [Level.REJECT] * 3 + [Level.UNKNOWN] * 20
    assert texts_of(levels) == [(0, "NOMINAL"), (5, "REJECT"), (15, "UNKNOWN")]
    flapping = texts_of([Level.REJECT, Level.NOMINAL] * 50)
    assert len(flapping) <= 20
