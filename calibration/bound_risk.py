# SPDX-License-Identifier: Apache-2.0
"""Lowers the CAUTION threshold until a user's own recorded loss is bounded."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.dataset import encode_recording
from jepa_edge.calibration.risk import episode_losses, learn_threshold
from jepa_edge.calibration.thresholds import lower_caution
from jepa_edge.calibration_file import Calibration
from jepa_edge.encoding import frame_of
from jepa_edge.errors import InputError
from jepa_edge.manifest import ClipSpec
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress
from jepa_edge.recording import Recording


def bound_risk(
    monitor: Monitor, recording: Recording, max_risk: float, delta: float, progress: Progress
) -> Calibration:
    """Return the monitor's calibration with CAUTION where the mean loss is at most max_risk.

    recording: episodes like those to come, good and bad, each with a `loss`. The candidates are the
    nominal scores that the thresholds came from, the most cautious first. CAUTION is only ever
    lowered: the false-alarm level that was asked for may not be kept then.
    Raises InputError when an episode has no loss, CalibrationError when no threshold will do.
    """
    losses = []
    for episode, file in zip(recording, recording.files, strict=True):
        if episode.loss is None:
            raise InputError(
                f"{file} has no loss, expected an array `loss` (T + 1,) in [0, 1]: what acting on "
                "the model costs at each frame; record it with the episode"
            )
        losses.append(episode.loss)
    encoded = encode_recording(monitor.model, recording, progress, "encode risk data")
    scores = [
        _per_frame(
            monitor.episode(e.latents, e.actions, e.masked).max(axis=1),
            len(loss),
            monitor.model.manifest.observation.clip,
        )
        for e, loss in zip(encoded, losses, strict=True)
    ]
    calibration = monitor.calibration
    candidates = np.unique(np.array(calibration.thresholds.nominal))
    risk = learn_threshold(episode_losses(scores, losses, candidates), candidates, max_risk, delta)
    return msgspec.structs.replace(
        calibration, thresholds=lower_caution(calibration.thresholds, risk.threshold), risk=risk
    )


def _per_frame(
    scores: NDArray[np.float64], frames: int, clip: ClipSpec | None
) -> NDArray[np.float64]:
    """Scores of model steps at the camera frames that end them, minus infinity at the others."""
    if clip is None:
        return scores
    spread = np.full(frames, -np.inf)
    spread[frame_of(0, clip) :: clip.hop] = scores
    return spread
