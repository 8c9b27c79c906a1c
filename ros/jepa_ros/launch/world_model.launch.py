# SPDX-License-Identifier: Apache-2.0
"""The world model: ros2 launch jepa_ros world_model.launch.py bundle:=/path/NAME.jepa"""

from __future__ import annotations

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

ARGUMENTS = {
    "bundle": ("", "directory NAME.jepa; empty: the parameter file names it"),
    "variant": ("", "variant of the bundle; empty: the parameter file's, or the fastest"),
    "image_topic": ("image", "camera images, sensor_msgs/Image"),
    "action_topic": ("action", "commands that the robot carries out"),
    "state_topic": ("state", "joint states or odometry"),
    "plan_topic": ("planned_actions", "what the robot means to do next, Float32MultiArray"),
    "namespace": ("", "namespace of the node and of its topics"),
    "node_name": ("jepa_world_model", "name of the node"),
    "params_file": ("", "parameter file; config/world_model.yaml lists all parameters"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "configure and activate at once; false leaves it to a manager"),
    "respawn": ("true", "start the node anew when it ends by itself"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    """Arguments, and the node with what starts it."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[Any]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    parameters: list[Any] = [given["params_file"]] if given["params_file"] else []
    # Only what was given, for it overrides the file.
    if _true(given["use_sim_time"]):
        parameters.append({"use_sim_time": True})
    own_values = {name: given[name] for name in ("bundle", "variant") if given[name]}
    parameters += [own_values] if own_values else []
    # The node starts itself, rather than this file by its services: a request that is sent right
    # after a crash goes to the dead process's service, which is discovered for some seconds more.
    own = ["--autostart"] if _true(given["autostart"]) else []
    node = LifecycleNode(
        package="jepa_ros",
        executable="world_model_node",
        name=given["node_name"],
        namespace=given["namespace"],
        parameters=parameters,
        remappings=[(topic, to) for topic, to in _topics(given).items() if topic != to],
        arguments=[*own, "--ros-args", "--log-level", given["log_level"]],
        output="screen",
        respawn=_true(given["respawn"]),
        respawn_delay=1.0,
    )
    return [node]


def _topics(given: dict[str, str]) -> dict[str, str]:
    return {
        "image": given["image_topic"],
        "action": given["action_topic"],
        "state": given["state_topic"],
        "planned_actions": given["plan_topic"],
    }


def _true(text: str) -> bool:
    return text.lower() in ("true", "1")
