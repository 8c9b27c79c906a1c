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
    Even without a fault about alpha of the episodes alarm; read detection rates beside that.
    Raises InputError when a recording does not fit the model or is shorter than onset.
    """
    for recording in (nominal, *faulty.values()):
        check_fits(recording, model.manifest.observation, model.manifest.action)
    healthy = _scores(model, monitor, nominal, progress, "nominal")
    caution = monitor.calibration.thresholds.caution
    reject = monitor.calibration.thresholds.reject
    worst = np.array([np.nanmax(scores) for scores in healthy])
    alarms = sum(_onsets(scores, caution) for scores in healthy)
    hours = sum(len(scores) for scores in healthy) / nominal.info.rate_hz / 3600.0
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
    count = len(episodes)
    worst = [_worst(scores) for scores in episodes]
    delays = [np.flatnonzero(w[onset:] > caution) for w in worst]
    first = [int(delay[0]) for delay in delays if delay.size]
    return FaultResult(
        fault=name,
        onset=onset,
        detected=rate(len(first), count),
        rejected=rate(sum(bool((w[onset:] > reject).any()) for w in worst), count),
        early=rate(sum(bool((w[:onset] > caution).any()) for w in worst), count),
        delay_median=float(np.median(first)) if first else None,
        delay_p90=float(np.quantile(first, 0.9)) if first else None,
        by_channel=_by_channel(episodes, onset, caution),
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


def _onsets(scores: NDArray[np.float64], caution: float) -> int:
    """Number of times that the score rises above the threshold."""
    above = _worst(scores) > caution
    return int(above[0]) + int(np.sum(above[1:] & ~above[:-1]))


def _by_channel(
    episodes: Sequence[NDArray[np.float64]], onset: int, caution: float
) -> dict[str, float]:
    alarmed = [np.any(scores[onset:] > caution, axis=0) for scores in episodes]
    return dict(zip((c.name for c in CHANNELS), np.mean(alarmed, axis=0).tolist(), strict=True))
