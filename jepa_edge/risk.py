# SPDX-License-Identifier: Apache-2.0
"""A threshold that bounds a user's own loss, as it is stored in the calibration."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta


class RiskThreshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop at the first score above `threshold`, and the mean episode loss is at most `max_risk`.

    It holds with probability 1 - delta over the recording. episodes: that it was learnt from.
    risk: their mean loss at the threshold. p_value: of the risk being above max_risk. candidates,
    passed: thresholds in the fixed sequence, and how many of them were accepted.
    """

    threshold: float
    max_risk: Annotated[float, Meta(gt=0.0, lt=1.0)]
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)]
    episodes: Annotated[int, Meta(ge=1)]
    risk: Annotated[float, Meta(ge=0.0, le=1.0)]
    p_value: Annotated[float, Meta(ge=0.0, le=1.0)]
    candidates: Annotated[int, Meta(ge=1)]
    passed: Annotated[int, Meta(ge=1)]

    def __post_init__(self) -> None:
        """Raise ValueError when the numbers do not go together."""
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold}, expected a finite number")
        if self.p_value > self.delta or self.passed > self.candidates:
            raise ValueError(
                f"p_value is {self.p_value:g} and passed {self.passed}, expected delta "
                f"{self.delta:g} and candidates {self.candidates}, or less"
            )
