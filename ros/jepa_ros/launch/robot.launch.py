# SPDX-License-Identifier: Apache-2.0
"""World model, safety gate, planner and serial bridge, each a process of its own.

ros2 launch jepa_ros robot.launch.py bundle:=/path/NAME.jepa cmd_in:=cmd_vel_nav cmd_out:=cmd_vel
"""

from __future__ import annotations

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, ThisLaunchFileDir
from launch_ros.actions import Node

ARGUMENTS = {
    "bundle": ("", "directory NAME.jepa; empty: the parameter file names it"),
    "variant": ("", "variant of the bundle, for model and planner; empty: the parameter file's"),
    "image_topic": ("image", "camera images, sensor_msgs/Image"),
    "action_topic": ("action", "commands that the robot carries out"),
    "state_topic": ("state", "joint states or odometry"),
    "cmd_in": ("cmd_in", "commands of the robot's own software"),
    "cmd_out": ("cmd_out", "commands that the safety gate lets through: the base listens here"),
    "command_type": ("", "type of cmd_in and cmd_out; empty: the gate's own, or the file's"),
    "safety_gate": ("true", "run the safety gate"),
    "planner": ("true", "run the planner"),
    "serial_port": ("", "device or URL of the serial line; empty: no serial bridge"),
    "namespace": ("", "namespace of all nodes and topics"),
    "params_file": ("", "parameter file for all nodes, by node name"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "configure and activate the world model at once"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}

PASSED_ON = (
    "bundle",
    "variant",
    "image_topic",
    "action_topic",
    "state_topic",
    "namespace",
    "params_file",
    "use_sim_time",
    "autostart",
    "log_level",
)
"""Arguments that world_model.launch.py has too."""

PLANNED = "planned_actions"


def generate_launch_description() -> LaunchDescription:
    """Arguments, and the nodes."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[Any]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    nodes: list[Any] = [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource([ThisLaunchFileDir(), "/world_model.launch.py"]),
            launch_arguments=[
                *((name, given[name]) for name in PASSED_ON),
                # What the planner wants to do is what the model looks ahead under.
                ("plan_topic", "jepa/planned_actions" if _true(given["planner"]) else PLANNED),
            ],
        )
    ]
    if _true(given["safety_gate"]):
        remapped = [(topic, given[topic]) for topic in ("cmd_in", "cmd_out")]
        own = {"command_type": given["command_type"]} if given["command_type"] else {}
        nodes.append(_node(given, "safety_gate", own, remapped))
    if _true(given["planner"]):
        own = {name: given[name] for name in ("bundle", "variant") if given[name]}
        nodes.append(_node(given, "planner", own, []))
    if given["serial_port"]:
        nodes.append(_node(given, "serial_bridge", {"port": given["serial_port"]}, []))
    return nodes


def _node(
    given: dict[str, str], kind: str, own: dict[str, Any], remapped: list[tuple[str, str]]
) -> Node:
    """The gate comes back by itself if it ends: until then nothing reaches the robot."""
    parameters: list[Any] = [given["params_file"]] if given["params_file"] else []
    if _true(given["use_sim_time"]):
        own = {**own, "use_sim_time": True}
    parameters += [own] if own else []
    return Node(
        package="jepa_ros",
        executable=f"{kind}_node",
        name=f"jepa_{kind}",
        namespace=given["namespace"],
        parameters=parameters,
        remappings=[(topic, to) for topic, to in remapped if topic != to],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        respawn=True,
        respawn_delay=1.0,
    )


def _true(text: str) -> bool:
    return text.lower() in ("true", "1")
