# SPDX-License-Identifier: Apache-2.0
"""The commands that the safety gate knows: slowed down, or replaced by one that stops the robot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_edge.nodes.messages import duration, header, stamp_ns

TWIST = "geometry_msgs/msg/Twist"
TWIST_STAMPED = "geometry_msgs/msg/TwistStamped"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"

Make = Callable[..., Any]
_AXES = ("x", "y", "z")


class Commands(Protocol):
    """One type of command. Times in nanoseconds, of the steady clock unless named otherwise."""

    stream: bool
    """Whether commands have to keep coming; else one lasts until it is done."""

    def admit(self, message: Any) -> bool:
        """Take note whom it is for; return whether it can be followed: all numbers are finite."""

    def passed(
        self, message: Any, linear: float, angular: float, now_ns: int, clock_ns: int
    ) -> Any:
        """Return the command with its speeds multiplied, 0 to 1, and remember it."""

    def again(self, linear: float, angular: float, now_ns: int) -> Any | None:
        """Return what is left of the last command, if these factors ask for it to be sent anew."""

    def safe(self, now_ns: int, clock_ns: int) -> Any | None:
        """Return the command that stops the robot; None when that is not known.

        The command at work is over: it is not taken up again.
        """

    @property
    def unsafe_reason(self) -> str:
        """Why there is no safe command; empty when there is one, or nothing was ever passed."""


class TwistCommands:
    """geometry_msgs Twist, or TwistStamped: the safe command is zero."""

    stream = True
    unsafe_reason = ""

    def __init__(self, make: Make, stamped: bool) -> None:
        self._make, self._stamped = make, stamped
        self._frame_id = ""
        self._last: Any | None = None
        self._sent = (1.0, 1.0)

    def admit(self, message: Any) -> bool:
        """Return whether all six numbers are finite."""
        if self._stamped:
            self._frame_id = message.header.frame_id
        twist = message.twist if self._stamped else message
        vectors = (twist.linear, twist.angular)
        return all(math.isfinite(getattr(vector, axis)) for vector in vectors for axis in _AXES)

    def passed(
        self, message: Any, linear: float, angular: float, now_ns: int, clock_ns: int
    ) -> Any:
        """Return the command itself at full speed, else a slower one with its header."""
        self._last, self._sent = message, (linear, angular)
        return self._scaled(message, linear, angular)

    def again(self, linear: float, angular: float, now_ns: int) -> Any | None:
        """Return the last command if it has to be slower than it was sent."""
        if self._last is None or (linear >= self._sent[0] and angular >= self._sent[1]):
            return None
        self._sent = (linear, angular)
        return self._scaled(self._last, linear, angular)

    def safe(self, now_ns: int, clock_ns: int) -> Any:
        """Return the zero twist."""
        self._last = None
        twist = self._make(TWIST)
        if not self._stamped:
            return twist
        return self._make(
            TWIST_STAMPED, header=header(self._make, clock_ns, self._frame_id), twist=twist
        )

    def _scaled(self, message: Any, linear: float, angular: float) -> Any:
        if linear == angular == 1.0:
            return message
        twist = message.twist if self._stamped else message
        slower = self._make(
            TWIST,
            linear=self._vector(twist.linear, linear),
            angular=self._vector(twist.angular, angular),
        )
        if not self._stamped:
            return slower
        return self._make(TWIST_STAMPED, header=message.header, twist=slower)

    def _vector(self, vector: Any, factor: float) -> Any:
        scaled = {axis: factor * getattr(vector, axis) for axis in _AXES}
        return self._make("geometry_msgs/msg/Vector3", **scaled)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A trajectory at work: `done_ns` of its own time were done at `since_ns`; speed 0 to 1."""

    message: Any
    done_ns: int
    since_ns: int
    speed: float

    def progress_ns(self, now_ns: int) -> int:
        """How much of its own time is done now."""
        return self.done_ns + int(max(now_ns - self.since_ns, 0) * self.speed)


class TrajectoryCommands:
    """trajectory_msgs JointTrajectory: the safe command holds the joints where they were measured.

    The positions are taken once per stop: to hold ever newer ones would let an arm sag. Only a
    joint state that is younger than `timeout_ns`, by its stamp and by its reception, is believed;
    without one there is no safe command. joints: that a hold names; empty for those of the last
    trajectory that came.
    """

    stream = False

    def __init__(
        self, make: Make, joints: tuple[str, ...], timeout_ns: int, hold_time_ns: int
    ) -> None:
        self._make = make
        self._fixed, self._joints = bool(joints), joints
        self._timeout_ns, self._hold_time_ns = timeout_ns, hold_time_ns
        self._measured: dict[str, tuple[float, int]] = {}
        self._held: NDArray[np.float64] | None = None
        self._running: _Running | None = None
        self.unsafe_reason = ""

    def on_joint_state(self, message: Any, now_ns: int, clock_ns: int) -> None:
        """Take in measured positions; a joint state without a stamp counts from its reception."""
        positions = np.asarray(message.position, np.float64)
        if len(positions) != len(message.name) or not np.isfinite(positions).all():
            return
        stamp = stamp_ns(message.header)
        age_ns = max(clock_ns - stamp, 0) if stamp else 0
        good_until_ns = now_ns + self._timeout_ns - age_ns
        for name, position in zip(message.name, positions.tolist(), strict=True):
            self._measured[name] = (position, good_until_ns)

    def admit(self, message: Any) -> bool:
        """Return whether all numbers are finite, the times do not go back, and joints are named."""
        if not self._fixed and self._joints != tuple(message.joint_names):
            self._joints, self._held = tuple(message.joint_names), None
        times = [_time_ns(point) for point in message.points]
        rising = all(later >= earlier for earlier, later in zip([0, *times], times, strict=False))
        return (
            rising
            and bool(message.joint_names)
            and all(
                np.isfinite(np.asarray(values, np.float64)).all()
                for point in message.points
                for values in (point.positions, point.velocities, point.accelerations, point.effort)
            )
        )

    def passed(
        self, message: Any, linear: float, angular: float, now_ns: int, clock_ns: int
    ) -> Any:
        """Return the trajectory itself at full speed, else one that takes 1 / linear as long."""
        self._held, self.unsafe_reason = None, ""
        start = stamp_ns(message.header)
        waiting_ns = max(start - clock_ns, 0) if start else 0
        self._running = _Running(
            message=message, done_ns=0, since_ns=now_ns + waiting_ns, speed=linear
        )
        return message if linear == 1.0 else self._timed(message, 0, linear, message.header)

    def again(self, linear: float, angular: float, now_ns: int) -> Any | None:
        """Return the points that are still ahead, at another speed, to begin now."""
        running = self._running
        if running is None or linear == running.speed or now_ns < running.since_ns:
            return None
        done_ns = running.progress_ns(now_ns)
        if not any(_time_ns(point) > done_ns for point in running.message.points):
            self._running = None
            return None
        self._running = _Running(
            message=running.message, done_ns=done_ns, since_ns=now_ns, speed=linear
        )
        now = header(self._make, 0, running.message.header.frame_id)  # stamp 0: begin at once
        return self._timed(running.message, done_ns, linear, now)

    def safe(self, now_ns: int, clock_ns: int) -> Any | None:
        """Return a trajectory of one point: the measured positions, no velocity."""
        self._running = None
        if not self._joints:
            self.unsafe_reason = ""
            return None
        if self._held is None:
            self._held = self._positions(now_ns)
            if self._held is None:
                return None
        self.unsafe_reason = ""
        point = self._make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=self._held,
            velocities=np.zeros(len(self._held)),
            time_from_start=duration(self._make, self._hold_time_ns / 1e9),
        )
        return self._make(JOINT_TRAJECTORY, joint_names=list(self._joints), points=[point])

    def _positions(self, now_ns: int) -> NDArray[np.float64] | None:
        unknown = (0.0, now_ns)
        found = [self._measured.get(name, unknown) for name in self._joints]
        stale = [n for n, (_, until) in zip(self._joints, found, strict=True) if now_ns >= until]
        if stale:
            self.unsafe_reason = (
                f"no joint state of {', '.join(stale)} in the last {self._timeout_ns / 1e9:g} s, so"
                " that it cannot be told to hold: check joint_states, the clocks, and joints"
            )
            return None
        return np.array([position for position, _ in found])

    def _timed(self, message: Any, done_ns: int, speed: float, head: Any) -> Any:
        points = [
            self._make(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=np.asarray(point.positions, np.float64),
                velocities=speed * np.asarray(point.velocities, np.float64),
                accelerations=speed**2 * np.asarray(point.accelerations, np.float64),
                effort=np.asarray(point.effort, np.float64),
                time_from_start=duration(self._make, (_time_ns(point) - done_ns) / speed / 1e9),
            )
            for point in message.points
            if _time_ns(point) > done_ns or not done_ns
        ]
        return self._make(
            JOINT_TRAJECTORY, header=head, joint_names=list(message.joint_names), points=points
        )


def _time_ns(point: Any) -> int:
    return int(point.time_from_start.sec) * 1_000_000_000 + int(point.time_from_start.nanosec)
