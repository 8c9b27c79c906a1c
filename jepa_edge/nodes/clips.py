# SPDX-License-Identifier: Apache-2.0
"""Clips out of camera messages: none over a gap, none that lasts another time than the model's."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container

import numpy as np
from numpy.typing import NDArray

from jepa_edge.clip import ClipBuffer, between_clips
from jepa_edge.errors import InputError
from jepa_edge.manifest import ClipSpec

logger = logging.getLogger(__name__)

MIN_GAP, MAX_GAP = 0.5, 1.75
"""Camera periods: frames that follow closer are left out; a longer gap has lost a frame."""

_MAX_STRETCH = 0.1
"""How much longer or shorter than the model's a clip may last, or MAX_GAP - 1 camera periods if
that is more: a stamp's jitter counts for more in a short clip."""

_LOG_EVERY = 100

Picture = Callable[[], NDArray[np.generic]]


class ClipGatherer:
    """Gathers the pictures of one camera, each decoded once, when it comes.

    A gap, a stamp that does not rise and a picture that cannot be used begin the gathering anew, so
    that the next clip comes `span` frames later. The stamps of the clips may not show that (with
    `hop` 2 and `span` 2 they are 1.5 model steps apart over a lost frame), so `breaks` says it: who
    hands clips on tells the session, by `Observation.continues`, whether it rose since the last.
    Frames lost between two clips, which no clip spans, are counted and break nothing.
    """

    def __init__(
        self, spec: ClipSpec, camera_period_ns: int, ends: Container[int] | None = None
    ) -> None:
        """ends: stamps, ns, of the newest frames of the clips that are wanted, for a replay; None:
        a clip every `hop` frames."""
        self._spec = spec
        self._period_ns = camera_period_ns
        self._ends = ends
        self._buffer = ClipBuffer(spec)
        self._replayed: deque[NDArray[np.uint8]] = deque(maxlen=spec.span)
        self._stamps: deque[int] = deque(maxlen=spec.span)
        self._told_ns: int | None = None
        self._next: int | None = None  # index of the next frame of a replay, from a clip's first
        self.breaks = 0

    def reset(self) -> None:
        """Begin anew; a stamp may be any then."""
        self._begin()
        self._told_ns = None

    def add(self, stamp_ns: int, picture: Picture) -> NDArray[np.generic] | None:
        """Take a frame; return the clip (F, H, W, 3) that it ends, None if it ends none.

        picture: gives the frame in the model's size and colors; not asked where no clip shows it.
        What cannot be used is returned as it is, at most once per hop, for the session to refuse.
        Raises InputError, at most once per hop, when there is no picture or clips last too long.
        """
        self._check_gap(stamp_ns)
        self._stamps.append(stamp_ns)
        if self._ends is None and not self._buffer.fits_next:
            self._buffer.skip()
            return None
        try:
            pixels = picture()
            if pixels.dtype != np.uint8:
                return self._refused(stamp_ns, pixels)
            clip = self._gathered(stamp_ns, pixels.view(np.uint8))
            if clip is not None:
                self._check_length()
        except InputError:
            self._broken("a picture or a clip could not be used")
            if self._may_tell(stamp_ns):
                raise
            return None
        if clip is not None:
            self._told_ns = stamp_ns
        return clip

    def _gathered(self, stamp_ns: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        if self._ends is None:
            return self._buffer.push(pixels)
        self._replayed.append(pixels)
        if self._next is not None:
            self._next += 1
        if stamp_ns not in self._ends or len(self._replayed) < self._spec.span:
            return None
        self._next = self._spec.span
        return np.stack(list(self._replayed)[:: self._spec.stride])

    def _check_gap(self, stamp_ns: int) -> None:
        if not self._stamps:
            return
        gap = (stamp_ns - self._stamps[-1]) / self._period_ns
        if 0.0 < gap <= MAX_GAP:
            return
        if gap <= 0.0 or not self._skip_lost(round(gap) - 1):
            self._broken(f"{gap:.2f} camera periods lie between two frames, expected 1")

    def _skip_lost(self, count: int) -> bool:
        """Go on over lost frames, if no clip spans them; return whether that is so."""
        if self._ends is None:
            return self._buffer.skip_lost(count)
        if self._next is None or not between_clips(self._next, count, self._spec):
            return False
        self._next += count
        self._replayed.clear()
        return True

    def _check_length(self) -> None:
        """Raise InputError for a clip whose camera is slower or faster than the model's."""
        spans = self._spec.span - 1
        lasts = (self._stamps[-1] - self._stamps[0]) / self._period_ns
        if abs(lasts - spans) > max(_MAX_STRETCH * spans, MAX_GAP - 1.0):
            raise InputError(
                f"{self._spec.span} camera frames last {1e-9 * lasts * self._period_ns:.3f} s, "
                f"expected {1e-9 * spans * self._period_ns:.3f} s: set the camera to "
                f"{1e9 / self._period_ns:g} Hz"
            )

    def _refused(self, stamp_ns: int, pixels: NDArray[np.generic]) -> NDArray[np.generic] | None:
        self._broken(f"a picture is {pixels.dtype}")
        return pixels if self._may_tell(stamp_ns) else None

    def _may_tell(self, stamp_ns: int) -> bool:
        """Whether the session may hear of this stamp: a model step lies before it."""
        step_ns = (self._spec.hop - 0.5) * self._period_ns
        if self._told_ns is not None and 0 < stamp_ns - self._told_ns < step_ns:
            return False
        self._told_ns = stamp_ns
        return True

    def _broken(self, why: str) -> None:
        self._begin()
        self.breaks += 1
        if self.breaks % _LOG_EVERY == 1:
            logger.warning(
                "the clip begins anew, for the %d. time: %s; the next is whole after %d frames",
                self.breaks,
                why,
                self._spec.span,
            )

    def _begin(self) -> None:
        self._buffer.reset()
        self._replayed.clear()
        self._next = None
        self._stamps.clear()
