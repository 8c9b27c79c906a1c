# SPDX-License-Identifier: Apache-2.0
"""Names expand, remap and mangle as design.ros2.org has them."""

from __future__ import annotations

import pytest

from jepa_edge.dds import names
from jepa_edge.dds.names import NodeName
from jepa_edge.errors import InputError


@pytest.mark.parametrize(
    ("name", "absolute"),
    [
        ("image", "/robot1/image"),
        ("jepa/flag", "/robot1/jepa/flag"),
        ("~/get_state", "/robot1/jepa/get_state"),
        ("~", "/robot1/jepa"),
        ("/diagnostics", "/diagnostics"),
    ],
)
def test_names_expand_by_namespace_and_node(name: str, absolute: str) -> None:
    assert NodeName(node="jepa", namespace="/robot1").resolve(name) == absolute


def test_the_root_namespace_adds_nothing() -> None:
    assert NodeName(node="jepa").resolve("image") == "/image"
    assert NodeName(node="jepa").full == "/jepa"
    assert NodeName(node="jepa", namespace="a/b").full == "/a/b/jepa"


def test_a_remap_matches_the_expanded_name_and_is_not_applied_twice() -> None:
    node = NodeName(
        node="jepa",
        namespace="/robot1",
        remaps={"image": "/camera/image_raw", "/camera/image_raw": "other", "~/x": "y"},
    )

    assert node.resolve("image") == "/camera/image_raw"
    assert node.resolve("/robot1/image") == "/camera/image_raw"
    assert node.resolve("/image") == "/image"
    assert node.resolve("~/x") == "/robot1/y"


@pytest.mark.parametrize("name", ["", "/", "a//b", "a/", "1a", "a-b", "a b", "~a", "/a/", "ä"])
def test_names_that_ros_does_not_allow_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected"):
        NodeName(node="jepa").resolve(name)
    with pytest.raises(InputError, match="expected"):
        NodeName(node="jepa", remaps={"image": name})


@pytest.mark.parametrize("node", ["", "a/b", "9a", "a b"])
def test_bad_node_names_are_refused(node: str) -> None:
    with pytest.raises(InputError, match="node name"):
        NodeName(node=node)


def test_dds_knows_topics_services_and_types_by_their_mangled_names() -> None:
    assert names.topic_name("/robot1/image") == "rt/robot1/image"
    assert names.request_name("/reset") == "rq/resetRequest"
    assert names.reply_name("/reset") == "rr/resetReply"
    assert names.dds_type("sensor_msgs/msg/Image") == "sensor_msgs::msg::dds_::Image_"
    with pytest.raises(InputError, match="package/msg/Type"):
        names.dds_type("Image")
