# SPDX-License-Identifier: Apache-2.0
"""ROS 2 names: expand, remap, and what they are called in DDS.

Source: design.ros2.org, "Topic and Service name mapping to DDS" and "Remapping Names".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jepa_edge.errors import InputError

_TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeName:
    """A node's place. namespace: "/" or "/robot1". remaps: from name to name, as after `-r`.

    Names in remaps may be relative, private or absolute, like any other. Raises InputError for
    names that ROS does not allow.
    """

    node: str
    namespace: str = "/"
    remaps: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _TOKEN.match(self.node):
            raise InputError(
                f"node name is {self.node!r}, expected letters, digits and _, no digit first"
            )
        if not self.namespace.startswith("/"):
            object.__setattr__(self, "namespace", "/" + self.namespace)
        if self.namespace != "/":
            _check(self.namespace, self.namespace)
        for pair in self.remaps.items():
            for name in pair:
                self.expand(name)

    @property
    def full(self) -> str:
        """Fully qualified node name, e.g. "/robot1/jepa_planner"."""
        return self._under(self.node)

    def _under(self, name: str) -> str:
        return f"{'' if self.namespace == '/' else self.namespace}/{name}"

    def expand(self, name: str) -> str:
        """Return the absolute name, before remapping. Raises InputError for a bad name."""
        if name == "~" or name.startswith("~/"):
            absolute = self.full + name[1:]
        elif name.startswith("/"):
            absolute = name
        else:
            absolute = self._under(name)
        _check(absolute, name)
        return absolute

    def resolve(self, name: str) -> str:
        """Return the absolute name after remapping. Raises InputError for a bad name."""
        absolute = self.expand(name)
        for old, new in self.remaps.items():
            if self.expand(old) == absolute:
                return self.expand(new)
        return absolute


def _check(absolute: str, given: str) -> None:
    for token in absolute[1:].split("/"):
        if not _TOKEN.match(token):
            raise InputError(
                f"ROS name is {given!r}, expected parts of letters, digits and _ with single "
                "slashes between, no digit first"
            )


def dds_type(name: str) -> str:
    """Return the DDS type name: "pkg/msg/Type" becomes "pkg::msg::dds_::Type_"."""
    try:
        package, kind, short = name.split("/")
    except ValueError:
        raise InputError(f"ROS type is {name!r}, expected package/msg/Type") from None
    return f"{package}::{kind}::dds_::{short}_"


def topic_name(absolute: str) -> str:
    """Return the DDS name of a topic."""
    return "rt" + absolute


def request_name(absolute: str) -> str:
    """Return the DDS name of a service's requests."""
    return f"rq{absolute}Request"


def reply_name(absolute: str) -> str:
    """Return the DDS name of a service's replies."""
    return f"rr{absolute}Reply"
