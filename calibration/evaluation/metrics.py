# SPDX-License-Identifier: Apache-2.0
"""Numbers that say how good an alarm is: ranking, accuracy, rates with exact intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.calibration.evaluation.records import PerHour, Ranking, RunLength

_TPR = 0.95


def auroc(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> float:
    """Probability that a positive scores above a negative, ties counting one half.

    negatives: (n,), positives: (m,), both at least 1. Infinite scores are allowed, NaN is not.
    Source: Mann & Whitney 1947; Hanley & McNeil 1982.
    """
    ranks = stats.rankdata(np.concatenate([negatives, positives]))
    n, m = len(negatives), len(positives)
    above = float(ranks[n:].sum()) - m * (m + 1) / 2.0
    return above / (n * m)


def aupr(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> float:
    """Average precision: precision at every threshold, weighted by the recall gained there.

    Equal scores cross the threshold together. Source: Davis & Goadrich 2006, no interpolation.
    """
    thresholds = np.unique(positives)[::-1]
    hits = _reaching(positives, thresholds)
    precision = hits / (hits + _reaching(negatives, thresholds))
    return float(np.sum(precision * np.diff(hits, prepend=0)) / len(positives))


def fpr_at_tpr(
    negatives: NDArray[np.float64], positives: NDArray[np.float64], tpr: float = _TPR
) -> float:
    """Share of negatives that reach the highest threshold which a share `tpr` of positives does."""
    needed = math.ceil(tpr * len(positives) - 1e-9)
    threshold = np.sort(positives)[::-1][max(needed, 1) - 1]
    return float(np.mean(negatives >= threshold))


def ranking(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> Ranking:
    """All ranking metrics of one fault's episode scores against nominal ones."""
    return Ranking(
        auroc=auroc(negatives, positives),
        aupr=aupr(negatives, positives),
        prevalence=len(positives) / (len(positives) + len(negatives)),
        fpr95=fpr_at_tpr(negatives, positives),
    )


def mean_ranking(rankings: Sequence[Ranking]) -> Ranking:
    """Mean over faults, every fault weighing the same."""
    return Ranking(
        auroc=float(np.mean([row.auroc for row in rankings])),
        aupr=float(np.mean([row.aupr for row in rankings])),
        prevalence=float(np.mean([row.prevalence for row in rankings])),
        fpr95=float(np.mean([row.fpr95 for row in rankings])),
    )


def poisson_interval(count: int, exposure: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a Poisson rate from `count` events in `exposure`.

    Source: Garwood 1936.
    """
    tail = (1.0 - confidence) / 2.0
    low = float(stats.chi2.ppf(tail, 2 * count)) / 2.0 if count else 0.0
    high = float(stats.chi2.ppf(1.0 - tail, 2 * count + 2)) / 2.0
    return low / exposure, high / exposure


def per_hour(count: int, hours: float) -> PerHour:
    """Events per hour with the exact interval; hours above 0."""
    low, high = poisson_interval(count, hours)
    return PerHour(count=count, hours=hours, value=count / hours, low=low, high=high)


def run_length(frames: NDArray[np.int64], alarmed: NDArray[np.bool_]) -> RunLength:
    """Mean time to a false alarm (ARL0) from episodes that may end without one.

    frames: (n,) watched until the first alarm, the alarmed one included, or until the episode's
    end. alarmed: (n,). The mean is the geometric maximum-likelihood estimate, frames / alarms,
    which treats an episode's end as censoring; the interval is the exact Poisson one given the
    frames watched. A mean far beyond the length of an episode rests on the constant rate.
    Source: Epstein & Sobel 1954, censored exponential life tests.
    """
    total, alarms = int(frames.sum()), int(alarmed.sum())
    low, high = poisson_interval(alarms, float(total))
    return RunLength(
        alarms=alarms,
        frames=total,
        mean=total / alarms if alarms else None,
        low=1.0 / high,
        high=1.0 / low if low > 0.0 else None,
    )


def time_credit(delay: float | None, frames: int) -> float:
    """What a detection is worth: 1 at once, falling linearly to 1 / frames at the last frame.

    delay: frames from the onset, None where the fault was missed, which is worth 0. frames: how
    many there are at and after the onset. Our definition, in the spirit of the timestep-weighted
    accuracy of FIPER (Roemer et al. 2025, arXiv 2510.09459).
    """
    return 0.0 if delay is None else 1.0 - delay / frames


def _reaching(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many scores are at or above each threshold."""
    return np.asarray(len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left"))
