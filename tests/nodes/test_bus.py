# SPDX-License-Identifier: Apache-2.0
"""The middleware of the tests keeps what jepa_edge/nodes/backend.py promises."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.nodes.backend import Backend
from jepa_edge.nodes.parameters import Parameter
from jepa_edge.nodes.qos import Qos

from .bus import LocalBus, make

ARRAY = "std_msgs/msg/Float32MultiArray"


def test_messages_arrive_copied_in_order_and_never_at_the_same_time() -> None:
    with LocalBus() as bus:
        node: Backend = bus.backend("node", namespace="robot1", remap={"b": "/elsewhere"})
        seen: list[float] = []
        inside = threading.Semaphore(1)

        def callback(message: Any) -> None:
            assert inside.acquire(blocking=False)
            time.sleep(0.001)
            seen.append(float(message.data[0]))
            inside.release()

        first = node.subscribe("a", ARRAY, Qos(), callback)
        node.subscribe("b", ARRAY, Qos(), callback)
        data = np.ones(1, np.float32)
        writer = node.publisher("a", ARRAY, Qos())
        for _ in range(5):
            data += 1.0
            writer.publish(make(ARRAY, data=data))
            bus.publish("/elsewhere", ARRAY, data=data)
        bus.settle()
        assert seen == [2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0, 6.0]
        first.close()
        bus.publish("/robot1/a", ARRAY, data=data)
        bus.settle()
        assert len(seen) == 10


def test_late_readers_get_what_is_retained_and_no_more() -> None:
    with LocalBus() as bus:
        node = bus.backend("node")
        info = node.publisher("info", ARRAY, Qos(depth=1, transient_local=True))
        for value in (1.0, 2.0):
            info.publish(make(ARRAY, data=np.array([value], np.float32)))
        late: list[Any] = []
        bus.backend("late").subscribe("info", ARRAY, Qos(transient_local=True), late.append)
        volatile = bus.record("info", ARRAY)
        bus.settle()
        assert [message.data[0] for message in late] == [2.0]
        assert volatile == []


def test_services_answer_and_goals_are_preempted() -> None:
    with LocalBus() as bus:
        node = bus.backend("node")
        node.service(
            "reset",
            "std_srvs/srv/Trigger",
            lambda _: make("std_srvs/srv/Trigger_Response", success=True, message="done"),
        )
        assert bus.call("reset").message == "done"

        def execute(goal: Any) -> Any:
            while not goal.cancelled:
                time.sleep(0.001)
            goal.feedback(make("jepa_msgs/action/PlanLatent_Feedback", replan=3))
            return make("jepa_msgs/action/PlanLatent_Result", replans=goal.request.replans)

        node.action("plan", "jepa_msgs/action/PlanLatent", execute)
        first = bus.send_goal("plan", make("jepa_msgs/action/PlanLatent_Goal", replans=1))
        second = bus.send_goal("plan", make("jepa_msgs/action/PlanLatent_Goal", replans=2))
        assert first.result().replans == 1
        second.cancel()
        assert second.result().replans == 2
        assert second.feedbacks[0].replan == 3


def test_timers_tick_and_end_and_time_can_be_set() -> None:
    with LocalBus() as bus:
        node = bus.backend("node")
        ticks: list[float] = []
        timer = node.timer(0.01, lambda: ticks.append(time.monotonic()))
        bus.wait_for(lambda: len(ticks) >= 3)
        timer.close()
        bus.settle()
        count = len(ticks)
        time.sleep(0.05)
        assert len(ticks) == count
        bus.set_time(7)
        assert node.now_ns() == 7


def test_parameters_are_checked_live_and_can_be_frozen() -> None:
    with LocalBus() as bus:
        node = bus.backend("node", parameters={"rate": 2})
        values = node.parameters([Parameter(name="rate", default=1.0, description="Rate.")])
        assert values["rate"] == 2.0
        node.set_parameter("rate", 3.0)
        assert values["rate"] == 3.0
        node.freeze_parameters(True)
        with pytest.raises(InputError):
            node.set_parameter("rate", 4.0)


def test_what_goes_wrong_in_a_callback_fails_the_test() -> None:
    bus = LocalBus()
    bus.backend("node").subscribe("a", ARRAY, Qos(), lambda _: 1 / 0)
    bus.publish("a", ARRAY)
    bus.settle()
    with pytest.raises(AssertionError):
        bus.close()
    with pytest.raises(AssertionError, match="no field"):
        make(ARRAY, nonsense=1)
