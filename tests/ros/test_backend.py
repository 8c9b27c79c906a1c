# SPDX-License-Identifier: Apache-2.0
"""RclpyBackend against plain rclpy, on a real ROS 2."""

from __future__ import annotations

import threading
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.nodes.parameters import Parameter
from jepa_edge.nodes.qos import Qos

from .conftest import Ros, eventually, needs_ros

pytestmark = needs_ros("rclpy", "jepa_msgs", "jepa_ros")

IMAGE = "sensor_msgs/msg/Image"
PARAMETERS = (
    Parameter(name="bundle", default="", description="Directory."),
    Parameter(name="scale", default=0.5, description="Factor.", low=0.0, high=1.0),
    Parameter(name="age", default=0.0, description="Seconds.", low=0.0),
    Parameter(name="samples", default=8, description="Count.", low=1, high=64),
    Parameter(name="kind", default="a", description="Which.", choices=("a", "b")),
    Parameter(name="fields", default=(), description="Paths."),
    Parameter(name="gains", default=(), description="Numbers.", numbers=True),
    Parameter(name="on", default=True, description="Whether."),
)


def backend(node: Any) -> Any:
    from jepa_ros.backend import RclpyBackend

    return RclpyBackend(node)


def test_make_brings_values_to_the_type_of_their_field(ros: Ros) -> None:
    make = backend(ros.node("n")).make
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)

    image = make(IMAGE, height=np.int64(4), width=5, step=15, data=pixels, encoding="rgb8")
    plan = make("std_msgs/msg/Float32MultiArray", data=np.arange(6.0).reshape(2, 3))
    none = make("std_msgs/msg/Float32MultiArray", data=np.zeros((0, 3), np.float32))
    flag = make("jepa_msgs/msg/ConfidenceFlag", confidence=1, score=np.float32(0.5), latched=True)
    status = make("diagnostic_msgs/msg/DiagnosticStatus", level=2)
    odometry = make("geometry_msgs/msg/PoseWithCovariance", covariance=list(range(36)))

    assert isinstance(image.data, array)
    assert image.data.tobytes() == pixels.tobytes()
    assert type(image.height) is int
    assert isinstance(plan.data, array)
    assert plan.data.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert none.data.tolist() == []
    assert (type(flag.confidence), flag.confidence) == (float, 1.0)  # an int is garbage in C
    assert type(flag.score) is float
    assert status.level == b"\x02"
    assert odometry.covariance.tolist() == list(range(36))
    assert image.header.frame_id == ""


def test_make_is_fast_enough_for_a_camera(ros: Ros) -> None:
    make = backend(ros.node("n")).make
    pixels = np.zeros((480, 640, 3), np.uint8)
    make(IMAGE, data=pixels)
    start = time.perf_counter()
    make(IMAGE, data=pixels)

    assert time.perf_counter() - start < 0.02  # ndarray: 0.3 s, list: 0.07 s


@pytest.mark.parametrize(
    ("type_name", "fields", "named"),
    [
        (IMAGE, {"hight": 4}, "hight"),
        (IMAGE, {"height": "4"}, "height"),
        (IMAGE, {"height": 4.5}, "height"),
        (IMAGE, {"encoding": 3}, "encoding"),
        (IMAGE, {"header": 3}, "header"),
        ("jepa_msgs/msg/ConfidenceFlag", {"latched": 1}, "latched"),
        ("jepa_msgs/msg/ConfidenceFlag", {"score": "0.5"}, "score"),
        ("std_msgs/msg/UInt8", {"data": 256}, "expected 0 to 255"),
        ("std_msgs/msg/UInt8", {"data": -1}, "expected 0 to 255"),
        ("std_msgs/msg/Int64", {"data": 2**63}, "9223372036854775807"),
        ("std_msgs/msg/Float32", {"data": 1e39}, "data"),
        ("std_msgs/msg/UInt8MultiArray", {"data": np.array([1, 300])}, "300 is no uint8"),
        ("std_msgs/msg/UInt8MultiArray", {"data": [-1]}, "-1 is no uint8"),
        ("std_msgs/msg/Int32MultiArray", {"data": np.array([0.5])}, "0.5 is no int32"),
        ("std_msgs/msg/Int32MultiArray", {"data": [float("nan")]}, "nan is no int32"),
        ("std_msgs/msg/Float32MultiArray", {"data": np.array([1.0, -1e39])}, "is no float32"),
        ("std_msgs/msg/Float32MultiArray", {"data": [1e39]}, "is no float32"),
        ("std_msgs/msg/Float32MultiArray", {"data": ["1"]}, "array of numbers"),
        ("std_msgs/msg/Byte", {"data": b"ab"}, "2 bytes, expected 1"),
        ("std_msgs/msg/ByteMultiArray", {"data": [b"a", b""]}, "0 bytes, expected 1"),
        ("std_msgs/msg/ByteMultiArray", {"data": [256]}, "data"),
        ("sensor_msgs/msg/JointState", {"name": ["a", 1]}, "expected strings"),
        ("sensor_msgs/msg/JointState", {"name": "abc"}, "expected a list"),
        ("std_msgs/msg/String", {"text": "a"}, "no such field; it has data"),
    ],
)
def test_make_names_the_field_that_does_not_fit(
    ros: Ros, type_name: str, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        backend(ros.node("n")).make(type_name, **fields)


def test_make_takes_what_the_field_can_just_hold(ros: Ros) -> None:
    make = backend(ros.node("n")).make
    largest = float(np.finfo(np.float32).max)

    assert make("std_msgs/msg/UInt8", data=255).data == 255
    assert make("std_msgs/msg/Int64", data=-(2**63)).data == -(2**63)
    assert make("std_msgs/msg/Float32", data=largest).data == largest
    assert make("std_msgs/msg/Float32", data=float("inf")).data == float("inf")
    wide = make("std_msgs/msg/Float32MultiArray", data=np.array([largest, np.inf, np.nan]))
    assert np.array_equal(wide.data, [largest, np.inf, np.nan], equal_nan=True)
    assert make("std_msgs/msg/UInt8MultiArray", data=np.array([0, 255])).data.tolist() == [0, 255]
    for given in (np.array([1, 255], np.uint8), [1, 255], b"\x01\xff", [b"\x01", b"\xff"]):
        assert make("std_msgs/msg/ByteMultiArray", data=given).data == [b"\x01", b"\xff"]


def test_a_field_may_be_called_as_the_argument_is(ros: Ros) -> None:
    make = backend(ros.node("n")).make
    described = make(
        "type_description_interfaces/msg/IndividualTypeDescription", type_name="std_msgs/msg/Bool"
    )

    assert described.type_name == "std_msgs/msg/Bool"


def test_an_unknown_type_is_named(ros: Ros) -> None:
    make = backend(ros.node("n")).make
    with pytest.raises(MissingDependencyError, match="no_such_msgs"):
        make("no_such_msgs/msg/Thing")
    with pytest.raises(InputError, match="expected package/msg/Type"):
        make("Image")


def test_messages_go_to_a_subscriber_and_not_after_the_close(ros: Ros) -> None:
    here, there = backend(ros.node("here")), backend(ros.node("there"))
    got: list[Any] = []
    threads = set()

    def receive(message: Any) -> None:
        threads.add(threading.current_thread())
        got.append(message)

    subscription = there.subscribe("image", IMAGE, Qos(), receive)
    publisher = here.publisher("image", IMAGE, Qos())
    eventually(lambda: publisher._publisher.get_subscription_count())
    publisher.publish(here.make(IMAGE, height=2, data=np.arange(5, dtype=np.uint8)))
    eventually(lambda: got)
    assert np.asarray(got[0].data).tolist() == [0, 1, 2, 3, 4]
    assert threading.main_thread() not in threads

    subscription.close()
    subscription.close()
    publisher.publish(here.make(IMAGE))
    time.sleep(0.2)
    assert len(got) == 1
    publisher.close()
    publisher.publish(here.make(IMAGE))  # a worker may finish late


def test_close_waits_for_the_callback_at_work_and_none_begins_after_it(ros: Ros) -> None:
    here = backend(ros.node("here"))
    inside, leave, calls = threading.Event(), threading.Event(), []

    def work() -> None:
        inside.set()
        leave.wait(5.0)
        calls.append(time.monotonic())

    timer = here.timer(0.005, work)
    assert inside.wait(5.0)
    closing = threading.Thread(target=timer.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    leave.set()
    closing.join(5.0)
    assert not closing.is_alive()
    told = len(calls)
    time.sleep(0.1)
    assert len(calls) == told >= 1


def test_a_callback_may_close_its_own_subscription(ros: Ros) -> None:
    here = backend(ros.node("here"))
    ended = threading.Event()

    def once(_: Any) -> None:
        subscription.close()
        ended.set()

    subscription = here.subscribe("image", IMAGE, Qos(), once)
    publisher = here.publisher("image", IMAGE, Qos())

    def told() -> bool:
        publisher.publish(here.make(IMAGE))
        return ended.is_set()

    eventually(told)


def test_callbacks_of_one_backend_never_overlap(ros: Ros) -> None:
    here = backend(ros.node("here"))
    inside, worst, calls = 0, 0, 0

    def work(*_: Any) -> None:
        nonlocal inside, worst, calls
        inside += 1
        worst = max(worst, inside)
        time.sleep(0.01)
        inside -= 1
        calls += 1

    for period in (0.011, 0.013):
        here.timer(period, work)
    here.subscribe("image", IMAGE, Qos(), work)
    publisher = here.publisher("image", IMAGE, Qos())
    for _ in range(20):
        publisher.publish(here.make(IMAGE))
        time.sleep(0.01)
    eventually(lambda: calls > 30)

    assert worst == 1


def test_qos_is_what_was_asked_for(ros: Ros) -> None:
    node = ros.node("here")
    here = backend(node)
    here.publisher("flag", IMAGE, Qos(depth=1, deadline_s=0.25))
    here.publisher("info", IMAGE, Qos(depth=3, transient_local=True))
    here.subscribe("image", IMAGE, Qos(reliable=False, depth=1), lambda _: None)

    # The graph hears of them a moment later.
    flag = eventually(lambda: node.get_publishers_info_by_topic("/flag"))[0].qos_profile
    info = eventually(lambda: node.get_publishers_info_by_topic("/info"))[0].qos_profile
    image = eventually(lambda: node.get_subscriptions_info_by_topic("/image"))[0].qos_profile
    assert flag.reliability.name == "RELIABLE"
    assert flag.deadline.nanoseconds == 250_000_000
    assert info.durability.name == "TRANSIENT_LOCAL"
    assert image.reliability.name == "BEST_EFFORT"


def test_a_late_subscriber_gets_a_latched_message(ros: Ros) -> None:
    here = backend(ros.node("here"))
    latched = Qos(depth=1, transient_local=True)
    here.publisher("info", IMAGE, latched).publish(here.make(IMAGE, height=7))
    got: list[Any] = []
    backend(ros.node("late")).subscribe("info", IMAGE, latched, got.append)

    assert eventually(lambda: got)[0].height == 7


def test_a_service_answers_until_it_is_closed(ros: Ros) -> None:
    from std_srvs.srv import Trigger

    here = backend(ros.node("here"))
    service = here.service(
        "reset",
        "std_srvs/srv/Trigger",
        lambda _: here.make("std_srvs/srv/Trigger_Response", success=True, message="done"),
    )
    client = ros.node("there").create_client(Trigger, "reset")
    assert client.wait_for_service(5.0)
    answer = client.call_async(Trigger.Request())
    eventually(answer.done)
    assert (answer.result().success, answer.result().message) == (True, "done")

    service.close()
    eventually(lambda: not client.service_is_ready())


def test_the_timer_keeps_the_steady_clock_under_simulated_time(ros: Ros) -> None:
    here = backend(ros.node("here", "-p", "use_sim_time:=true"))
    assert here.now_ns() == 0  # no /clock yet
    calls: list[float] = []
    timer = here.timer(0.02, lambda: calls.append(time.monotonic()))
    eventually(lambda: len(calls) >= 10)
    timer.close()
    assert np.median(np.diff(calls)) == pytest.approx(0.02, abs=0.01)

    clock = here.publisher("/clock", "rosgraph_msgs/msg/Clock", Qos())
    stamp = here.make("builtin_interfaces/msg/Time", sec=12, nanosec=5)

    def told() -> bool:
        clock.publish(here.make("rosgraph_msgs/msg/Clock", clock=stamp))
        return bool(here.now_ns() == 12_000_000_005)

    eventually(told)


def test_the_name_is_fully_qualified(ros: Ros) -> None:
    assert backend(ros.node("n", "-r", "__ns:=/robot1")).name == "/robot1/n"


def test_parameters_have_descriptors(ros: Ros) -> None:
    node = ros.node("n")
    backend(node).parameters(PARAMETERS)
    scale, age, samples, kind, fields = (
        node.describe_parameter(name) for name in ("scale", "age", "samples", "kind", "fields")
    )

    assert scale.description == "Factor."
    assert (scale.floating_point_range[0].from_value, scale.floating_point_range[0].to_value) == (
        0.0,
        1.0,
    )
    assert age.floating_point_range[0].to_value > 1e308
    assert (samples.integer_range[0].from_value, samples.integer_range[0].to_value) == (1, 64)
    assert kind.additional_constraints == "one of a, b"
    assert not scale.read_only
    assert fields.type == 9  # PARAMETER_STRING_ARRAY, though it is empty


def test_parameters_come_from_the_outside_and_stay_live(ros: Ros, tmp_path: Path) -> None:
    from rclpy.parameter import Parameter as RosParameter

    file = tmp_path / "given.yaml"
    file.write_text("/**:\n  ros__parameters:\n    fields: [linear.x]\n    gains: [1, 2]\n")
    node = ros.node("n", "--params-file", str(file), "-p", "scale:=1", "-p", "bundle:=/b")
    values = backend(node).parameters(PARAMETERS)
    assert dict(values) == {
        "bundle": "/b",
        "scale": 1.0,
        "age": 0.0,
        "samples": 8,
        "kind": "a",
        "fields": ("linear.x",),
        "gains": (1.0, 2.0),
        "on": True,
    }
    assert type(values["scale"]) is float
    assert node.get_parameter("scale").type_ is RosParameter.Type.DOUBLE
    assert node.get_parameter("gains").type_ is RosParameter.Type.DOUBLE_ARRAY

    assert node.set_parameters([RosParameter("scale", value=0)])[0].successful
    assert node.set_parameters([RosParameter("fields", value=[])])[0].successful
    assert values["scale"] == 0.0
    assert values["fields"] == ()


def test_a_value_that_does_not_fit_is_refused_with_the_reason(ros: Ros) -> None:
    from rclpy.parameter import Parameter as RosParameter

    node = ros.node("n")
    here = backend(node)
    values = here.parameters(PARAMETERS)

    def reason(name: str, value: Any) -> str:
        answer = node.set_parameters([RosParameter(name, value=value)])[0]
        return "" if answer.successful else str(answer.reason)

    assert "out of range" in reason("scale", 1.5)
    assert "0 to 1" in reason("scale", 2)
    assert "one of a, b" in reason("kind", "c")
    assert "expected int" in reason("samples", 1.5)
    assert reason("on", False) == ""
    here.freeze_parameters(True)
    assert "fixed while the node runs" in reason("on", True)
    assert reason("use_sim_time", False) == ""
    here.freeze_parameters(False)
    assert reason("on", True) == ""
    assert (values["scale"], values["kind"], values["samples"]) == (0.5, "a", 8)


def test_a_bad_value_from_the_outside_is_an_error_of_one_line(ros: Ros) -> None:
    with pytest.raises(InputError, match="scale") as caught:
        backend(ros.node("n", "-p", "scale:=3")).parameters(PARAMETERS)
    assert "\n" not in str(caught.value)
