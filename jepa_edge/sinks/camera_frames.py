# SPDX-License-Identifier: Apache-2.0
"""Clips taken apart into the camera frames that they were made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_edge.manifest import ClipSpec

_LOST_PERIODS = 1.8
"""Camera periods to the first frame after a loss: more than `MAX_GAP`, so that readers see it."""
_LEAST_PERIODS = 0.75
"""Frames nearer together than this would be those of a faster camera."""

Shown = list[tuple[int, NDArray[np.uint8]]]
"""Stamps, ns, and pictures (H, W, 3), oldest first."""


class CameraFrames:
    """Gives of each clip the camera frames that no clip before it held.

    That is the whole of the first clip and of one after a loss, and of others the newest `hop`
    frames, or all of them where a clip spans less. Frames that no clip shows, for its stride,
    repeat the one before. A clip tells the stamp of its newest frame; the stamps of the others are
    a camera period apart, or even between two that are told.
    """

    def __init__(self, spec: ClipSpec, camera_period_ns: int) -> None:
        self._spec = spec
        self._period_ns = camera_period_ns
        self._newest_ns: int | None = None

    def of(self, clip: NDArray[np.uint8], stamp_ns: int, *, continues: bool) -> Shown:
        """Return what is new in a clip (F, H, W, 3).

        stamp_ns: of its newest frame. continues: whether no frame was lost since the clip before.
        """
        spec, before_ns = self._spec, self._newest_ns
        self._newest_ns = stamp_ns
        count = spec.span
        if before_ns is None or stamp_ns <= before_ns:
            apart_ns = self._apart(count, max(stamp_ns, 0))  # no stamp lies before 0
        elif continues:
            count = min(spec.span, spec.hop)
            apart_ns = (stamp_ns - before_ns) / spec.hop
        else:
            left_ns = stamp_ns - before_ns - _LOST_PERIODS * self._period_ns
            apart_ns = self._apart(count, left_ns)
        return [
            (stamp_ns - round(age * apart_ns), clip[self._shown(age)])
            for age in reversed(range(count))
        ]

    def _apart(self, count: int, left_ns: float) -> float:
        """A camera period, or a little less where there is no room for so many frames."""
        if count == 1:
            return 0.0
        return self._period_ns * min(
            1.0, max(_LEAST_PERIODS, left_ns / ((count - 1) * self._period_ns))
        )

    def _shown(self, age: int) -> int:
        """Which picture of a clip was there `age` camera frames before its newest."""
        older = -(-age // self._spec.stride)  # rounded up
        return max(0, self._spec.frames - 1 - older)
