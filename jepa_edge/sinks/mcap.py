# SPDX-License-Identifier: Apache-2.0
"""Images, actions, embeddings and flags as ROS 2 messages in one MCAP file.

The file opens in Foxglove and `ros2 bag`, and is itself a source: `jepa-edge run --source`.
Needs the extra `mcap`; needs no ROS.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jepa_edge.channels import CHANNELS
from jepa_edge.errors import InputError
from jepa_edge.flags import Reason
from jepa_edge.ros_types import ACTION, CONFIDENCE_FLAG, IMAGE, STATE_EMBEDDING, typestore
from jepa_edge.session import Flag, Observation, Update
from jepa_edge.sinks import Sink

IMAGE_TOPIC = "/camera/image_raw"
ACTION_TOPIC = "/jepa/action"
EMBEDDING_TOPIC = "/jepa/embedding"
FLAG_TOPIC = "/jepa/flag"


@contextmanager
def mcap_sink(path: Path, *, color: str, frame_id: str = "camera") -> Iterator[Sink]:
    """Yield a sink that writes one MCAP file, which appears when the session ends well.

    color: channel order of the frames, "rgb" or "bgr". frame_id: of every header. The writer
    stores no checksums: keep a digest beside a file that has to prove itself later.
    Raises InputError when the file exists or its directory does not, MissingDependencyError
    without rosbags.
    """
    if path.exists():
        raise InputError(f"{path} exists already; remove it or choose another --mcap")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no directory; make it first")
    store = typestore()
    from rosbags.rosbag2 import StoragePlugin, Writer

    with tempfile.TemporaryDirectory(prefix=".mcap.", dir=path.resolve().parent) as staging:
        bag = Path(staging) / "bag"
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            yield _MessageWriter(writer, store, encoding=color + "8", frame_id=frame_id).write
        os.replace(next(bag.glob("*.mcap")), path)


class _MessageWriter:
    """Turns steps into ROS 2 messages on the topics above."""

    def __init__(self, writer: Any, store: Any, *, encoding: str, frame_id: str) -> None:
        self._writer = writer
        self._store = store
        self._encoding = encoding
        self._frame_id = frame_id
        self._connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in (
                (ACTION_TOPIC, ACTION),
                (IMAGE_TOPIC, IMAGE),
                (EMBEDDING_TOPIC, STATE_EMBEDDING),
                (FLAG_TOPIC, CONFIDENCE_FLAG),
            )
        }

    def write(self, observation: Observation, update: Update) -> None:
        """Append the frame, the action that led to it, the embedding and the flag."""
        types = self._store.types
        stamp_ns = round(observation.stamp_s * 1e9)
        header = self._header(stamp_ns)
        if observation.action is not None:
            layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
            data = np.asarray(observation.action, np.float32)
            self._put(ACTION_TOPIC, stamp_ns, types[ACTION](layout=layout, data=data))
        frame = np.ascontiguousarray(observation.frame, dtype=np.uint8)
        image = types[IMAGE](
            header=header,
            height=frame.shape[0],
            width=frame.shape[1],
            encoding=self._encoding,
            is_bigendian=0,
            step=frame.shape[1] * 3,
            data=frame.reshape(-1),
        )
        self._put(IMAGE_TOPIC, stamp_ns, image)
        flag = self._flag(update.flag)
        if update.embedding is not None:
            embedding = types[STATE_EMBEDDING](
                header=header,
                tokens=update.embedding.shape[0],
                dim=update.embedding.shape[1],
                latent=update.embedding.reshape(-1),
                flag=flag,
            )
            self._put(EMBEDDING_TOPIC, stamp_ns, embedding)
        self._put(FLAG_TOPIC, stamp_ns, flag)

    def _put(self, topic: str, stamp_ns: int, message: Any) -> None:
        connection = self._connections[topic]
        payload = self._store.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, stamp_ns, payload)

    def _header(self, stamp_ns: int) -> Any:
        types = self._store.types
        stamp = types["builtin_interfaces/msg/Time"](
            sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
        )
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id=self._frame_id)

    def _duration(self, seconds: float) -> Any:
        total_ns = round(seconds * 1e9)
        return self._store.types["builtin_interfaces/msg/Duration"](
            sec=total_ns // 10**9, nanosec=total_ns % 10**9
        )

    def _flag(self, flag: Flag) -> Any:

        def worst(reason: Reason) -> float:
            names = [channel.name for channel in CHANNELS if channel.reason is reason]
            return max((flag.channels[n] for n in names if n in flag.channels), default=math.nan)

        return self._store.types[CONFIDENCE_FLAG](
            header=self._header(round(flag.stamp_s * 1e9)),
            seq=flag.seq,
            level=int(flag.level),
            raw_level=int(flag.raw_level),
            latched=flag.latched,
            reasons=flag.reason_bits,
            confidence=flag.confidence,
            score=flag.score,
            caution_threshold=flag.caution_threshold,
            reject_threshold=flag.reject_threshold,
            ood_score=worst(Reason.OUT_OF_DISTRIBUTION),
            innovation=worst(Reason.INNOVATION),
            episode_steps=flag.episode_steps,
            budget_period=flag.budget_period,
            input_age=self._duration(flag.input_age_s),
            latency=self._duration(flag.latency_s),
            valid_for=self._duration(flag.valid_for_s),
        )
