# SPDX-License-Identifier: Apache-2.0
"""Labels as a ROS message: JSON in a std_msgs/String, so that any tool can read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from jepa_edge.session import Flag
from jepa_edge.text import Label

STRING = "std_msgs/msg/String"


def labels_message(
    make: Callable[..., Any], labels: Sequence[Label], flag: Flag, header: Any
) -> Any:
    """Return labels with the stamp of their image and the number of the flag that judged it.

    header: the image's. The text is {"stamp": {"sec", "nanosec"}, "frame_id", "seq", "level",
    "labels": [{"text", "probability", "similarity"}, ...]}, the best label first.
    """
    told = {
        "stamp": {"sec": int(header.stamp.sec), "nanosec": int(header.stamp.nanosec)},
        "frame_id": header.frame_id,
        "seq": flag.seq,
        "level": flag.level.name,
        "labels": labels,
    }
    return make(STRING, data=msgspec.json.encode(told).decode())
