# SPDX-License-Identifier: Apache-2.0
"""The link over real pty pairs, a socket and a loop: damage, unplugging, readers that stop."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.flags import Level, Reason
from jepa_edge.serial.config import LinkConfig, LinkFlag, LinkProtocol, LinkStatus
from jepa_edge.serial.frames import FlagFrame, Frame, Refusal, StatusFrame
from jepa_edge.serial.link import SerialLink
from jepa_edge.serial.mavlink import MavlinkWire
from jepa_edge.serial.receiver import Decoder, Receiver
from jepa_edge.serial.wire import FrameWire, Said

from .lines import Line, wait_for

NOMINAL = LinkFlag(level=Level.NOMINAL, confidence=0.5, seq=1)
REJECT = LinkFlag(level=Level.REJECT, reasons=int(Reason.INNOVATION), confidence=0.001, seq=2)
STATUS = LinkStatus(variant="int8", model_sha256="ab" * 32, alpha=0.05, armed=True)


@pytest.fixture
def line() -> Iterator[Line]:
    """A pty pair."""
    with Line() as opened:
        yield opened


def frames(line: Line, seconds: float) -> list[Frame]:
    """Whole frames that come within so many seconds; damaged ones fail the test."""
    decoder, found = Decoder(), []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        found += decoder.push(line.read(0.05))
    assert not [item for item in found if isinstance(item, Refusal)]
    return [item for item in found if not isinstance(item, Refusal)]


def flags_of(found: list[Frame]) -> list[FlagFrame]:
    return [frame for frame in found if isinstance(frame, FlagFrame)]


def test_the_status_comes_first_then_flags_at_the_rate(line: Line) -> None:
    with SerialLink(LinkConfig(port=line.path, rate_hz=50.0), status=STATUS) as link:
        link.update(NOMINAL, 10.0)
        found = frames(line, 1.3)
    first = found[0]
    assert isinstance(first, StatusFrame)
    assert (first.variant, first.model, first.armed) == ("int8", b"\xab" * 8, True)
    assert first.alpha == pytest.approx(0.05)
    assert first.period_ms == 20
    assert sum(isinstance(frame, StatusFrame) for frame in found) == 2  # again once a second
    flags = flags_of(found)
    assert [frame.seq for frame in found] == list(range(len(found)))
    assert 45 <= len(flags) <= 67
    gaps_ms = [b.time_ms - a.time_ms for a, b in itertools.pairwise(flags)]
    assert sorted(gaps_ms)[len(gaps_ms) // 2] in range(18, 24)


def test_a_flag_is_sent_with_what_is_left_of_its_time(line: Line) -> None:
    with SerialLink(LinkConfig(port=line.path, rate_hz=100.0, hold_s=0.3)) as link:
        link.update(NOMINAL, 0.5)
        flags = flags_of(frames(line, 0.9))
    good = [frame for frame in flags if frame.level is Level.NOMINAL]
    start_ms = good[0].time_ms
    assert good[0].valid_for_ms <= 300
    assert all(
        frame.valid_for_ms <= max(500 - (frame.time_ms - start_ms), 0) + 20 for frame in good
    )
    assert {frame.level for frame in flags[-10:]} == {Level.UNKNOWN}
    last = flags[-1]
    assert (last.expired, last.reasons, last.flag_seq) == (True, int(Reason.STALE), 1)
    assert math.isnan(last.confidence)
    assert last.valid_for_ms == 0


@pytest.mark.parametrize("valid_for_s", [0.0, -1.0, math.nan, -math.inf])
def test_a_flag_without_time_is_unknown(line: Line, valid_for_s: float) -> None:
    latched = LinkFlag(level=Level.REJECT, latched=True, seq=4)
    with SerialLink(LinkConfig(port=line.path, rate_hz=200.0)) as link:
        link.update(latched, valid_for_s)
        flags = flags_of(frames(line, 0.2))
    assert {frame.level for frame in flags} == {Level.UNKNOWN}
    assert flags[1].reasons == int(Reason.STALE | Reason.LATCHED)


def test_without_a_flag_the_level_is_unknown(line: Line) -> None:
    with SerialLink(LinkConfig(port=line.path, rate_hz=200.0)):
        flags = flags_of(frames(line, 0.2))
    assert {(frame.level, frame.expired, frame.valid_for_ms) for frame in flags} == {
        (Level.UNKNOWN, True, 0)
    }


def test_closing_says_unknown(line: Line) -> None:
    link = SerialLink(LinkConfig(port=line.path, rate_hz=2.0, hold_s=2.0))
    link.start()
    link.update(NOMINAL, 60.0)
    wait_for(lambda: link.stats.flags >= 1)
    link.close()
    link.close()
    assert flags_of(frames(line, 0.1))[-1].level is Level.UNKNOWN


def test_a_new_status_is_sent_with_the_next_flag(line: Line) -> None:
    with SerialLink(LinkConfig(port=line.path, rate_hz=100.0)) as link:
        frames(line, 0.2)
        link.introduce(STATUS)
        found = frames(line, 0.2)
    statuses = [frame for frame in found if isinstance(frame, StatusFrame)]
    assert [status.variant for status in statuses] == ["int8"]


def test_damage_costs_the_frames_that_it_hits_and_no_other(line: Line) -> None:
    """1 % of the bytes lost or replaced, decoded in another process: as many flags as 60 s at 20 Hz
    bring, in less time."""
    reader = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("noisy_reader.py")),
            *(str(line.end), "15", "0.01", "2026"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(line.end,),
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    with SerialLink(LinkConfig(port=line.path, baud=921600, rate_hz=800.0), status=STATUS) as link:
        count = 0
        while link.stats.flags < 1300:
            count += 1
            flag = LinkFlag(level=Level(count % 4), reasons=count, confidence=1 / count, seq=count)
            link.update(flag, 0.5)
            time.sleep(0.001)
            assert link.stats.error == ""
    assert reader.wait(timeout=20) == 0
    result = json.loads(reader.stdout.read())
    reader.stdout.close()
    assert result["frames_sent"] >= 1300
    assert 0.008 < result["bytes_damaged"] / result["bytes"] < 0.012
    assert result["wrong_frames_accepted"] == 0
    assert result["intact_frames_refused"] == 0
    assert result["in_order"]
    assert result["frames_intact"] > 0.55 * result["frames_sent"]
    assert result["refused_as_corrupt"] > 0.2 * result["frames_sent"]


def test_unplugged_and_plugged_in_again(tmp_path: Path) -> None:
    device = tmp_path / "ttyJEPA"
    first = Line(device)
    with SerialLink(LinkConfig(port=str(device), rate_hz=100.0), status=STATUS) as link:
        link.update(NOMINAL, 60.0)
        before = frames(first, 0.3)
        first.close()
        wait_for(lambda: not link.stats.connected)
        assert link.stats.error
        time.sleep(0.3)  # gone for a while: the link tries, and fails
        with Line(device) as second:
            wait_for(lambda: link.stats.connected)
            after = frames(second, 0.3)
    assert isinstance(after[0], StatusFrame)
    assert isinstance(after[1], FlagFrame)
    assert after[1].level is Level.NOMINAL
    assert after[0].session == before[0].session
    assert after[0].seq > before[-1].seq
    assert link.stats.connects == 2


def test_a_port_that_comes_late_is_opened_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "ttyJEPA"
    tried: list[float] = []
    from jepa_edge.serial import link as module

    real = module.open_port

    def counted(config: LinkConfig) -> object:
        tried.append(time.monotonic())
        return real(config)

    monkeypatch.setattr(module, "open_port", counted)
    config = LinkConfig(port=str(device), max_backoff_s=0.4)
    with SerialLink(config) as link:
        time.sleep(1.2)
        assert "No such file" in link.stats.error
        with Line(device):
            wait_for(lambda: link.stats.connected)
            assert link.stats.error == ""
    gaps = [b - a for a, b in itertools.pairwise(tried)]
    for gap, expected in zip(gaps, [0.1, 0.2, 0.4, 0.4, 0.4], strict=False):
        assert expected <= gap < expected + 0.5


def stalled_update_s(seconds: float) -> tuple[float, SerialLink, Line]:
    """Drive a loop while nobody reads; return its longest update, the link and the line."""
    line = Line()
    # At this rate the kernel's 20 KB are full after half a second.
    link = SerialLink(LinkConfig(port=line.path, baud=921600, rate_hz=1000.0))
    link.start()
    longest_s, end_s = 0.0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        start_s = time.perf_counter()
        link.update(NOMINAL, 0.5)
        longest_s = max(longest_s, time.perf_counter() - start_s)
        time.sleep(0.001)
    return longest_s, link, line


def test_a_reader_that_stops_never_delays_the_loop_by_5_ms() -> None:
    longest = []
    for _ in range(3):  # another process may take the processor away just then
        longest_s, link, line = stalled_update_s(1.5)
        link.close()
        line.close()
        assert link.stats.stalls > 0
        assert link.stats.skipped > 0
        longest.append(longest_s)
        if longest_s < 0.005:
            break
    assert min(longest) < 0.005


def test_a_reader_that_wakes_up_does_not_believe_what_waited(line: Line) -> None:
    """NOMINAL while the reader sleeps, REJECT when it wakes: it never acts on the old NOMINAL."""
    receiver = Receiver()

    def listen(seconds: float) -> set[Level]:
        levels, end_s = set(), time.monotonic() + seconds
        while time.monotonic() < end_s:
            data = line.read(0.002)
            for at in range(0, len(data), 39):  # a small buffer, looked at in between
                receiver.push(data[at : at + 39], int(1e3 * time.monotonic()))
                levels.add(receiver.level(int(1e3 * time.monotonic())))
        return levels

    with SerialLink(LinkConfig(port=line.path, baud=921600, rate_hz=500.0, hold_s=0.2)) as link:
        link.update(NOMINAL, 60.0)
        assert Level.NOMINAL in listen(0.8)
        time.sleep(0.6)  # asleep while some 300 frames of NOMINAL are sent
        link.update(REJECT, 60.0)
        time.sleep(0.3)
        woken = listen(1.0)
    assert Level.NOMINAL not in woken
    assert Level.REJECT in woken
    assert receiver.counts.late > 10


def test_over_a_loop() -> None:
    receiver = Receiver()

    def received(data: bytes) -> None:
        receiver.push(data, int(1e3 * time.monotonic()))

    config = LinkConfig(port="loop://", rate_hz=100.0, baud=921600)
    with SerialLink(config, status=STATUS, received=received) as link:
        link.update(REJECT, 60.0)
        wait_for(lambda: receiver.level(int(1e3 * time.monotonic())) is Level.REJECT)
    assert receiver.status is not None
    assert receiver.counts.corrupt == receiver.counts.lost == 0


class Server:
    """A TCP server that takes one connection at a time; small buffers, so that they fill soon."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._listener.settimeout(8.0)
        self.port = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> socket.socket:
        return self._listener.accept()[0]

    def close(self) -> None:
        self._listener.close()


def test_over_a_socket_that_is_closed_and_taken_again() -> None:
    with contextlib.closing(Server()) as server:
        config = LinkConfig(port=server.port, rate_hz=100.0)
        with SerialLink(config, status=STATUS) as link:
            link.update(NOMINAL, 60.0)
            for connects in (1, 2):
                with server.accept() as peer:
                    decoder, found = Decoder(), []
                    while len(found) < 20:
                        found += decoder.push(peer.recv(4096))
                    assert isinstance(found[0], StatusFrame)
                    assert isinstance(found[19], FlagFrame)
                    assert found[19].level is Level.NOMINAL
                assert link.stats.connects == connects


def test_a_socket_whose_reader_stops_is_reset() -> None:
    with (
        contextlib.closing(Server()) as server,
        SerialLink(LinkConfig(port=server.port, rate_hz=1000.0)) as link,
    ):
        link.update(NOMINAL, 60.0)
        with server.accept() as peer:
            wait_for(lambda: link.stats.stalls > 0)
            with server.accept() as again:
                assert again.recv(1) == b"\0"
                assert peer.fileno() >= 0


def test_a_device_is_opened_by_one_writer_alone(line: Line) -> None:
    with SerialLink(LinkConfig(port=line.path)) as first:
        wait_for(lambda: first.stats.connected)
        with SerialLink(LinkConfig(port=line.path)) as second:
            wait_for(lambda: second.stats.error)
            assert "lock" in second.stats.error


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12
def test_a_forked_child_does_not_keep_the_device(line: Line) -> None:
    link = SerialLink(LinkConfig(port=line.path, rate_hz=100.0))
    with link:
        wait_for(lambda: link.stats.flags > 2)
        child = os.fork()
        if child == 0:  # without the interpreter's own ending, which is the parent's
            time.sleep(20.0)
            os._exit(0)
        try:
            sent = link.stats.flags
            wait_for(lambda: link.stats.flags > sent + 5)
            assert link.stats.error == ""
            link.close()
            with SerialLink(link.config) as again:
                wait_for(lambda: again.stats.connected or again.stats.error)
                assert again.stats.error == ""
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_link_is_started_once(line: Line) -> None:
    link = SerialLink(LinkConfig(port=line.path))
    link.start()
    with pytest.raises(InputError, match="make a new SerialLink"):
        link.start()
    link.close()
    with pytest.raises(InputError, match="make a new SerialLink"):
        link.start()


def test_a_defect_in_the_thread_does_not_end_the_link(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = SerialLink(LinkConfig(port=line.path, rate_hz=100.0, max_backoff_s=0.1))
    healthy = threading.Event()
    say = link._wire.say

    def broken(*arguments: object) -> bytes:
        if not healthy.is_set():
            raise RuntimeError("a defect")
        return say(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(link._wire, "say", broken)
    with link:
        wait_for(lambda: link.stats.error == "RuntimeError: a defect")
        healthy.set()
        wait_for(lambda: link.stats.connected and link.stats.flags > 2)
    assert "a defect" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"port": ""}, "port is ''"),
        ({"baud": 0}, "baud is 0"),
        ({"rate_hz": math.nan}, "rate_hz is nan"),
        ({"rate_hz": 2000.0}, "rate_hz is 2000"),
        ({"rate_hz": 0.5, "hold_s": 10.0}, "rate_hz is 0.5"),
        ({"rate_hz": 100.0, "baud": 9600}, "lower rate_hz to 20$"),
        ({"rate_hz": 11.0, "baud": 4800}, "need 5080 bit/s, the line has 4800 .* rate_hz to 9$"),
        ({"baud": 1200, "rate_hz": 1.0, "hold_s": 2.0}, "raise baud$"),
        ({"protocol": LinkProtocol.MAVLINK, "baud": 8000}, "need 7530 bit/s"),
        ({"port": "udpout:127.0.0.1:14550"}, "only protocol mavlink can use"),
        ({"hold_s": 0.05}, "two periods of 0.05 s"),
        ({"hold_s": 61.0}, "hold_s is 61"),
        ({"max_backoff_s": 0.0}, "max_backoff_s is 0.0"),
        ({"system_id": 0}, "system_id is 0"),
        ({"component_id": 256}, "component_id is 256"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LinkConfig(**{"port": "/dev/ttyACM0", **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("nothing://there", "socket://"),
        ("udpout:127.0.0.1", "udpout:"),
        ("udpin:a:b:1", "udpout:"),
    ],
)
def test_ports_that_cannot_be_are_refused(port: str, expected: str) -> None:
    with pytest.raises(InputError, match=f"port is .* such as .*{expected}"):
        SerialLink(LinkConfig(port=port, protocol=LinkProtocol.MAVLINK))


@pytest.mark.parametrize(
    ("protocol", "baud", "rate_hz"),
    [(LinkProtocol.JEPA, 9600, 20.0), (LinkProtocol.MAVLINK, 9600, 10.0)],
)
def test_a_rate_that_is_accepted_fits_the_line_with_all_else(
    protocol: LinkProtocol, baud: int, rate_hz: float
) -> None:
    """What the wire says in ten seconds at its worst: a level that flaps with all reasons."""
    config = LinkConfig(port="/dev/ttyS0", baud=baud, protocol=protocol, rate_hz=rate_hz)
    wire = MavlinkWire(config) if protocol is LinkProtocol.MAVLINK else FrameWire(rate_hz)
    size, steps = 0, round(10 * rate_hz)
    for step in range(steps):
        level = Level.REJECT if step % 5 == 4 else Level.NOMINAL
        flag = LinkFlag(level=level, reasons=0xFFFF, confidence=1 / 3, seq=step)
        size += len(wire.say(Said(flag=flag, expired=False, valid_for_s=0.5), step / rate_hz))
    assert size <= baud  # ten bits a byte, ten seconds


def test_a_digest_has_to_be_hexadecimal() -> None:
    with pytest.raises(InputError, match="hexadecimal"):
        LinkStatus(model_sha256="xyz")


@pytest.mark.parametrize(
    ("package", "config", "extra"),
    [
        ("serial", LinkConfig(port="loop://"), "serial"),
        ("cobs", LinkConfig(port="loop://"), "serial"),
        ("pymavlink", LinkConfig(port="loop://", protocol=LinkProtocol.MAVLINK), "mavlink"),
        (
            "pymavlink",
            LinkConfig(port="udpout:127.0.0.1:9", protocol=LinkProtocol.MAVLINK),
            "mavlink",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, config: LinkConfig, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match=rf"jepa-edge\[{extra}\]"):
        SerialLink(config)
