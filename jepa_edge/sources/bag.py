# SPDX-License-Identifier: Apache-2.0
"""Images and actions from an MCAP file or a rosbag2 directory. Needs the extra `mcap`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.ros_types import ACTION, IMAGE, typestore
from jepa_edge.session import Observation

# ROS image encodings to channel order; anything else is refused rather than guessed.
_ENCODINGS = {"rgb8": "rgb", "bgr8": "bgr"}


class BagSource:
    """Replays sensor_msgs/Image with the Float32MultiArray action that came before each frame."""

    def __init__(
        self, path: Path, manifest: Manifest, *, image_topic: str | None, action_topic: str | None
    ) -> None:
        """Raises InputError when the bag is damaged or a topic is missing or ambiguous."""
        self._path = path
        self._manifest = manifest
        self._store = typestore()
        with self._open() as reader:
            self._image_topic = _pick(reader, path, IMAGE, image_topic, "--image-topic")
            self._action_topic = _pick(reader, path, ACTION, action_topic, "--action-topic")
        first = next(iter(self), None)
        if first is None:
            raise InputError(f"{path} holds no image on {self._image_topic}")
        manifest.observation.check_frames(first.frame[None])

    def _open(self) -> Any:
        from rosbags.rosbag2 import Reader, ReaderError

        try:
            reader = Reader(self._path)
            reader.open()
        except (ReaderError, OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot read {self._path}: {error}") from error
        return _Closing(reader)

    def __iter__(self) -> Iterator[Observation]:
        from rosbags.rosbag2 import ReaderError
        from rosbags.serde import SerdeError

        try:
            yield from self._messages()
        except (ReaderError, SerdeError, ValueError) as error:
            raise InputError(f"{self._path} is damaged: {error}") from error

    def _messages(self) -> Iterator[Observation]:
        action: NDArray[np.float32] | None = None
        with self._open() as reader:
            topics = (self._image_topic, self._action_topic)
            connections = [c for c in reader.connections if c.topic in topics]
            for connection, stamp_ns, payload in reader.messages(connections=connections):
                message = self._store.deserialize_cdr(payload, connection.msgtype)
                if connection.topic == self._action_topic:
                    action = np.asarray(message.data, np.float32)
                    continue
                stamp = message.header.stamp
                stamp_s = stamp.sec + 1e-9 * stamp.nanosec or 1e-9 * stamp_ns
                yield Observation(stamp_s=stamp_s, frame=self._pixels(message), action=action)
                action = None

    def _pixels(self, image: Any) -> NDArray[np.uint8]:
        order = _ENCODINGS.get(image.encoding)
        if order is None:
            raise InputError(
                f"{self._path}: image encoding {image.encoding!r} on {self._image_topic}, "
                f"expected one of {', '.join(_ENCODINGS)}; convert the stream first"
            )
        rows = np.asarray(image.data, np.uint8)
        if rows.size != image.step * image.height or image.step < 3 * image.width:
            raise InputError(
                f"{self._path}: an image of {image.height} x {image.width} with step "
                f"{image.step} holds {rows.size} bytes; the buffer is short or damaged"
            )
        rows = rows.reshape(image.height, image.step)[:, : 3 * image.width]
        pixels = rows.reshape(image.height, image.width, 3)
        return pixels if order == self._manifest.observation.color else pixels[..., ::-1]


class _Closing:
    """Context that closes an opened rosbags reader."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __enter__(self) -> Any:
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()


def _pick(reader: Any, path: Path, kind: str, wanted: str | None, option: str) -> str:
    topics: list[str] = sorted({c.topic for c in reader.connections if c.msgtype == kind})
    if wanted is not None and wanted in topics:
        return wanted
    if wanted is None and len(topics) == 1:
        return topics[0]
    raise InputError(
        f"{path} has {kind} on {', '.join(topics) or 'no topic'}"
        + (f", not on {wanted}" if wanted else "")
        + f"; name one with {option}"
    )
