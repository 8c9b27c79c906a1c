# SPDX-License-Identifier: Apache-2.0
"""Runs nodes in this process until it is told to end."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import MultiThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from jepa_edge.errors import InputError, JepaEdgeError
from jepa_ros.logs import NodeLogHandler
from jepa_ros.nodes import Running, make_node

logger = logging.getLogger(__name__)

_LIFECYCLE = "world_model"
_END_S = 2.0
_RETRY_S = 2.0
"""How long until a node that could not be configured, say for a disk not there yet, tries again."""


def without_ros_arguments(arguments: list[str]) -> list[str]:
    """Return what is not between --ros-args and --. Raises InputError for bad ROS arguments."""
    with _one_line():
        return list(remove_ros_args(arguments))


@contextmanager
def _one_line() -> Iterator[None]:
    """Raise InputError for what rcl says of its arguments, less the lines of its source."""
    try:
        yield
    except Exception as error:  # the classes of rclpy's errors are private
        text = re.sub(r", at \S+:\d+", "", " ".join(str(error).split()))
        raise InputError(f"ROS arguments: {text}") from error


def run(kinds: list[str], arguments: list[str], end: threading.Event, *, autostart: bool) -> int:
    """Run nodes until `end` is set or one fails; return the exit status.

    autostart: configure and activate the world model too, again and again until it succeeds.

    The signals' handlers have to be the caller's: rclpy's would take the topics away before the
    nodes have said their last word on them. Raises InputError for bad ROS arguments.
    """
    with _one_line():
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    logs = NodeLogHandler()
    running: list[Running] = []
    executor = MultiThreadedExecutor(num_threads=2 + 2 * len(kinds))
    spinning = _Spinning(executor, end)
    failed = False
    try:
        for kind in kinds:
            running.append(make_node(kind, logs))
            executor.add_node(running[-1].node)
        spinning.start()
        waiting = [n for k, n in zip(kinds, running, strict=True) if autostart or k != _LIFECYCLE]
        while not end.is_set():
            waiting = [node for node in waiting if not node.start()]
            end.wait(_RETRY_S if waiting else None)
    except JepaEdgeError as error:
        sys.stderr.write(f"jepa_ros: {error}\n")
        failed = True
    finally:
        steps: list[Callable[[], object]] = [node.close for node in reversed(running)]
        steps += [logs.detach, lambda: executor.shutdown(timeout_sec=_END_S), spinning.end]
        steps += [node.node.destroy_node for node in running]
        ended = [_ended(step) for step in [*steps, rclpy.try_shutdown]]
    return int(failed or spinning.failed or not all(ended))


def _ended(step: Callable[[], object]) -> bool:
    """Do one step of the end; say whether it went well. The others follow in any case: of several
    nodes, the gate has to say its stop whatever became of the rest."""
    try:
        step()
    except Exception:
        logger.exception("the end of a node failed")
        return False
    return True


class _Spinning(threading.Thread):
    """Spins the executor apart from the main thread, which has to answer to signals."""

    def __init__(self, executor: MultiThreadedExecutor, end: threading.Event) -> None:
        super().__init__(name="executor", daemon=True)
        self.failed = False
        self._executor = executor
        self._end = end

    def run(self) -> None:
        """Spin; an exception in a callback ends the process, for a node half alive is none."""
        try:
            self._executor.spin()
        except BaseException:
            if not self._end.is_set():  # at the end, rclpy may trip over what is going away
                logger.exception("a callback failed")
                self.failed = True
                self._end.set()

    def end(self) -> None:
        """Wait for it, if it ever began."""
        if self.is_alive():
            self.join(_END_S)
