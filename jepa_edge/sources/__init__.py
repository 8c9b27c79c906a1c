# SPDX-License-Identifier: Apache-2.0
"""Where frames come from: recordings, videos, bags, simulators. All yield Observations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.session import Observation

if TYPE_CHECKING:
    from jepa_edge.bags.topics import BagOptions

SIM_PREFIX = "sim:"
BAG_SUFFIXES = (".mcap", ".db3")
BAG_METADATA = "metadata.yaml"
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")


class Source(Protocol):
    """A finite stream of observations at the model's rate."""

    def __iter__(self) -> Iterator[Observation]:
        """Yield observations in time order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What single kinds of source can be told; the others leave it.

    episode: which episode of a recording. actions: `.npy` file (T, A) beside a video.
    resize: stretch video frames to the model's size, whatever the bundle says. bag: how a bag is
    read, None for what fits. fault: "NAME[:SEVERITY][@STEP]" for a simulator; steps are camera
    frames. steps, seed: length in model steps and start of a simulated run.
    """

    episode: int = 0
    actions: Path | None = None
    resize: bool = False
    bag: BagOptions | None = None
    fault: str | None = None
    steps: int = 40
    seed: int = 0


def open_source(spec: str, manifest: Manifest, options: SourceOptions) -> Source:
    """Return the source that spec names, checked against the model.

    spec: a recording's directory, a video file, a rosbag2 directory or a file of one, or a
    simulator: "sim:pusht" or "sim:reacher".
    Raises InputError when spec is none of these or does not fit the model.
    """
    if not spec:
        raise InputError(
            "the source is empty; name a recording, a video, a bag, sim:pusht or sim:reacher"
        )
    path = Path(spec)
    video = path.suffix.lower() in VIDEO_SUFFIXES
    if not video and (options.actions is not None or options.resize):
        raise InputError(f"--actions and --resize are for videos, got {spec}")
    if spec.startswith(SIM_PREFIX):
        from jepa_edge.sources.simulation import SimulationSource

        return SimulationSource(
            spec.removeprefix(SIM_PREFIX),
            manifest,
            steps=options.steps,
            seed=options.seed,
            fault=options.fault,
        )
    if options.fault is not None:
        raise InputError(f"--fault needs a simulator, sim:pusht or sim:reacher; got {spec}")
    if path.suffix in BAG_SUFFIXES or (path / BAG_METADATA).is_file():
        from jepa_edge.bags.topics import BagOptions
        from jepa_edge.sources.bag import BagSource

        return BagSource(path, manifest, options.bag or BagOptions())
    if video:
        from jepa_edge.sources.video import VideoSource

        return VideoSource(path, manifest, resize=options.resize, actions=options.actions)
    if path.is_dir():
        from jepa_edge.sources.recorded import RecordedSource

        return RecordedSource(path, manifest, options.episode)
    raise InputError(
        f"source {spec!r} is not known; expected a recording directory, a video "
        f"({', '.join(VIDEO_SUFFIXES)}), a rosbag2 directory, a file of one "
        f"({', '.join(BAG_SUFFIXES)}), sim:pusht or sim:reacher"
    )
