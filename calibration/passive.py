# SPDX-License-Identifier: Apache-2.0
"""Calibration of a model that takes no actions: nothing predicts ahead, frames are judged alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.assess import alarm_rates, length_warnings
from jepa_edge.calibration.conformalize import conformalize_scores
from jepa_edge.calibration.fit import fit_familiarity
from jepa_edge.calibration.fit_heads import fit_whitener, pooled_motion
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.records import VariantReport
from jepa_edge.calibration_file import Calibration
from jepa_edge.channels import first_step
from jepa_edge.encoding import EncodedEpisode
from jepa_edge.errors import CalibrationError
from jepa_edge.manifest import Manifest
from jepa_edge.passive import PassiveObserver
from jepa_edge.progress import Progress

Episodes = Sequence[EncodedEpisode]


def fit_passive(
    episodes: Episodes, options: CalibrateOptions, progress: Progress
) -> PassiveObserver:
    """Fit familiarity, motion and what masked energy to expect of each token.

    Raises CalibrationError when a masked energy is not finite.
    """
    return PassiveObserver(
        recorded=fit_whitener(np.concatenate([e.latents.mean(axis=1) for e in episodes])),
        flow=fit_familiarity(episodes, options, progress),
        motion=fit_whitener(pooled_motion(episodes)),
        expected=_expected(episodes),
    )


def _expected(episodes: Episodes) -> NDArray[np.float32] | None:
    """Mean masked energy per token (N,), 0 where none hides it; None without masks."""
    masked = [episode.masked for episode in episodes if episode.masked is not None]
    if not masked:
        return None
    tokens = masked[0].shape[1]
    total, hidden, broken = np.zeros(tokens), np.zeros(tokens, bool), np.zeros(tokens, bool)
    for energies in masked:  # one episode at a time: all of them may not fit into memory
        finite = np.isfinite(energies)
        hidden |= ~np.isnan(energies).all(axis=0)
        broken |= ~finite.all(axis=0)
        total += np.where(finite, energies, np.float32(0.0)).sum(axis=0, dtype=np.float64)
    if (broken & hidden).any() or not hidden.any():
        raise CalibrationError(
            f"masked energies of {int(hidden.sum())} tokens hold numbers that are not finite, "
            "expected finite ones of one token or more; check the exported mask predictor"
        )
    expected = np.zeros(tokens)
    expected[hidden] = total[hidden] / sum(len(energies) for energies in masked)
    # A token that is predicted perfectly would divide by nothing.
    expected[hidden] = np.maximum(expected[hidden], 1e-6 * expected.max() + 1e-12)
    return expected.astype(np.float32)


def measure_passive(
    observer: PassiveObserver, episodes: Episodes, spec: Manifest
) -> list[NDArray[np.float64]]:
    """Base channels of every episode at every step that can be judged."""
    first, measured = first_step(spec.history), []
    for episode in episodes:
        pooled = episode.latents[:, 0]
        energies = None if episode.masked is None else episode.masked[first:]
        measured.append(observer.measure(pooled[first - 1 : -1], pooled[first:], energies))
    return measured


def conformalize_passive(
    observer: PassiveObserver,
    data: Mapping[str, Episodes],
    spec: Manifest,
    options: CalibrateOptions,
) -> dict[str, Any]:
    """Return the fields of `Calibration` that the conformal split decides; there are no radii."""
    decided = conformalize_scores(
        measure_passive(observer, data["standardize"], spec),
        measure_passive(observer, data["conformal"], spec),
        options,
    )
    return {**decided, "radii": (), "groups": None}


def assess_passive(
    observer: PassiveObserver,
    calibration: Calibration,
    data: Mapping[str, Episodes],
    spec: Manifest,
) -> VariantReport:
    """Return the report of one variant; the seconds are the caller's to fill in."""
    measured = measure_passive(observer, data["test"], spec)
    note = (
        "the model takes no actions, so that nothing is predicted ahead: there are no futures, no "
        "radii, and faults of the actuators cannot show"
    )
    if observer.expected is None:
        note += (
            "; it has no mask predictor either: only how familiar a frame is and how fast the "
            "latent moves is judged"
        )
    return VariantReport(
        calibration=calibration,
        coverage=(),
        group_coverage=(),
        reliability=(),
        **alarm_rates(measured, calibration),
        spread=None,
        action_use=None,
        gain=(),
        warnings=(note, *length_warnings(calibration.domain)),
        seconds={},
    )
