# SPDX-License-Identifier: Apache-2.0
"""Recorded runs on disk: one directory, one `.npz` file per episode, one `recording.json`."""

from __future__ import annotations

import lzma
import math
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.atomic import staged_directory
from jepa_edge.bundle import sha256_file
from jepa_edge.errors import InputError
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import ActionSpec, ObservationSpec, StateSpec

INFO_NAME = "recording.json"
_RATE_TOLERANCE = 0.01

_READING = threading.Lock()
"""numpy parses headers as Python literals, which CPython before 3.11.8 must not do in two threads
at once (python/cpython#106905: SystemError)."""

_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    RuntimeError,  # a compression that is not there, an encrypted member
    MemoryError,  # a header that promises more than there is
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
"""What numpy and zipfile raise on files that are not what they should be."""


class RecordingInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all episodes of a recording share.

    rate_hz: frames per second: model steps (action blocks), or camera frames for a model that takes
    clips. color: channel order of the frames. action_dim: numbers per action block, environment
    steps in the block times action size; 0 where no actions were recorded. state_names: names of
    the columns of the optional ground-truth state.
    """

    rate_hz: float
    color: str = "rgb"
    action_dim: int
    state_names: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One run: T actions between T + 1 frames; action t acts between frames t and t + 1.

    frames: (T + 1, H, W, 3) uint8. actions: (T, A) float32, raw units, blocks flattened.
    stamps_s: (T + 1,) float64, seconds. state: (T + 1, G) float32 ground truth, or None.
    robot_state: (T + 1, S) float32, raw, what the robot knew of itself, for a model that takes it.
    loss: (T + 1,) float32 in [0, 1], or None: what the user loses at each frame if the robot still
    acts on the model there.
    """

    name: str
    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    stamps_s: NDArray[np.float64]
    state: NDArray[np.float32] | None = None
    loss: NDArray[np.float32] | None = None
    robot_state: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        steps = self.actions.shape[0]
        expected: dict[str, tuple[NDArray[Any], type, int]] = {
            "frames": (self.frames, np.uint8, 4),
            "actions": (self.actions, np.float32, 2),
            "stamps_s": (self.stamps_s, np.float64, 1),
        }
        for name, (array, dtype, ndim) in expected.items():
            if array.dtype != dtype or array.ndim != ndim:
                raise InputError(
                    f"episode {self.name}: {name} is {array.dtype} with shape {array.shape}, "
                    f"expected {np.dtype(dtype)} with {ndim} dimensions; record it again"
                )
        if self.frames.shape[0] != steps + 1 or self.stamps_s.shape[0] != steps + 1:
            raise InputError(
                f"episode {self.name}: {steps} actions need {steps + 1} frames and stamps, got "
                f"{self.frames.shape[0]} and {self.stamps_s.shape[0]}; action t lies between "
                "frames t and t + 1"
            )
        if steps < 1:
            raise InputError(f"episode {self.name}: no actions; record at least one step")
        stamps = self.stamps_s
        if not (np.isfinite(stamps).all() and stamps[0] >= 0.0 and (np.diff(stamps) > 0.0).all()):
            raise InputError(
                f"episode {self.name}: stamps must be finite, not negative, and rise; "
                "record the capture time of every frame in seconds"
            )
        if not np.isfinite(self.actions).all():
            raise InputError(f"episode {self.name}: actions hold NaN or infinity; drop the episode")
        if self.loss is not None:
            _check_loss(self.name, self.loss, steps + 1)
        if self.robot_state is not None:
            _check_robot_state(self.name, self.robot_state, steps + 1)


def _check_robot_state(name: str, states: NDArray[np.float32], frames: int) -> None:
    """Raise InputError unless states is (frames, S) float32 and finite."""
    fits = states.dtype == np.float32 and states.ndim == 2 and len(states) == frames
    if not fits or not np.isfinite(states).all():
        raise InputError(
            f"episode {name}: robot_state is {states.dtype} with shape {states.shape}, expected "
            f"finite float32 ({frames}, S), one row per frame"
        )


def _check_loss(name: str, loss: NDArray[np.float32], frames: int) -> None:
    """Raise InputError unless loss is (frames,) float32 with every number in [0, 1]."""
    if loss.dtype != np.float32 or loss.shape != (frames,):
        raise InputError(
            f"episode {name}: loss is {loss.dtype} with shape {loss.shape}, expected float32 "
            f"({frames},), one number per frame"
        )
    if not ((loss >= 0.0) & (loss <= 1.0)).all():
        raise InputError(
            f"episode {name}: loss lies between {loss.min():g} and {loss.max():g}, expected "
            "0 to 1; divide it by its largest possible value"
        )


class Recording:
    """Read access to a directory of recorded episodes. Episodes are loaded one at a time."""

    def __init__(self, path: Path | str) -> None:
        """Raises InputError when path is no recording."""
        self.path = Path(path)
        info_path = self.path / INFO_NAME
        if not info_path.is_file():
            raise InputError(
                f"{self.path} is not a recording: it has no {INFO_NAME}; "
                "make one with `jepa-edge record`"
            )
        try:
            self.info = msgspec.json.decode(info_path.read_bytes(), type=RecordingInfo)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{info_path} does not fit the format: {error}") from error
        self.files = sorted(self.path.glob("*.npz"))
        if not self.files:
            raise InputError(f"{self.path} holds no episodes (*.npz); record some first")

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The sha256 of every episode file, in order, read once."""
        return tuple(sha256_file(file) for file in self.files)

    def __iter__(self) -> Iterator[Episode]:
        return (self.load(index) for index in range(len(self)))

    def load(self, index: int) -> Episode:
        """Read one episode. Raises InputError when its file is damaged or misshapen."""
        file = self.files[index]
        try:
            # numpy leaks the handle of a damaged file that it opens itself.
            with _READING, file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                episode = Episode(
                    name=file.stem,
                    frames=arrays["frames"],
                    actions=arrays["actions"],
                    stamps_s=arrays["stamps_s"],
                    state=arrays.get("state"),
                    loss=arrays.get("loss"),
                    robot_state=arrays.get("robot_state"),
                )
        except _DAMAGED as error:
            raise InputError(f"cannot read episode {file}: {error}; record it again") from error
        if episode.actions.shape[1] != self.info.action_dim:
            raise InputError(
                f"episode {file}: {episode.actions.shape[1]} numbers per action, "
                f"{INFO_NAME} says {self.info.action_dim}"
            )
        return episode

    def robot_state(self, index: int) -> NDArray[np.float32] | None:
        """Read only the robot's own states of one episode, (frames, S); None where it holds none.

        Raises InputError when the file is damaged.
        """
        file = self.files[index]
        try:
            with _READING, file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                states: NDArray[np.float32] | None = arrays.get("robot_state")
        except _DAMAGED as error:
            raise InputError(f"cannot read episode {file}: {error}; record it again") from error
        if states is not None:
            _check_robot_state(file.stem, states, len(states))
        return states


def check_fits(
    recording: Recording,
    observation: ObservationSpec,
    action: ActionSpec | None,
    state: StateSpec | None = None,
) -> None:
    """Raise InputError when a recording's color, actions, rate, frames or states do not fit.

    action, state: None in a model that takes none; what was recorded of them is then not used.
    """
    info, where = recording.info, recording.path
    if action is not None and info.action_dim != action.dim:
        raise InputError(
            f"{where} has {info.action_dim} numbers per action block, the model takes "
            f"{action.dim}; record with the model's action block"
        )
    if info.color != observation.color:
        raise InputError(
            f"{where} holds {info.color} frames, the model takes {observation.color}; "
            "convert the recording"
        )
    if not math.isclose(info.rate_hz, observation.camera_rate_hz, rel_tol=_RATE_TOLERANCE):
        raise InputError(
            f"{where} was recorded at {info.rate_hz:g} Hz, the model takes frames at "
            f"{observation.camera_rate_hz:g} Hz; record at the model's rate"
        )
    first = recording.load(0)
    if state is not None:
        have = None if first.robot_state is None else first.robot_state.shape[1]
        if have != state.dim:
            raise InputError(
                f"{where} has {have or 'no'} numbers of robot_state per frame, the model takes "
                f"{state.dim}; record the robot's own state beside the frames"
            )
    try:
        picture = msgspec.structs.replace(observation, clip=None)
        picture.check_frames(first.frames)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


class RecordingWriter:
    """Writes a recording beside its target and moves it in place when it is whole."""

    def __init__(self, path: Path | str, info: RecordingInfo) -> None:
        """Raises InputError when path exists: recordings are never overwritten."""
        self.path = Path(path)
        self.info = info
        self._count = 0
        if self.path.exists():
            raise InputError(f"{self.path} exists already; remove it or choose another --out")

    def __enter__(self) -> RecordingWriter:
        self._stack = ExitStack()
        self._staging = self._stack.enter_context(staged_directory(self.path))
        return self

    def add(self, episode: Episode) -> None:
        """Append an episode; it is stored compressed under a running number."""
        arrays: dict[str, NDArray[np.generic]] = {
            "frames": episode.frames,
            "actions": episode.actions,
            "stamps_s": episode.stamps_s,
        }
        if episode.state is not None:
            arrays["state"] = episode.state
        if episode.loss is not None:
            arrays["loss"] = episode.loss
        if episode.robot_state is not None:
            arrays["robot_state"] = episode.robot_state
        np.savez_compressed(self._staging / f"episode_{self._count:05d}.npz", **arrays)  # type: ignore[arg-type]
        self._count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            (self._staging / INFO_NAME).write_bytes(json_bytes(self.info))
        self._stack.__exit__(kind, error, trace)
