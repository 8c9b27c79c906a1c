# SPDX-License-Identifier: Apache-2.0
"""Which block of setpoints led to a frame, of trajectories. All times are nanoseconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST = 1024
"""Trajectories remembered at most."""

_KEEP_NS = 2_000_000_000
"""How long one that was replaced is remembered beyond the periods of the frame at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """Setpoints: times_ns (P,) int64, rising, on the base of the stamps; values (P, n).

    In force from `start_ns`. No point at all stands for a message that could not be read.
    """

    start_ns: int
    times_ns: NDArray[np.int64]
    values: NDArray[np.float32]

    def at(self, time_ns: int) -> NDArray[np.float32]:
        """The setpoint at a time, (n,), linear between points; beyond them the nearest one."""
        if not len(self.times_ns):
            return np.zeros(0, np.float32)
        since = self.times_ns - self.start_ns
        return np.array(
            [np.interp(time_ns - self.start_ns, since, column) for column in self.values.T],
            np.float32,
        )


class Trajectories:
    """Blocks out of trajectories: the setpoint in the middle of each step, or of the block.

    The one that came last and has begun is in force, until its last point, which then is held: an
    arm stays where it was told to be. Until its first point the setpoint goes there from where the
    one before had it at that time.
    """

    def __init__(self, *, dim: int, block: int, period_ns: int) -> None:
        """dim: numbers of a block. block: steps in it."""
        self._dim, self._block = dim, block
        self._period_ns = period_ns
        self._keep_ns = 4 * period_ns + _KEEP_NS
        self._known: deque[Trajectory] = deque(maxlen=_MOST)

    def add(
        self,
        start_ns: int,
        received_ns: int,
        after_ns: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        """Remember a trajectory. after_ns: of each point, (P,), after the start; values: (P, n)."""
        times_ns = start_ns + after_ns
        before = self._at(start_ns)
        known = before is not None and before.size == values.shape[-1]
        if before is not None and known and len(after_ns) and after_ns[0] > 0:
            times_ns = np.concatenate([[start_ns], times_ns])
            values = np.concatenate([before[None], values])
        self._known.append(Trajectory(start_ns=start_ns, times_ns=times_ns, values=values))
        while len(self._known) > 1 and received_ns - self._known[1].start_ns > self._keep_ns:
            self._known.popleft()

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    @property
    def empty(self) -> bool:
        """Whether none is remembered."""
        return not self._known

    def led_to(self, stamp_ns: int) -> NDArray[np.float32] | None:
        """Return the block that led to a frame of this stamp, (A,); None when there was none.

        Setpoints of a length that is neither a block nor a step are returned as they are: the
        session shall refuse them.
        """
        start_ns = stamp_ns - self._period_ns
        whole = self._at(start_ns + self._period_ns // 2)
        if whole is None or self._block == 1 or whole.size != self._dim // self._block:
            return whole
        step_ns = self._period_ns // self._block
        steps = [self._at(start_ns + k * step_ns + step_ns // 2) for k in range(self._block)]
        known = [step for step in steps if step is not None]
        if len(known) < len(steps):
            return None
        return next((step for step in known if step.size != whole.size), np.concatenate(known))

    def _at(self, time_ns: int) -> NDArray[np.float32] | None:
        """The setpoint at a time, or None before the first trajectory."""
        for trajectory in reversed(self._known):
            if trajectory.start_ns <= time_ns:
                return trajectory.at(time_ns)
        return None
