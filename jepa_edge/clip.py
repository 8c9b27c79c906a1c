# SPDX-License-Identifier: Apache-2.0
"""Clips out of a stream of camera frames, for encoders that see several pictures at once."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.manifest import ClipSpec, Manifest


class ClipBuffer:
    """Gathers camera frames; every `hop` of them make a clip, from the first whole one on.

    `hop` is a multiple of `stride`, so only every `stride`-th frame since the start is ever seen by
    the model, and where `hop` is more than `span`, only the first `span` of every `hop`: the ring
    holds `spec.frames` pictures, allocated with the first push.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self.spec = spec
        self._ring: NDArray[np.uint8] | None = None
        self._pushed = 0

    def reset(self) -> None:
        """Begin anew, as after a lost frame: the next clip shares nothing with those before."""
        self._pushed = 0

    @property
    def fits_next(self) -> bool:
        """Whether any clip shows the next frame: of the others the pixels do not matter."""
        index = self._pushed
        return in_a_clip(index, self.spec) and index % self.spec.hop % self.spec.stride == 0

    def skip(self) -> None:
        """Count a frame that no clip shows, without its pixels. Raises InputError for another."""
        if self.fits_next:
            raise InputError("the next frame is part of a clip, expected its pixels; push it")
        self._pushed += 1

    def skip_lost(self, count: int) -> bool:
        """Count frames that never came, if no clip spans any of them; return whether that is so."""
        if not between_clips(self._pushed, count, self.spec):
            return False
        self._pushed += count
        return True

    def push(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Take a camera frame, (H, W, 3) uint8; return the clip (F, H, W, 3) that it ends, if any.

        The clip is oldest picture first, a copy that later pushes leave alone.
        Raises InputError for another type, or another size than the frames before.
        """
        _check_picture(frame)
        if self._ring is None:
            self._ring = np.empty((self.spec.frames, *frame.shape), np.uint8)
        if frame.shape != self._ring.shape[1:]:
            raise InputError(
                f"frame has shape {frame.shape}, those before have {self._ring.shape[1:]}; "
                "make a new ClipBuffer for another camera"
            )
        spec, index = self.spec, self._pushed
        self._pushed += 1
        if index % spec.stride:
            return None
        slot = index // spec.stride % spec.frames
        self._ring[slot] = frame
        if not _ends_clip(index, spec):
            return None
        return np.concatenate([self._ring[slot + 1 :], self._ring[: slot + 1]])


def clips_of(frames: NDArray[np.uint8], spec: ClipSpec) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the clips of a run, as `ClipBuffer` makes them: (index of the newest frame, clip).

    frames: (T, H, W, 3) uint8. Clips are (F, H, W, 3), read-only views; none where T < span.
    Raises InputError for another type or shape.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise InputError(
            f"frames are {frames.dtype} with shape {frames.shape}, expected uint8 (T, H, W, 3)"
        )
    for newest in range(spec.span - 1, len(frames), spec.hop):
        clip = frames[newest - spec.span + 1 : newest + 1 : spec.stride]
        clip.flags.writeable = False
        yield newest, clip


def in_a_clip(index: int, spec: ClipSpec) -> bool:
    """Whether a clip spans this frame, counted from the first of the first clip: none spans what
    lies between two clips where `hop` is more than `span`."""
    return index % spec.hop < spec.span


def between_clips(index: int, count: int, spec: ClipSpec) -> bool:
    """Whether so many frames from this one on, counted as in `in_a_clip`, are in no clip's span."""
    if count > spec.hop - spec.span:
        return False
    return not any(in_a_clip(index + k, spec) for k in range(count))


def by_camera_frame(manifest: Manifest) -> Manifest:
    """Return what a model would say that takes the same camera's frames one by one.

    For what is read or recorded before clips are made of it; the same where the model takes none.
    """
    observation = msgspec.structs.replace(
        manifest.observation, clip=None, rate_hz=manifest.observation.camera_rate_hz
    )
    return msgspec.structs.replace(manifest, observation=observation)


def _ends_clip(index: int, spec: ClipSpec) -> bool:
    """Whether the frame of this index, from 0, is the newest of a clip."""
    return index >= spec.span - 1 and (index - spec.span + 1) % spec.hop == 0


def _check_picture(frame: NDArray[np.uint8]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(
            f"frame is {frame.dtype} with shape {frame.shape}, expected uint8 (H, W, 3): one "
            "camera frame, not a clip"
        )
