# SPDX-License-Identifier: Apache-2.0
"""A robot made of rclpy, the lifecycle's services, and processes to run beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conftest import Ros, eventually

FLAG = "jepa_msgs/msg/ConfidenceFlag"
UNKNOWN, NOMINAL = 0, 1
UNCONFIGURED, INACTIVE, ACTIVE = 1, 2, 3
PERIOD_S = 0.2


def executable(name: str) -> str:
    """Path of an executable of jepa_ros."""
    from ament_index_python.packages import get_package_prefix

    return f"{get_package_prefix('jepa_ros')}/lib/jepa_ros/{name}"


class Processes:
    """Processes in the test's ROS domain, all logging into one file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def __call__(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start one. environment: what to change in it."""
        given = {**os.environ, "ROS_LOG_DIR": str(self._folder / "ros"), **environment}
        with (self._folder / "log.txt").open("a") as file:
            self._started.append(
                subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, env=given, text=True
                )
            )
        return self._started[-1]

    @property
    def log(self) -> str:
        """What they wrote."""
        return (self._folder / "log.txt").read_text()

    def close(self) -> None:
        """End what is left of them."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def end(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """Send a signal; return the exit status."""
    process.send_signal(number)
    return process.wait(10)


class Robot:
    """Publishes what a robot does, and keeps the flags that come."""

    def __init__(self, ros: Ros) -> None:
        from jepa_ros.backend import RclpyBackend

        from jepa_edge.nodes.qos import Qos

        self.node = ros.node("robot")
        self.backend = RclpyBackend(self.node)
        self.flags: list[Any] = []
        self.commands: list[float] = []
        self.image = self.backend.publisher("image", "sensor_msgs/msg/Image", Qos(depth=1))
        self.action = self.backend.publisher("action", "std_msgs/msg/Float32MultiArray", Qos())
        self.cmd = self.backend.publisher("cmd_in", "geometry_msgs/msg/Twist", Qos(depth=1))
        self.flag = self.backend.publisher("fake_flag", FLAG, Qos(depth=1))
        self.backend.subscribe("jepa/flag", FLAG, Qos(depth=1), self.flags.append)
        self.backend.subscribe(
            "cmd_out",
            "geometry_msgs/msg/Twist",
            Qos(depth=100),
            lambda message: self.commands.append(message.linear.x),
        )

    def header(self) -> Any:
        sec, nanosec = divmod(self.backend.now_ns(), 10**9)
        stamp = self.backend.make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self.backend.make("std_msgs/msg/Header", stamp=stamp, frame_id="camera")

    def command(self, speed: float) -> None:
        make = self.backend.make
        linear = make("geometry_msgs/msg/Vector3", x=speed)
        self.cmd.publish(make("geometry_msgs/msg/Twist", linear=linear))

    def good_flag(self) -> None:
        make = self.backend.make
        valid_for = make("builtin_interfaces/msg/Duration", nanosec=300_000_000)
        self.flag.publish(make(FLAG, header=self.header(), level=NOMINAL, valid_for=valid_for))

    def drive(self, episode: Any, until: Callable[[], Any], timeout_s: float = 20.0) -> None:
        """Publish an episode in real time, again and again, until something holds."""
        make, start = self.backend.make, time.monotonic()
        for step in range(int(timeout_s / PERIOD_S)):
            if until():
                return
            frame = episode.frames[step % len(episode.actions)]
            height, width, _ = frame.shape
            self.image.publish(
                make(
                    "sensor_msgs/msg/Image",
                    header=self.header(),
                    height=height,
                    width=width,
                    step=3 * width,
                    encoding="rgb8",
                    data=frame,
                )
            )
            action = episode.actions[step % len(episode.actions)]
            self.action.publish(make("std_msgs/msg/Float32MultiArray", data=action))
            time.sleep(max(0.0, start + (step + 1) * PERIOD_S - time.monotonic()))
        raise AssertionError(f"not within {timeout_s} s")


class Lifecycle:
    """Lifecycle services of the world model."""

    def __init__(self, ros: Ros) -> None:
        from lifecycle_msgs.srv import ChangeState, GetState
        from rcl_interfaces.srv import SetParameters

        node = ros.node("manager")
        self._change = node.create_client(ChangeState, "/jepa_world_model/change_state")
        self._state = node.create_client(GetState, "/jepa_world_model/get_state")
        self._set = node.create_client(SetParameters, "/jepa_world_model/set_parameters")
        self._types = ChangeState, GetState, SetParameters
        assert self._change.wait_for_service(10.0)

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        eventually(future.done)
        return future.result()

    def change(self, name: str) -> bool:
        request = self._types[0].Request()
        request.transition.label = name
        return bool(self._call(self._change, request).success)

    def state(self) -> int:
        return int(self._call(self._state, self._types[1].Request()).current_state.id)

    def set(self, name: str, value: Any) -> str:
        from rclpy.parameter import Parameter

        request = self._types[2].Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        return str(self._call(self._set, request).results[0].reason)
