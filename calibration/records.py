# SPDX-License-Identifier: Apache-2.0
"""What a calibration reports, as it goes to JSON. All probabilities and rates are in [0, 1]."""

from __future__ import annotations

import msgspec

from jepa_edge.calibration_file import Calibration


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all report records."""


class Rate(_Record, frozen=True, kw_only=True):
    """A measured proportion with its 95 % Clopper-Pearson interval."""

    count: int
    trials: int
    value: float
    low: float
    high: float


class Coverage(_Record, frozen=True, kw_only=True):
    """Coverage on held-out episodes at one alpha and horizon, one random window per episode.

    accept_low, accept_high: coverages inside the exact 99 % binomial interval around 1 - alpha;
    accepted: the measured one is. plausible_low, plausible_high, plausible: the same with the exact
    99 % beta-binomial interval, which allows for radii that are random themselves: they come from
    conformal_episodes, and all rows share that one draw. all_windows: coverage over every window,
    averaged per episode; smoother, not binomial.
    """

    alpha: float
    horizon: int
    radius: float
    measured: Rate
    accept_low: float
    accept_high: float
    accepted: bool
    conformal_episodes: int
    plausible_low: float
    plausible_high: float
    plausible: bool
    all_windows: float


class GroupCoverage(_Record, frozen=True, kw_only=True):
    """Coverage among the windows of one action group, counted from 0, the smallest actions."""

    group: int
    coverage: Coverage


class Reliability(_Record, frozen=True, kw_only=True):
    """Nominal against held-out coverage for one horizon, all windows.

    conformal: after calibration. gaussian: what the head's covariance alone would promise.
    """

    horizon: int
    nominal: tuple[float, ...]
    conformal: tuple[float, ...]
    gaussian: tuple[float, ...]


class Correlation(_Record, frozen=True, kw_only=True):
    """A Spearman correlation with a 95 % bootstrap interval over episodes."""

    value: float
    low: float
    high: float


class Ratio(_Record, frozen=True, kw_only=True):
    """Realized over published, 1 if calibrated, with a 95 % bootstrap interval over episodes."""

    value: float
    low: float
    high: float


class SpreadReport(_Record, frozen=True, kw_only=True):
    """Published spread of sampled futures against realized error of the model's own prediction.

    condition: which runs these are, such as "nominal" or a fault's name. spread, error: root mean
    square over latent numbers, means per horizon, latent units. ratio: per horizon, root mean
    square error over root mean square spread. bounded: share of windows per horizon whose error
    stays below the sampler's conformal bound, empty where it gives none; alpha is its own.
    per_horizon: spearman within one horizon; overall: over all pairs, which also rewards growing
    with the horizon. coverage, risk: share of windows kept by increasing spread (mean over the
    horizon) and their mean error. aurc: area under that curve; random: its value for an
    uninformative spread; oracle: for one that sorts by the error itself.
    """

    name: str
    condition: str
    windows: int
    samples: int
    overall: Correlation
    per_horizon: tuple[Correlation, ...]
    ratio: tuple[Ratio, ...]
    bounded: tuple[float, ...]
    spread: tuple[float, ...]
    error: tuple[float, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    oracle_risk: tuple[float, ...]
    aurc: float
    aurc_random: float
    aurc_oracle: float


class ActionUse(_Record, frozen=True, kw_only=True):
    """Mean squared 4-step error with shuffled over that with commanded actions; 1 is deaf."""

    commanded: float
    shuffled: float
    ratio: float


class VariantReport(_Record, frozen=True, kw_only=True):
    """Everything the calibration of one variant measured, and the calibration itself.

    false_alarms: held-out nominal episodes that pass the CAUTION threshold; rejections: the REJECT
    one. At most a share alpha would, unless calibration.risk says that CAUTION bounds a loss.
    coverage, group_coverage, reliability, gain: empty, spread and action_use: null, for a model
    that takes no actions.
    steps_alarmed: share of held-out steps above the caution threshold. seconds: per stage.
    """

    calibration: Calibration
    coverage: tuple[Coverage, ...]
    group_coverage: tuple[GroupCoverage, ...]
    reliability: tuple[Reliability, ...]
    false_alarms: Rate
    rejections: Rate
    steps_alarmed: float
    spread: SpreadReport | None
    action_use: ActionUse | None
    gain: tuple[float, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]


class CalibrationReport(_Record, frozen=True, kw_only=True):
    """One report per variant that was calibrated, by its name."""

    variants: dict[str, VariantReport]
