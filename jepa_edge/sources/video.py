# SPDX-License-Identifier: Apache-2.0
"""A video file, sampled at the rate of the model's camera. Needs the extra `video` (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.image_fit import MODEL_FIT, fit_to
from jepa_edge.manifest import Manifest
from jepa_edge.nodes.clips import MAX_GAP, MIN_GAP, ClipGatherer
from jepa_edge.nodes.grid import FrameGrid
from jepa_edge.session import Observation
from jepa_edge.sources.states import no_state


class VideoSource:
    """Decodes a video and keeps one frame per model step, or a clip.

    Pictures of another size are fitted as the bundle says, or stretched with resize. Without
    actions nothing can be compared: embeddings come out, flags stay UNKNOWN.
    """

    def __init__(
        self, path: Path, manifest: Manifest, *, resize: bool, actions: Path | None
    ) -> None:
        """Raises InputError when the file is no video, its size or actions do not fit, or the model
        takes the robot's state, which no video holds."""
        no_state(manifest, f"{path} is a video")
        try:
            import av
        except ImportError as error:
            raise MissingDependencyError(
                f"reading {path} needs PyAV; install it with `pip install 'jepa-edge[video]'`"
            ) from error
        self._path = path
        self._manifest = manifest
        self._av = av
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                size = (stream.height, stream.width)
        except (av.error.FFmpegError, OSError, IndexError) as error:
            raise InputError(f"{path} is not a readable video: {error}") from error
        expected = (manifest.observation.height, manifest.observation.width)
        if size != expected and not resize and manifest.observation.fit is None:
            raise InputError(
                f"{path} has {size[0]} x {size[1]} frames, the model expects "
                f"{expected[0]} x {expected[1]}; pass --resize to scale them"
            )
        self._fit = "stretch" if resize else MODEL_FIT
        self._actions = None if actions is None else _read_actions(actions, manifest)

    def __iter__(self) -> Iterator[Observation]:
        try:
            clips = self._manifest.observation.clip is not None
            yield from self._clips() if clips else self._decode()
        except self._av.error.FFmpegError as error:
            raise InputError(f"{self._path} is damaged: {error}") from error

    def _decode(self) -> Iterator[Observation]:
        spec = self._manifest.observation
        period_s = 1.0 / spec.rate_hz
        step, due_s = 0, 0.0
        with self._av.open(str(self._path)) as container:
            for frame in container.decode(video=0):
                if frame.time is None or frame.time + 1e-6 < due_s:
                    continue
                action = None
                if step and self._actions is not None:
                    if step > len(self._actions):
                        return
                    action = self._actions[step - 1]
                pixels = self._picture(frame)
                # The frame's own time: a slow or gappy video must show as a clock jump.
                yield Observation(stamp_s=float(frame.time), frame=pixels, action=action)
                step += 1
                # Keep to the grid, but start it anew after a gap.
                due_s += period_s
                if due_s <= frame.time:
                    due_s = frame.time + period_s

    def _clips(self) -> Iterator[Observation]:
        """Clips of the frames nearest to the camera's grid; a gap begins the next one anew."""
        spec = self._manifest.observation
        assert spec.clip is not None
        period_ns = round(1e9 / spec.camera_rate_hz)
        grid = FrameGrid(period_ns, MIN_GAP, MAX_GAP, MAX_GAP)
        clips, breaks = ClipGatherer(spec.clip, period_ns), 0
        with self._av.open(str(self._path)) as container:
            for frame in container.decode(video=0):
                if frame.time is None:
                    continue
                stamp_ns = round(1e9 * frame.time)
                if not grid.takes(stamp_ns, stamp_ns):
                    continue
                clip = clips.add(stamp_ns, partial(self._picture, frame))
                if clip is not None:
                    whole = clips.breaks == breaks
                    yield Observation(stamp_s=float(frame.time), frame=clip, continues=whole)
                    breaks = clips.breaks

    def _picture(self, frame: Any) -> NDArray[np.uint8]:
        spec = self._manifest.observation
        return fit_to(spec, frame.to_ndarray(format=spec.color + "24"), self._fit)


def _read_actions(path: Path, manifest: Manifest) -> NDArray[np.float32]:
    if manifest.action is None:
        raise InputError(f"the model takes no actions, got --actions {path}; leave it out")
    try:
        actions = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read actions from {path}: {error}") from error
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu":
        raise InputError(f"{path} is no .npy file of numbers; save a (T, A) array with np.save")
    if actions.ndim != 2 or actions.shape[1] != manifest.action.dim:
        raise InputError(
            f"{path} holds an array of shape {actions.shape}, expected (T, {manifest.action.dim})"
        )
    if not np.isfinite(actions).all():
        raise InputError(f"{path} holds NaN or infinity; every action must be finite")
    return np.asarray(actions, np.float32)
