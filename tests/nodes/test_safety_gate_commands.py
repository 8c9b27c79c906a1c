# SPDX-License-Identifier: Apache-2.0
"""Commands at other speeds, at exact times: no bus, no clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.nodes.gate_commands import TrajectoryCommands, TwistCommands

from .bus import make

MS = 1_000_000
CLOCK = 1_700_000_000_000 * MS


def _duration(nanoseconds: int) -> Any:
    sec, nanosec = divmod(nanoseconds, 10**9)
    return make("builtin_interfaces/msg/Duration", sec=sec, nanosec=nanosec)


def _trajectory(*times_ms: int, start_ns: int = 0) -> Any:
    points = [
        make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.array([time_ms / 1000.0]),
            velocities=np.array([1.0]),
            accelerations=np.array([4.0]),
            time_from_start=_duration(time_ms * MS),
        )
        for time_ms in times_ms
    ]
    stamp = make("builtin_interfaces/msg/Time", sec=start_ns // 10**9, nanosec=start_ns % 10**9)
    return make(
        "trajectory_msgs/msg/JointTrajectory",
        header=make("std_msgs/msg/Header", stamp=stamp, frame_id="arm"),
        joint_names=["elbow"],
        points=points,
    )


def _arm(**changes: Any) -> TrajectoryCommands:
    given = {"joints": (), "timeout_ns": 100 * MS, "hold_time_ns": 200 * MS, **changes}
    return TrajectoryCommands(make, **given)


def _joints(arm: TrajectoryCommands, now_ns: int, *, stamp_ns: int = 0, **positions: float) -> None:
    stamp = make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    message = make(
        "sensor_msgs/msg/JointState",
        header=make("std_msgs/msg/Header", stamp=stamp),
        name=list(positions),
        position=np.array(list(positions.values())),
    )
    arm.on_joint_state(message, now_ns, CLOCK + now_ns)


def _passed(arm: TrajectoryCommands, message: Any, speed: float, now_ns: int) -> Any:
    assert arm.admit(message, now_ns, CLOCK + now_ns)
    return arm.passed(message, speed, speed, now_ns, CLOCK + now_ns)


def _times_ms(message: Any) -> list[float]:
    return [p.time_from_start.sec * 1e3 + p.time_from_start.nanosec / 1e6 for p in message.points]


def test_a_trajectory_goes_on_where_it_is() -> None:
    arm = _arm()
    message = _trajectory(100, 1000, 2000)
    assert _passed(arm, message, 1.0, 0) is message
    assert arm.again(1.0, 1.0, 300 * MS) is None
    slowed = arm.again(0.5, 0.5, 300 * MS)  # 300 ms are done
    assert _times_ms(slowed) == [1400.0, 3400.0]
    assert [p.positions.tolist() for p in slowed.points] == [[1.0], [2.0]]
    assert [p.velocities.tolist() for p in slowed.points] == [[0.5], [0.5]]
    assert [p.accelerations.tolist() for p in slowed.points] == [[1.0], [1.0]]
    assert (slowed.header.stamp.sec, slowed.header.frame_id) == (0, "arm")
    assert arm.again(0.5, 0.5, 400 * MS) is None
    back = arm.again(1.0, 1.0, 500 * MS)  # 100 ms more
    assert _times_ms(back) == [600.0, 1600.0]
    assert back.points[0].velocities.tolist() == [1.0]
    assert arm.again(0.5, 0.5, 2200 * MS) is None  # it is over
    assert arm.again(1.0, 1.0, 2300 * MS) is None


def test_a_trajectory_for_later_waits_for_its_start() -> None:
    arm = _arm()
    _passed(arm, _trajectory(1000, start_ns=CLOCK + 500 * MS), 1.0, 0)
    assert arm.again(0.5, 0.5, 400 * MS) is None
    assert _times_ms(arm.again(0.5, 0.5, 600 * MS)) == [1800.0]
    _passed(arm, _trajectory(1000, start_ns=CLOCK), 1.0, 1000 * MS)  # a start that is over: now
    assert _times_ms(arm.again(0.5, 0.5, 1100 * MS)) == [1800.0]


def test_a_trajectory_that_was_stopped_is_over() -> None:
    arm = _arm()
    _joints(arm, 0, elbow=0.3)
    _passed(arm, _trajectory(1000), 1.0, 0)
    assert arm.safe(10 * MS, CLOCK).points[0].positions.tolist() == [0.3]
    assert arm.again(0.5, 0.5, 20 * MS) is None


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(1, 400), st.sampled_from([0.1, 0.25, 0.5, 1.0])), max_size=8
    )
)
def test_no_part_of_a_trajectory_is_lost_or_done_twice(changes: list[tuple[int, float]]) -> None:
    """Whatever the speeds were, what was done and what is still to do make up the whole."""
    arm = _arm()
    _passed(arm, _trajectory(5000), 1.0, 0)
    now = done = 0.0
    speed = 1.0
    for wait_ms, new in changes:
        now += wait_ms
        done += wait_ms * speed
        sent = arm.again(new, new, round(now * MS))
        assert (sent is None) == (new == speed)
        speed = new
        if sent is not None:
            assert _times_ms(sent)[0] * speed + done == pytest.approx(5000.0, abs=0.01)


def test_joint_states_count_each_for_itself_and_by_their_age() -> None:
    arm = _arm(joints=("elbow", "wrist"))
    assert arm.safe(0, CLOCK) is None
    assert "elbow, wrist" in arm.unsafe_reason
    _joints(arm, 0, elbow=0.1)
    _joints(arm, 60 * MS, wrist=0.2)
    assert arm.safe(99 * MS, CLOCK).points[0].positions.tolist() == [0.1, 0.2]
    assert arm.unsafe_reason == ""
    arm = _arm(joints=("elbow",))
    _joints(arm, 50 * MS, stamp_ns=CLOCK, elbow=0.1)  # 50 ms old when it came
    assert arm.safe(100 * MS, CLOCK) is None
    _joints(
        arm, 50 * MS, stamp_ns=CLOCK + 10**10, elbow=0.1
    )  # of the future: no longer than it may
    assert arm.safe(150 * MS, CLOCK) is None
    _joints(arm, 50 * MS, elbow=0.1)
    assert arm.safe(149 * MS, CLOCK) is not None


def test_an_arm_that_never_moved_has_nothing_to_hold() -> None:
    arm = _arm()
    assert arm.safe(0, CLOCK) is None
    assert arm.unsafe_reason == ""
    assert not arm.admit(make("trajectory_msgs/msg/JointTrajectory"), 0, CLOCK)


def test_a_twist_is_sent_anew_only_to_go_slower() -> None:
    twist = make("geometry_msgs/msg/Twist", linear=make("geometry_msgs/msg/Vector3", x=2.0))
    commands = TwistCommands(make, stamped=False, timeout_ns=0)
    assert commands.again(0.5, 0.5, 0) is None
    commands.passed(twist, 0.5, 0.5, 0, CLOCK)
    assert commands.again(0.5, 0.5, 0) is None
    assert commands.again(1.0, 1.0, 0) is None
    assert commands.again(0.25, 0.5, 0).linear.x == 0.5
    assert commands.again(0.25, 0.5, 0) is None
    commands.safe(0, CLOCK)
    assert commands.again(0.1, 0.1, 0) is None


def _of(names: list[str], time_ms: int = 1000, **fields: Any) -> Any:
    """A trajectory of some joints, with one point."""
    fields.setdefault("positions", np.zeros(len(names)))
    point = make(
        "trajectory_msgs/msg/JointTrajectoryPoint",
        time_from_start=_duration(time_ms * MS),
        **fields,
    )
    return make("trajectory_msgs/msg/JointTrajectory", joint_names=names, points=[point])


def test_a_hold_names_all_that_moved_since_the_last_one() -> None:
    arm = _arm()
    _joints(arm, 0, elbow=0.1, wrist=0.2, finger=0.3)
    _passed(arm, _of(["elbow", "wrist"]), 1.0, 0)
    _passed(arm, _of(["finger"]), 1.0, 1001 * MS)  # the first one is done
    assert arm.safe(1010 * MS, CLOCK) is None  # joint states are stale, so nothing is held
    assert "elbow, wrist, finger" in arm.unsafe_reason
    _passed(arm, _of(["finger"]), 1.0, 1020 * MS)
    _joints(arm, 1030 * MS, elbow=0.1, wrist=0.2, finger=0.3)
    assert arm.safe(1040 * MS, CLOCK).joint_names == ["elbow", "wrist", "finger"]
    assert arm.unsafe_reason == ""
    _passed(arm, _of(["finger"]), 1.0, 1050 * MS)
    assert arm.safe(1060 * MS, CLOCK).joint_names == ["finger"]


def test_a_trajectory_at_work_is_replaced_as_a_whole_or_not_at_all() -> None:
    arm = _arm()
    _passed(arm, _of(["elbow", "wrist"]), 0.5, 0)  # takes two seconds
    assert not arm.admit(_of(["wrist"]), 1999 * MS, CLOCK)
    assert arm.admit(_of(["wrist", "elbow"]), 1999 * MS, CLOCK)
    assert arm.admit(_of(["finger", "wrist", "elbow"]), 1999 * MS, CLOCK)
    assert arm.admit(_of(["wrist"]), 2000 * MS, CLOCK)
    _passed(arm, _of(["elbow", "wrist"]), 1.0, 3000 * MS)
    arm.safe(3001 * MS, CLOCK)
    assert arm.admit(_of(["wrist"]), 3002 * MS, CLOCK)  # a stop has ended it


def test_a_joint_that_nobody_knows_does_not_keep_the_others_from_being_held() -> None:
    arm = _arm()
    _joints(arm, 0, elbow=0.1)
    _passed(arm, _of(["elbow"], 10), 1.0, 0)
    _passed(arm, _of(["typo"]), 1.0, 20 * MS)
    hold = arm.safe(30 * MS, CLOCK)
    assert (hold.joint_names, hold.points[0].positions.tolist()) == (["elbow"], [0.1])
    assert "typo" in arm.unsafe_reason
    assert "elbow" not in arm.unsafe_reason
    assert arm.safe(40 * MS, CLOCK).joint_names == ["elbow"]
    assert "typo" in arm.unsafe_reason
    _joints(arm, 50 * MS, elbow=0.4, typo=0.5)
    assert arm.safe(60 * MS, CLOCK).points[0].positions.tolist() == [0.4, 0.5]
    assert arm.unsafe_reason == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"positions": np.zeros(1)},
        {"velocities": np.zeros(3)},
        {"accelerations": np.zeros(1)},
        {"effort": np.zeros(3)},
    ],
)
def test_a_trajectory_has_a_number_per_joint_or_none(fields: dict[str, Any]) -> None:
    assert _arm().admit(_of(["elbow", "wrist"]), 0, CLOCK)
    assert not _arm().admit(_of(["elbow", "wrist"], **fields), 0, CLOCK)


def test_bad_trajectories_do_not_say_whom_to_hold() -> None:
    arm = _arm()
    _joints(arm, 0, elbow=0.1, wrist=0.2)
    assert arm.admit(_of(["elbow"]), 0, CLOCK)
    assert not arm.admit(_of(["wrist"], positions=np.array([np.nan])), 0, CLOCK)
    assert not arm.admit(make("trajectory_msgs/msg/JointTrajectory"), 0, CLOCK)
    assert arm.safe(1 * MS, CLOCK).joint_names == ["elbow"]


def test_a_twist_is_sent_anew_only_while_it_is_of_late() -> None:
    twist = make("geometry_msgs/msg/Twist", linear=make("geometry_msgs/msg/Vector3", x=2.0))
    commands = TwistCommands(make, stamped=False, timeout_ns=0)
    commands.passed(twist, 1.0, 1.0, 0, CLOCK)
    assert commands.again(0.5, 0.5, 499 * MS).linear.x == 1.0
    assert commands.again(0.25, 0.25, 500 * MS) is None
