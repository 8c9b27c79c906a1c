# SPDX-License-Identifier: Apache-2.0
"""A world model node on a LocalBus, fed frame by frame in a time that the test sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.nodes.qos import Qos
from jepa_edge.nodes.world_model import WorldModelNode
from jepa_edge.recording import Episode

from .bus import LocalBus, make

PERIOD_NS = 200_000_000
T0_NS = 1_700_000_000 * 10**9 + 123_456_789
FLAG = "jepa_msgs/msg/ConfidenceFlag"
ARRAY = "std_msgs/msg/Float32MultiArray"


def header_of(stamp_ns: int, frame_id: str = "camera_optical") -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def image_fields(stamp_ns: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Fields of an rgb8 image."""
    return {
        "header": header_of(stamp_ns),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": "rgb8",
        "step": 3 * pixels.shape[1],
        "data": np.ascontiguousarray(pixels).reshape(-1),
    }


class Rig:
    """One node and what it published."""

    def __init__(self, bus: LocalBus, node: WorldModelNode, backend: Any) -> None:
        self.bus, self.node, self.backend = bus, node, backend
        self.arrived: list[tuple[float, Any]] = []
        """Flags, each with the steady time at which it came."""
        peer = bus.backend("listener")
        peer.subscribe(
            "jepa/flag", FLAG, Qos(), lambda m: self.arrived.append((time.monotonic(), m))
        )
        self.embeddings = bus.record("jepa/embedding", "jepa_msgs/msg/StateEmbedding")
        self.predictions = bus.record("jepa/prediction", "jepa_msgs/msg/LatentPrediction")
        self.diagnostics = bus.record("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")

    @property
    def flags(self) -> list[Any]:
        return [flag for _, flag in self.arrived]

    def command(self, now_ns: int, action: NDArray[np.float32] | None) -> None:
        """A controller sends a block at a time."""
        self.bus.set_time(now_ns)
        if action is not None:
            self.bus.publish("action", ARRAY, data=np.asarray(action, np.float32))
        self.bus.settle()

    def see(self, now_ns: int, **fields: Any) -> Any:
        """The camera sends an image at a time; return the flag that judges it."""
        self.bus.set_time(now_ns)
        seen = len(self.arrived)
        stamp = stamp_of(make("sensor_msgs/msg/Image", **fields))
        self.bus.publish("image", "sensor_msgs/msg/Image", **fields)

        def judged() -> list[Any]:
            return [flag for _, flag in self.arrived[seen:] if stamp_of(flag) == stamp]

        self.bus.wait_for(lambda: bool(judged()))
        return judged()[0]

    def play(self, episode: Episode, first: int, last: int, *, start_ns: int = T0_NS) -> list[Any]:
        """Send frames first to last - 1 of an episode, each after its action; return their flags.

        Frame k has the stamp start_ns + k periods.
        """
        flags = []
        for k in range(first, last):
            stamp = start_ns + k * PERIOD_NS
            if k:
                self.command(stamp - PERIOD_NS + 10_000_000, episode.actions[k - 1])
            flags.append(self.see(stamp + 5_000_000, **image_fields(stamp, episode.frames[k])))
        return flags

    def diagnose(self) -> tuple[int, str, dict[str, str]]:
        """The next diagnostics: level, message, values."""
        count = len(self.diagnostics)
        self.bus.wait_for(lambda: len(self.diagnostics) > count)
        status = self.diagnostics[-1].status[0]
        return status.level, status.message, {v.key: v.value for v in status.values}


@contextmanager
def running(bundle: Path, **parameters: object) -> Iterator[Rig]:
    """Yield an active node. Its latch is off unless a test asks for it."""
    with LocalBus() as bus:
        bus.set_time(T0_NS)
        given = {"bundle": str(bundle), "latch": "none", "samples": 8, **parameters}
        backend = bus.backend("jepa_world_model", parameters=given)
        node = WorldModelNode(backend)
        rig = Rig(bus, node, backend)
        node.configure()
        node.activate()
        try:
            yield rig
        finally:
            node.close()
