# SPDX-License-Identifier: Apache-2.0
"""Exact small-sample statistics: conformal quantiles and binomial intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.errors import CalibrationError

_ROUNDING = 1e-9
"""Slack for products such as 100 * (1 - 0.05), which floating point puts beside the integer."""


def conformal_rank(count: int, alpha: float) -> int:
    """Return the rank, from 1, of the conformal quantile among `count` scores; count + 1 if none.

    ceil((count + 1) (1 - alpha)); `np.quantile(scores, 1 - alpha)` is too low in small samples.
    """
    return math.ceil((count + 1) * (1.0 - alpha) - _ROUNDING)


def required_episodes(alpha: float) -> int:
    """Return the smallest number of scores that supports alpha: ceil(1 / alpha) - 1."""
    return math.ceil(1.0 / alpha - _ROUNDING) - 1


def conformal_quantile(scores: NDArray[np.float64], alpha: float) -> float:
    """Return the threshold that a fresh exchangeable score meets with probability >= 1 - alpha.

    scores: nonconformity scores, shape (n,), energy units.
    Raises CalibrationError when n is too small for a finite threshold.
    Source: Vovk et al. 2005; Angelopoulos & Bates 2023, eq. 1.
    """
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
    Raises CalibrationError when there are too few groups for a finite threshold.
    Source: Lee, Barber & Willett 2023, Distribution-free inference with hierarchical data, HCP.
    """
    count = len(groups)
    if conformal_rank(count, alpha) > count:
        raise CalibrationError(
            f"alpha={alpha:g} needs at least {required_episodes(alpha)} episodes, got {count}; "
            "record more calibration data or raise alpha"
        )
    scores = np.concatenate(groups)
    weights = np.concatenate([np.full(len(g), 1.0 / len(g) / (count + 1)) for g in groups])
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


def binomial_p_value(successes: int, trials: int, probability: float) -> float:
    """Return the exact two-sided p-value of a count under a given probability."""
    return float(stats.binomtest(successes, trials, probability).pvalue)
