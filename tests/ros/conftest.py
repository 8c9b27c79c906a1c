# SPDX-License-Identifier: Apache-2.0
"""What the tests on a real ROS 2 share. They skip where rclpy or our packages are missing."""

from __future__ import annotations

import importlib.util
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .robot import Processes

_DOMAINS = itertools.cycle(range(60, 70))
WAIT_S = 10.0


def needs_ros(*packages: str) -> pytest.MarkDecorator:
    """Skip, with the reason, unless these packages are there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(missing),
        reason=f"needs ROS 2 Jazzy with {', '.join(missing)}: source its setup.bash (docs/ros.md)",
    )


def eventually(condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """Return the first true value of condition. Fails when it does not come in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s")


class Ros:
    """A ROS context with an executor that spins in a thread."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import MultiThreadedExecutor

        os.environ["ROS_DOMAIN_ID"] = str(next(_DOMAINS))
        rclpy.init(args=["--ros-args", "--log-level", "warn"])
        self.executor = MultiThreadedExecutor(num_threads=6)
        self.failed: list[BaseException] = []
        self.nodes: list[Any] = []
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except BaseException as error:
            self.failed.append(error)

    def add(self, node: Any) -> Any:
        """Spin a node until the end of the test."""
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def node(self, name: str, *arguments: str) -> Any:
        """Make a node. arguments: as behind --ros-args."""
        from rclpy.node import Node

        return self.add(Node(name, cli_args=["--ros-args", *arguments] if arguments else None))

    def close(self) -> None:
        """End all of it."""
        import rclpy

        self.executor.shutdown()
        self._thread.join(5.0)
        for node in self.nodes:
            node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture
def ros() -> Iterator[Ros]:
    """ROS, in a domain of its own."""
    running = Ros()
    yield running
    running.close()
    assert not running.failed


@pytest.fixture
def run(ros: Ros, tmp_path: Path) -> Iterator[Processes]:
    """Starts processes beside the test; ends what is left of them."""
    from .robot import Processes

    running = Processes(tmp_path)
    yield running
    running.close()
