# SPDX-License-Identifier: Apache-2.0
"""Accuracy with intervals, and paired differences of two detectors, by resampling episodes.

What is resampled are recorded runs: a nominal episode and every fault that was injected into it
are drawn together. Runs that share none with the nominal ones (recorded or simulated faults) are
drawn apart, as many as there are, source by source. Several evaluations (seeds) are resampled
first, then the runs in each.

A fault whose episodes all alarm before its onset has nothing to be detected in: it leaves the
mean over the faults, in a pair of detectors for both, and so it does in a draw without any of its
episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.evaluation.outcomes import FaultOutcomes, Outcomes
from jepa_edge.calibration.evaluation.records import Accuracy, Estimate
from jepa_edge.errors import InputError

DRAWS = 2000

Weights = NDArray[np.float64]
"""How often every cluster was drawn, (draws, clusters)."""

Statistic = Callable[[Outcomes, Weights, NDArray[np.int64]], NDArray[np.float64]]
"""Maps outcomes, weights and the sorted cluster numbers to one value per draw."""


def true_negatives(
    outcomes: Outcomes, weights: Weights, clusters: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of nominal episodes without an alarm, per draw."""
    return _share(~outcomes.alarmed, np.ones(len(outcomes.alarmed)), outcomes, weights, clusters)


def true_positives(
    outcomes: Outcomes, weights: Weights, clusters: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean over faults of the share of episodes detected, per draw."""
    return _over_faults(lambda fault: fault.detected, outcomes, weights, clusters)


def balanced_accuracy(
    outcomes: Outcomes, weights: Weights, clusters: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean of true negatives and true positives, per draw."""
    negatives = true_negatives(outcomes, weights, clusters)
    return (negatives + true_positives(outcomes, weights, clusters)) / 2.0


def time_weighted_accuracy(
    outcomes: Outcomes, weights: Weights, clusters: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The same, with every detection worth its `time_credit`. Our definition, see there."""
    negatives = true_negatives(outcomes, weights, clusters)
    credit = _over_faults(lambda fault: fault.credit, outcomes, weights, clusters)
    return (negatives + credit) / 2.0


def value(statistic: Statistic, outcomes: Outcomes) -> float:
    """The statistic of the episodes as they are; 0 where there is no fault left to count."""
    clusters = _clusters(outcomes)
    found = statistic(outcomes, np.ones((1, len(clusters))), clusters)
    return float(np.nan_to_num(found, nan=0.0)[0])


def accuracy(outcomes: Outcomes, seed: int, draws: int = DRAWS) -> Accuracy:
    """Accuracy of one detector with its intervals."""
    return Accuracy(
        true_negatives=value(true_negatives, outcomes),
        true_positives=value(true_positives, outcomes),
        balanced=interval(balanced_accuracy, [outcomes], seed, draws),
        time_weighted=interval(time_weighted_accuracy, [outcomes], seed, draws),
    )


def interval(
    statistic: Statistic, evaluations: Sequence[Outcomes], seed: int, draws: int = DRAWS
) -> Estimate:
    """Mean of a statistic over evaluations with a 95 % percentile interval."""
    return _bootstrap(
        [(one,) for one in evaluations], lambda v, w, c: statistic(v[0], w, c), seed, draws
    )


def paired_difference(
    statistic: Statistic,
    first: Sequence[Outcomes],
    second: Sequence[Outcomes],
    seed: int,
    draws: int = DRAWS,
) -> Estimate:
    """Statistic of the first detector minus the second's, same episodes, over evaluations.

    first, second: one entry per evaluation (seed), in the same order.
    Raises InputError when the two did not see the same episodes.
    """
    if len(first) != len(second):
        raise InputError(
            f"got {len(first)} evaluations of one detector and {len(second)} of the other, "
            "expected as many; pair them seed by seed"
        )
    pairs = []
    for a, b in zip(first, second, strict=True):
        _check_paired(a, b)
        pairs.append(_both_countable(a, b))

    def difference(
        pair: tuple[Outcomes, ...], weights: Weights, clusters: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return statistic(pair[0], weights, clusters) - statistic(pair[1], weights, clusters)

    return _bootstrap(pairs, difference, seed, draws)


def _bootstrap(
    evaluations: Sequence[tuple[Outcomes, ...]],
    statistic: Callable[[tuple[Outcomes, ...], Weights, NDArray[np.int64]], NDArray[np.float64]],
    seed: int,
    draws: int,
) -> Estimate:
    """Resample evaluations, then clusters within each; the mean over evaluations per draw."""
    rng = np.random.default_rng(seed)
    clusters = [_clusters(one[0]) for one in evaluations]
    strata = [_strata(one[0], c) for one, c in zip(evaluations, clusters, strict=True)]
    total = np.zeros(draws)
    for _ in evaluations:
        chosen = rng.integers(len(evaluations), size=draws)
        for index, one in enumerate(evaluations):
            rows = np.flatnonzero(chosen == index)
            weights = np.empty((len(rows), len(clusters[index])))
            for stratum in strata[index]:
                count = len(stratum)
                shares = np.full(count, 1.0 / count)
                weights[:, stratum] = rng.multinomial(count, shares, size=len(rows))
            total[rows] += statistic(one, weights, clusters[index])
    drawn = total / len(evaluations)
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (0.0, 1.0)
    plain = [
        float(np.nan_to_num(statistic(one, np.ones((1, len(c))), c), nan=0.0)[0])
        for one, c in zip(evaluations, clusters, strict=True)
    ]
    return Estimate(value=float(np.mean(plain)), low=float(low), high=float(high))


def _strata(outcomes: Outcomes, clusters: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Positions in `clusters` of the runs of each source: groups of runs that share a cluster."""
    found: list[set[int]] = []
    owners: list[Outcomes | FaultOutcomes] = [outcomes, *outcomes.faults.values()]
    for owner in owners:
        merged = set(owner.cluster.tolist())
        for group in [group for group in found if group & merged]:
            found.remove(group)
            merged |= group
        found.append(merged)
    return [np.searchsorted(clusters, sorted(group)) for group in found if group]


def _both_countable(first: Outcomes, second: Outcomes) -> tuple[Outcomes, Outcomes]:
    """The pair with the faults that both detectors have episodes to detect in."""
    names = [
        name
        for name, fault in first.faults.items()
        if fault.fresh.any() and second.faults[name].fresh.any()
    ]
    one, other = (
        replace(side, faults={name: side.faults[name] for name in names})
        for side in (first, second)
    )
    return one, other


def _clusters(outcomes: Outcomes) -> NDArray[np.int64]:
    parts = [outcomes.cluster, *(fault.cluster for fault in outcomes.faults.values())]
    return np.unique(np.concatenate(parts))


def _over_faults(
    values: Callable[[FaultOutcomes], NDArray[np.generic]],
    outcomes: Outcomes,
    weights: Weights,
    clusters: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Mean over the faults that have episodes in a draw; NaN where none has."""
    reached, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for fault in outcomes.faults.values():
        share = _share(values(fault), fault.fresh, fault, weights, clusters)
        there = np.isfinite(share)
        reached[there] += share[there]
        counted += there
    empty = np.full(len(weights), np.nan)
    return np.asarray(np.divide(reached, counted, out=empty, where=counted > 0.0))


def _share(
    values: NDArray[np.generic],
    counted: NDArray[np.generic],
    owner: Outcomes | FaultOutcomes,
    weights: Weights,
    clusters: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Weighted mean of values over the episodes that are counted; NaN where none was drawn."""
    drawn = weights[:, np.searchsorted(clusters, owner.cluster)]
    total = drawn @ np.asarray(counted, np.float64)
    reached = drawn @ np.asarray(values, np.float64)
    empty = np.full(len(total), np.nan)
    return np.asarray(np.divide(reached, total, out=empty, where=total > 0.0))


def _check_paired(first: Outcomes, second: Outcomes) -> None:
    same = np.array_equal(first.cluster, second.cluster) and list(first.faults) == list(
        second.faults
    )
    if not same or any(
        not np.array_equal(fault.cluster, second.faults[name].cluster)
        for name, fault in first.faults.items()
    ):
        raise InputError(
            f"{first.name} and {second.name} were run on different episodes, expected the same; "
            "evaluate both on one recording"
        )
