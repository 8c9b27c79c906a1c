# SPDX-License-Identifier: Apache-2.0
"""Types, zeros and hashes; tests/ros/test_pinned.py holds them against a real ROS 2."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.ros_types import make, type_hash, typestore

FLAG = "jepa_msgs/msg/ConfidenceFlag"


@pytest.fixture(scope="module")
def store() -> Any:
    return typestore()


def test_every_type_has_zeros_that_are_written_and_read_back(store: Any) -> None:
    build = make(store)
    for name in store.fielddefs:
        message = build(name)
        cdr = store.serialize_cdr(message, name)
        again = store.serialize_cdr(store.deserialize_cdr(cdr, name), name)
        assert bytes(cdr) == bytes(again), name
        body = bytes(cdr[4:])
        # A string's length counts its terminator; all else is zero.
        assert set(body) <= {0, 1}, name


def test_zeros_are_new_with_every_call(store: Any) -> None:
    build = make(store)
    one, two = build(FLAG), build(FLAG)
    one.header.stamp.sec = 7
    assert two.header.stamp.sec == 0
    assert build("rmw_dds_common/msg/Gid").data is not build("rmw_dds_common/msg/Gid").data


def test_the_layout_of_a_header_is_that_of_cdr(store: Any) -> None:
    header = make(store)("std_msgs/msg/Header", frame_id="cam")
    header.stamp.sec, header.stamp.nanosec = -1, 5
    expected = b"\x00\x01\x00\x00" + struct.pack("<iII", -1, 5, 4) + b"cam\0"
    assert bytes(store.serialize_cdr(header, "std_msgs/msg/Header")) == expected


@pytest.mark.parametrize("value", [[1.0, 2.0], (1, 2), np.array([[1.0], [2.0]]), np.arange(1, 3)])
def test_arrays_become_flat_and_of_the_fields_type(store: Any, value: Any) -> None:
    data = make(store)("std_msgs/msg/Float32MultiArray", data=value).data
    assert data.dtype == np.float32
    assert data.tolist() == [1.0, 2.0]


def test_a_big_array_of_the_right_type_is_not_copied(store: Any) -> None:
    pixels = np.zeros(480 * 640 * 3, np.uint8)
    assert make(store)("sensor_msgs/msg/Image", data=pixels).data.base is pixels


def test_constants_are_on_the_message(store: Any) -> None:
    flag = make(store)(FLAG)
    assert (flag.UNKNOWN, flag.NOMINAL, flag.CAUTION, flag.REJECT) == (0, 1, 2, 3)
    assert flag.level == flag.UNKNOWN


def test_unknown_types_and_fields_are_refused(store: Any) -> None:
    build = make(store)
    with pytest.raises(InputError, match="no ROS type 'a/msg/B'"):
        build("a/msg/B")
    with pytest.raises(InputError, match="has no field 'levels'"):
        build(FLAG, levels=1)


def test_services_and_actions_have_all_their_parts(store: Any) -> None:
    for part in ("Request", "Response", "Event"):
        assert f"jepa_msgs/srv/ScoreActions_{part}" in store.types
    for part in ("Goal", "Result", "Feedback", "SendGoal_Request", "GetResult_Response"):
        assert f"jepa_msgs/action/PlanLatent_{part}" in store.types
    assert "jepa_msgs/action/PlanLatent_FeedbackMessage" in store.types


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # from share/<package>/{msg,srv}/*.json of a ROS 2 Jazzy built from source
        (
            "std_srvs/srv/Trigger",
            "RIHS01_eeff2cd6fa5ad9d27cdf4dec64818317839b62f212a91e6b5304b634b2062c5f",
        ),
        (
            "std_srvs/srv/Trigger_Request",
            "RIHS01_d010825374ce8918e72bfd826c82603e60f45419e932ea976f807b74a863a199",
        ),
        (  # holds an array of char, which ROS hashes as uint8
            "service_msgs/msg/ServiceEventInfo",
            "RIHS01_41bcbbe07a75c9b52bc96bfd5c24d7f0fc0a08c0cb7921b3373c5732345a6f45",
        ),
    ],
)
def test_hashes_are_those_of_a_ros_build(store: Any, name: str, expected: str) -> None:
    assert type_hash(store, name) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1e300, np.inf), (-1e39, -np.inf), (np.inf, np.inf), (0.1, 0.1), (3, 3.0)],
)
def test_what_is_too_large_for_a_float32_becomes_infinite(
    store: Any, value: float, expected: float
) -> None:
    build = make(store)
    single = build("std_msgs/msg/Float32", data=value)
    assert single.data == expected
    store.serialize_cdr(single, "std_msgs/msg/Float32")
    for given in ([value], np.array([value])):
        data = build("std_msgs/msg/Float32MultiArray", data=given).data
        assert data.dtype == np.float32
        assert data[0] == np.float32(expected)
    assert np.isnan(build("std_msgs/msg/Float32", data=np.nan).data)
    assert build("std_msgs/msg/Float64", data=1e300).data == 1e300


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("UInt8", (0, 255, True), (256, -1, 1.0, "1", None)),
        ("Byte", (0, 255), (256, -1)),
        ("Char", (255,), (256,)),
        ("Int32", (-(2**31), 2**31 - 1), (2**31, -(2**31) - 1, 0.5)),
        ("UInt64", (2**64 - 1,), (2**64, -1)),
    ],
)
def test_integers_out_of_range_are_refused(
    store: Any, kind: str, good: tuple[Any, ...], bad: tuple[Any, ...]
) -> None:
    build = make(store)
    name = f"std_msgs/msg/{kind}"
    size = int(kind.partition("nt")[2] or 8)
    for value in good:
        message = build(name, data=value)
        assert int.from_bytes(store.serialize_cdr(message, name)[4:], "little") == value % 2**size
    for value in bad:
        with pytest.raises(InputError, match=rf"{name}\.data cannot be"):
            build(name, data=value)
        if kind not in ("Byte", "Char"):
            with pytest.raises(InputError, match=rf"{name}MultiArray\.data cannot be"):
                build(f"{name}MultiArray", data=[value])


@pytest.mark.parametrize("value", [np.array([300, -1]), np.array([1.5]), [-1], np.array([2**40])])
def test_arrays_of_integers_never_wrap_round(store: Any, value: Any) -> None:
    with pytest.raises(InputError, match=r"data cannot be .*expected"):
        make(store)("std_msgs/msg/UInt8MultiArray", data=value)
    assert make(store)("std_msgs/msg/UInt8MultiArray", data=[]).data.dtype == np.uint8
