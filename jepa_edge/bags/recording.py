# SPDX-License-Identifier: Apache-2.0
"""Bags as a recording: what the robot saw, cut into episodes, for calibration and evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import shutil
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.bags.reader import Bag, find_bags, is_bag
from jepa_edge.bags.recorded import Made, read_recorded
from jepa_edge.bags.stream import frames
from jepa_edge.bags.topics import BagOptions, Topics, find_topics, for_model
from jepa_edge.channels import LONG, first_step
from jepa_edge.clip import by_camera_frame
from jepa_edge.errors import InputError
from jepa_edge.input_checks import check_content
from jepa_edge.manifest import Manifest
from jepa_edge.nodes.inputs import Inputs
from jepa_edge.recording import INFO_NAME, Episode, Recording, RecordingInfo, RecordingWriter
from jepa_edge.session import Observation
from jepa_edge.sources.bag import check_image
from jepa_edge.spread import RECENT

logger = logging.getLogger(__name__)

_HALF = 32

Told = Callable[[int, int], None]
"""Called with the number of bags done, and of all."""


def open_recording(
    path: Path | str,
    manifest: Manifest,
    options: BagOptions | None = None,
    *,
    horizon: int = 5,
    progress: Told = lambda done, total: None,
) -> Recording:
    """Open a recording, a bag, or a directory of bags; all of them read as a Recording.

    options: how bags are read, None for what fits; a recording needs none. horizon: steps ahead
    that will be calibrated: pieces of a bag too short for it are dropped.
    Raises InputError when path is none of these, is damaged, or does not fit the model.
    """
    path = Path(path)
    if (path / INFO_NAME).is_file():
        return Recording(path)
    if is_bag(path) or (path.is_dir() and any(map(is_bag, path.iterdir()))):
        return BagRecording(path, manifest, options or BagOptions(), horizon, progress)
    if path.is_dir() and any(entry.suffix == ".npz" for entry in path.iterdir()):
        return Recording(path)  # which says what is missing
    raise InputError(
        f"{path} is neither a recording (it has no {INFO_NAME}) nor a bag, and holds no bags; "
        "make one with `jepa-edge record`"
    )


class BagRecording(Recording):
    """Episodes of bags, through the node's own inputs.

    One bag is one episode, unless there is a gap in it, a frame or a command that cannot be used,
    or the flags in it tell that another episode began. What was left out is in `notes`. The
    episodes lie in a temporary directory, in the model's picture size, while this object lives.
    """

    def __init__(
        self, path: Path, manifest: Manifest, options: BagOptions, horizon: int, progress: Told
    ) -> None:
        """Raises InputError when a bag is damaged, two are the same, or no episode is left."""
        folder = Path(tempfile.mkdtemp(prefix="jepa-edge-bags."))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.notes: tuple[str, ...] = ()
        self._names: list[str] = []
        self._digests: list[str] = []
        manifest = by_camera_frame(manifest)
        bags = find_bags(path)
        seen: dict[str, Path] = {}
        gaps_s: list[float] = []
        info = RecordingInfo(
            rate_hz=manifest.observation.rate_hz,
            color=manifest.observation.color,
            action_dim=0 if manifest.action is None else manifest.action.dim,
            source=str(path),
        )
        with RecordingWriter(folder / "episodes", info) as writer:
            for done, file in enumerate(bags):
                bag = Bag(file)
                if bag.sha256 in seen:
                    raise InputError(f"{file} and {seen[bag.sha256]} are the same; drop one")
                seen[bag.sha256] = file
                for episode in self._episodes(bag, manifest, options, horizon, folder):
                    gaps_s.extend(np.diff(episode.stamps_s).tolist())
                    self._names.append(episode.name)
                    self._digests.append(_digest(bag, options, episode))
                    writer.add(episode)
                progress(done + 1, len(bags))
            if not self._names:
                raise InputError(
                    f"{path} gives no episode of {_least(manifest, horizon) + 1} frames or more: "
                    f"{'; '.join(self.notes) or 'it holds too few frames'}"
                )
            writer.info = msgspec.structs.replace(info, rate_hz=1.0 / float(np.mean(gaps_s)))
        super().__init__(folder / "episodes")
        self.path = path

    @property
    def digests(self) -> tuple[str, ...]:
        """One sha256 per episode: of its bag's files, and which part it is."""
        return tuple(self._digests)

    def load(self, index: int) -> Episode:
        """Read one episode; its name is its bag's, and which part of it."""
        return dataclasses.replace(super().load(index), name=self._names[index])

    def _episodes(
        self, bag: Bag, manifest: Manifest, options: BagOptions, horizon: int, folder: Path
    ) -> Iterator[Episode]:
        """Yield the parts of a bag that are long enough."""
        least = _least(manifest, horizon)
        for number, (piece, ended) in enumerate(_pieces(bag, manifest, options, folder)):
            if len(piece.stamps_s) > least:
                yield piece.episode(f"{bag.path.name}:{number}")
                continue
            note = (
                f"{bag.path.name}: {len(piece.stamps_s)} frames from {piece.stamps_s[0]:.3f} s "
                f"dropped, {least + 1} are needed; then came {ended}"
            )
            logger.info("%s", note)
            self.notes = (*self.notes, note)


def _least(manifest: Manifest, horizon: int) -> int:
    """Fewest actions, or frames after the first, of an episode that a calibration takes.

    Clips need more of them, which is checked when they are encoded.
    """
    if manifest.action is None:
        return first_step(manifest.history) + LONG
    return max(RECENT + manifest.history - 1 + horizon, first_step(manifest.history) + LONG)


class _Piece:
    """Frames without a gap, kept in a file: a run may be hours."""

    def __init__(self, folder: Path, first: Observation) -> None:
        self._path = folder / "frames"
        self._path.unlink(missing_ok=True)  # of the piece before, which may still be mapped
        self._size = first.frame.shape
        self.actions: list[NDArray[np.float32]] = []
        self.states: list[NDArray[np.float32]] = []
        self.stamps_s: list[float] = []
        self.add(first)

    def add(self, observation: Observation) -> None:
        """Append a frame; the action of any but the first is what led to it."""
        if self.stamps_s and observation.action is not None:
            self.actions.append(observation.action)
        if observation.state is not None:
            self.states.append(observation.state.astype(np.float32))
        self.stamps_s.append(observation.stamp_s)
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(observation.frame, np.uint8).data)

    def episode(self, name: str) -> Episode:
        """Return all of it; the frames stay in the file until they are read."""
        shape = (len(self.stamps_s), *self._size)
        nothing = np.zeros((len(self.stamps_s) - 1, 0), np.float32)
        return Episode(
            name=name,
            frames=np.memmap(self._path, np.uint8, "r", shape=shape),
            actions=np.stack(self.actions) if self.actions else nothing,
            stamps_s=np.array(self.stamps_s),
            robot_state=np.stack(self.states) if self.states else None,
        )


def _pieces(
    bag: Bag, manifest: Manifest, options: BagOptions, folder: Path
) -> Iterator[tuple[_Piece, str]]:
    """Yield stretches of frames without a gap, and what ended each, in words."""
    topics, how = for_model(bag, find_topics(bag, options), options, manifest)
    inputs = Inputs(manifest, how)
    begins = _episode_begins(bag, topics)
    piece: _Piece | None = None
    part: int | None = None
    for frame in frames(bag, topics, inputs):
        if part is None:
            part = 0
            check_image(frame, manifest, options.image_fit, f"{bag.path}: {topics.image!r}")
        observation = inputs.observation(frame)
        reached = bisect_right(begins, frame.stamp_ns)
        broken = _broken(observation, manifest, options)
        ended = "a new episode" if reached > part else broken
        ended = ended or _unled(observation, piece, manifest)
        ended = ended or _gap(observation, piece, manifest, options)
        part = max(part, reached)
        if ended and piece is not None:
            yield piece, ended
            piece = None
        if broken:
            continue
        if piece is None:
            piece = _Piece(folder, observation)
        else:
            piece.add(observation)
    if piece is not None:
        yield piece, "the end of the bag"


def _episode_begins(bag: Bag, topics: Topics) -> list[int]:
    """Stamps, ns, of the first frame after each `begin_episode` that the flags tell of."""
    if topics.flag is None:
        return []
    found: list[int] = []
    for run in read_recorded(bag, topics).runs:
        before: int | None = None
        for seq in sorted(run.flags):
            flag = run.flags[seq]
            episode = int(flag.message.episode)
            if flag.made is Made.STEP:
                if before is None or episode > before:
                    found.append(flag.stamp_ns)
                before = episode
    return sorted(found)


def _broken(observation: Observation, manifest: Manifest, options: BagOptions) -> str:
    """Why a frame cannot be used at all; empty when it can."""
    if manifest.state is not None and observation.state is None:
        return f"a frame without a state of the robot within {options.sync_slop_s:g} s of it"
    try:
        reason = check_content(observation.frame, None, manifest, observation.state)
    except InputError as error:
        return f"a frame that the model does not take: {error}"
    return "a frame with numbers that are not finite" if reason else ""


def _unled(observation: Observation, piece: _Piece | None, manifest: Manifest) -> str:
    """Why nothing leads from the piece so far to this frame; empty when something does."""
    if piece is None or manifest.action is None:
        return ""
    if observation.action is None:
        return "a frame without a command before it"
    try:
        reason = check_content(observation.frame, observation.action, manifest, observation.state)
    except InputError as error:
        return f"a command that the model does not take: {error}"
    return "a command with numbers that are not finite" if reason else ""


def _gap(
    observation: Observation, piece: _Piece | None, manifest: Manifest, options: BagOptions
) -> str:
    """What is wrong with the time since the frame before; empty when nothing is."""
    if piece is None:
        return ""
    periods = (observation.stamp_s - piece.stamps_s[-1]) * manifest.observation.rate_hz
    if options.min_gap_periods <= periods <= options.max_gap_periods and math.isfinite(periods):
        return ""
    return f"a gap of {periods:.2f} periods"


def _digest(bag: Bag, options: BagOptions, episode: Episode) -> str:
    """What an episode is known by.

    Its first half is the same however the episode was read, and what a calibration remembers; the
    second also tells how, so that encoded frames are not taken for those of another reading.
    """
    read = msgspec.json.encode(dataclasses.asdict(options), order="sorted").decode()
    span = f"{episode.stamps_s[0]!r} {episode.stamps_s[-1]!r}"
    which = hashlib.sha256(f"{bag.sha256}\n{span}".encode()).hexdigest()
    how = hashlib.sha256(f"{which}\n{read}".encode()).hexdigest()
    return which[:_HALF] + how[_HALF:]
