# SPDX-License-Identifier: Apache-2.0
"""What a calibrated monitor makes of faults, beside what it does on nominal runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.coverage import rate
from jepa_edge.calibration.dataset import encode_recording
from jepa_edge.calibration.evaluation.metrics import per_hour
from jepa_edge.calibration.evaluation.outcomes import Span, common_span, worst
from jepa_edge.calibration.evaluation.records import FaultReport, FaultResult
from jepa_edge.calibration.records import Rate
from jepa_edge.calibration_file import Thresholds
from jepa_edge.channels import CHANNELS
from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits
from jepa_edge.world_model import WorldModel

Scores = Sequence[NDArray[np.float64]]
"""Channel scores of every episode, (T + 1, C) each, NaN while the history fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultScores:
    """Scores of the episodes with one fault, whose first frame is `onset`. where: for messages."""

    onset: int
    episodes: Scores
    where: str


def evaluate_faults(
    model: WorldModel,
    monitor: Monitor,
    nominal: Recording,
    faulty: Mapping[str, Recording],
    onset: int,
    progress: Progress = silent,
) -> FaultReport:
    """Measure detection rate, delay and false alarms, per fault and channel.

    nominal: episodes that took no part in calibration. faulty: by name of the fault, which acts
    from step `onset` of every episode on: frame `onset` is the first that a camera fault changes.
    An episode with an alarm before onset is no detection: it is left out and counted as early.
    Even without a fault about alpha of the episodes alarm; read detection rates beside
    `nominal_after_onset`, which counts nominal episodes in the same way and, fault by fault, in the
    same number of frames (`outcomes.Span`). Delays are over detected episodes only.
    Raises InputError when a recording does not fit the model, an episode with a fault is shorter
    than onset, or no nominal one outlasts the monitor's warm-up.
    """
    for recording in (nominal, *faulty.values()):
        spec = model.manifest
        check_fits(recording, spec.observation, spec.action, spec.state)
    return count_alarms(
        _scores(model, monitor, nominal, progress, "nominal"),
        {
            name: FaultScores(
                onset=onset,
                episodes=_scores(model, monitor, recording, progress, name),
                where=str(recording.path),
            )
            for name, recording in faulty.items()
        },
        monitor.calibration.thresholds,
        nominal.info.rate_hz,
        str(nominal.path),
    )


def count_alarms(
    healthy: Scores,
    faulty: Mapping[str, FaultScores],
    thresholds: Thresholds,
    rate_hz: float,
    where: str,
) -> FaultReport:
    """Count alarms in scores; see `evaluate_faults`. where: the nominal episodes, for messages."""
    caution, reject = thresholds.caution, thresholds.reject
    watched = sum(_watched(scores) for scores in healthy)
    if watched == 0:
        raise InputError(
            f"{where} has no episode that outlasts the monitor's warm-up; record longer ones"
        )
    for name, fault in faulty.items():
        if fault.onset < 0:
            raise InputError(
                f"onset of {name} is {fault.onset}, expected 0 or more; pass its first frame"
            )
        if any(len(scores) <= fault.onset for scores in fault.episodes):
            raise InputError(
                f"{fault.where} has episodes of fewer than {fault.onset + 1} frames; "
                "the fault never begins in them, pass the onset it was recorded with"
            )
    there = _present(healthy)
    peaks = np.array([worst(scores).max() for scores in healthy])
    alarms = sum(_onsets(scores, caution) for scores in healthy)
    return FaultReport(
        episodes=len(healthy),
        false_alarms=rate(int(np.sum(peaks > caution)), len(peaks)),
        rejections=rate(int(np.sum(peaks > reject)), len(peaks)),
        alarms_per_hour=per_hour(alarms, watched / rate_hz / 3600.0),
        nominal_by_channel=_by_channel(healthy, caution, there),
        faults=tuple(
            _result(name, fault, healthy, caution, reject, there) for name, fault in faulty.items()
        ),
    )


def _result(
    name: str,
    fault: FaultScores,
    healthy: Scores,
    caution: float,
    reject: float,
    there: NDArray[np.bool_],
) -> FaultResult:
    span = common_span(
        fault.onset, [len(rows) for rows in healthy], [len(rows) for rows in fault.episodes]
    )
    fresh = _fresh(fault.episodes, span.faulty, span, caution)
    found = [span.delay(worst(scores), caution) for scores in fresh]
    first = [delay for delay in found if delay is not None]
    rejected = sum(span.delay(worst(scores), reject) is not None for scores in fresh)
    like = _fresh(healthy, span.nominal, span, caution)
    chance = sum(span.delay(worst(scores), caution) is not None for scores in like)
    compared = int(span.faulty.sum())
    return FaultResult(
        fault=name,
        onset=fault.onset,
        frames=span.frames,
        left_out=len(fault.episodes) - compared,
        detected=rate(len(first), len(fresh)),
        rejected=rate(rejected, len(fresh)),
        early=rate(compared - len(fresh), compared),
        nominal_after_onset=rate(chance, len(like)),
        delay_median=float(np.median(first)) if first else None,
        delay_p90=float(np.quantile(first, 0.9)) if first else None,
        by_channel=_by_channel([scores[span.compared] for scores in fresh], caution, there),
    )


def _fresh(episodes: Scores, kept: NDArray[np.bool_], span: Span, caution: float) -> Scores:
    """The kept episodes without an alarm before the onset."""
    chosen = [episodes[row] for row in np.flatnonzero(kept).tolist()]
    return [scores for scores in chosen if not span.is_early(worst(scores), caution)]


def _scores(
    model: WorldModel, monitor: Monitor, recording: Recording, progress: Progress, stage: str
) -> Scores:
    encoded = encode_recording(model, recording, progress, f"monitor {stage}")
    return [monitor.episode(e.latents, e.actions, e.masked) for e in encoded]


def _watched(scores: NDArray[np.float64]) -> int:
    """Number of frames that were judged, the warm-up left out."""
    return int(np.sum(~np.isnan(scores).all(axis=1)))


def _onsets(scores: NDArray[np.float64], caution: float) -> int:
    """Number of times that the score rises above the threshold."""
    above = worst(scores) > caution
    return int(above[0]) + int(np.sum(above[1:] & ~above[:-1]))


def _present(episodes: Scores) -> NDArray[np.bool_]:
    """Which channels were ever scored: a model has not all of them."""
    scored = [~np.isneginf(scores[~np.isnan(scores).all(axis=1)]) for scores in episodes]
    return np.asarray(np.concatenate(scored).any(axis=0), np.bool_)


def _by_channel(episodes: Scores, caution: float, there: NDArray[np.bool_]) -> dict[str, Rate]:
    """Episodes in which a channel alone alarms, of the channels that are there."""
    alarmed = np.zeros(len(CHANNELS), int)
    for scores in episodes:
        alarmed += np.any(scores > caution, axis=0)
    return {
        channel.name: rate(int(count), len(episodes))
        for channel, count, present in zip(CHANNELS, alarmed, there, strict=True)
        if present
    }
