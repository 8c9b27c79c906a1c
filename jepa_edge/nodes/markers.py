# SPDX-License-Identifier: Apache-2.0
"""The flag and the spread to look at, in rviz or Foxglove, in front of the camera.

Drawn in the image's frame, an optical one: x to the right, y down, z ahead; meters.
"""

from __future__ import annotations

from typing import Any

from jepa_edge.flags import Level
from jepa_edge.latent_variable import Futures
from jepa_edge.nodes.messages import Make, duration
from jepa_edge.session import Flag

ARRAY = "visualization_msgs/msg/MarkerArray"
_MARKER = "visualization_msgs/msg/Marker"
_SPHERE, _CUBE_LIST, _TEXT, _ADD, _DELETE = 2, 6, 9, 0, 2

_COLORS = {
    Level.UNKNOWN: (0.6, 0.6, 0.6),
    Level.NOMINAL: (0.1, 0.8, 0.2),
    Level.CAUTION: (1.0, 0.75, 0.0),
    Level.REJECT: (0.9, 0.1, 0.1),
}
_AHEAD = 1.0
_SIZE = 0.1
_BAR = 0.04
_CUBES = 12
"""Cubes of the tallest bar."""


def marker_array(make: Make, flag: Flag, futures: Futures | None, header: Any) -> Any:
    """Return a MarkerArray: a sphere in the level's color, its name and reasons, and one bar per
    step for the spread, relative to the largest of them or to what is usual, whichever is more."""
    lifetime = duration(make, flag.valid_for_s)
    color = _color(make, flag.level)
    text = flag.level.name + "".join(f"\n{reason}" for reason in flag.reasons)
    common = {"header": header, "ns": "jepa", "lifetime": lifetime, "action": _ADD}
    sphere = make(
        _MARKER,
        **common,
        id=0,
        type=_SPHERE,
        pose=_pose(make, 0.0, 0.0),
        scale=_vector(make, _SIZE, _SIZE, _SIZE),
        color=color,
    )
    label = make(
        _MARKER,
        **common,
        id=1,
        type=_TEXT,
        pose=_pose(make, 0.0, -1.5 * _SIZE),
        scale=_vector(make, 0.0, 0.0, 0.5 * _SIZE),
        color=color,
        text=text,
    )
    points, colors = _bars(make, flag, futures)
    bars = make(
        _MARKER,
        **{**common, "action": _ADD if points else _DELETE},
        id=2,
        type=_CUBE_LIST,
        pose=_pose(make, 2.0 * _SIZE, 0.0),
        scale=_vector(make, 0.8 * _BAR, 0.8 * _BAR, 0.8 * _BAR),
        color=color,
        points=points,
        colors=colors,
    )
    return make(ARRAY, markers=[sphere, label, bars])


def _bars(make: Make, flag: Flag, futures: Futures | None) -> tuple[list[Any], list[Any]]:
    """Cubes, one on the other: a column per step."""
    if futures is None:
        return [], []
    largest = float(futures.spread.max())
    if futures.usual is not None:
        largest = max(largest, float(futures.usual.max()))
    points: list[Any] = []
    colors: list[Any] = []
    for step, spread in enumerate(futures.spread):
        unusual = futures.usual is not None and spread > futures.usual[step]
        level = max(flag.level, Level.CAUTION) if unusual and flag.level else flag.level
        count = max(1, round(_CUBES * float(spread) / largest)) if largest > 0.0 else 1
        for cube in range(count):
            point = {"x": _BAR * step, "y": -0.5 * _BAR * cube, "z": 0.0}
            points.append(make("geometry_msgs/msg/Point", **point))
            colors.append(_color(make, level))
    return points, colors


def _color(make: Make, level: Level) -> Any:
    red, green, blue = _COLORS[level]
    return make("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=1.0)


def _vector(make: Make, x: float, y: float, z: float) -> Any:
    return make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def _pose(make: Make, x: float, y: float) -> Any:
    return make(
        "geometry_msgs/msg/Pose",
        position=make("geometry_msgs/msg/Point", x=x, y=y, z=_AHEAD),
        orientation=make("geometry_msgs/msg/Quaternion", w=1.0),
    )
