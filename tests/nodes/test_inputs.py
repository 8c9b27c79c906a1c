# SPDX-License-Identifier: Apache-2.0
"""The right command, state and plan go with every frame, whatever the messages look like."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle
from jepa_edge.errors import InputError
from jepa_edge.image_fit import fit_image
from jepa_edge.manifest import Manifest, StateSpec
from jepa_edge.nodes.commands import Commands
from jepa_edge.nodes.fields import FieldReader, full_name
from jepa_edge.nodes.inputs import Frame, InputOptions, Inputs
from jepa_edge.nodes.trajectories import Trajectories

from .bus import make

PERIOD = 200_000_000  # the linear world runs at 5 Hz, with blocks of 2 steps of 2 numbers
T0 = 1_700_000_000 * 10**9


@pytest.fixture(scope="module")
def manifest(calibrated_bundle: Path) -> Manifest:
    return Bundle.open(calibrated_bundle).manifest


def _header(stamp: int, frame_id: str = "cam") -> Any:
    time_message = make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/msg/Header", stamp=time_message, frame_id=frame_id)


def _image(stamp: int, pixels: NDArray[np.uint8] | None = None, encoding: str = "rgb8") -> Any:
    pixels = np.zeros((8, 8, 3), np.uint8) if pixels is None else pixels
    return make(
        "sensor_msgs/msg/Image",
        header=_header(stamp),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=pixels.shape[1] * 3,
        data=pixels.reshape(-1),
    )


def _array(*values: float) -> Any:
    return make("std_msgs/msg/Float32MultiArray", data=np.array(values, np.float32))


def _frame(inputs: Inputs, stamp: int) -> Frame:
    frame = inputs.on_image(_image(stamp), stamp + 10_000_000)
    assert frame is not None
    return frame


def _action(inputs: Inputs, stamp: int) -> list[float] | None:
    action = inputs.observation(_frame(inputs, stamp)).action
    return None if action is None else action.tolist()


# -- which block led to a frame -------------------------------------------------------------------


@pytest.mark.parametrize("phase", [-0.05, 0.0, 0.02, 0.5, 0.85])
def test_a_block_leads_from_the_frame_before_to_the_frame_after(
    manifest: Manifest, phase: float
) -> None:
    """phase: when block k is received after frame k was taken, in periods."""
    inputs = Inputs(manifest, InputOptions())
    rng = np.random.default_rng(5)
    events: list[tuple[int, str, int]] = []
    for k in range(20):
        jitter = int(rng.uniform(-0.04, 0.04) * PERIOD)
        events += [(T0 + k * PERIOD, "frame", k)]
        events += [(T0 + int((k + phase) * PERIOD) + jitter, "block", k)]
    for moment, kind, k in sorted(events):
        if kind == "block":
            inputs.on_action(_array(k, k, k, k), moment)
        elif k == 0:
            _frame(inputs, moment)
        else:
            assert _action(inputs, moment) == [k - 1.0] * 4, (phase, k)


def test_a_lost_block_is_no_action_and_the_next_is_right_again(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    for k in range(6):
        if k != 3:
            inputs.on_action(_array(k, k, k, k), T0 + k * PERIOD + 20_000_000)
        led = _action(inputs, T0 + (k + 1) * PERIOD)
        assert led == (None if k == 3 else [float(k)] * 4)


def test_a_longer_timeout_holds_a_block(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions(action_timeout_s=0.5))
    inputs.on_action(_array(1, 2, 3, 4), T0)
    held = [_action(inputs, T0 + k * PERIOD) for k in range(1, 6)]
    assert held == [[1.0, 2.0, 3.0, 4.0]] * 3 + [None] * 2


@pytest.mark.parametrize("rate_hz", [10.0, 20.0, 37.0, 100.0])
def test_single_steps_make_a_block_by_zero_order_hold(manifest: Manifest, rate_hz: float) -> None:
    inputs = Inputs(manifest, InputOptions())
    step_s = 0.1

    def commanded(seconds: float) -> float:
        """What a controller that runs at rate_hz holds at a time: its count."""
        return float(np.floor(seconds * rate_hz + 1e-9))

    sent = 0
    for k in range(1, 12):
        stamp_s = 0.2 * k
        while sent / rate_hz < stamp_s:
            inputs.on_action(_array(sent, -sent), T0 + round(1e9 * sent / rate_hz))
            sent += 1
        led = _action(inputs, T0 + round(1e9 * stamp_s))
        middles = [stamp_s - 1.5 * step_s, stamp_s - 0.5 * step_s]
        expected = [value for m in middles for value in (commanded(m), -commanded(m))]
        assert led == expected


def test_steps_that_stop_are_held_for_a_period_and_then_there_is_no_action(
    manifest: Manifest,
) -> None:
    inputs = Inputs(manifest, InputOptions())
    for k in range(4):
        inputs.on_action(_array(k, 0), T0 + k * PERIOD // 2)
    assert _action(inputs, T0 + 2 * PERIOD) == [2.0, 0.0, 3.0, 0.0]
    assert _action(inputs, T0 + 3 * PERIOD) == [3.0, 0.0, 3.0, 0.0]
    assert _action(inputs, T0 + 4 * PERIOD) is None


def test_a_block_of_one_step_is_taken_from_the_middle_of_the_period() -> None:
    commands = Commands(dim=2, block=1, period_ns=PERIOD, timeout_ns=0)
    for k in range(40):  # 50 Hz
        moment = T0 + k * PERIOD // 10
        commands.add(moment, moment, np.array([k, 0.0], np.float32))
    led = commands.led_to(T0 + 2 * PERIOD)
    assert led is not None
    assert led[0] == 15.0


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0, 3.0), tuple(range(8)), ()])
def test_a_wrong_length_reaches_the_session_as_it_is(
    manifest: Manifest, values: tuple[float, ...]
) -> None:
    inputs = Inputs(manifest, InputOptions())
    inputs.on_action(_array(*values), T0)
    assert _action(inputs, T0 + PERIOD) == list(values)


def test_numbers_that_are_none_reach_the_session(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    inputs.on_action(_array(1, np.nan, 3, np.inf), T0)
    led = _action(inputs, T0 + PERIOD)
    np.testing.assert_array_equal(led, [1, np.nan, 3, np.inf])


def test_a_clock_that_is_set_back_forgets_the_commands(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    inputs.on_action(_array(1, 1, 1, 1), T0)
    inputs.on_action(_array(2, 2, 2, 2), 0)
    assert _action(inputs, PERIOD) == [2.0] * 4
    assert _action(inputs, T0 + PERIOD) is None


# -- types and fields -----------------------------------------------------------------------------


def _twist(x: float, z: float) -> Any:
    return make(
        "geometry_msgs/msg/Twist",
        linear=make("geometry_msgs/msg/Vector3", x=x),
        angular=make("geometry_msgs/msg/Vector3", z=z),
    )


def test_velocity_commands_are_steps(manifest: Manifest) -> None:
    fields = ("linear.x", "angular.z")
    plain = Inputs(manifest, InputOptions(action_type="geometry_msgs/Twist", action_fields=fields))
    plain.check_fields(make)
    plain.on_action(_twist(0.5, -1.0), T0)
    assert _action(plain, T0 + PERIOD) == [0.5, -1.0, 0.5, -1.0]

    options = InputOptions(action_type="geometry_msgs/TwistStamped", action_fields=fields)
    stamped = Inputs(manifest, options)
    stamped.check_fields(make)
    for k in range(2):  # received late, but stamped in time
        message = make(
            "geometry_msgs/msg/TwistStamped",
            header=_header(T0 + k * PERIOD // 2),
            twist=_twist(float(k), 0.0),
        )
        stamped.on_action(message, T0 + PERIOD)
    assert _action(stamped, T0 + PERIOD) == [0.0, 0.0, 1.0, 0.0]


def test_joints_are_found_by_index_and_by_name(manifest: Manifest) -> None:
    for fields in (("position[1]", "velocity[0]"), ("position[elbow]", "velocity[wrist]")):
        inputs = Inputs(
            manifest, InputOptions(action_type="sensor_msgs/JointState", action_fields=fields)
        )
        inputs.check_fields(make)
        message = make(
            "sensor_msgs/msg/JointState",
            header=_header(T0),
            name=["wrist", "elbow"],
            position=np.array([1.0, 2.0]),
            velocity=np.array([3.0, 4.0]),
        )
        inputs.on_action(message, T0)
        assert _action(inputs, T0 + PERIOD) == [2.0, 3.0] * 2


def _trajectory(points: list[tuple[float, list[float]]], stamp: int = 0, **changes: Any) -> Any:
    """points: seconds from the start, positions of a and b."""

    def point(after_s: float, positions: list[float]) -> Any:
        after = round(1e9 * after_s)
        return make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.array(positions),
            time_from_start=make(
                "builtin_interfaces/msg/Duration", sec=after // 10**9, nanosec=after % 10**9
            ),
        )

    fields = {"joint_names": ["a", "b"], "points": [point(*p) for p in points], **changes}
    return make("trajectory_msgs/msg/JointTrajectory", header=_header(stamp), **fields)


def _arm(manifest: Manifest) -> Inputs:
    options = InputOptions(
        action_type="trajectory_msgs/JointTrajectory",
        action_fields=("positions[b]", "positions[a]"),
    )
    inputs = Inputs(manifest, options)
    inputs.check_fields(make)
    return inputs


def test_a_trajectory_commands_its_setpoint_at_every_time_and_then_its_end(
    manifest: Manifest,
) -> None:
    """One message of 3 s, as motion planners send them; an action for each of 30 frames."""
    inputs = _arm(manifest)
    knots = [0.0, 0.7, 3.0]
    a, b = [0.0, 1.4, -2.0], [10.0, 9.0, 12.0]
    points = [(t, [x, y]) for t, x, y in zip(knots, a, b, strict=True)]
    inputs.on_action(_trajectory(points), T0)
    for k in range(1, 31):
        middles_s = [0.2 * (k - 1) + 0.05, 0.2 * (k - 1) + 0.15]  # of the block's two steps
        expected = [[np.interp(t, knots, b), np.interp(t, knots, a)] for t in middles_s]
        led = _action(inputs, T0 + k * PERIOD)
        np.testing.assert_allclose(led, np.ravel(expected), atol=1e-6)  # type: ignore[arg-type]
    assert led == [12.0, -2.0] * 2


def test_a_new_trajectory_goes_on_from_where_the_one_before_had_the_arm(
    manifest: Manifest,
) -> None:
    """As a gate's slower copy does: only the points that are still ahead, from now on."""
    inputs = _arm(manifest)
    inputs.on_action(_trajectory([(0.0, [0.0, 0.0]), (1.0, [1.0, 2.0])]), T0)
    inputs.on_action(_trajectory([(1.0, [1.0, 2.0])]), T0 + 2 * PERIOD)  # 0.4 of it are done
    assert _action(inputs, T0 + 2 * PERIOD) == pytest.approx([0.5, 0.25, 0.7, 0.35])
    led = _action(inputs, T0 + 3 * PERIOD)  # 0.6 of the way in 1 s
    assert led == pytest.approx([0.86, 0.43, 0.98, 0.49])
    # One that begins later is not in force before.
    inputs.on_action(_trajectory([(0.0, [9.0, 9.0])], stamp=T0 + 5 * PERIOD), T0 + 3 * PERIOD)
    assert _action(inputs, T0 + 5 * PERIOD) == pytest.approx([1.34, 0.67, 1.46, 0.73])
    assert _action(inputs, T0 + 6 * PERIOD) == [9.0] * 4


def test_the_holds_of_a_stopped_gate_are_actions(manifest: Manifest) -> None:
    inputs = _arm(manifest)
    for k in range(1, 30):
        if k % 5 == 1:  # one a second
            inputs.on_action(_trajectory([(0.1, [3.0, 4.0])]), T0 + (k - 1) * PERIOD)
        assert _action(inputs, T0 + k * PERIOD) == [4.0, 3.0] * 2


@pytest.mark.parametrize(
    "bad",
    [
        _trajectory([]),
        _trajectory([(0.0, [1.0, 2.0]), (1.0, [1.0])]),
        _trajectory([(1.0, [1.0, 2.0]), (0.5, [1.0, 2.0])]),
        _trajectory([(-1.0, [1.0, 2.0])]),
        _trajectory([(0.0, [1.0, 2.0])], joint_names=["a", "c"]),
    ],
    ids=["no point", "a number missing", "back in time", "before its start", "another joint"],
)
def test_a_trajectory_that_cannot_be_followed_reaches_the_session_as_nothing(
    manifest: Manifest, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = _arm(manifest)
    inputs.on_action(_trajectory([(0.0, [1.0, 2.0])]), T0)
    inputs.on_action(bad, T0 + PERIOD)
    assert _action(inputs, T0 + PERIOD) == [2.0, 1.0] * 2
    assert _action(inputs, T0 + 2 * PERIOD) == []
    assert "trajectory_msgs/JointTrajectory could not be used" in caplog.text


def test_replaced_trajectories_are_not_kept_for_ever() -> None:
    trajectories = Trajectories(dim=1, block=1, period_ns=PERIOD)
    for k in range(2000):
        moment = T0 + k * PERIOD // 10
        trajectories.add(moment, moment, np.zeros(1, np.int64), np.full((1, 1), k, np.float32))
    assert len(trajectories._known) < 200
    led = trajectories.led_to(T0 + 150 * PERIOD)  # nothing is known of then any more
    assert led is None
    led = trajectories.led_to(T0 + 198 * PERIOD)
    assert led is not None
    assert led.tolist() == [1975.0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"action_type": "geometry_msgs/Twist"}, "action_fields is empty"),
        ({"action_type": "geometry_msgs/Pose"}, "expected one of"),
        ({"action_fields": ("data[0]",)}, "names 1 numbers, expected 2 for one step or 4"),
        ({"action_fields": ("data[", "x")}, "expected a path"),
        ({"state_type": "sensor_msgs/JointState"}, "state_fields is empty"),
        ({"image_fit": "fill"}, "model, camera, exact, crop, stretch"),
        ({"sync_slop_s": float("nan")}, "0 or more seconds"),
        ({"action_timeout_s": -1.0}, "0 or more seconds"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    manifest: Manifest, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        Inputs(manifest, InputOptions(**options))


def test_a_field_that_a_type_lacks_is_named_with_those_it_has(manifest: Manifest) -> None:
    options = InputOptions(action_type="geometry_msgs/Twist", action_fields=("linear.x", "spin.z"))
    with pytest.raises(InputError, match="has no field 'spin' there, it has linear, angular"):
        Inputs(manifest, options).check_fields(make)
    options = InputOptions(action_type="geometry_msgs/Twist", action_fields=("linear.x", "linear"))
    with pytest.raises(InputError, match="is no number"):
        Inputs(manifest, options).check_fields(make)


UNREADABLE: list[tuple[str, str, dict[str, Any]]] = [
    ("geometry_msgs/Twist", "linear.x[0]", {}),
    ("geometry_msgs/Twist", "linear[x]", {}),
    ("sensor_msgs/JointState", "name[0]", {"name": ["elbow"]}),
    ("sensor_msgs/JointState", "header.stamp.sec[0]", {}),
    ("sensor_msgs/JointState", "header.frame_id", {}),
    ("sensor_msgs/JointState", "position", {"position": np.zeros(1)}),
    ("trajectory_msgs/JointTrajectory", "positions", {}),
    ("trajectory_msgs/JointTrajectory", "time_from_start", {}),
    ("trajectory_msgs/JointTrajectory", "places[0]", {}),
    ("nav_msgs/Odometry", "child_frame_id[0]", {"child_frame_id": "base"}),
    ("nav_msgs/Odometry", "pose.covariance[elbow]", {}),
    ("std_msgs/Float32MultiArray", "layout.dim[0]", {}),
]


@pytest.mark.parametrize(("kind", "path", "fields"), UNREADABLE)
def test_a_path_to_no_number_is_refused_at_once_and_in_every_message(
    kind: str, path: str, fields: dict[str, Any]
) -> None:
    reader = FieldReader(kind, [path], "action_fields")
    read: Any = reader.read
    if kind == "trajectory_msgs/JointTrajectory":
        point = make("trajectory_msgs/msg/JointTrajectoryPoint", positions=np.zeros(1))
        fields, read = {"joint_names": ["a"], "points": [point]}, reader.read_points
    with pytest.raises(InputError, match="action_fields: "):
        reader.check(make(full_name(kind), **fields))
    with pytest.raises(InputError):
        read(make(full_name(kind), **fields))


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("geometry_msgs/TwistStamped", "angular.z"),
        ("sensor_msgs/JointState", "effort[3]"),
        ("sensor_msgs/JointState", "header.stamp.sec"),
        ("nav_msgs/Odometry", "pose.covariance[35]"),
        ("std_msgs/Float32MultiArray", "data[7]"),
        ("std_msgs/Float32MultiArray", "layout.dim[0].size"),
    ],
)
def test_a_path_to_a_number_is_accepted_in_an_empty_message(kind: str, path: str) -> None:
    FieldReader(kind, [path], "action_fields").check(make(full_name(kind)))


# -- pictures -------------------------------------------------------------------------------------


def test_pictures_are_fitted_and_their_colors_put_in_order(manifest: Manifest) -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    for fit in ("crop", "stretch"):
        inputs = Inputs(manifest, InputOptions(image_fit=fit))
        for k, (encoding, stored) in enumerate(
            (("rgb8", picture), ("bgr8", np.ascontiguousarray(picture[..., ::-1])))
        ):
            frame = inputs.on_image(_image(T0 + k * PERIOD, stored, encoding), T0 + k * PERIOD)
            assert frame is not None
            seen = inputs.observation(frame).frame
            np.testing.assert_array_equal(seen, fit_image(picture, 8, 8, fit))  # type: ignore[arg-type]


def test_what_cannot_be_used_is_refused_by_the_session_not_here(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    for broken in (_image(T0, np.zeros((9, 8, 3), np.uint8)), _image(T0, encoding="bayer_rggb8")):
        inputs = Inputs(manifest, InputOptions())
        frame = inputs.on_image(broken, T0)
        assert frame is not None
        with pytest.raises(InputError):
            manifest.observation.check_frames(inputs.observation(frame).frame[None])
    assert "expected 8 x 8" in caplog.text
    assert "yuv422" in caplog.text


def test_what_cannot_be_used_is_told_once_in_a_hundred(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    options = InputOptions(action_fields=("data[0]", "data[1]"))
    inputs = Inputs(manifest, options)
    for k in range(150):
        moment = T0 + k * PERIOD
        frame = inputs.on_image(_image(moment, encoding="bayer_rggb8"), moment)
        assert frame is not None
        inputs.observation(frame)
        inputs.on_action(_array(1), moment)
        inputs.on_plan(_array(np.nan), moment)
    told = [r.getMessage() for r in caplog.records if "could not be used" in r.getMessage()]
    assert len(told) == 6
    for what in ("an image", "a std_msgs/Float32MultiArray", "a plan"):
        assert [t.split(":")[0] for t in told if t.startswith(what)] == [
            f"{what} could not be used, for the {count}. time" for count in (1, 101)
        ]


def test_a_faster_camera_is_thinned_out_and_counted(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    stamps = [T0 + round(1e9 * k / 30) for k in range(90)]
    frames = [f for s in stamps if (f := inputs.on_image(_image(s), s)) is not None]
    assert len(frames) == 15
    assert (inputs.frames_seen, inputs.frames_decimated) == (90, 75)
    inputs.restart()
    assert inputs.on_image(_image(stamps[-1] + 1), stamps[-1]) is not None


# -- state and plan -------------------------------------------------------------------------------


def test_the_state_nearest_in_time_goes_with_the_frame(manifest: Manifest) -> None:
    options = InputOptions(
        state_type="nav_msgs/Odometry",
        state_fields=("pose.pose.position.x",),
        sync_slop_s=0.03,
    )
    inputs = Inputs(manifest, options)
    inputs.check_fields(make)

    def odometry(stamp: int, x: float) -> Any:
        pose = make("geometry_msgs/msg/Pose", position=make("geometry_msgs/msg/Point", x=x))
        return make(
            "nav_msgs/msg/Odometry",
            header=_header(stamp),
            pose=make("geometry_msgs/msg/PoseWithCovariance", pose=pose),
        )

    for k in range(10):
        moment = T0 + k * 20_000_000
        inputs.on_state(odometry(moment, float(k)), moment)
    near = inputs.state(_frame(inputs, T0 + 69_000_000))
    assert near is not None
    assert near.tolist() == [3.0]
    assert inputs.state(_frame(inputs, T0 + PERIOD + 90_000_000)) is None


@pytest.mark.parametrize("rate_hz", [20, 1000, 5000])
def test_states_of_any_rate_are_there_when_a_frame_asks_for_them(
    manifest: Manifest, rate_hz: int
) -> None:
    """A camera whose frames are two periods late, of a model of 5 Hz."""
    inputs = Inputs(manifest, InputOptions(state_type="std_msgs/Float32MultiArray"))
    step, late = 10**9 // rate_hz, 2 * PERIOD
    for k in range(2 * rate_hz):
        now = T0 + k * step
        inputs.on_state(_array(k * step * 1e-9), now)
        if k % (rate_hz // 5) or k * step < late:
            continue
        stamp = now - late
        state = inputs.state(Frame(message=_image(stamp), stamp_ns=stamp, received_ns=now))
        assert state is not None
        assert abs(state[0] - 1e-9 * (stamp - T0)) <= 0.002
        newest = Frame(message=_image(now), stamp_ns=now, received_ns=now)
        latest = inputs.state(newest)
        assert latest is not None
        assert latest[0] == np.float32(k * step * 1e-9)
    assert len(inputs._robot) < 1000


def test_a_state_from_the_future_does_not_push_the_others_out(manifest: Manifest) -> None:
    inputs = Inputs(
        manifest, InputOptions(state_type="sensor_msgs/JointState", state_fields=("position[0]",))
    )
    joint = "sensor_msgs/msg/JointState"
    for k, stamp in enumerate((T0, T0 + 10**12, T0 + 40_000_000)):
        message = make(joint, header=_header(stamp), position=np.array([float(k)]))
        inputs.on_state(message, T0 + k * 20_000_000)
    for stamp, value in ((T0, 0.0), (T0 + 50_000_000, 2.0)):
        state = inputs.state(Frame(message=_image(stamp), stamp_ns=stamp, received_ns=stamp))
        assert state is not None
        assert state.tolist() == [value]


def test_frames_without_a_state_are_counted(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    taking = msgspec.structs.replace(manifest, state=StateSpec(dim=1))
    inputs = Inputs(taking, InputOptions(state_type="std_msgs/Float32MultiArray"))
    assert inputs.observation(_frame(inputs, T0)).state is None
    inputs.on_state(_array(3), T0 + PERIOD)
    seen = inputs.observation(_frame(inputs, T0 + PERIOD))
    assert seen.state is not None
    assert inputs.frames_without_state == 1
    assert "no state of the robot within 0.050 s of a frame, for the 1. time" in caplog.text


def test_a_state_that_is_late_is_waited_for(manifest: Manifest) -> None:
    options = InputOptions(state_type="std_msgs/Float32MultiArray")
    inputs = Inputs(manifest, options)
    frame = _frame(inputs, T0)
    start = time.monotonic()
    inputs.wait_for_state(frame, 0.05)
    assert time.monotonic() - start >= 0.045
    threading.Timer(0.05, lambda: inputs.on_state(_array(7), T0 + 1)).start()
    inputs.wait_for_state(frame, 5.0)
    assert time.monotonic() - start < 2.0
    state = inputs.state(frame)
    assert state is not None
    assert state.tolist() == [7.0]


def test_a_plan_is_used_up_block_by_block(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions())
    plan = np.arange(12.0, dtype=np.float32).reshape(3, 4)

    def planned(stamp: int) -> list[list[float]] | None:
        frame = Frame(message=_image(stamp), stamp_ns=stamp, received_ns=stamp)
        left = inputs.observation(frame).planned
        return None if left is None else left.tolist()

    assert planned(T0) is None
    inputs.on_plan(_array(*plan.reshape(-1)), T0 + 30_000_000)  # made from the frame at T0
    assert planned(T0 + 1) == plan.tolist()
    assert planned(T0 + PERIOD) == plan[1:].tolist()
    assert planned(T0 + 2 * PERIOD) == plan[2:].tolist()
    assert planned(T0 + 3 * PERIOD) is None
    inputs.on_plan(_array(*plan.reshape(-1)), T0 + 3 * PERIOD)
    assert planned(T0 + 3 * PERIOD + 1) is not None
    inputs.on_plan(_array(), T0 + 3 * PERIOD)
    assert planned(T0 + 3 * PERIOD + 2) is None


@pytest.mark.parametrize("bad", [[1.0, 2.0, 3.0], [1.0, 2.0, np.nan, 4.0], [0.0] * 4 * 101])
def test_a_plan_that_cannot_be_followed_is_dropped_with_the_one_before(
    manifest: Manifest, bad: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs(manifest, InputOptions())
    inputs.on_plan(_array(*range(12)), T0)
    inputs.on_plan(_array(*bad), T0 + 1)
    assert inputs.observation(_frame(inputs, T0 + 2)).planned is None
    assert "a plan could not be used" in caplog.text


def test_a_simulation_that_begins_anew_forgets_what_came_in_the_one_before(
    manifest: Manifest,
) -> None:
    kind = "trajectory_msgs/JointTrajectory"
    for action in (
        InputOptions(state_type="std_msgs/Float32MultiArray"),
        InputOptions(
            state_type="std_msgs/Float32MultiArray",
            action_type=kind,
            action_fields=("positions[0]", "positions[1]"),
        ),
    ):
        inputs = Inputs(manifest, action)
        for k in range(20):
            moment = T0 + k * PERIOD
            inputs.on_state(_array(111), moment)
            message = _array(1, 1, 1, 1)
            if action.action_type == kind:
                message = _trajectory([(0.0, [1.0, 1.0])])
            inputs.on_action(message, moment)
            inputs.on_plan(_array(*range(12)), moment)
        begun = T0 + 5 * PERIOD
        frame = inputs.on_image(_image(begun), begun)
        assert frame is not None
        assert inputs.state(frame) is None
        seen = inputs.observation(frame)
        assert seen.action is None
        assert seen.planned is None
        inputs.on_state(_array(222), begun + 1)
        state = inputs.state(frame)
        assert state is not None
        assert state.tolist() == [222.0]


def test_messages_of_two_threads_may_come_in_another_order(manifest: Manifest) -> None:
    inputs = Inputs(manifest, InputOptions(state_type="std_msgs/Float32MultiArray"))
    inputs.on_action(_array(1, 2, 3, 4), T0)
    inputs.on_state(_array(7), T0 - 20_000_000)
    assert _action(inputs, T0 + PERIOD) == [1.0, 2.0, 3.0, 4.0]


def test_after_a_pause_nothing_is_left(manifest: Manifest) -> None:
    inputs = _arm(manifest)
    inputs.on_action(_trajectory([(0.0, [1.0, 2.0])]), T0)
    inputs.forget()
    assert _action(inputs, T0 + PERIOD) is None
