# SPDX-License-Identifier: Apache-2.0
"""What a user may choose about an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jepa_edge.bags.topics import BagOptions
from jepa_edge.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """Options of `evaluate`; the defaults live here and nowhere else.

    onset: model step of faults that name none; None for three eighths of the shortest calibrated
    episode. fault_episodes: most episodes per injected or simulated fault. calibration_data: the
    calibration's own recording, which baselines are fitted on; None leaves them out. samples:
    futures per window in the forecast metrics; fewer than 32 flatter them. windows: most windows
    per nominal episode there. cache: directory for encoded episodes, or None. seed: of faults,
    samples and bootstrap. workers: threads that encode and score. bag: how bags among the recorded
    runs are read; None for what fits.
    Raises InputError when a number is out of range.
    """

    onset: int | None = None
    fault_episodes: int = 40
    calibration_data: Path | None = None
    samples: int = 50
    windows: int = 2
    cache: Path | None = None
    seed: int = 0
    workers: int = 2
    bag: BagOptions | None = None
    command: str = ""

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("fault_episodes", 1, 1_000_000),
            ("samples", 8, 10_000),
            ("windows", 1, 10_000),
            ("seed", 0, 2**31 - 1),
            ("workers", 1, 256),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InputError(f"{name} is {value}, expected {lowest} to {highest}")
        if self.onset is not None and self.onset < 0:
            raise InputError(f"onset is {self.onset}, expected a step of 0 or more")
