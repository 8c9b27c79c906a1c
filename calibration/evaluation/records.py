# SPDX-License-Identifier: Apache-2.0
"""What an evaluation measured, as it goes to JSON. Proportions are in [0, 1], times in frames
unless a name ends in _s or _hours."""

from __future__ import annotations

import msgspec

from jepa_edge.binding import Binding
from jepa_edge.calibration.records import ActionUse, Correlation, Rate

REPORT_VERSION = 1


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records of an evaluation."""


class PerHour(_Record, frozen=True, kw_only=True):
    """Events per hour of watched operation, with the exact 95 % Poisson interval."""

    count: int
    hours: float
    value: float
    low: float
    high: float


class Estimate(_Record, frozen=True, kw_only=True):
    """A number with a 95 % bootstrap interval over episodes."""

    value: float
    low: float
    high: float


class FaultResult(_Record, frozen=True, kw_only=True):
    """How one fault was seen. Delays are in frames from its onset, over detected episodes only.

    early: of all episodes, those that were above the caution threshold before onset, which is a
    false alarm and no detection; all else is measured on the other episodes. detected: reached
    CAUTION or REJECT at or after onset; rejected: REJECT. nominal_after_onset: nominal episodes
    counted in the same way: what detection amounts to with no fault at all. by_channel: episodes
    in which that channel alone exceeds the caution threshold at or after onset. frames: from the
    onset on, as many in faulty as in nominal episodes; what comes later is not looked at. left_out:
    episodes too short for that. Missed episodes have no delay: read the delays beside the
    detection rate.
    """

    fault: str
    onset: int
    frames: int = 0
    left_out: int = 0
    detected: Rate
    rejected: Rate
    early: Rate
    nominal_after_onset: Rate
    delay_median: float | None
    delay_p90: float | None
    by_channel: dict[str, Rate]


class FaultReport(_Record, frozen=True, kw_only=True):
    """All faults beside what the same monitor does on nominal episodes.

    false_alarms: nominal episodes that pass the CAUTION threshold; rejections: the REJECT one.
    alarms_per_hour: onsets of alarm per hour of nominal operation, counting a run of alarmed steps
    once, and only time in which the monitor was past its warm-up. nominal_by_channel: nominal
    episodes in which that channel alone alarms.
    """

    episodes: int
    false_alarms: Rate
    rejections: Rate
    alarms_per_hour: PerHour
    nominal_by_channel: dict[str, Rate]
    faults: tuple[FaultResult, ...]


class Ranking(_Record, frozen=True, kw_only=True):
    """How well the largest score after the onset tells faulty from nominal episodes, any threshold.

    prevalence: share of faulty episodes, the AUPR of a detector that guesses. fpr95: nominal
    episodes above the threshold that 95 % of the faulty ones reach.
    """

    auroc: float
    aupr: float
    prevalence: float
    fpr95: float


class RunLength(_Record, frozen=True, kw_only=True):
    """Mean time to a false alarm, in watched frames, if false alarms come at a constant rate.

    alarms: episodes with one; frames: watched until the first alarm or the episode's end. mean is
    null, and high too, where no episode alarmed: then low is all that the data show.
    """

    alarms: int
    frames: int
    mean: float | None
    low: float
    high: float | None


class OperatingPoint(_Record, frozen=True, kw_only=True):
    """One threshold: how long until a false alarm against how long until a fault is seen.

    detected: mean over the faults. delay: mean over faults and episodes, where a missed episode
    counts with all frames that it has after the onset.
    """

    threshold: float
    false_alarms: float
    run_length: RunLength
    detected: float
    delay: float


class Accuracy(_Record, frozen=True, kw_only=True):
    """One detector at its own threshold.

    true_positives: mean over the faults of the share detected. balanced: mean of true negatives
    (whole nominal episodes) and true positives. time_weighted: the same, where a detection counts
    1 - delay / (frames after the onset).
    """

    true_negatives: float
    true_positives: float
    balanced: Estimate
    time_weighted: Estimate


class Baseline(_Record, frozen=True, kw_only=True):
    """Another detector on the same episodes, calibrated on the same runs at the report's alpha.

    gain_balanced, gain_time_weighted: the monitor's accuracy minus this one's, paired.
    detected: share of the episodes per fault.
    """

    name: str
    false_alarms: Rate
    accuracy: Accuracy
    ranking: Ranking
    gain_balanced: Estimate
    gain_time_weighted: Estimate
    detected: dict[str, Rate]


class HorizonForecast(_Record, frozen=True, kw_only=True):
    """Sampled futures against what came, at one horizon, nominal windows.

    pit: share of probability integral transforms per bin of equal width, uniform if the futures
    scatter as the world does; along random directions of the latent. pit_distance: largest gap
    between their distribution and the uniform one (Kolmogorov). crps: per latent number, with the
    pairs' mean over S (S - 1); few samples flatter it, see `forecasts.crps`. error: mean absolute
    error of the prediction without samples, which is the CRPS of a forecast that is certain; skill
    = 1 - crps / error. energy_score: of the whole latent. spread: root mean square of the futures'
    deviation, sharpness. Latent units.
    """

    horizon: int
    pit: tuple[float, ...]
    pit_distance: float
    crps: float
    error: float
    skill: float
    energy_score: float
    spread: float
    correlation: Correlation


class Forecast(_Record, frozen=True, kw_only=True):
    """Quality of the latent variable. aurc: mean error of the windows kept, least spread first.

    coverage, risk: that curve; aurc_random, aurc_oracle: for an uninformative spread, and for one
    that sorts by the error itself.
    """

    windows: int
    episodes: int
    samples: int
    directions: int
    horizons: tuple[HorizonForecast, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    oracle_risk: tuple[float, ...]
    aurc: float
    aurc_random: float
    aurc_oracle: float


class FaultSource(_Record, frozen=True, kw_only=True):
    """Where a fault's episodes came from.

    kind: camera, actuator, dynamics, or recorded for runs whose fault only the user knows.
    data_sha256: of the recording that was read (the nominal one where the fault was injected).
    """

    fault: str
    kind: str
    description: str
    severity: float | None
    onset: int
    origin: str
    episodes: int
    data_sha256: str


class Provenance(_Record, frozen=True, kw_only=True):
    """What was evaluated, on what, with what."""

    bundle: str
    family: str
    variant: str
    binding: Binding
    heads_sha256: str
    calibration_data_sha256: str
    calibration_created_utc: str
    nominal: str
    nominal_sha256: str
    sources: tuple[FaultSource, ...]
    command: str
    tools: dict[str, str]
    created_utc: str


class EvaluationReport(_Record, frozen=True, kw_only=True):
    """Everything that `jepa-edge evaluate` measured.

    alpha, caution_alpha, reject_alpha, conformal_episodes: of the calibration. rankings: per fault.
    plausible_alarms: most nominal episodes with an alarm that one calibration on so many episodes
    explains (99 %, beta-binomial).
    bounds_loss: whether the CAUTION threshold bounds the user's own loss; its share of false alarms
    is then measured, not guaranteed.
    undetected: faults that the monitor is not shown to see: the interval of their detection rate
    reaches below `seen_from`, or not above what nominal episodes do. skipped: faults that were
    asked for and not run, and why. forecast, action_use: null for a model that takes no actions.
    seconds: per stage.
    """

    schema_version: int = REPORT_VERSION
    alpha: float
    caution_alpha: float
    reject_alpha: float
    conformal_episodes: int
    plausible_alarms: int
    seed: int
    rate_hz: float
    alarms: FaultReport
    accuracy: Accuracy
    rankings: dict[str, Ranking]
    ranking: Ranking
    undetected: tuple[str, ...]
    seen_from: float
    skipped: dict[str, str]
    operating: tuple[OperatingPoint, ...]
    own_point: OperatingPoint
    forecast: Forecast | None
    action_use: ActionUse | None
    baselines: tuple[Baseline, ...]
    bounds_loss: bool = False
    warnings: tuple[str, ...]
    provenance: Provenance
    seconds: dict[str, float]
