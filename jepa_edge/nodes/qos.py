# SPDX-License-Identifier: Apache-2.0
"""Quality of service of a topic, in the words of ROS 2."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jepa_edge.errors import InputError

PROFILES: dict[str, tuple[bool, int]] = {
    "SENSOR_DATA": (False, 5),
    "DEFAULT": (True, 10),
    "RELIABLE": (True, 1),
    "BEST_EFFORT": (False, 1),
}
"""Name to (reliable, depth); the first two are rclpy's own profiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """History is keep-last. deadline_s: longest gap between messages; None promises nothing.

    transient_local: late subscribers get the last messages. Raises InputError for numbers that are
    out of range.
    """

    reliable: bool = True
    depth: int = 10
    transient_local: bool = False
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 10_000:
            raise InputError(f"qos depth is {self.depth}, expected 1 to 10000 messages")
        if self.deadline_s is not None and not 0.0 < self.deadline_s < math.inf:
            raise InputError(f"qos deadline_s is {self.deadline_s}, expected above 0, or None")


def qos_profile(name: str, depth: int = 0) -> Qos:
    """Return the profile of that name. depth: 0 keeps the profile's own.

    Raises InputError for a name that is none of PROFILES.
    """
    if name.upper() not in PROFILES:
        raise InputError(f"qos is {name!r}, expected one of {', '.join(PROFILES)}")
    reliable, usual = PROFILES[name.upper()]
    return Qos(reliable=reliable, depth=depth or usual)
