# SPDX-License-Identifier: Apache-2.0
"""Numbers out of a ROS message by the paths of their fields, such as "linear.x"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError

ARRAY = "std_msgs/Float32MultiArray"
TRAJECTORY = "trajectory_msgs/JointTrajectory"
ACTION_TYPES = (
    ARRAY,
    "geometry_msgs/Twist",
    "geometry_msgs/TwistStamped",
    "sensor_msgs/JointState",
    TRAJECTORY,
)
STATE_TYPES = (ARRAY, "sensor_msgs/JointState", "nav_msgs/Odometry")

_STEP = re.compile(r"(?P<field>[a-z][a-z0-9_]*)(\[(?P<key>[^\[\]]+)\])?\Z")
_EXAMPLES = {
    "geometry_msgs/Twist": "linear.x, angular.z",
    "geometry_msgs/TwistStamped": "linear.x, angular.z",
    "sensor_msgs/JointState": "position[0] or position[elbow]",
    TRAJECTORY: "positions[0] or positions[elbow]",
    "nav_msgs/Odometry": "pose.pose.position.x, twist.twist.linear.x",
}


def full_name(type_name: str) -> str:
    """Return "package/msg/Type" of "package/Type"."""
    package, _, kind = type_name.rpartition("/")
    return type_name if package.endswith("/msg") else f"{package}/msg/{kind}"


class FieldReader:
    """Reads a message's numbers, in the order of `fields`.

    Paths begin at the message; at `twist` of a TwistStamped, and at the points of a
    JointTrajectory. In brackets stands an index, or a joint's name, for messages that name their
    joints in another order each time.
    """

    def __init__(self, type_name: str, fields: Sequence[str], parameter: str) -> None:
        """fields: may be empty for Float32MultiArray: all of its data. parameter: their name in
        errors. Raises InputError for a path that cannot be, or none where some are needed."""
        self.type_name = type_name
        self.parameter = parameter
        if not fields and type_name != ARRAY:
            raise InputError(
                f"{parameter} is empty; name the numbers of a {type_name} that make up one step or "
                f"one block, e.g. {_EXAMPLES[type_name]}"
            )
        self.count = len(fields)
        self._paths = [self._parsed(path) for path in fields]

    def read(self, message: Any) -> NDArray[np.float32]:
        """Return the numbers, as float32; beyond its range they are infinite.

        Not for trajectories. Raises InputError when the message lacks one of them.
        """
        if not self._paths:
            return _float32(message.data)
        return self._numbers(self._root(message), getattr(message, "name", ()))

    def read_points(self, message: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the points of a JointTrajectory: when, (P,) in ns after its start, and the
        numbers of each, (P, n).

        Raises InputError when one lacks a number, or comes before the one before it.
        """
        if not message.points:
            raise InputError("the JointTrajectory has no point, expected one or more")
        spans = [point.time_from_start for point in message.points]
        after_ns = np.array([int(s.sec) * 1_000_000_000 + int(s.nanosec) for s in spans], np.int64)
        if after_ns[0] < 0 or (np.diff(after_ns) < 0).any():
            raise InputError(
                "time_from_start goes back in the JointTrajectory, expected it to rise"
            )
        names = message.joint_names
        return after_ns, np.stack([self._numbers(point, names) for point in message.points])

    def check(self, message: Any) -> None:
        """Raise InputError unless a message of the type has the fields; lists may be empty.

        A JointTrajectory needs a point in it, for its fields are those of its points.
        """
        root = message
        if self.type_name == TRAJECTORY:
            if not message.points:
                raise InputError("the JointTrajectory has no point, expected one or more")
            root = message.points[0]
        named = hasattr(message, "name") or hasattr(message, "joint_names")
        root = self._root(root)
        for path in self._paths:
            value: Any = root
            for depth, (field, key) in enumerate(path):
                value = self._field(value, field)
                if key is None:
                    continue
                last = depth == len(path) - 1
                # Numbers come as arrays; a list is one of texts or of messages.
                listed = hasattr(value, "__len__") and not isinstance(value, str | bytes)
                if not listed or last == isinstance(value, list):
                    raise self._no_number(path)
                if isinstance(key, str) and not named:
                    raise InputError(
                        f"{self.parameter}: {self.type_name} names no joints, expected an index "
                        f"in {_written(path)}"
                    )
                break
            else:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise self._no_number(path)

    def _no_number(self, path: list[tuple[str, int | str | None]]) -> InputError:
        return InputError(
            f"{self.parameter}: {_written(path)} of {self.type_name} is no number, "
            f"expected e.g. {_EXAMPLES.get(self.type_name, 'data[0]')}"
        )

    def _parsed(self, path: str) -> list[tuple[str, int | str | None]]:
        steps: list[tuple[str, int | str | None]] = []
        for part in path.split("."):
            match = _STEP.match(part.strip())
            if match is None:
                raise InputError(
                    f"{self.parameter} has {path!r}, expected a path such as linear.x, "
                    "position[0] or position[elbow]"
                )
            key = match["key"]
            steps.append((match["field"], int(key) if key and key.isdecimal() else key))
        return steps

    def _root(self, message: Any) -> Any:
        """Where paths begin."""
        return message.twist if self.type_name == "geometry_msgs/TwistStamped" else message

    def _numbers(self, root: Any, names: Sequence[str]) -> NDArray[np.float32]:
        return _float32([self._value(root, names, path) for path in self._paths])

    def _field(self, value: Any, field: str) -> Any:
        if not hasattr(value, field):
            offered = [n for n in _names(value) if not n.startswith("_")]
            raise InputError(
                f"{self.parameter}: {self.type_name} has no field {field!r} there, it has "
                f"{', '.join(offered) or 'none'}"
            )
        return getattr(value, field)

    def _value(
        self, root: Any, names: Sequence[str], path: list[tuple[str, int | str | None]]
    ) -> float:
        value = root
        for field, key in path:
            value = self._field(value, field)
            if key is None:
                continue
            if not hasattr(value, "__len__"):
                raise InputError(f"{_written(path)} is no list there, expected one of numbers")
            index = key
            if isinstance(key, str):
                if key not in names:
                    raise InputError(f"no joint {key!r}, the message has {', '.join(names)}")
                index = list(names).index(key)
            if not 0 <= int(index) < len(value):
                raise InputError(f"{_written(path)}: there are {len(value)} numbers")
            value = value[int(index)]
        if hasattr(value, "__len__") or not hasattr(value, "__float__"):
            raise self._no_number(path)
        return float(value)


def _written(path: list[tuple[str, int | str | None]]) -> str:
    return ".".join(field if key is None else f"{field}[{key}]" for field, key in path)


def _names(value: Any) -> list[str]:
    """Fields of a message, of rosbags or of rclpy."""
    if hasattr(value, "get_fields_and_field_types"):
        return list(value.get_fields_and_field_types())
    return list(getattr(value, "__dataclass_fields__", ()))


def _float32(values: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).reshape(-1).astype(np.float32)
