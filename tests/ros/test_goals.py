# SPDX-License-Identifier: Apache-2.0
"""The action server of RclpyBackend, seen from an rclpy action client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Ros, eventually, needs_ros

pytestmark = needs_ros("rclpy", "jepa_msgs", "jepa_ros")

PLAN = "jepa_msgs/action/PlanLatent"
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6


class Served:
    """A server, and a client in another node."""

    def __init__(self, ros: Ros, execute: Callable[[Any], Any]) -> None:
        from jepa_msgs.action import PlanLatent
        from jepa_ros.backend import RclpyBackend
        from rclpy.action import ActionClient

        self.type = PlanLatent
        self.backend = RclpyBackend(ros.node("server"))
        self.server = self.backend.action("plan", PLAN, execute)
        self.client = ActionClient(ros.node("client"), PlanLatent, "plan")
        assert self.client.wait_for_server(5.0)

    def send(self, replans: int, feedback: Callable[[Any], None] | None = None) -> Any:
        """Send a goal; return its handle."""
        future = self.client.send_goal_async(self.type.Goal(replans=replans), feedback)
        eventually(future.done)
        return future.result()

    def end(self, handle: Any) -> tuple[int, Any]:
        """Wait for a goal's end; return status and result."""
        future = handle.get_result_async()
        eventually(future.done)
        return future.result().status, future.result().result


def until_cancelled(backend: Any, goal: Any) -> Any:
    """Work for 5 s at most."""
    end = time.monotonic() + 5.0
    while not goal.cancelled and time.monotonic() < end:
        time.sleep(0.005)
    return backend.make(f"{PLAN}_Result", message=f"{goal.request.replans} stopped")


def test_a_goal_succeeds_with_feedback_and_result(ros: Ros) -> None:
    def execute(goal: Any) -> Any:
        goal.feedback(served.backend.make(f"{PLAN}_Feedback", replan=1, energy=0.5))
        goal.succeed()
        return served.backend.make(f"{PLAN}_Result", replans=goal.request.replans, energy=2)

    served = Served(ros, execute)
    told: list[Any] = []
    status, result = served.end(served.send(3, told.append))

    assert (status, result.replans, result.energy) == (SUCCEEDED, 3, 2.0)
    assert eventually(lambda: told)[0].feedback.energy == 0.5


def test_a_client_cancels(ros: Ros) -> None:
    served = Served(ros, lambda goal: until_cancelled(served.backend, goal))
    handle = served.send(1)
    future = handle.cancel_goal_async()
    eventually(future.done)
    status, result = served.end(handle)

    assert (status, result.message) == (CANCELED, "1 stopped")


def test_without_a_mark_a_goal_counts_as_aborted(ros: Ros) -> None:
    served = Served(ros, lambda goal: served.backend.make(f"{PLAN}_Result", message="no"))
    status, result = served.end(served.send(1))

    assert (status, result.message) == (ABORTED, "no")


def test_an_exception_aborts_the_goal_and_the_next_one_works(ros: Ros) -> None:
    def execute(goal: Any) -> Any:
        if goal.request.replans == 1:
            raise RuntimeError("meant to fail")
        goal.succeed()
        return served.backend.make(f"{PLAN}_Result")

    served = Served(ros, execute)
    assert served.end(served.send(1))[0] == ABORTED
    assert served.end(served.send(2))[0] == SUCCEEDED


def test_a_goal_whose_state_cannot_be_set_does_not_block_the_next(
    ros: Ros, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepa_ros.goals import RclpyGoal

    finish = RclpyGoal.finish

    def failing(goal: Any) -> None:
        if goal.request.replans == 1:
            raise RuntimeError("meant to fail")
        finish(goal)

    def execute(goal: Any) -> Any:
        goal.succeed()
        return served.backend.make(f"{PLAN}_Result")

    monkeypatch.setattr(RclpyGoal, "finish", failing)
    served = Served(ros, execute)
    assert served.end(served.send(1))[0] == ABORTED  # by rclpy
    assert served.end(served.send(2))[0] == SUCCEEDED


def test_a_newer_goal_takes_the_place_of_the_one_at_work_and_of_those_that_wait(ros: Ros) -> None:
    inside, worst, seen = 0, 0, []
    lock = threading.Lock()
    leave = threading.Event()

    def execute(goal: Any) -> Any:
        nonlocal inside, worst
        with lock:
            inside += 1
            worst = max(worst, inside)
        seen.append(goal.request.replans)
        if goal.request.replans == 1:
            leave.wait(5.0)  # slow to notice, so that goals pile up
        if goal.request.replans == 9:
            goal.succeed()
        with lock:
            inside -= 1
        return served.backend.make(f"{PLAN}_Result")

    served = Served(ros, execute)
    first = served.send(1)
    later = [served.send(n) for n in range(2, 10)]
    leave.set()

    assert served.end(later[-1])[0] == SUCCEEDED
    assert served.end(first)[0] == ABORTED
    assert [served.end(handle)[0] for handle in later[:-1]] == [ABORTED] * 7
    assert seen == [1, 9]
    assert worst == 1


def test_close_ends_the_goal_at_work_and_withdraws_the_action(ros: Ros) -> None:
    served = Served(ros, lambda goal: until_cancelled(served.backend, goal))
    handle = served.send(1)
    future = handle.get_result_async()
    start = time.monotonic()
    closing = threading.Thread(target=served.server.close)
    closing.start()
    closing.join(5.0)

    assert time.monotonic() - start < 3.0
    eventually(future.done)
    assert future.result().status == ABORTED
    served.server.close()
    eventually(lambda: not served.client.server_is_ready())
