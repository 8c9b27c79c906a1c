# SPDX-License-Identifier: Apache-2.0
"""Exact small-sample statistics: conformal quantiles and binomial intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.errors import CalibrationError

_ROUNDING = 1e-9
"""Slack for products such as 100 * (1 - 0.05), which floating point puts beside the integer."""

_FLAT = 1e-8
"""Least modulation of a band, score units: a step that never varies must not divide by zero."""


def conformal_rank(count: int, alpha: float) -> int:
    """Return the rank, from 1, of the conformal quantile among `count` scores; count + 1 if none.

    ceil((count + 1) (1 - alpha)); `np.quantile(scores, 1 - alpha)` is too low in small samples.
    Raises CalibrationError unless alpha lies between 0 and 1.
    """
    _check_alpha(alpha)
    return math.ceil((count + 1) * (1.0 - alpha) - _ROUNDING)


def required_episodes(alpha: float) -> int:
    """Return the smallest number of scores that supports alpha: ceil(1 / alpha) - 1.

    Raises CalibrationError unless alpha lies between 0 and 1.
    """
    _check_alpha(alpha)
    return math.ceil(1.0 / alpha - _ROUNDING) - 1


def conformal_quantile(scores: NDArray[np.float64], alpha: float) -> float:
    """Return the threshold that a fresh exchangeable score meets with probability >= 1 - alpha.

    scores: nonconformity scores, shape (n,), energy units.
    Raises CalibrationError when n is too small for a finite threshold, or a score is NaN.
    Source: Vovk et al. 2005; Angelopoulos & Bates 2023, eq. 1.
    """
    _check_scores(scores)
    n = scores.size
    rank = conformal_rank(n, alpha)
    if rank > n:
        raise CalibrationError(
            f"alpha={alpha:g} needs at least {required_episodes(alpha)} scores, got {n}; "
            "record more calibration data or raise alpha"
        )
    return float(np.partition(scores, rank - 1)[rank - 1])


def grouped_conformal_quantile(groups: Sequence[NDArray[np.float64]], alpha: float) -> float:
    """Return the threshold that one score drawn from a fresh group meets with prob. >= 1 - alpha.

    groups: scores of each episode, shapes (n_k,); the episodes are exchangeable, scores within one
    may depend on each other. Every episode weighs 1 / (K + 1), spread evenly over its scores, and
    the last 1 / (K + 1) lies at infinity. With one score per group it is `conformal_quantile`.
    Raises CalibrationError when there are too few groups for a finite threshold, a group is empty
    or a score is NaN.
    Source: Lee, Barber & Willett 2023, Distribution-free inference with hierarchical data, HCP.
    """
    count = len(groups)
    if conformal_rank(count, alpha) > count:
        raise CalibrationError(
            f"alpha={alpha:g} needs at least {required_episodes(alpha)} episodes, got {count}; "
            "record more calibration data or raise alpha"
        )
    lengths = np.array([len(group) for group in groups])
    if lengths.min() == 0:
        raise CalibrationError(
            f"{int(np.sum(lengths == 0))} of {count} episodes have no scores, expected one or more "
            "in each; leave such episodes out"
        )
    scores = np.concatenate(groups)
    _check_scores(scores)
    weights = np.repeat(1.0 / lengths / (count + 1), lengths)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order])
    return float(scores[order][np.searchsorted(reached, 1.0 - alpha - _ROUNDING)])


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval for a binomial probability.

    Source: Clopper & Pearson 1934.
    """
    tail = (1.0 - confidence) / 2.0
    low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = (
        stats.beta.ppf(1.0 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    )
    return float(low), float(high)


def acceptance_interval(
    trials: int, probability: float, confidence: float = 0.99
) -> tuple[int, int]:
    """Return the fewest and most successes that an exact binomial test does not reject.

    Both ends are inside. Each tail beyond them holds at most (1 - confidence) / 2.
    """
    tail = (1.0 - confidence) / 2.0
    law = stats.binom(trials, probability)
    return int(law.ppf(tail)), int(law.isf(tail))


def predictive_interval(
    trials: int, conformal: int, alpha: float, confidence: float = 0.99
) -> tuple[int, int]:
    """Return the range of successes in `trials` fresh tests against one conformal threshold.

    As `acceptance_interval`, but the threshold's own draw from `conformal` scores counts too: its
    coverage is Beta(n + 1 - l, l) with l = floor((n + 1) alpha), so the count is beta-binomial.
    Exact for continuous scores; a grouped threshold scatters less, and the range is then wide.
    Raises CalibrationError when there are too few scores for a finite threshold.
    Source: Vovk 2012; Angelopoulos & Bates 2023, section 3.2.
    """
    rank = conformal_rank(conformal, alpha)
    if rank > conformal:
        raise CalibrationError(
            f"alpha={alpha:g} needs at least {required_episodes(alpha)} scores, got {conformal}; "
            "record more calibration data or raise alpha"
        )
    tail = (1.0 - confidence) / 2.0
    law = stats.betabinom(trials, rank, conformal + 1 - rank)
    return int(law.ppf(tail)), int(law.isf(tail))


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionalBand:
    """Upper band over time: step t of a fresh nominal episode stays at or below
    mean[t] + quantile * modulation[t].

    mean, modulation: (T,) float64, score units. quantile: their conformal multiple.
    """

    mean: NDArray[np.float64]
    modulation: NDArray[np.float64]
    quantile: float


def functional_band(scores: NDArray[np.float64], alpha: float, seed: int) -> FunctionalBand:
    """Return the band that a fresh episode leaves at any step with probability at most alpha.

    scores: (n, T), one row per nominal episode, all of one length, finite. A random half of the
    episodes gives mean and modulation, the other half the multiple. Modulation at t: the largest
    distance from the mean among the episodes whose own largest is not among the alpha n most
    extreme. seed: of the split. One-sided: low scores never alarm.
    FAIL-Detect's own code takes np.quantile for the multiple, which is too low; this takes the
    conformal rank.
    Raises CalibrationError when there are too few episodes or a score is not finite.
    Source: Diquigiovanni, Fontana & Vantini 2021, The importance of being a band; Xu et al. 2025,
    Can we detect failures without failure data? (FAIL-Detect).
    """
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise CalibrationError(
            f"band scores have shape {scores.shape}, expected (episodes, steps), all finite; "
            "leave out the steps that were not judged"
        )
    count = len(scores)
    needed = 2 * required_episodes(alpha)
    if count < needed:
        raise CalibrationError(
            f"alpha={alpha:g} needs at least {needed} episodes for a band, half of them for its "
            f"shape, got {count}; record {needed - count} more or raise alpha"
        )
    order = np.random.default_rng(seed).permutation(count)
    shape, ranked = scores[order[: count // 2]], scores[order[count // 2 :]]
    mean = shape.mean(axis=0)
    distance = np.abs(shape - mean)
    farthest = distance.max(axis=1)
    kept = farthest <= np.sort(farthest)[conformal_rank(len(shape), alpha) - 1]
    modulation = np.maximum(distance[kept].max(axis=0), _FLAT)
    excess = ((ranked - mean) / modulation).max(axis=1)
    return FunctionalBand(
        mean=mean, modulation=modulation, quantile=conformal_quantile(excess, alpha)
    )


def _check_alpha(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise CalibrationError(
            f"alpha is {alpha:g}, expected a number between 0 and 1; 0.05 is usual"
        )


def _check_scores(scores: NDArray[np.float64]) -> None:
    if np.isnan(scores).any():
        raise CalibrationError(
            f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN, which no threshold "
            "can be drawn from; leave out the steps that were not judged"
        )
