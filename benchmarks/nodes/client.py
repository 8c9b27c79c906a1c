# SPDX-License-Identifier: Apache-2.0
"""The other end of the wire: publishes images, waits for their flags, and an echo of no node."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.dds.backend import DdsBackend
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.nodes.messages import FLAG, IMAGE, header, stamp_ns
from jepa_edge.nodes.qos import Qos

ACTION = "std_msgs/msg/Float32MultiArray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Times in seconds: from before the image was made a message until its flag was read, and what
    the flag says of its own making."""

    wire_s: float
    model_s: float
    level: int


class Client:
    """Feeds one node; one picture at a time is under way."""

    def __init__(self, participant: DdsParticipant, namespace: str) -> None:
        self._backend = DdsBackend(participant, "bench", namespace=namespace)
        self._image = self._backend.publisher("image", IMAGE, Qos(depth=1))
        self._action = self._backend.publisher("action", ACTION, Qos(depth=1))
        self._arrived = threading.Event()
        self._waiting_ns = 0
        self._answer: tuple[float, float, int] = (0.0, 0.0, 0)
        self._backend.subscribe("jepa/flag", FLAG, Qos(depth=1), self._on_flag)

    def _on_flag(self, message: object) -> None:
        now_s = time.perf_counter()
        if stamp_ns(message.header) == self._waiting_ns:  # type: ignore[attr-defined]
            latency = message.latency  # type: ignore[attr-defined]
            self._answer = (now_s, latency.sec + 1e-9 * latency.nanosec, message.level)  # type: ignore[attr-defined]
            self._arrived.set()

    def wait_for_node(self, timeout_s: float = 60.0) -> None:
        """Wait until a node reads the images."""
        until_s = time.monotonic() + timeout_s
        while not self._image.matched and time.monotonic() < until_s:
            time.sleep(0.05)
        if not self._image.matched:
            raise TimeoutError(f"no node reads {self._backend.name}'s images")

    def act(self, action: NDArray[np.float32]) -> None:
        """Command an action block."""
        layout = self._backend.make("std_msgs/msg/MultiArrayLayout")
        self._action.publish(self._backend.make(ACTION, layout=layout, data=action))

    def ask(self, frame: NDArray[np.uint8], timeout_s: float = 2.0) -> Answer | None:
        """Publish a frame (H, W, 3) uint8 and wait for its flag; None if it does not come."""
        self._arrived.clear()
        start_s = time.perf_counter()
        self._waiting_ns = self._backend.now_ns()
        height, width = frame.shape[:2]
        make = self._backend.make
        self._image.publish(
            make(
                IMAGE,
                header=header(make, self._waiting_ns, "camera"),
                height=height,
                width=width,
                encoding="rgb8",
                step=3 * width,
                data=frame.reshape(-1),
            )
        )
        if not self._arrived.wait(timeout_s):
            return None
        end_s, model_s, level = self._answer
        return Answer(wire_s=end_s - start_s, model_s=model_s, level=level)

    def close(self) -> None:
        """Leave the topics."""
        self._backend.close()


def echo(namespace: str, domain: int) -> None:
    """Answer every image with an empty flag at once: what the wire alone takes. Never returns."""
    participant = DdsParticipant(domain, localhost=True)
    backend = DdsBackend(participant, "echo", namespace=namespace)
    flags = backend.publisher("jepa/flag", FLAG, Qos(depth=1))
    backend.subscribe(
        "image",
        IMAGE,
        Qos(reliable=False, depth=1),
        lambda message: flags.publish(backend.make(FLAG, header=message.header)),
    )
    threading.Event().wait()
