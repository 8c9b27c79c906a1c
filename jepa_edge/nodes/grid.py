# SPDX-License-Identifier: Apache-2.0
"""Which frames of a camera the model gets, where the camera is faster than the model."""

from __future__ import annotations

_SMOOTHING = 8
"""Weight of the camera's period so far against its newest gap, in gaps."""

_MARGIN_PERIODS = 0.02
"""How much later than expected the next frame may come and still be within the longest gap."""

_JITTER_SHARE = 0.4
"""Of what the session allows a gap beyond a period, so much is left to the camera's jitter."""


class FrameGrid:
    """Takes the frames nearest to a grid of the model's period; all times are nanoseconds.

    The mean rate is the model's, and no gap between frames that were taken leaves the limits unless
    the camera's own do. Of a camera that is too slow to leave a frame out within the longest gap,
    such as 12 Hz for a model of 10 Hz, every frame is taken: the session says that the rate is
    outside its domain. A stamp that repeats, goes back or lies in the future is taken, so that the
    session says what is wrong with it, and leaves the grid where it is; two such stamps that
    follow each other move the grid: the clock was set.
    """

    def __init__(
        self,
        period_ns: int,
        min_gap_periods: float,
        max_gap_periods: float,
        longest_gap_periods: float,
    ) -> None:
        """min_gap_periods, max_gap_periods: the session's limits. longest_gap_periods: leaving
        frames out makes no longer gap; a flag must still be valid at its end."""
        self._period_ns = period_ns
        self._min_gap_ns = round(min_gap_periods * period_ns)
        self._max_gap_ns = round(max_gap_periods * period_ns)
        steady_periods = 1.0 + (1.0 - _JITTER_SHARE) * (max_gap_periods - 1.0)
        longest_periods = min(longest_gap_periods, steady_periods) - _MARGIN_PERIODS
        self._longest_gap_ns = round(longest_periods * period_ns)
        self.restart()

    def restart(self) -> None:
        """Take the next frame, whatever its stamp is."""
        self._seen_ns: int | None = None
        self._taken_ns: int | None = None
        self._odd_ns: int | None = None
        self._camera_ns: int | None = None
        self._due_ns = 0

    def takes(self, stamp_ns: int, received_ns: int) -> bool:
        """Return whether the model gets a frame of this stamp, received then."""
        if self._is_odd(stamp_ns, received_ns):
            before, self._odd_ns = self._odd_ns, stamp_ns
            if before is None or not 0 < stamp_ns - before <= self._max_gap_ns:
                return True
            self._seen_ns = self._taken_ns = before
            self._due_ns = before + self._period_ns
        self._odd_ns = None
        self._learn(stamp_ns)
        if self._taken_ns is None:
            return self._take(stamp_ns, stamp_ns + self._period_ns)
        camera_ns = self._camera_ns or self._period_ns
        since_ns = stamp_ns - self._taken_ns
        if since_ns < self._min_gap_ns:
            return False
        nearest = 2 * (self._due_ns - stamp_ns) <= camera_ns
        if not nearest and since_ns + camera_ns <= self._longest_gap_ns:
            return False
        on_grid = nearest and 2 * (stamp_ns - self._due_ns) <= self._period_ns
        return self._take(stamp_ns, (self._due_ns if on_grid else stamp_ns) + self._period_ns)

    def _is_odd(self, stamp_ns: int, received_ns: int) -> bool:
        """Whether the stamp repeats, went back, or lies more than a period in the future."""
        if self._seen_ns is not None and 0 < stamp_ns - self._seen_ns <= self._max_gap_ns:
            return False
        back = self._seen_ns is not None and stamp_ns <= self._seen_ns
        return back or stamp_ns - received_ns > self._period_ns

    def _learn(self, stamp_ns: int) -> None:
        """Keep up with the camera's own period."""
        if self._seen_ns is not None:
            gap_ns = stamp_ns - self._seen_ns
            if self._camera_ns is None:
                self._camera_ns = min(gap_ns, self._period_ns)
            elif gap_ns <= self._max_gap_ns:
                newest_ns = min(gap_ns, self._period_ns)
                self._camera_ns += (newest_ns - self._camera_ns) // _SMOOTHING
        self._seen_ns = stamp_ns

    def _take(self, stamp_ns: int, due_ns: int) -> bool:
        self._taken_ns, self._due_ns = stamp_ns, due_ns
        return True
