# SPDX-License-Identifier: Apache-2.0
"""Which of the commands of the last seconds led to a frame. All times are nanoseconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SLACK = 10
"""A command that comes this fraction (1 / 10) of its time early still counts as on time."""

_MOST = 8192
"""Commands remembered at most."""

_KEEP_NS = 2_000_000_000
"""How long commands are remembered beyond the time that they can be of use to a frame in time."""


@dataclass(frozen=True, slots=True)
class Command:
    """What was commanded, and when; received_ns bounds how long it is remembered."""

    time_ns: int
    received_ns: int
    values: NDArray[np.float32]


class Commands:
    """Blocks, or single steps of a block that are put together by zero-order hold.

    A command holds from its time until the next one. Of a stretch of time, such as a block before
    a frame, the command that held in its middle is taken; one that came later in it is taken only
    if nothing held there but what was left over from the stretch before.
    """

    def __init__(self, *, dim: int, block: int, period_ns: int, timeout_ns: int) -> None:
        """dim: numbers of a block. block: steps in it. timeout_ns: longest that a command is held
        beyond its own time; 0 for half a period where it is a whole block, else a period."""
        self._dim, self._block = dim, block
        self._period_ns = period_ns
        self._step_ns = period_ns // block
        self._block_hold_ns = timeout_ns or (period_ns // 2 if block > 1 else period_ns)
        self._step_hold_ns = timeout_ns or period_ns
        self._keep_ns = 2 * max(self._block_hold_ns, self._step_hold_ns) + 4 * period_ns + _KEEP_NS
        self._commands: deque[Command] = deque(maxlen=_MOST)
        self._near: list[Command] = []  # of the frame at hand

    def add(self, time_ns: int, received_ns: int, values: NDArray[np.float32]) -> None:
        """Remember a command."""
        commands = self._commands
        while commands and received_ns - commands[0].received_ns > self._keep_ns:
            commands.popleft()
        commands.append(Command(time_ns, received_ns, values))

    def clear(self) -> None:
        """Forget all."""
        self._commands.clear()

    @property
    def empty(self) -> bool:
        """Whether none is remembered."""
        return not self._commands

    def led_to(self, stamp_ns: int) -> NDArray[np.float32] | None:
        """Return the block that led to a frame of this stamp, (A,); None when there was none.

        A command of a length that is neither a block nor a step is returned as it is: the session
        shall refuse it.
        """
        start_ns = stamp_ns - self._period_ns
        oldest_ns = start_ns - max(self._block_hold_ns, self._step_hold_ns, self._period_ns)
        self._near = [c for c in self._commands if oldest_ns <= c.time_ns < stamp_ns]
        held = self._held(start_ns, self._period_ns, self._block_hold_ns)
        if held is None and self._block > 1:
            held = self._held(start_ns, self._step_ns, self._step_hold_ns)
            if held is not None and held.size == self._dim:
                return None  # a whole block is over when its period is
        if held is None or held.size != self._dim // self._block or self._block == 1:
            return held
        steps = []
        for step in range(self._block):
            value = self._held(start_ns + step * self._step_ns, self._step_ns, self._step_hold_ns)
            if value is None or value.size != held.size:
                return value
            steps.append(value)
        return np.concatenate(steps)

    def _held(self, start_ns: int, length_ns: int, hold_ns: int) -> NDArray[np.float32] | None:
        """What was commanded from start for length, or None."""
        middle_ns, slack_ns = start_ns + length_ns // 2, length_ns // _SLACK
        before: Command | None = None
        after: Command | None = None
        for command in self._near:
            if command.time_ns <= middle_ns:
                if before is None or command.time_ns >= before.time_ns:
                    before = command
            elif command.time_ns < start_ns + length_ns - slack_ns and (
                after is None or command.time_ns < after.time_ns
            ):
                after = command
        if before is not None and before.time_ns >= start_ns - slack_ns:
            return before.values
        if after is not None:
            return after.values
        if before is not None and start_ns - before.time_ns <= hold_ns:
            return before.values
        return None
