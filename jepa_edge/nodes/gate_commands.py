# SPDX-License-Identifier: Apache-2.0
"""The commands that the safety gate knows: slowed down, or replaced by one that stops the robot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jepa_edge.nodes.messages import duration, header, stamp_ns

TWIST = "geometry_msgs/msg/Twist"
TWIST_STAMPED = "geometry_msgs/msg/TwistStamped"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"

Make = Callable[..., Any]
_AXES = ("x", "y", "z")

_RESEND_NS = 500_000_000
"""An older command is not sent anew, not even slower: who gave it may be gone."""


class Commands(Protocol):
    """One type of command. Times in nanoseconds, of the steady clock unless named otherwise."""

    stream: bool
    """Whether commands have to keep coming; else one lasts until it is done."""

    def admit(self, message: Any, now_ns: int, clock_ns: int) -> bool:
        """Return whether it can be followed; if so, take note whom it is for."""

    def passed(
        self, message: Any, linear: float, angular: float, now_ns: int, clock_ns: int
    ) -> Any:
        """Return the command with its speeds multiplied, 0 to 1, and remember it."""

    def again(self, linear: float, angular: float, now_ns: int) -> Any | None:
        """Return what is left of the last command, if these factors ask for it to be sent anew.

        Called all the time while commands may pass, so that a stop is over.
        """

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

    def __init__(self, make: Make, stamped: bool, timeout_ns: int) -> None:
        """timeout_ns: a command whose stamp is that old cannot be followed; 0 for any age."""
        self._make, self._stamped, self._timeout_ns = make, stamped, timeout_ns
        self._frame_id = ""
        self._last: Any | None = None
        self._last_ns = 0
        self._sent = (1.0, 1.0)

    def admit(self, message: Any, now_ns: int, clock_ns: int) -> bool:
        """Return whether all six numbers are finite, and its stamp, if it has one, is of late."""
        twist = message.twist if self._stamped else message
        vectors = (twist.linear, twist.angular)
        if not all(math.isfinite(getattr(vector, axis)) for vector in vectors for axis in _AXES):
            return False
        if self._stamped:
            stamp = stamp_ns(message.header)
            if stamp and self._timeout_ns and clock_ns - stamp >= self._timeout_ns:
                return False
            self._frame_id = message.header.frame_id
        return True

    def passed(
        self, message: Any, linear: float, angular: float, now_ns: int, clock_ns: int
    ) -> Any:
        """Return the command itself at full speed, else a slower one with its header."""
        self._last, self._last_ns, self._sent = message, now_ns, (linear, angular)
        return self._scaled(message, linear, angular)

    def again(self, linear: float, angular: float, now_ns: int) -> Any | None:
        """Return the last command if it has to be slower than it was sent, and is of late."""
        if self._last is None or (linear >= self._sent[0] and angular >= self._sent[1]):
            return None
        if now_ns - self._last_ns >= _RESEND_NS:
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

    def ahead(self, done_ns: int) -> bool:
        """Whether a point is left when so much of its own time is done."""
        return any(_time_ns(point) > done_ns for point in self.message.points)


class TrajectoryCommands:
    """trajectory_msgs JointTrajectory: the safe command holds the joints where they were measured.

    The positions are taken once per stop: to hold ever newer ones would let an arm sag. Only a
    joint state that is younger than `timeout_ns`, by its stamp and by its reception, is believed;
    without one there is no safe command. joints: that a hold names; empty for all that were passed
    since the last hold, or, where none was, those of the last good trajectory that came. A joint
    that no joint state has ever named is left out, and told of: it may be no joint of this robot.

    A trajectory can be followed if it has joints and points, all its numbers are finite, one per
    joint where there are any, and its times do not go back. While one is at work another has to
    name all of its joints: what a controller does with the ones left out differs, and a gate that
    does not know what moves cannot slow it down. Controllers of different joints get a gate each.
    An empty trajectory is thus a stop: it is answered by a hold.
    """

    stream = False

    def __init__(
        self, make: Make, joints: tuple[str, ...], timeout_ns: int, hold_time_ns: int
    ) -> None:
        self._make = make
        self._fixed = joints
        self._asked: tuple[str, ...] = ()
        self._moved: dict[str, None] = {}
        self._stopped = False
        self._timeout_ns, self._hold_time_ns = timeout_ns, hold_time_ns
        self._measured: dict[str, tuple[float, int]] = {}
        self._held: dict[str, float] | None = None
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

    def admit(self, message: Any, now_ns: int, clock_ns: int) -> bool:
        """Return whether it can be followed, as above."""
        names = tuple(message.joint_names)
        times = [_time_ns(point) for point in message.points]
        good = bool(names and times) and all(
            later >= earlier for earlier, later in zip([0, *times], times, strict=False)
        )
        for point in message.points:
            for values in (point.positions, point.velocities, point.accelerations, point.effort):
                numbers = np.asarray(values, np.float64)
                good &= len(numbers) in (0, len(names)) and bool(np.isfinite(numbers).all())
        if not good:
            return False
        self._asked = names
        running = self._running
        if running is None or not running.ahead(running.progress_ns(now_ns)):
            return True
        return set(running.message.joint_names) <= set(names)

    def passed(
        self, message: Any, linear: float, angular: float, now_ns: int, clock_ns: int
    ) -> Any:
        """Return the trajectory itself at full speed, else one that takes 1 / linear as long."""
        if self._stopped:  # all that moved before was told to hold
            self._moved.clear()
        self._moved.update(dict.fromkeys(message.joint_names))
        self._held, self._stopped, self.unsafe_reason = None, False, ""
        start = stamp_ns(message.header)
        waiting_ns = max(start - clock_ns, 0) if start else 0
        self._running = _Running(
            message=message, done_ns=0, since_ns=now_ns + waiting_ns, speed=linear
        )
        return message if linear == 1.0 else self._timed(message, 0, linear, message.header)

    def again(self, linear: float, angular: float, now_ns: int) -> Any | None:
        """Return the points that are still ahead, at another speed, to begin now."""
        self._held, self.unsafe_reason, running = None, "", self._running
        if running is None or linear == running.speed or now_ns < running.since_ns:
            return None
        done_ns = running.progress_ns(now_ns)
        if not running.ahead(done_ns):
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
        names = self._fixed or tuple(self._moved) or self._asked
        known = [name for name in names if name in self._measured]
        if self._held is None or list(self._held) != known:
            self._held = self._positions(names, known, now_ns)
        if not self._held:
            return None
        self._stopped = True
        point = self._make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.array(list(self._held.values())),
            velocities=np.zeros(len(self._held)),
            time_from_start=duration(self._make, self._hold_time_ns / 1e9),
        )
        return self._make(JOINT_TRAJECTORY, joint_names=list(self._held), points=[point])

    def _positions(
        self, names: Sequence[str], known: Sequence[str], now_ns: int
    ) -> dict[str, float] | None:
        """Return where the known joints are, None if that was not measured of late."""
        stale = [name for name in known if now_ns >= self._measured[name][1]]
        lost = [name for name in names if name in stale or name not in self._measured]
        self.unsafe_reason = (
            f"no joint state of {', '.join(lost)} in the last {self._timeout_ns / 1e9:g} s, so"
            " that it cannot be told to hold: check joint_states, the clocks, and joints"
            if lost
            else ""
        )
        return None if stale else {name: self._measured[name][0] for name in known}

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
