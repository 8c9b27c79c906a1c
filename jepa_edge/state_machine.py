# SPDX-License-Identifier: Apache-2.0
"""From the level of single frames to the level that is published: rise at once, fall slowly."""

from __future__ import annotations

from dataclasses import dataclass, field

from jepa_edge.flags import Level


@dataclass(slots=True, kw_only=True)
class Hysteresis:
    """Holds an alarm until enough calmer frames in a row have come.

    fall_after: calmer frames in a row that lower the level; the new level is the highest of them.
    UNKNOWN is taken at once and left at once: only valid, warmed-up frames lead out of it.
    """

    fall_after: int = 3
    level: Level = Level.UNKNOWN
    _calm: list[Level] = field(default_factory=list)

    def update(self, raw: Level) -> Level:
        """Take the level of one frame and return the level to publish."""
        if raw is Level.UNKNOWN or self.level is Level.UNKNOWN or raw >= self.level:
            self.level = raw
            self._calm.clear()
            return self.level
        self._calm.append(raw)
        if len(self._calm) >= self.fall_after:
            self.level = max(self._calm)
            self._calm.clear()
        return self.level
