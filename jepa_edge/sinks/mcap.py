# SPDX-License-Identifier: Apache-2.0
"""Images, actions, states, embeddings, predictions and flags as ROS 2 messages in one MCAP file.

The file opens in Foxglove and `ros2 bag`, and is itself a source: `jepa-edge run --source`,
`jepa-edge replay`. Needs the extra `mcap`; needs no ROS.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.labels import STRING, labels_message
from jepa_edge.nodes.messages import (
    EMBEDDING,
    FLAG,
    IMAGE,
    MODEL_INFO,
    PREDICTION,
    embedding_message,
    flag_message,
    header,
    model_info_message,
    nanoseconds,
    prediction_message,
)
from jepa_edge.ros_types import ACTION, make, typestore
from jepa_edge.selective import Published
from jepa_edge.session import Flag, Observation, Update
from jepa_edge.session_config import SessionConfig
from jepa_edge.sinks.camera_frames import CameraFrames
from jepa_edge.world_model import WorldModel

IMAGE_TOPIC = "/camera/image_raw"
ACTION_TOPIC = "/jepa/action"
STATE_TOPIC = "/jepa/state"
EMBEDDING_TOPIC = "/jepa/embedding"
PREDICTION_TOPIC = "/jepa/prediction"
FLAG_TOPIC = "/jepa/flag"
INFO_TOPIC = "/jepa/model_info"
LABELS_TOPIC = "/jepa/labels"


@contextmanager
def mcap_sink(
    path: Path,
    model: WorldModel,
    monitor: Monitor | None,
    config: SessionConfig,
    *,
    color: str | None = None,
    frame_id: str = "camera",
    option: str = "--mcap",
) -> Iterator[McapWriter]:
    """Yield a sink that writes one MCAP file, which appears when the session ends well.

    model, monitor, config: what judges, and how; the file tells. color: channel order of the
    frames, "rgb" or "bgr"; None for the model's. frame_id: of every header. option: that named the
    path. The writer stores no checksums: keep a digest beside a file that has to prove itself.
    Raises InputError when the file exists or its directory does not, MissingDependencyError
    without rosbags.
    """
    if path.exists():
        raise InputError(f"{path} exists already; remove it or choose another {option}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no directory; make it first")
    store = typestore()
    from rosbags.rosbag2 import StoragePlugin, Writer

    with tempfile.TemporaryDirectory(prefix=".mcap.", dir=path.resolve().parent) as staging:
        bag = Path(staging) / "bag"
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            yield McapWriter(
                writer,
                store,
                model,
                monitor,
                encoding=(color or model.manifest.observation.color) + "8",
                frame_id=frame_id,
                config=config,
            )
        os.replace(next(bag.glob("*.mcap")), path)


class McapWriter:
    """A sink that turns steps into ROS 2 messages on the topics above."""

    def __init__(
        self,
        writer: Any,
        store: Any,
        model: WorldModel,
        monitor: Monitor | None,
        *,
        encoding: str,
        frame_id: str,
        config: SessionConfig,
    ) -> None:
        self._writer = writer
        self._store = store
        self._make = make(store)
        self._model = model
        self._monitor = monitor
        self._encoding = encoding
        self._frame_id = frame_id
        self._config = config
        seen = model.manifest.observation
        self._period_s = 1.0 / seen.rate_hz
        self._clips: CameraFrames | None = None
        if seen.clip is not None:
            self._clips = CameraFrames(seen.clip, round(1e9 / seen.camera_rate_hz))
        self._named = False
        self._connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in (
                (INFO_TOPIC, MODEL_INFO),
                (ACTION_TOPIC, ACTION),
                *([(STATE_TOPIC, ACTION)] if model.manifest.state is not None else []),
                (IMAGE_TOPIC, IMAGE),
                (EMBEDDING_TOPIC, EMBEDDING),
                (PREDICTION_TOPIC, PREDICTION),
                (FLAG_TOPIC, FLAG),
                *([(LABELS_TOPIC, STRING)] if model.manifest.text is not None else []),
            )
        }

    def __call__(self, observation: Observation, update: Update) -> None:
        """Append the frame, or a clip's, the action that led to it, the robot's state, the
        embedding and the flag."""
        self.write(observation, update, nanoseconds(observation.stamp_s))

    def write(self, observation: Observation, update: Update, stamp_ns: int) -> None:
        """Append a step whose frame has this stamp, nanoseconds."""
        self._action(observation, stamp_ns)
        self._state(observation, stamp_ns)
        head = self._header(stamp_ns)
        frame = observation.frame
        if frame.dtype == np.uint8 and frame.ndim == 4 and self._clips is not None:
            clip, whole = frame.view(np.uint8), observation.continues
            for shown_ns, picture in self._clips.of(clip, stamp_ns, continues=whole):
                self._image(picture, shown_ns)
        elif frame.dtype == np.uint8 and frame.ndim == 3:
            self._image(frame.view(np.uint8), stamp_ns)
        flag = flag_message(self._make, update.flag, head)
        if update.embedding is not None:
            embedding = embedding_message(
                self._make,
                update.embedding,
                head,
                flag,
                action=observation.action,
                state=observation.state,
            )
            self._put(EMBEDDING_TOPIC, stamp_ns, embedding)
        if isinstance(update, Published) and update.labels:
            labels = labels_message(self._make, update.labels, update.flag, head)
            self._put(LABELS_TOPIC, stamp_ns, labels)
        self._prediction(observation, update, head, stamp_ns)
        self._put(FLAG_TOPIC, stamp_ns, flag)

    def write_flag(self, flag: Flag, stamp_ns: int) -> None:
        """Append a flag without a frame: a watchdog's."""
        self._put(FLAG_TOPIC, stamp_ns, flag_message(self._make, flag, self._header(stamp_ns)))

    def _image(self, frame: NDArray[np.uint8], stamp_ns: int) -> None:
        image = self._make(
            IMAGE,
            header=self._header(stamp_ns),
            height=frame.shape[0],
            width=frame.shape[1],
            encoding=self._encoding,
            step=frame.shape[1] * 3,
            data=np.ascontiguousarray(frame).reshape(-1),
        )
        self._put(IMAGE_TOPIC, max(0, stamp_ns), image)

    def _state(self, observation: Observation, stamp_ns: int) -> None:
        """Append the robot's state; one without numbers where a model that takes one got none, so
        that no reader takes a neighbour's."""
        if STATE_TOPIC in self._connections:
            state = np.zeros(0) if observation.state is None else observation.state
            self._put(STATE_TOPIC, stamp_ns, self._make(ACTION, data=np.asarray(state, np.float32)))

    def _action(self, observation: Observation, stamp_ns: int) -> None:
        """Append the action as a controller sends it: when the period before the frame begins."""
        if observation.action is not None:
            sent_ns = max(0, stamp_ns - round(1e9 * self._period_s))
            data = np.asarray(observation.action, np.float32)
            self._put(ACTION_TOPIC, sent_ns, self._make(ACTION, data=data))

    def _prediction(
        self, observation: Observation, update: Update, head: Any, stamp_ns: int
    ) -> None:
        futures, actions = update.futures, observation.planned
        if futures is None:
            return
        if actions is None and observation.action is not None:
            actions = np.repeat(observation.action[None], futures.mean.shape[0], axis=0)
        if actions is not None:
            message = prediction_message(
                self._make, futures, head, update.flag, actions=actions, period_s=self._period_s
            )
            self._put(PREDICTION_TOPIC, stamp_ns, message)

    def _name_model(self, stamp_ns: int) -> None:
        """Say first which model judges."""
        self._named = True
        head = header(self._make, stamp_ns, "")
        limits = self._config
        info = model_info_message(self._make, self._model, self._monitor, head, limits=limits)
        self._put(INFO_TOPIC, stamp_ns, info)

    def _put(self, topic: str, stamp_ns: int, message: Any) -> None:
        if not self._named:
            self._name_model(stamp_ns)
        connection = self._connections[topic]
        payload = self._store.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, stamp_ns, payload)

    def _header(self, stamp_ns: int) -> Any:
        return header(self._make, stamp_ns, self._frame_id)
