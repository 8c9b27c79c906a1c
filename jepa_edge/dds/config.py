# SPDX-License-Identifier: Apache-2.0
"""Where to look for peers: Cyclone's configuration from the variables that ROS 2 users set.

Source: ROS 2 "Improved Dynamic Discovery"; rmw_cyclonedds, check_create_domain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

from jepa_edge.errors import InputError

_RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT", "")
# As in rmw_cyclonedds: how many processes of one machine find each other without multicast.
_MAX_PROCESSES = 32
_HIGHEST_DOMAIN = 232
# Cyclone 11 drops what arrives on an interface that it was not given, and peers of rmw_cyclonedds
# write to 127.0.0.1: they are heard on lo only.
_LOOPBACK = '<NetworkInterface name="lo"/>'
# Fewer and larger datagrams than on a network: a VGA frame arrives in half the time at worst (p99).
_LARGE_MESSAGES = "<MaxMessageSize>65500B</MaxMessageSize>"
_ANY = '<NetworkInterface autodetermine="true"/>'


# How long each writer waits at its end for readers that have not acknowledged all; Cyclone's own
# 1 s, one writer after another, would keep a node alive for seconds after it was told to stop.
_LINGER = (
    "<CycloneDDS><Domain><Internal><WriterLingerDuration>100 ms</WriterLingerDuration></Internal>"
    "</Domain></CycloneDDS>,"
)


def domain_id(given: int | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Return the domain: the given one, else $ROS_DOMAIN_ID, else 0. Raises InputError."""
    text = environment.get("ROS_DOMAIN_ID") or "0"
    try:
        number = int(text) if given is None else given
    except ValueError:
        raise InputError(f"ROS_DOMAIN_ID is {text!r}, expected a number") from None
    if not 0 <= number <= _HIGHEST_DOMAIN:
        raise InputError(f"the DDS domain is {number}, expected 0 to {_HIGHEST_DOMAIN}")
    return number


def configuration(localhost: bool | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return Cyclone's configuration.

    localhost: True keeps everything on this machine's loopback interface, whatever the environment
    says; None follows CYCLONEDDS_URI, ROS_AUTOMATIC_DISCOVERY_RANGE, ROS_STATIC_PEERS and
    ROS_LOCALHOST_ONLY. Raises InputError for values that ROS does not know.
    """
    if localhost:
        return _LINGER + _xml(interfaces=_LOOPBACK, peers=("127.0.0.1",))
    discovery_range = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
    if discovery_range not in _RANGES:
        raise InputError(
            f"ROS_AUTOMATIC_DISCOVERY_RANGE is {discovery_range!r}, expected one of "
            f"{', '.join(filter(None, _RANGES))}"
        )
    static = tuple(filter(None, environment.get("ROS_STATIC_PEERS", "").split(";")))
    if environment.get("ROS_LOCALHOST_ONLY") == "1":  # as in rcl: it overrides the other two
        discovery_range, static = "LOCALHOST", ()
    own = ""
    if discovery_range == "OFF":
        own = (
            "<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast></General>"
            "<Discovery><ParticipantIndex>none</ParticipantIndex>"
            f"<Tag>ros_discovery_off_{os.getpid()}</Tag></Discovery></Domain></CycloneDDS>,"
        )
    elif discovery_range == "LOCALHOST":
        interfaces = _LOOPBACK + (_ANY if static else "")
        own = _xml(interfaces=interfaces, peers=("localhost", *static)) + ","
    elif static and discovery_range != "SYSTEM_DEFAULT":
        own = _xml(interfaces="", peers=static, multicast=True) + ","
    return _LINGER + own + environment.get("CYCLONEDDS_URI", "")


def _xml(*, interfaces: str, peers: tuple[str, ...], multicast: bool = False) -> str:
    listed = "".join(f"<Peer address={quoteattr(peer)}/>" for peer in peers)
    return (
        "<CycloneDDS><Domain><General>"
        f"{f'<Interfaces>{interfaces}</Interfaces>' if interfaces else ''}"
        f"<AllowMulticast>{'default' if multicast else 'false'}</AllowMulticast>"
        f"{_LARGE_MESSAGES if interfaces == _LOOPBACK else ''}</General>"
        "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
        f"<MaxAutoParticipantIndex>{_MAX_PROCESSES}</MaxAutoParticipantIndex>"
        f"<Peers>{listed}</Peers></Discovery></Domain></CycloneDDS>"
    )
