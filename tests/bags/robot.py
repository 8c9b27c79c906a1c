# SPDX-License-Identifier: Apache-2.0
"""A robot at a desk: the node's own inputs and session, on a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from jepa_edge.monitor import Monitor
from jepa_edge.nodes.inputs import InputOptions, Inputs
from jepa_edge.nodes.messages import (
    EMBEDDING,
    FLAG,
    IMAGE,
    MODEL_INFO,
    embedding_message,
    flag_message,
    header,
    model_info_message,
    nanoseconds,
    seconds,
)
from jepa_edge.ros_types import ACTION, make, typestore
from jepa_edge.session import Flag, Session, SessionConfig
from jepa_edge.world_model import WorldModel

STORE = typestore()
MAKE = make(STORE)
START_NS = 1_732_100_000_123_456_789
PERIOD_NS = 200_000_000

IMAGE_TOPIC, ACTION_TOPIC = "/camera/image_raw", "/robot/action"
STATE_TOPIC = "/robot/proprioception"


@dataclass(frozen=True, slots=True)
class Said:
    """A message as a recorder gets it."""

    topic: str
    type: str
    received_ns: int
    message: Any


def image(pixels: NDArray[np.uint8], stamp_ns: int, **changes: Any) -> Any:
    """A sensor_msgs/Image of rgb pixels (H, W, 3)."""
    fields = {
        "header": header(MAKE, stamp_ns, "camera"),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": "rgb8",
        "step": 3 * pixels.shape[1],
        "data": pixels.reshape(-1),
    }
    return MAKE(IMAGE, **{**fields, **changes})


@dataclass(kw_only=True)
class Robot:
    """Publishes, judges and remembers what a recorder would get. Its clock is `now_ns`."""

    model: WorldModel
    monitor: Monitor | None
    config: SessionConfig = field(default_factory=SessionConfig)
    seed: int = 0
    now_ns: int = START_NS
    options: InputOptions = field(default_factory=InputOptions)
    said: list[Said] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.perf_s = 1000.0
        self.latency_s = 0.004
        self.stall = 0
        self.inputs = Inputs(self.model.manifest, self.options)
        self.session = Session(
            self.model,
            self.monitor,
            self.config,
            clock=lambda: seconds(self.now_ns),
            timer=self._timer,
        )
        info = model_info_message(
            MAKE,
            self.model,
            self.monitor,
            header(MAKE, self.now_ns, ""),
            limits=self.session.config,
            inputs=self.options,
        )
        self._say("/jepa/model_info", MODEL_INFO, info)

    def _timer(self) -> float:
        """A timer that lets a random time pass between two looks at it."""
        self.perf_s += self.latency_s * float(self.rng.uniform(0.5, 1.5))
        return self.perf_s

    def _say(self, topic: str, kind: str, message: Any, late_ns: int = 0) -> None:
        self.said.append(Said(topic, kind, self.now_ns + late_ns, message))

    def wait(self, ns: int) -> None:
        """Let time pass."""
        self.now_ns += ns

    def act(self, action: NDArray[np.float32]) -> None:
        """The controller commands a block."""
        message = MAKE(ACTION, data=action)
        self.inputs.on_action(message, self.now_ns)
        self._say(ACTION_TOPIC, ACTION, message)

    def feel(self, message: Any) -> None:
        """The robot says its own state."""
        self.inputs.on_state(message, self.now_ns)
        kind = str(message.__msgtype__)
        self._say(STATE_TOPIC, kind, message)

    def see(self, message: Any, *, dropped: bool = False) -> Flag | None:
        """The camera's image comes, and is judged unless the mailbox drops it."""
        self._say(IMAGE_TOPIC, IMAGE, message)
        frame = self.inputs.on_image(message, self.now_ns)
        if frame is None or dropped:
            return None
        self.wait(int(self.rng.integers(100_000, 3_000_000)))
        observation = self.inputs.observation(frame)
        for _ in range(self.stall):
            self._watchdog(self.session.stalled())
        self.stall = 0
        update = self.session.step(observation)
        self.wait(nanoseconds(update.flag.latency_s))
        said = flag_message(MAKE, update.flag, frame.header)
        self._say("/jepa/flag", FLAG, said)
        if update.embedding is not None:
            embedding = embedding_message(
                MAKE,
                update.embedding,
                frame.header,
                said,
                action=observation.action,
                state=observation.state,
            )
            self._say("/jepa/embedding", EMBEDDING, embedding)
        self.flags.append(update.flag)
        return update.flag

    def poll(self) -> Flag | None:
        """The watchdog looks."""
        flag = self.session.poll()
        if flag is not None:
            self._watchdog(flag)
        return flag

    def begin_episode(self) -> None:
        """As the service."""
        self.session.begin_episode()
        self.inputs.restart()

    def _watchdog(self, flag: Flag) -> None:
        message = flag_message(MAKE, flag, header(MAKE, nanoseconds(flag.stamp_s), "camera"))
        self._say("/jepa/flag", FLAG, message)
        self.flags.append(flag)


def write_bag(
    path: Path,
    said: list[Said],
    *,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Write a rosbag2 directory; messages in the order in which they were received."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for entry in sorted(said, key=lambda entry: entry.received_ns):
            if entry.topic not in connections:
                connections[entry.topic] = writer.add_connection(
                    entry.topic, entry.type, typestore=STORE
                )
            writer.write(
                connections[entry.topic],
                entry.received_ns,
                STORE.serialize_cdr(entry.message, entry.type),
            )
    return path
