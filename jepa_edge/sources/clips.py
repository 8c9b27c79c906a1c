# SPDX-License-Identifier: Apache-2.0
"""Camera frames of a file or a simulator, as the model takes them: one by one, or as clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from jepa_edge.manifest import ObservationSpec
from jepa_edge.nodes.clips import ClipGatherer
from jepa_edge.session import Observation


def clip_observations(
    frames: Iterable[Observation], observation: ObservationSpec
) -> Iterator[Observation]:
    """Yield what a session sees of camera frames that come at camera_rate_hz.

    frames: with their pictures (H, W, 3); a clip's state is its newest frame's, and it has no
    action. Unchanged where the model takes no clips. A gap begins the next clip anew, and that one
    says so by `continues`.
    Raises InputError when a clip's frames are not camera_rate_hz apart.
    """
    if observation.clip is None:
        yield from frames
        return
    clips = ClipGatherer(observation.clip, round(1e9 / observation.camera_rate_hz))
    breaks = 0
    for frame in frames:
        clip = clips.add(round(1e9 * frame.stamp_s), _picture(frame))
        if clip is not None:
            yield Observation(
                stamp_s=frame.stamp_s,
                frame=clip,
                state=frame.state,
                continues=clips.breaks == breaks,
            )
            breaks = clips.breaks


def _picture(frame: Observation) -> Callable[[], NDArray[np.generic]]:
    return lambda: frame.frame
