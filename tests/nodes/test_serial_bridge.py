# SPDX-License-Identifier: Apache-2.0
"""The serial bridge: flags of the bus arrive at the other end of a pty, each for its own time."""

from __future__ import annotations

import os
import select
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jepa_edge.errors import InputError
from jepa_edge.flags import Level, Reason
from jepa_edge.nodes.diagnostics import ARRAY as DIAGNOSTICS
from jepa_edge.nodes.messages import FLAG, MODEL_INFO, duration, header
from jepa_edge.nodes.serial_bridge import SerialBridgeNode
from jepa_edge.serial.receiver import Receiver

from .bus import LocalBus, make


class Microcontroller:
    """The other end of the line."""

    def __init__(self) -> None:
        self.end, slave = os.openpty()
        tty.setraw(self.end)
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        self.receiver = Receiver()

    def acts_on(self, level: Level) -> Callable[[], bool]:
        """A condition: after reading what came, this is the level to act on."""

        def condition() -> bool:
            while select.select([self.end], [], [], 0.001)[0]:
                try:
                    data = os.read(self.end, 4096)
                except OSError:
                    return False
                self.receiver.push(data, int(1e3 * time.monotonic()))
            return self.receiver.level(int(1e3 * time.monotonic())) is level

        return condition


@pytest.fixture
def mcu() -> Iterator[Microcontroller]:
    """A microcontroller on a pty."""
    made = Microcontroller()
    yield made
    if made.end >= 0:
        os.close(made.end)


@pytest.fixture
def bus() -> Iterator[LocalBus]:
    """A bus."""
    with LocalBus() as made:
        yield made


def say(
    bus: LocalBus, seq: int, level: int, *, age_s: float = 0.0, valid_for_s: float = 1.5
) -> None:
    """Publish a flag whose image is so old."""
    bus.publish(
        "jepa/flag",
        FLAG,
        header=header(make, bus.now_ns() - round(age_s * 1e9), "camera"),
        seq=seq,
        level=level,
        reasons=int(Reason.INNOVATION) if level > 1 else 0,
        latched=level == Level.REJECT,
        confidence=0.25,
        valid_for=duration(make, valid_for_s),
    )


def bridge(bus: LocalBus, port: str, **parameters: object) -> SerialBridgeNode:
    backend = bus.backend("jepa_serial_bridge", parameters={"port": port, **parameters})
    return SerialBridgeNode(backend)


def test_flags_reach_the_microcontroller_and_end_with_their_time(
    bus: LocalBus, mcu: Microcontroller
) -> None:
    node = bridge(bus, mcu.path, rate_hz=100.0, hold_s=0.2)
    node.start()
    bus.wait_for(mcu.acts_on(Level.UNKNOWN))
    for seq, level in enumerate([Level.NOMINAL, Level.CAUTION, Level.REJECT, Level.NOMINAL]):
        say(bus, seq, level, valid_for_s=1.5)
        bus.wait_for(mcu.acts_on(level))
        flag = mcu.receiver.flag
        assert flag is not None
        assert (flag.flag_seq, flag.latched) == (seq, level is Level.REJECT)
        assert flag.reasons == (int(Reason.INNOVATION) if level > 1 else 0)
        assert flag.confidence == 0.25
    start_s = time.monotonic()
    bus.wait_for(mcu.acts_on(Level.UNKNOWN))
    assert 1.0 < time.monotonic() - start_s < 1.8
    node.close()
    node.close()


@pytest.mark.parametrize(
    ("age_s", "valid_for_s"), [(2.0, 1.5), (-10.0, 1.5), (0.0, 0.0)], ids=["old", "future", "none"]
)
def test_a_flag_of_another_time_is_unknown(
    bus: LocalBus, mcu: Microcontroller, age_s: float, valid_for_s: float
) -> None:
    node = bridge(bus, mcu.path, rate_hz=100.0)
    node.start()
    say(bus, 0, Level.NOMINAL)
    bus.wait_for(mcu.acts_on(Level.NOMINAL))
    say(bus, 1, Level.NOMINAL, age_s=age_s, valid_for_s=valid_for_s)
    bus.wait_for(mcu.acts_on(Level.UNKNOWN), timeout_s=1.0)  # 1.5 s before the first one ends
    node.close()


def test_a_repeated_flag_prolongs_nothing(bus: LocalBus, mcu: Microcontroller) -> None:
    node = bridge(bus, mcu.path, rate_hz=100.0)
    node.start()
    stamp = header(make, bus.now_ns(), "camera")

    def again() -> None:
        fields: dict[str, Any] = {"header": stamp, "seq": 3, "level": 1}
        bus.publish("jepa/flag", FLAG, **fields, valid_for=duration(make, 1.2))

    again()
    bus.wait_for(mcu.acts_on(Level.NOMINAL))
    end_s = time.monotonic() + 1.2

    def over() -> bool:
        again()
        return mcu.acts_on(Level.UNKNOWN)()

    bus.wait_for(over)
    assert time.monotonic() < end_s + 0.3
    node.close()


def test_the_model_is_named(bus: LocalBus, mcu: Microcontroller) -> None:
    node = bridge(bus, mcu.path)
    node.start()
    bus.publish(
        "jepa/model_info",
        MODEL_INFO,
        header=header(make, 0, ""),
        variant="int8",
        variant_sha256="12" * 32,
        calibration_sha256="34" * 32,
        caution_alpha=0.05,
        armed=True,
    )

    def named() -> bool:
        mcu.acts_on(Level.UNKNOWN)()
        return mcu.receiver.status is not None and mcu.receiver.status.variant == "int8"

    bus.wait_for(named)
    status = mcu.receiver.status
    assert status is not None
    assert (status.model, status.calibration) == (b"\x12" * 8, b"\x34" * 8)
    assert (status.armed, status.calibrated) == (True, True)
    node.close()


def test_diagnostics_follow_the_line(bus: LocalBus, mcu: Microcontroller) -> None:
    reports = bus.record("/diagnostics", DIAGNOSTICS)
    node = bridge(bus, mcu.path, rate_hz=100.0, max_backoff_s=0.2)
    node.start()

    def reported(level: int, message: str) -> Callable[[], bool]:
        def condition() -> bool:
            say(bus, len(reports), Level.NOMINAL, valid_for_s=30.0)
            mcu.acts_on(Level.NOMINAL)()
            last = reports[-1].status[0] if reports else None
            return last is not None and last.level == level and message in last.message

        return condition

    bus.wait_for(reported(0, "sending"))
    values = {pair.key: pair.value for pair in reports[-1].status[0].values}
    assert values["link"] == "open"
    assert values["port"] == mcu.path
    assert int(values["frames_sent"]) > 20
    assert values["reconnects"] == "0"
    os.close(mcu.end)
    mcu.end = -1
    mcu.acts_on = lambda level: lambda: False  # type: ignore[method-assign]
    bus.wait_for(reported(2, "could not open"))
    node.close()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"port": ""}, "port is ''"),
        ({"rate_hz": 500.0}, "lower rate_hz"),
        ({"port": "nothing://x"}, "not known"),
    ],
)
def test_parameters_that_cannot_be_are_refused_at_the_start(
    bus: LocalBus, parameters: dict[str, object], message: str
) -> None:
    node = bridge(bus, **{"port": "/dev/null", **parameters})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        node.start()
    node.close()


def test_it_runs_once(bus: LocalBus, mcu: Microcontroller) -> None:
    node = bridge(bus, mcu.path)
    node.start()
    with pytest.raises(InputError, match="runs already"):
        node.start()
    node.close()
