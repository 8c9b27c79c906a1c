# SPDX-License-Identifier: Apache-2.0
"""An action server that works on one goal at a time, the newest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from jepa_edge.nodes.backend import Goal

logger = logging.getLogger(__name__)

_END_S = 5.0
"""How long close waits for the goal at work to notice that it was cancelled."""

_SENT_S = 0.1
"""rclpy sends the result of a goal after its callback has returned, and tells nobody when: without
this wait a client whose goal is at work can get no result."""


class RclpyGoal:
    """A goal at work."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.preempted = False
        self.succeeded = False

    @property
    def request(self) -> Any:
        """The goal's message."""
        return self.handle.request

    @property
    def cancelled(self) -> bool:
        """Whether a client cancelled it, or a newer goal or the end took its place."""
        return self.preempted or bool(self.handle.is_cancel_requested)

    def feedback(self, message: Any) -> None:
        """Publish progress."""
        self.handle.publish_feedback(message)

    def succeed(self) -> None:
        """Mark it; the state changes when its result is there."""
        self.succeeded = True

    def finish(self) -> None:
        """Bring the handle into the state that the marks tell."""
        if self.succeeded:
            self.handle.succeed()
        elif self.handle.is_cancel_requested:
            self.handle.canceled()
        else:
            self.handle.abort()


class GoalServer:
    """Runs execute in a thread of the executor's pool, one goal at a time.

    A newer goal preempts the one at work and replaces one that still waits, so that at most one
    thread of the pool is ever held.
    """

    def __init__(
        self, node: Node, name: str, action_type: Any, execute: Callable[[Goal], Any]
    ) -> None:
        self._action_type = action_type
        self._execute = execute
        self._lock = threading.Condition()
        self._current: RclpyGoal | None = None
        self._waiting: Any = None
        self._closed = False
        self._server = ActionServer(
            node,
            action_type,
            name,
            self._run,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._wanted,
            handle_accepted_callback=self._accepted,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def close(self) -> None:
        """Cancel the goal at work, let it end, and withdraw the action."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            at_work = self._current
            if at_work is not None:
                at_work.preempted = True
            if not self._lock.wait_for(lambda: self._current is None, _END_S):
                logger.warning("a goal did not end within %g s of its cancellation", _END_S)
        if at_work is not None:
            time.sleep(_SENT_S)
        self._server.destroy()

    def _wanted(self, _: Any) -> GoalResponse:
        return GoalResponse.REJECT if self._closed else GoalResponse.ACCEPT

    def _accepted(self, handle: Any) -> None:
        with self._lock:
            if self._closed:  # accepted just before
                begins, replaced = None, handle
            elif self._current is None:
                self._current, begins, replaced = RclpyGoal(handle), handle, None
            else:
                self._current.preempted = True
                begins, replaced, self._waiting = None, self._waiting, handle
        if replaced is not None:
            replaced.execute(self._drop)
        if begins is not None:
            begins.execute()

    def _run(self, handle: Any) -> Any:
        goal = self._current
        assert goal is not None
        try:
            result = self._execute(goal)
        except Exception:
            logger.exception("a goal failed")
            goal.succeeded, result = False, self._action_type.Result()
        finally:
            try:
                goal.finish()
            finally:
                self._next()
        return result

    def _next(self) -> None:
        """Begin with the goal that waits, if one does."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
            self._current = None if waiting is None else RclpyGoal(waiting)
            if self._current is not None:
                self._current.preempted = self._closed
            self._lock.notify_all()
        if waiting is not None:
            waiting.execute()

    def _drop(self, handle: Any) -> Any:
        """End a goal that was replaced before it began."""
        RclpyGoal(handle).finish()
        return self._action_type.Result()
