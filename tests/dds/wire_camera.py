# SPDX-License-Identifier: Apache-2.0
"""A camera and a controller in a process of their own, to be killed: wire_camera.py NPZ DOMAIN."""

from __future__ import annotations

import sys
import time
from itertools import count

import numpy as np

from jepa_edge.dds.backend import DdsBackend
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.nodes.messages import header
from jepa_edge.nodes.qos import Qos

IMAGE, ARRAY = "sensor_msgs/msg/Image", "std_msgs/msg/Float32MultiArray"
PERIOD_S = 0.2


def main(path: str, domain: int) -> None:
    episode = np.load(path)
    frames, actions = episode["frames"], episode["actions"]
    participant = DdsParticipant(domain, localhost=True)
    backend = DdsBackend(participant, "camera")
    images = backend.publisher("image", IMAGE, Qos(depth=1))
    commands = backend.publisher("action", ARRAY, Qos(depth=10))
    while not (images.matched and commands.matched):
        time.sleep(0.01)
    begun_s = time.monotonic()
    for k in count():
        time.sleep(max(0.0, begun_s + k * PERIOD_S - time.monotonic()))
        frame = frames[k]
        images.publish(
            backend.make(
                IMAGE,
                header=header(backend.make, time.time_ns(), "camera"),
                height=frame.shape[0],
                width=frame.shape[1],
                encoding="rgb8",
                step=3 * frame.shape[1],
                data=frame.reshape(-1),
            )
        )
        commands.publish(backend.make(ARRAY, data=actions[k]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
