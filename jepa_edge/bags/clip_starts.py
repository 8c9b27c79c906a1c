# SPDX-License-Identifier: Apache-2.0
"""Where a node began to choose among the frames of a camera that is faster than the model's."""

from __future__ import annotations

import numpy as np

from jepa_edge.bags.recorded import Made, Recorded
from jepa_edge.manifest import ObservationSpec

_FASTER = 0.75
"""Camera periods between two images of a faster camera, at most."""


def clip_starts(recorded: Recorded, seen: ObservationSpec) -> frozenset[int]:
    """Return the stamps, ns, of images at which a replay restarts its inputs.

    A node takes the first image that it hears, or that comes after `begin_episode`, and from there
    on those nearest to the model's camera rate. A bag tells none of that, but the first clip that
    was judged shows which images those were. None where the camera has the model's own rate: there
    every image is taken.
    """
    period_ns = 1e9 / seen.camera_rate_hz
    if seen.clip is None or _gap_ns(recorded, seen) > _FASTER * period_ns:
        return frozenset()
    images = np.array(sorted(recorded.images), np.int64)
    span_ns, first_ns = round((seen.clip.span - 1) * period_ns), first_whole_ns(recorded, seen)
    found = set()
    for run in recorded.runs:
        episode: int | None = None
        for seq in sorted(run.flags):
            flag = run.flags[seq]
            now = int(flag.message.episode)
            if flag.made is Made.STEP and flag.stamp_ns >= first_ns and now != episode:
                episode = now
                found.add(int(images[np.argmin(np.abs(images - (flag.stamp_ns - span_ns)))]))
    return frozenset(found)


def first_whole_ns(recorded: Recorded, seen: ObservationSpec) -> int:
    """Return the earliest stamp, ns, of a frame whose clip does not begin before the bag."""
    spans = 0 if seen.clip is None else seen.clip.span - 1
    slack_ns = 0.5 * _gap_ns(recorded, seen)
    return min(recorded.images, default=0) + round(spans * 1e9 / seen.camera_rate_hz - slack_ns)


def _gap_ns(recorded: Recorded, seen: ObservationSpec) -> float:
    """From one image to the next, or what the model expects where that is less."""
    expected_ns = 1e9 / seen.camera_rate_hz
    gaps = np.diff(np.array(sorted(recorded.images), np.int64))
    return min(expected_ns, float(np.median(gaps))) if len(gaps) else expected_ns
