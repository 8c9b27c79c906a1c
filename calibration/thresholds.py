# SPDX-License-Identifier: Apache-2.0
"""From episodes to numbers in the calibration file: standardization, thresholds, radii."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import (
    conformal_quantile,
    grouped_conformal_quantile,
    required_episodes,
)
from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.fit_scale import transitions_of
from jepa_edge.calibration_file import ChannelScale, Radius, Thresholds
from jepa_edge.channels import CHANNELS, channels
from jepa_edge.errors import CalibrationError
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.monitor import standardization

STANDARD_ALPHAS = (0.1, 0.05)
"""Radii for these are always stored, where there are episodes enough, beside the user's alpha."""

_FLOOR = 1e-3
"""Least scale of a channel, 0.1 % of an energy: one that never moves must not divide by zero."""

_TIE = 1e-6
"""Relative difference below which scores are equal but for the order of float32 sums."""

_MUST_VARY = ("innovation", "motion")
"""Channels that differ from step to step in every recording of a robot that moves."""

_SCORE_ONE = 0.9
"""Share of nominal episodes whose worst step stays below score 1 in one channel and tail."""


def fit_standardization(measured: Sequence[NDArray[np.float64]]) -> tuple[ChannelScale, ...]:
    """Scale every channel and tail so that its worst step per episode is seldom above 1.

    measured: base channels of each episode, (T_k, 9); those that are NaN throughout are left out,
    the model has them not. Each tail then spends a like share of the
    false alarms, however heavy it is; a common median and MAD would hand all of it to the
    heaviest. These constants carry no guarantee; the thresholds do, from other episodes.
    """
    center = _over_steps(np.nanmedian, np.concatenate(measured))
    values = [channels(episode, center) for episode in measured]
    centers = _over_steps(np.nanmedian, np.concatenate(values))
    highest = np.array([_over_steps(np.nanmax, episode) for episode in values]) - centers
    lowest = centers - np.array([_over_steps(np.nanmin, episode) for episode in values])
    scales = []
    for index, channel in enumerate(CHANNELS):
        if np.isnan(centers[index]):
            continue
        high = _positive(float(np.quantile(highest[:, index], _SCORE_ONE)))
        low = _positive(float(np.quantile(lowest[:, index], _SCORE_ONE)))
        scales.append(
            ChannelScale(
                name=channel.name,
                center=float(centers[index]),
                high=high,
                low=low if channel.low_tail else None,
            )
        )
    return tuple(scales)


def check_varied(scales: Sequence[ChannelScale], worst: NDArray[np.float64]) -> None:
    """Raise CalibrationError when thresholds would rest on runs in which nothing happens.

    scales: from `fit_standardization`. worst: largest score of each conformal episode, (n,).
    """
    still = [s.name for s in scales if s.name in _MUST_VARY and s.high <= _FLOOR]
    if still:
        raise CalibrationError(
            f"channel {' and '.join(still)} hardly changes in the recorded runs, expected more "
            f"than {_FLOOR:g} between steps: the recorded runs do not move; record varied runs"
        )
    if not np.isfinite(worst).all():
        raise CalibrationError(
            f"{int(np.sum(~np.isfinite(worst)))} of {worst.size} conformal episodes have a score "
            "that is not finite: the model's predictions overflow; check the exported predictor"
        )
    if np.ptp(worst) <= _TIE * max(1.0, float(np.abs(worst).max())):
        raise CalibrationError(
            f"all {worst.size} conformal scores tie at {worst[0]:.3g}, expected different ones: "
            "the recorded runs repeat one another; record varied runs"
        )


def fit_thresholds(worst: NDArray[np.float64], alpha: float) -> Thresholds:
    """Set conformal thresholds from the largest score of each conformal episode, (n,).

    Raises CalibrationError when n is too small for alpha.
    """
    reject_alpha = max(alpha / 5.0, 1.0 / (worst.size + 1))
    return Thresholds(
        caution=conformal_quantile(worst, alpha),
        reject=conformal_quantile(worst, min(reject_alpha, alpha)),
        caution_alpha=alpha,
        reject_alpha=min(reject_alpha, alpha),
        nominal=tuple(np.sort(worst).tolist()),
    )


def lower_caution(thresholds: Thresholds, limit: float) -> Thresholds:
    """Return the thresholds with CAUTION at `limit`, one of the nominal scores, if that is lower.

    caution_alpha becomes the share of nominal episodes above it, the next one counted among them.
    """
    if limit >= thresholds.caution:
        return thresholds
    above = sum(score > limit for score in thresholds.nominal)
    alpha = (above + 1) / (thresholds.episodes + 1)
    return msgspec.structs.replace(thresholds, caution=limit, caution_alpha=alpha)


def window_energies(variable: LatentVariable, windows: Windows) -> NDArray[np.float64]:
    """Innovation energy of every window at every horizon: (W, H) float64."""
    columns = [
        variable.energy(transitions_of(windows, step), windows.observed[:, step - 1])
        for step in range(1, windows.horizon + 1)
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def by_episode(
    values: NDArray[np.float64], episode: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    """Split rows (W, ...) into one array per episode."""
    return [values[episode == name] for name in np.unique(episode)]


def fit_radii(
    energies: NDArray[np.float64], episode: NDArray[np.int64], alphas: Sequence[float]
) -> tuple[Radius, ...]:
    """Set conformal radii per horizon from windows (W, H) of the conformal episodes.

    alphas that the number of episodes does not support are left out.
    """
    groups = by_episode(energies, episode)
    return tuple(
        Radius(
            alpha=alpha,
            energies=tuple(
                grouped_conformal_quantile([group[:, step] for group in groups], alpha)
                for step in range(energies.shape[1])
            ),
        )
        for alpha in alphas
        if len(groups) >= required_episodes(alpha)
    )


def alphas_with(alpha: float) -> tuple[float, ...]:
    """Return the user's alpha and the standard ones, largest first, without repetition."""
    return tuple(sorted({alpha, *STANDARD_ALPHAS}, reverse=True))


def channel_scores(
    measured: NDArray[np.float64], scales: tuple[ChannelScale, ...]
) -> NDArray[np.float64]:
    """Return the scores of all channels at all steps of one episode: (T', C)."""
    standard = standardization(scales)
    return standard.score(channels(measured, standard.center))


def _over_steps(
    function: Callable[..., NDArray[np.float64]], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Apply a function to each column of values (T, C) that holds a number; NaN elsewhere."""
    known = ~np.isnan(values).all(axis=0)
    result = np.full(values.shape[1], np.nan)
    result[known] = function(values[:, known], axis=0)
    return result


def _positive(scale: float) -> float:
    return max(scale, _FLOOR)
