# SPDX-License-Identifier: Apache-2.0
"""What a user may choose about a calibration."""

from __future__ import annotations

from dataclasses import dataclass

from jepa_edge import _core
from jepa_edge.channels import LONG
from jepa_edge.errors import InputError
from jepa_edge.world_model import AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """Options of `calibrate_bundle`; the defaults live here and nowhere else.

    variant: a name from the manifest, "auto" for the fastest here that passes its golden outputs,
    or "all". alpha: share of nominal episodes that may raise CAUTION. horizon: steps that get a
    conformal radius. seed: of splits, fits and samples. samples: futures drawn per history in the
    spread report. rank: columns of the covariance's low-rank part. members: mean heads. hidden:
    width of the heads. threads: of the inference backend.
    Raises InputError when a number is out of range.
    """

    variant: str = AUTO
    alpha: float = 0.05
    horizon: int = 5
    seed: int = 0
    samples: int = 32
    rank: int = 8
    members: int = 5
    hidden: int = 64
    threads: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise InputError(f"alpha is {self.alpha:g}, expected a number between 0 and 1")
        for name, lowest, highest in (
            ("horizon", 1, 100),
            ("seed", 0, 2**63 - 1),
            ("samples", 2, 10_000),
            ("rank", 1, int(_core.MAX_RANK)),
            ("members", 2, 100),
            ("hidden", 4, 4096),
            ("threads", 1, 1024),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InputError(f"{name} is {value}, expected {lowest} to {highest}")

    @property
    def fitted_horizon(self) -> int:
        """Steps that the latent variable is fitted for: the monitor's long prediction fits in."""
        return max(self.horizon, LONG)
