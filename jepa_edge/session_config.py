# SPDX-License-Identifier: Apache-2.0
"""Limits and defaults of a session."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from jepa_edge.errors import InputError
from jepa_edge.flags import Level

MAX_AGE_PERIODS = 2.0
"""How old input may be unless set. A flag holds as long: with a period until the next frame, a
step may take the other one, which is where overload begins."""

MAX_HORIZON = 100
"""Most steps that futures are sampled ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Limits of the loop. Times in seconds; periods are 1 / rate of the model's training data.

    max_age_s: an older frame is stale; None stands for MAX_AGE_PERIODS. min_gap_periods,
    max_gap_periods: stamps nearer together or farther apart than this, or a step back, are a clock
    jump. max_latency_s: steps that take longer, several in a row, are an overload; None stands for
    one period, and for no limit in a session without a clock. fall_after: calmer frames before the
    level falls. latch: lowest level that stays until `Session.reset_latch`; None latches nothing.
    domain_tolerance: how far outside the calibrated actions and rate is still inside, as a share
    of them. horizon, samples, seed: futures drawn per frame; samples 0 switches them off.
    Raises InputError when a number is out of range.
    """

    max_age_s: float | None = None
    min_gap_periods: float = 0.5
    max_gap_periods: float = 1.75
    max_latency_s: float | None = None
    fall_after: int = 3
    latch: Level | None = Level.REJECT
    domain_tolerance: float = 0.1
    horizon: int = 5
    samples: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("max_age_s", _positive(self.max_age_s), "above 0"),
            ("min_gap_periods", 0.0 <= self.min_gap_periods < 1.0, "0 to below 1"),
            ("max_gap_periods", 1.0 < self.max_gap_periods < math.inf, "above 1"),
            ("max_latency_s", _positive(self.max_latency_s), "above 0"),
            ("fall_after", self.fall_after >= 1, "1 or more"),
            ("latch", self.latch in (None, Level.CAUTION, Level.REJECT), "None, CAUTION or REJECT"),
            ("domain_tolerance", 0.0 <= self.domain_tolerance <= 1.0, "0 to 1"),
            ("horizon", 1 <= self.horizon <= MAX_HORIZON, f"1 to {MAX_HORIZON}"),
            ("samples", self.samples == 0 or self.samples >= 2, "0, or 2 or more"),
            ("seed", 0 <= self.seed < 2**63, "0 to 2^63 - 1"),
        )
        for name, good, expected in checks:
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}, expected {expected}")

    def resolved(self, period_s: float, *, live: bool) -> SessionConfig:
        """Return the limits that hold. period_s: of the model. live: whether there is a clock.

        max_latency_s stays None where nothing limits it.
        """
        age_s, latency_s = self.max_age_s, self.max_latency_s
        return replace(
            self,
            max_age_s=MAX_AGE_PERIODS * period_s if age_s is None else age_s,
            max_latency_s=period_s if latency_s is None and live else latency_s,
        )


def _positive(number: float | None) -> bool:
    """Whether number is None, or positive and finite."""
    return number is None or 0.0 < number < math.inf
