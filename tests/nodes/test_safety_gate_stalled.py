# SPDX-License-Identifier: Apache-2.0
"""World model and gate together: inference hangs for two seconds, and the robot stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.nodes.qos import Qos
from jepa_edge.nodes.safety_gate import SafetyGateNode
from jepa_edge.recording import Episode
from jepa_edge.world_model import WorldModel

from .bus import make
from .rig import ARRAY, PERIOD_NS, Rig, image_fields, running

TWIST = "geometry_msgs/msg/Twist"
VALID_S, LIMIT_S, STALL_S, WARM_UP = 0.3, 0.05, 2.0, 6


class Commander(threading.Thread):
    """Drives at 50 Hz, whatever happens; notes what reaches the robot."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self._bus = rig.bus
        self._ends = threading.Event()
        self.reached: list[tuple[float, float]] = []
        self._bus.backend("robot").subscribe(
            "cmd_out",
            TWIST,
            Qos(depth=1000),
            lambda m: self.reached.append((time.monotonic(), m.linear.x)),
        )

    def run(self) -> None:
        while not self._ends.wait(0.02):
            self._bus.publish("cmd_in", TWIST, linear=make("geometry_msgs/msg/Vector3", x=1.0))

    def stop(self) -> None:
        self._ends.set()
        self.join()

    def speeds(self, since_s: float, until_s: float) -> list[float]:
        """What reached the robot in that time."""
        return [speed for at, speed in list(self.reached) if since_s <= at < until_s]


def _frame(rig: Rig, episode: Episode, index: int) -> float:
    """Send a frame of now, then the action that leads to the next; return the steady time."""
    sent_s = time.monotonic()
    rig.bus.publish(
        "image", "sensor_msgs/msg/Image", **image_fields(time.time_ns(), episode.frames[index])
    )
    time.sleep(0.01)
    rig.bus.publish("action", ARRAY, data=episode.actions[index])
    return sent_s


def _sleep_until(steady_s: float) -> None:
    time.sleep(max(0.0, steady_s - time.monotonic()))


def _stall(rig: Rig, episode: Episode, stall: threading.Event, commander: Commander) -> float:
    """Let inference hang and come back; return how long after its limit the robot still moved."""
    now_ns = time.time_ns()
    rig.play(episode, 0, WARM_UP, start_ns=now_ns - WARM_UP * PERIOD_NS)
    rig.command(now_ns - PERIOD_NS + 10_000_000, episode.actions[WARM_UP - 1])
    rig.bus._clock = time.time_ns
    last_good_s = _frame(rig, episode, WARM_UP)
    rig.bus.wait_for(lambda: 1.0 in commander.speeds(last_good_s, np.inf))
    _sleep_until(last_good_s + PERIOD_NS / 1e9)
    stall.set()
    back_s = _frame(rig, episode, WARM_UP + 1) + STALL_S
    _sleep_until(back_s + 0.1)
    moved = [at for at, speed in commander.reached if speed > 0.0]
    stood = commander.speeds(last_good_s + VALID_S + LIMIT_S, back_s)
    assert len(stood) > 30  # the stop is active all the time
    for index in range(WARM_UP + 2, 22):
        sent_s = _frame(rig, episode, index)
        _sleep_until(sent_s + PERIOD_NS / 1e9)
        if 1.0 in commander.speeds(back_s, np.inf):
            return moved[-1] - last_good_s - VALID_S
    pytest.fail("it did not recover")


def test_the_robot_stands_while_inference_hangs(
    calibrated_bundle: Path, make_episode: Callable[[int], Episode], monkeypatch: Any
) -> None:
    """Within valid_for of the last good frame and 50 ms, until inference is back and warmed up."""
    stall = threading.Event()
    encode = WorldModel.encode

    def slow(self: WorldModel, frames: Any, states: Any = None) -> Any:
        if stall.is_set():
            stall.clear()
            time.sleep(STALL_S)
        return encode(self, frames, states)

    monkeypatch.setattr(WorldModel, "encode", slow)
    late = []
    for _ in range(3):  # a machine that is busy otherwise gets another try, not a wider limit
        with running(calibrated_bundle, max_age_s=VALID_S) as rig:
            gate = SafetyGateNode(
                rig.bus.backend("jepa_safety_gate", parameters={"resume_ramp_s": 0.0})
            )
            gate.start()
            commander = Commander(rig)
            commander.start()
            try:
                late.append(_stall(rig, make_episode(9001), stall, commander))
            finally:
                commander.stop()
                gate.close()
        if late[-1] < LIMIT_S:
            return
    pytest.fail(f"it moved for {late} s too long, allowed are {LIMIT_S} s")
