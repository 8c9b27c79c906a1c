# SPDX-License-Identifier: Apache-2.0
"""ROS 2 message types through `rosbags`, ours included. Needs the extra `mcap`; needs no ROS."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from jepa_edge.errors import MissingDependencyError

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

CONFIDENCE_FLAG = "jepa_msgs/msg/ConfidenceFlag"
STATE_EMBEDDING = "jepa_msgs/msg/StateEmbedding"
IMAGE = "sensor_msgs/msg/Image"
ACTION = "std_msgs/msg/Float32MultiArray"


def typestore() -> Typestore:
    """Return ROS 2 Jazzy's types plus jepa_msgs. Raises MissingDependencyError without rosbags."""
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise MissingDependencyError(
            "MCAP and rosbag2 files need rosbags; install it with `pip install 'jepa-edge[mcap]'`"
        ) from error
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in (CONFIDENCE_FLAG, STATE_EMBEDDING):
        text = files("jepa_edge.msg").joinpath(name.rsplit("/", 1)[1] + ".msg").read_text()
        store.register(get_types_from_msg(text, name))
    return store
