# SPDX-License-Identifier: Apache-2.0
"""The executables and launch files of jepa_ros on a real ROS 2, as a user runs them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Ros, eventually, needs_ros
from .robot import (
    ACTIVE,
    INACTIVE,
    NOMINAL,
    UNCONFIGURED,
    UNKNOWN,
    Lifecycle,
    Processes,
    Robot,
    end,
    executable,
)

pytestmark = needs_ros("rclpy", "jepa_msgs", "jepa_ros")


def test_without_jepa_edge_one_line_says_what_to_do() -> None:
    import rclpy

    ros_only = str(Path(rclpy.__file__).parents[1])
    hide = f"import sys; sys.path = [p for p in sys.path if 'site' not in p] + [{ros_only!r}]; "
    found = [
        str(Path(m.__file__).parents[1]) for m in map(__import__, ("jepa_ros", "numpy", "yaml"))
    ]
    code = (
        f"{hide}sys.path += {found!r}; sys.modules['jepa_edge'] = None; "
        "from jepa_ros.main import safety_gate_node; sys.exit(safety_gate_node())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "pip install jepa-edge" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_gate_passes_and_its_last_word_is_a_stop(
    ros: Ros, run: Processes, number: signal.Signals
) -> None:
    robot = Robot(ros)
    gate = run(executable("safety_gate_node"), "--ros-args", "-r", "jepa/flag:=fake_flag")
    eventually(lambda: robot.commands)
    assert set(robot.commands) == {0.0}  # it starts stopped

    def full_speed() -> bool:
        robot.good_flag()
        robot.command(1.0)
        time.sleep(0.03)
        return 1.0 in robot.commands

    eventually(full_speed)
    robot.good_flag()
    robot.command(1.0)
    assert end(gate, number) == 0
    eventually(lambda: robot.commands[-1] == 0.0)


def test_signals_that_come_again_change_nothing(ros: Ros, run: Processes) -> None:
    """ctrl-C reaches a node from the terminal, and from ros2 launch once more."""
    robot = Robot(ros)
    gate = run(executable("safety_gate_node"))
    eventually(lambda: robot.commands)
    until = time.monotonic() + 20.0
    while gate.poll() is None and time.monotonic() < until:
        gate.send_signal(signal.SIGINT)
        time.sleep(0.002)

    assert gate.poll() == 0, run.log


def test_a_bad_parameter_ends_a_node_with_one_line(run: Processes, tmp_path: Path) -> None:
    gate = run(executable("safety_gate_node"), "--ros-args", "-p", "caution_scale:=3.0")

    assert gate.wait(20) == 1
    lines = run.log.splitlines()
    assert len(lines) == 1, lines
    assert "caution_scale" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--log-level", "nope"), "--log-level nope"),
        (("--params-file", "/none.yaml"), "/none.yaml"),
        (("-r", "a:=b:=c"), "a:=b:=c"),
        (("--bogus",), "--bogus"),
        (("--enclave", "relative"), "Enclave"),
    ],
)
def test_bad_ros_arguments_are_one_line(arguments: tuple[str, ...], named: str) -> None:
    done = subprocess.run(
        [executable("safety_gate_node"), "--ros-args", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert named in done.stderr
    assert ".c:" not in done.stderr  # lines of rcl's source


def test_the_lifecycle_from_a_missing_bundle_to_flags_and_back(
    ros: Ros,
    run: Processes,
    tmp_path: Path,
    calibrated_bundle: Path,
    make_episode: Callable[[int], Any],
) -> None:
    robot = Robot(ros)
    node = run(executable("world_model_node"), "--ros-args", "-p", "bundle:=/none.jepa")
    manager = Lifecycle(ros)
    assert manager.state() == UNCONFIGURED
    assert not manager.change("configure")
    assert manager.state() == UNCONFIGURED
    errors = [line for line in run.log.splitlines() if "ERROR" in line]
    assert len(errors) == 1
    assert "/none.jepa" in errors[0]

    assert manager.set("bundle", str(calibrated_bundle)) == ""
    assert manager.change("configure")
    assert manager.state() == INACTIVE
    assert re.search(r"\[jepa_world_model\]: .*linear\.jepa", run.log)  # Python's logging
    assert manager.change("activate")
    assert manager.state() == ACTIVE
    assert "fixed while the node runs" in manager.set("bundle", "/other.jepa")
    robot.drive(make_episode(1000), lambda: any(f.level == NOMINAL for f in robot.flags))
    judged = next(flag for flag in robot.flags if flag.level == NOMINAL)
    assert judged.header.frame_id == "camera"
    assert np.isfinite(judged.score)
    # The camera stops: the watchdog says so.
    eventually(lambda: robot.flags[-1].level == UNKNOWN and robot.flags[-1].reasons & 2)

    assert manager.change("deactivate")
    assert manager.change("cleanup")
    assert manager.state() == UNCONFIGURED
    assert manager.set("threads", 2) == ""
    assert end(node, signal.SIGINT) == 0


def test_a_container_runs_several_nodes(
    ros: Ros, run: Processes, calibrated_bundle: Path, make_episode: Callable[[int], Any]
) -> None:
    robot = Robot(ros)
    bundle = f"bundle:={calibrated_bundle}"
    both = run(
        executable("container"),
        *("safety_gate", "world_model", "--autostart", "--ros-args", "-p", bundle),
    )
    robot.drive(make_episode(1000), lambda: any(f.level == NOMINAL for f in robot.flags))
    names = {name for name, _ in robot.node.get_node_names_and_namespaces()}
    assert {"jepa_world_model", "jepa_safety_gate"} <= names
    assert end(both, signal.SIGTERM) == 0
    for node in names & {"jepa_world_model", "jepa_safety_gate"}:
        assert f"[{node}]: " in run.log  # each under its own name


def test_autostart_tries_until_it_succeeds(
    ros: Ros, run: Processes, calibrated_bundle: Path
) -> None:
    node = run(executable("world_model_node"), "--autostart")
    manager = Lifecycle(ros)
    eventually(lambda: "ERROR" in run.log)
    assert manager.state() == UNCONFIGURED
    assert manager.set("bundle", str(calibrated_bundle)) == ""
    eventually(lambda: manager.state() == ACTIVE)
    assert manager.change("deactivate")
    time.sleep(3.0)  # what a manager does afterwards is left alone
    assert manager.state() == INACTIVE
    assert end(node, signal.SIGINT) == 0


@pytest.mark.skipif(shutil.which("ros2") is None, reason="needs ros2 launch")
def test_launch_brings_up_the_whole_robot_and_takes_it_down(
    ros: Ros,
    run: Processes,
    tmp_path: Path,
    calibrated_bundle: Path,
    make_episode: Callable[[int], Any],
) -> None:
    robot = Robot(ros)
    launched = run(
        *("ros2", "launch", "--noninteractive", "jepa_ros", "robot.launch.py"),
        *(f"bundle:={calibrated_bundle}", "variant:=fp32"),
        *("image_topic:=/image", "cmd_in:=cmd_in"),
    )
    robot.drive(make_episode(1000), lambda: any(f.level == NOMINAL for f in robot.flags), 40.0)
    names = {name for name, _ in robot.node.get_node_names_and_namespaces()}
    assert {"jepa_world_model", "jepa_safety_gate", "jepa_planner"} <= names

    assert end(launched, signal.SIGINT) == 0
    text = run.log
    assert text.count("process has finished cleanly") == 3, text
    assert len(re.findall(r"variant fp32 .*\(as asked\)", text)) == 2, text  # model and planner
    assert "Traceback" not in text, text


@pytest.mark.skipif(shutil.which("ros2") is None, reason="needs ros2 launch")
def test_a_killed_node_comes_back_by_itself(
    ros: Ros, run: Processes, calibrated_bundle: Path
) -> None:
    from jepa_msgs.msg import ConfidenceFlag

    flags: list[Any] = []
    ros.node("listener").create_subscription(ConfidenceFlag, "/jepa/flag", flags.append, 10)
    launched = run(
        *("ros2", "launch", "--noninteractive", "jepa_ros", "world_model.launch.py"),
        f"bundle:={calibrated_bundle}",
    )
    eventually(lambda: flags, 20.0)  # one per period, UNKNOWN: there is no camera
    os.kill(int(re.findall(r"started with pid \[(\d+)\]", run.log)[0]), signal.SIGKILL)
    time.sleep(1.0)
    flags.clear()
    eventually(lambda: flags, 20.0)
    assert end(launched, signal.SIGINT) == 0
