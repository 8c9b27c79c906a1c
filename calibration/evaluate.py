# SPDX-License-Identifier: Apache-2.0
"""What a calibrated monitor makes of injected faults, beside what it does on nominal runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.coverage import rate
from jepa_edge.calibration.dataset import encode_recording
from jepa_edge.calibration.records import FaultReport, FaultResult
from jepa_edge.channels import CHANNELS
from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits
from jepa_edge.world_model import WorldModel


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
    `false_alarms_after_onset`, which counts nominal episodes in the same way. Delays are over
    detected episodes only.
    Raises InputError when a recording does not fit the model, an episode with a fault is shorter
    than onset, or no nominal one outlasts the monitor's warm-up.
    """
    if onset < 0:
        raise InputError(f"onset is {onset}, expected 0 or more; pass the fault's first frame")
    for recording in (nominal, *faulty.values()):
        check_fits(recording, model.manifest.observation, model.manifest.action)
    healthy = _scores(model, monitor, nominal, progress, "nominal")
    caution = monitor.calibration.thresholds.caution
    reject = monitor.calibration.thresholds.reject
    watched = sum(_watched(scores) for scores in healthy)
    if watched == 0:
        raise InputError(
            f"{nominal.path} has no episode that outlasts the monitor's warm-up; record longer ones"
        )
    worst = np.array([_worst(scores).max() for scores in healthy])
    alarms = sum(_onsets(scores, caution) for scores in healthy)
    hours = watched / nominal.info.rate_hz / 3600.0
    long_enough = [scores for scores in healthy if len(scores) > onset]
    results = []
    for name, recording in faulty.items():
        episodes = _scores(model, monitor, recording, progress, name)
        if any(len(scores) <= onset for scores in episodes):
            raise InputError(
                f"{recording.path} has episodes of fewer than {onset + 1} frames; "
                "the fault never begins in them, pass the onset it was recorded with"
            )
        results.append(_result(name, episodes, onset, caution, reject))
    return FaultReport(
        false_alarms=rate(int(np.sum(worst > caution)), len(worst)),
        false_alarms_after_onset=_result("none", long_enough, onset, caution, reject).detected,
        rejections=rate(int(np.sum(worst > reject)), len(worst)),
        alarms_per_hour=alarms / hours,
        nominal_by_channel=_by_channel(healthy, 0, caution),
        faults=tuple(results),
    )


def _result(
    name: str,
    episodes: Sequence[NDArray[np.float64]],
    onset: int,
    caution: float,
    reject: float,
) -> FaultResult:
    early = [bool((_worst(scores)[:onset] > caution).any()) for scores in episodes]
    fresh = [scores for scores, alarmed in zip(episodes, early, strict=True) if not alarmed]
    worst = [_worst(scores) for scores in fresh]
    delays = [np.flatnonzero(w[onset:] > caution) for w in worst]
    first = [int(delay[0]) for delay in delays if delay.size]
    return FaultResult(
        fault=name,
        onset=onset,
        detected=rate(len(first), len(fresh)),
        rejected=rate(sum(bool((w[onset:] > reject).any()) for w in worst), len(fresh)),
        early=rate(sum(early), len(episodes)),
        delay_median=float(np.median(first)) if first else None,
        delay_p90=float(np.quantile(first, 0.9)) if first else None,
        by_channel=_by_channel(fresh, onset, caution),
    )


def _scores(
    model: WorldModel, monitor: Monitor, recording: Recording, progress: Progress, stage: str
) -> list[NDArray[np.float64]]:
    """Channel scores of every episode, (T + 1, C), NaN while the history fills."""
    encoded = encode_recording(model, recording, progress, f"monitor {stage}")
    return [monitor.episode(episode.latents, episode.actions) for episode in encoded]


def _worst(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest score per frame, -inf while the history fills: (T + 1,)."""
    return np.asarray(np.max(np.where(np.isnan(scores), -np.inf, scores), axis=1))


def _watched(scores: NDArray[np.float64]) -> int:
    """Number of frames that were judged, the warm-up left out."""
    return int(np.sum(~np.isnan(scores).all(axis=1)))


def _onsets(scores: NDArray[np.float64], caution: float) -> int:
    """Number of times that the score rises above the threshold."""
    above = _worst(scores) > caution
    return int(above[0]) + int(np.sum(above[1:] & ~above[:-1]))


def _by_channel(
    episodes: Sequence[NDArray[np.float64]], onset: int, caution: float
) -> dict[str, float]:
    """Share of the episodes in which a channel alone alarms; 0 where there are none."""
    alarmed = np.zeros((max(len(episodes), 1), len(CHANNELS)))
    for row, scores in enumerate(episodes):
        alarmed[row] = np.any(scores[onset:] > caution, axis=0)
    return dict(zip((c.name for c in CHANNELS), alarmed.mean(axis=0).tolist(), strict=True))
