# SPDX-License-Identifier: Apache-2.0
"""The environment that ROS 2 users set decides where peers are looked for."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from jepa_edge.dds.config import configuration, domain_id
from jepa_edge.errors import InputError


def _domain(text: str) -> ET.Element:
    """The configuration's last part; all begin with how long writers linger."""
    linger, _, rest = text.rstrip(",").partition(",")
    assert ET.fromstring(linger).findtext("Domain/Internal/WriterLingerDuration") == "100 ms"
    found = ET.fromstring(rest).find("Domain")
    assert found is not None
    return found


def test_localhost_stays_on_loopback_whatever_the_environment_says() -> None:
    domain = _domain(configuration(True, {"CYCLONEDDS_URI": "<other/>"}))

    interface = domain.find("General/Interfaces/NetworkInterface")
    assert interface is not None
    assert interface.get("name") == "lo"
    assert domain.findtext("General/AllowMulticast") == "false"
    assert [p.get("address") for p in domain.findall("Discovery/Peers/Peer")] == ["127.0.0.1"]


@pytest.mark.parametrize(
    "environment",
    [{"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, {"ROS_LOCALHOST_ONLY": "1"}],
)
def test_the_localhost_range_looks_on_this_machine(environment: dict[str, str]) -> None:
    domain = _domain(configuration(None, environment))

    assert domain.findtext("General/AllowMulticast") == "false"
    assert [p.get("address") for p in domain.findall("Discovery/Peers/Peer")] == ["localhost"]
    assert [i.get("name") for i in domain.findall(".//NetworkInterface")] == ["lo"]


def test_the_localhost_range_reaches_static_peers_too() -> None:
    environment = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "10.0.0.2"}
    domain = _domain(configuration(None, environment))

    peers = [p.get("address") for p in domain.findall("Discovery/Peers/Peer")]
    assert peers == ["localhost", "10.0.0.2"]
    assert len(domain.findall(".//NetworkInterface")) == 2


def test_the_user_has_the_last_word_and_the_default_is_cyclones() -> None:
    linger = configuration(None, {})
    assert ET.fromstring(linger.rstrip(",")).findtext(".//WriterLingerDuration") == "100 ms"
    assert configuration(None, {"CYCLONEDDS_URI": "file:///a.xml"}) == f"{linger}file:///a.xml"
    both = {"CYCLONEDDS_URI": "<b/>", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    assert configuration(None, both).endswith(",<b/>")


def test_static_peers_come_on_top_of_multicast() -> None:
    domain = _domain(configuration(None, {"ROS_STATIC_PEERS": "10.0.0.2;robot"}))

    peers = [p.get("address") for p in domain.findall("Discovery/Peers/Peer")]
    assert peers == ["10.0.0.2", "robot"]
    assert domain.findtext("General/AllowMulticast") == "default"


def test_the_range_off_hides_behind_a_tag_of_its_own() -> None:
    domain = _domain(configuration(None, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}))

    assert (domain.findtext("Discovery/Tag") or "").startswith("ros_discovery_off_")


def test_what_ros_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="SUBNET"):
        configuration(None, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "MOON"})


def test_the_domain_is_the_option_then_the_environment_then_zero() -> None:
    assert domain_id(None, {}) == 0
    assert domain_id(None, {"ROS_DOMAIN_ID": "7"}) == 7
    assert domain_id(3, {"ROS_DOMAIN_ID": "7"}) == 3
    for given, environment in ((None, {"ROS_DOMAIN_ID": "x"}), (233, {}), (-1, {})):
        with pytest.raises(InputError, match="expected"):
            domain_id(given, environment)
