# SPDX-License-Identifier: Apache-2.0
"""rclpy and the DDS peer that needs no ROS, in two processes: each way round."""

from __future__ import annotations

import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .conftest import Ros, eventually, needs_ros
from .robot import ACTIVE, INACTIVE, NOMINAL, Lifecycle, Processes, Robot, end, executable

pytestmark = needs_ros("rclpy", "jepa_msgs", "jepa_ros", "cyclonedds")

# ROS's libddsc and the one of the cyclonedds wheel are not the same.
NO_ROS = {"LD_LIBRARY_PATH": "", "RMW_IMPLEMENTATION": ""}

CAMERA = """
    import sys, time
    import numpy as np
    from jepa_edge.dds.backend import DdsBackend
    from jepa_edge.dds.participant import DdsParticipant
    from jepa_edge.nodes.qos import Qos

    assert "rclpy" not in sys.modules
    episode = np.load(sys.argv[1])
    with DdsParticipant() as participant:
        node = DdsBackend(participant, "camera")
        image = node.publisher("image", "sensor_msgs/msg/Image", Qos(depth=1))
        action = node.publisher("action", "std_msgs/msg/Float32MultiArray", Qos())
        start = time.monotonic()
        for step in range(100):
            sec, nanosec = divmod(node.now_ns(), 10**9)
            stamp = node.make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
            header = node.make("std_msgs/msg/Header", stamp=stamp, frame_id="dds_camera")
            frame = episode["frames"][step % len(episode["actions"])]
            image.publish(node.make("sensor_msgs/msg/Image", header=header, height=8, width=8,
                                    step=24, encoding="rgb8", data=frame))
            chosen = episode["actions"][step % len(episode["actions"])]
            action.publish(node.make("std_msgs/msg/Float32MultiArray", data=chosen))
            time.sleep(max(0.0, start + 0.2 * (step + 1) - time.monotonic()))
"""


def test_ros_sees_and_drives_the_peer_without_ros(
    ros: Ros, run: Processes, calibrated_bundle: Path, make_episode: Callable[[int], Any]
) -> None:
    robot = Robot(ros)
    serve = "from jepa_edge.cli import main; main()"
    peer = run(sys.executable, "-c", serve, "serve", str(calibrated_bundle), **NO_ROS)
    robot.drive(make_episode(1000), lambda: any(f.level == NOMINAL for f in robot.flags))

    assert "jepa_world_model" in robot.node.get_node_names()
    flags = robot.node.get_publishers_info_by_topic("/jepa/flag")
    assert [info.node_name for info in flags] == ["jepa_world_model"]
    here = robot.node.get_subscriptions_info_by_topic("/jepa/flag")
    assert str(flags[0].topic_type_hash) == str(here[0].topic_type_hash)
    manager = Lifecycle(ros)
    assert manager.state() == ACTIVE
    assert manager.change("deactivate")
    assert manager.state() == INACTIVE
    assert end(peer, signal.SIGINT) == 0


def test_the_rclpy_node_takes_images_from_a_process_without_ros(
    ros: Ros,
    run: Processes,
    tmp_path: Path,
    calibrated_bundle: Path,
    make_episode: Callable[[int], Any],
) -> None:
    episode = make_episode(1000)
    np.savez(tmp_path / "episode.npz", frames=episode.frames, actions=episode.actions)
    flags: list[Any] = []
    from jepa_msgs.msg import ConfidenceFlag

    ros.node("listener").create_subscription(ConfidenceFlag, "/jepa/flag", flags.append, 10)
    parameter = f"bundle:={calibrated_bundle}"
    run(executable("world_model_node"), "--autostart", "--ros-args", "-p", parameter)
    camera = textwrap.dedent(CAMERA)
    run(sys.executable, "-c", camera, str(tmp_path / "episode.npz"), **NO_ROS)

    judged = eventually(lambda: [flag for flag in flags if flag.level == NOMINAL], 20.0)
    assert judged[0].header.frame_id == "dds_camera"
