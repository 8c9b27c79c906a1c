# SPDX-License-Identifier: Apache-2.0
"""What a user may choose about a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jepa_edge import _core
from jepa_edge.backends import Provider
from jepa_edge.channels import LONG
from jepa_edge.errors import InputError
from jepa_edge.world_model import AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """Options of `calibrate_bundle`; the defaults live here and nowhere else.

    variant: a name from the manifest, "auto" for the fastest here that passes its golden outputs,
    or "all". provider, engines: what computes, as in `WorldModel.load`. alpha: share of nominal
    episodes that may raise CAUTION. horizon: steps that get a conformal radius. conformal: episodes
    that set thresholds; 0 stands for 35 % of them, or what alpha needs. groups: by action size,
    with radii of their own; 0 switches them off. max_risk, risk_delta: mean loss per episode that
    CAUTION must keep to, with confidence 1 - risk_delta; needs recorded losses. selftest_episodes:
    stored in the bundle, from the test split. seed: of splits, fits and samples. samples: futures
    drawn per history in the spread report. rank: columns of the covariance's low-rank part.
    members: mean heads. hidden: width of the heads. density_hidden: width of the familiarity's
    flow. threads: of the inference backend. cache: directory for encoded episodes, shared with
    `jepa-edge evaluate`; None stores none.
    Raises InputError when a number is out of range.
    """

    variant: str = AUTO
    provider: Provider = "auto"
    engines: Path | None = None
    alpha: float = 0.05
    horizon: int = 5
    conformal: int = 0
    groups: int = 3
    max_risk: float | None = None
    risk_delta: float = 0.05
    selftest_episodes: int = 24
    seed: int = 0
    samples: int = 32
    rank: int = 8
    members: int = 5
    hidden: int = 64
    density_hidden: int = 128
    threads: int = 1
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise InputError(f"alpha is {self.alpha:g}, expected a number between 0 and 1")
        for name, share in (("max_risk", self.max_risk), ("risk_delta", self.risk_delta)):
            if share is not None and not 0.0 < share < 1.0:
                raise InputError(f"{name} is {share:g}, expected a number between 0 and 1")
        if self.groups == 1:
            raise InputError("groups is 1, expected 2 or more, or 0 for none")
        for name, lowest, highest in (
            ("horizon", 1, 100),
            ("conformal", 0, 1_000_000),
            ("groups", 0, 20),
            ("selftest_episodes", 0, 1000),
            ("seed", 0, 2**63 - 1),
            ("samples", 2, 10_000),
            ("rank", 1, int(_core.MAX_RANK)),
            ("members", 2, 100),
            ("hidden", 4, 4096),
            ("density_hidden", 4, 4096),
            ("threads", 1, 1024),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InputError(f"{name} is {value}, expected {lowest} to {highest}")

    @property
    def fitted_horizon(self) -> int:
        """Steps that the latent variable is fitted for: the monitor's long prediction fits in."""
        return max(self.horizon, LONG)
