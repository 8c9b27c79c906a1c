# SPDX-License-Identifier: Apache-2.0
"""Images and actions from an MCAP file or a rosbag2 directory. Needs the extra `mcap`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.stream import frames
from jepa_edge.bags.topics import BagOptions, find_topics, for_model
from jepa_edge.clip import by_camera_frame
from jepa_edge.errors import InputError
from jepa_edge.image_fit import fit_to
from jepa_edge.manifest import Manifest
from jepa_edge.nodes.images import decode_image
from jepa_edge.nodes.inputs import Frame, Inputs
from jepa_edge.session import Observation


class BagSource:
    """Replays sensor_msgs/Image with the commands that led to each frame, as a node sees them."""

    def __init__(self, path: Path, manifest: Manifest, options: BagOptions) -> None:
        """Raises InputError when the bag is damaged, a topic is missing or ambiguous, or the first
        image is not one that the model takes."""
        self._bag = Bag(path)
        found = find_topics(self._bag, options)
        self._topics, self._options = for_model(self._bag, found, options, manifest)
        self._manifest = manifest
        first = next(self._frames(Inputs(by_camera_frame(manifest), self._options)), None)
        if first is None:
            raise InputError(f"{path} holds no image on {self._topics.image!r}")
        check_image(first, manifest, self._options.image_fit, f"{path}: {self._topics.image!r}")

    def __iter__(self) -> Iterator[Observation]:
        inputs = Inputs(self._manifest, self._options)
        return (inputs.observation(frame) for frame in self._frames(inputs))

    def _frames(self, inputs: Inputs) -> Iterator[Frame]:
        return frames(self._bag, self._topics, inputs)


def check_image(frame: Frame, manifest: Manifest, fit: str, where: str) -> None:
    """Raise InputError, naming where, for an image that the model cannot take.

    fit: one of FITS. A stream of such images would only give UNKNOWN.
    """
    wanted = by_camera_frame(manifest).observation
    try:
        pixels, _ = decode_image(frame.message)
        wanted.check_frames(fit_to(wanted, pixels, fit)[None])  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
