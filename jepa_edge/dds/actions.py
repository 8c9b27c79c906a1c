# SPDX-License-Identifier: Apache-2.0
"""Action servers, on top of services: they too work with rmw_cyclonedds only.

Source: design.ros2.org, "Actions"; rcl_action.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jepa_edge.nodes.backend import Closable, Goal
from jepa_edge.nodes.qos import Qos

if TYPE_CHECKING:
    from jepa_edge.dds.backend import DdsBackend

logger = logging.getLogger(__name__)

# action_msgs/msg/GoalStatus
ACCEPTED, EXECUTING, CANCELING, SUCCEEDED, CANCELED, ABORTED = 1, 2, 3, 4, 5, 6
# action_msgs/srv/CancelGoal
_NONE, _REJECTED, _UNKNOWN_GOAL, _TERMINATED = 0, 1, 2, 3
_RESULTS_KEPT = 32
_JOIN_S = 5.0


class DdsGoal:
    """A goal at work: what the execute callback sees."""

    def __init__(self, server: ActionServer, identifier: bytes, request: Any, stamp: Any) -> None:
        self.identifier = identifier
        self.stamp = stamp
        self.status = ACCEPTED
        self.result: Any = None
        self.waiting: list[Callable[[Any], None]] = []
        self.asked_to_cancel = False
        self.superseded = False
        self.succeeded = False
        self._server = server
        self._request = request

    @property
    def request(self) -> Any:
        """The goal's message."""
        return self._request

    @property
    def cancelled(self) -> bool:
        """Whether a client asked to cancel it, or a newer goal took its place."""
        return self.asked_to_cancel or self.superseded

    @property
    def ended(self) -> bool:
        """Whether its result stands."""
        return self.status >= SUCCEEDED

    def feedback(self, message: Any) -> None:
        """Publish "package/action/Type_Feedback"."""
        self._server.publish_feedback(self, message)

    def succeed(self) -> None:
        """Mark it as succeeded; without a mark it counts as aborted, or cancelled if it was."""
        self.succeeded = True


class ActionServer:
    """Takes goals one at a time; a newer goal cancels the one at work and waits for its end."""

    def __init__(
        self, backend: DdsBackend, name: str, type_name: str, execute: Callable[[Goal], Any]
    ) -> None:
        self._backend = backend
        self._type = type_name
        self._execute = execute
        self._lock = threading.Condition()
        self._goals: dict[bytes, DdsGoal] = {}
        self._current: DdsGoal | None = None
        self._next: DdsGoal | None = None
        self._closed = False
        base = backend.names.resolve(name) + "/_action"
        self._feedback = backend.publisher(
            f"{base}/feedback", f"{type_name}_FeedbackMessage", Qos(depth=10)
        )
        self._status = backend.publisher(
            f"{base}/status",
            "action_msgs/msg/GoalStatusArray",
            Qos(depth=1, transient_local=True),
        )
        self._services: tuple[Closable, ...] = (
            backend.deferred_service(f"{base}/send_goal", f"{type_name}_SendGoal", self._on_goal),
            backend.deferred_service(
                f"{base}/get_result", f"{type_name}_GetResult", self._on_result
            ),
            backend.deferred_service(
                f"{base}/cancel_goal", "action_msgs/srv/CancelGoal", self._on_cancel
            ),
        )
        self._thread = threading.Thread(target=self._run, name=f"{name} goals", daemon=True)
        self._thread.start()
        self._publish_status()

    def close(self) -> None:
        """Cancel what is at work, wait for its end, stop serving. Twice does no harm."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for goal in (self._current, self._next):
                if goal is not None:
                    goal.superseded = True
            self._lock.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                logger.error("a goal has not ended %g s after it was cancelled", _JOIN_S)
        for part in (*self._services, self._feedback, self._status):
            part.close()
        self._backend.forget(self)

    def publish_feedback(self, goal: DdsGoal, message: Any) -> None:
        """Publish feedback of a goal."""
        make = self._backend.make
        self._feedback.publish(
            make(
                f"{self._type}_FeedbackMessage",
                goal_id=self._uuid(goal.identifier),
                feedback=message,
            )
        )

    def _run(self) -> None:
        while (goal := self._take()) is not None:
            self._work(goal)

    def _take(self) -> DdsGoal | None:
        """Wait for the next goal; None at the end."""
        with self._lock:
            while self._next is None and not self._closed:
                self._lock.wait()
            goal, self._next = self._next, None
            self._current = goal
            if goal is not None and goal.status == ACCEPTED:
                goal.status = EXECUTING
        return goal

    def _work(self, goal: DdsGoal) -> None:
        try:
            self._publish_status()
            self._finish(goal, None if goal.cancelled else self._executed(goal))
        except BaseException as error:
            self._backend.dispatcher.fail("a goal's result could not be sent", error)

    def _executed(self, goal: DdsGoal) -> Any:
        """Return the goal's result; None when there is none that could be sent."""
        try:
            result = self._execute(goal)
            if result is None:
                return None
            self._backend.participant.serialize(
                self._backend.make(f"{self._type}_GetResult_Response", result=result)
            )
        except BaseException as error:
            self._backend.dispatcher.fail("a goal failed", error)
            return None
        return result

    def _finish(self, goal: DdsGoal, result: Any) -> None:
        make = self._backend.make
        with self._lock:
            if goal.succeeded and result is not None:
                goal.status = SUCCEEDED
            else:
                goal.status = CANCELED if goal.asked_to_cancel else ABORTED
            goal.result = make(f"{self._type}_Result") if result is None else result
            if self._current is goal:
                self._current = None
            waiting, goal.waiting = goal.waiting, []
            old = [other for other in self._goals.values() if other.ended]
            for other in old[:-_RESULTS_KEPT]:
                del self._goals[other.identifier]
        self._publish_status()
        for reply in waiting:
            reply(self._result(goal))

    def _on_goal(self, request: Any, reply: Callable[[Any], None]) -> None:
        make = self._backend.make
        identifier = bytes(request.goal_id.uuid)
        now_ns = self._backend.now_ns()
        stamp = make("builtin_interfaces/msg/Time", sec=now_ns // 10**9, nanosec=now_ns % 10**9)
        replaced = None
        with self._lock:
            accepted = not self._closed and identifier not in self._goals
            if accepted:
                goal = DdsGoal(self, identifier, request.goal, stamp)
                self._goals[identifier] = goal
                if self._current is not None:
                    self._current.superseded = True
                replaced, self._next = self._next, goal
        reply(make(f"{self._type}_SendGoal_Response", accepted=accepted, stamp=stamp))
        if replaced is not None:
            self._finish(replaced, None)
        with self._lock:
            self._lock.notify_all()
        self._publish_status()

    def _on_result(self, request: Any, reply: Callable[[Any], None]) -> None:
        with self._lock:
            goal = self._goals.get(bytes(request.goal_id.uuid))
            if goal is not None and not goal.ended:
                goal.waiting.append(reply)
                return
        if goal is None:
            reply(self._backend.make(f"{self._type}_GetResult_Response"))
        else:
            reply(self._result(goal))

    def _on_cancel(self, request: Any, reply: Callable[[Any], None]) -> None:
        make = self._backend.make
        wanted = bytes(request.goal_info.goal_id.uuid)
        before = _nanoseconds(request.goal_info.stamp)
        everything = not any(wanted)
        with self._lock:
            chosen = [
                goal
                for goal in self._goals.values()
                if not goal.ended
                and (
                    goal.identifier == wanted
                    or (everything and not before)
                    or (before and _nanoseconds(goal.stamp) <= before)
                )
            ]
            for goal in chosen:
                goal.asked_to_cancel = True
                goal.status = CANCELING
            code = _NONE
            if not everything and wanted not in self._goals:
                code = _UNKNOWN_GOAL
            elif not everything and self._goals[wanted].ended:
                code = _TERMINATED
            elif not chosen and not everything:
                code = _REJECTED
        reply(
            make(
                "action_msgs/srv/CancelGoal_Response",
                return_code=code,
                goals_canceling=[self._info(goal) for goal in chosen],
            )
        )
        self._publish_status()

    def _publish_status(self) -> None:
        make = self._backend.make
        with self._lock:
            statuses = [
                make("action_msgs/msg/GoalStatus", goal_info=self._info(goal), status=goal.status)
                for goal in self._goals.values()
            ]
            message = make("action_msgs/msg/GoalStatusArray", status_list=statuses)
            self._status.publish(message)

    def _result(self, goal: DdsGoal) -> Any:
        return self._backend.make(
            f"{self._type}_GetResult_Response", status=goal.status, result=goal.result
        )

    def _info(self, goal: DdsGoal) -> Any:
        return self._backend.make(
            "action_msgs/msg/GoalInfo", goal_id=self._uuid(goal.identifier), stamp=goal.stamp
        )

    def _uuid(self, identifier: bytes) -> Any:
        return self._backend.make("unique_identifier_msgs/msg/UUID", uuid=list(identifier))


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)
