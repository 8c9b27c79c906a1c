# SPDX-License-Identifier: Apache-2.0
"""Pool the seeds of every robot and variant into the figures that PROTOCOL.md asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from jepa_edge.calibration.conformal import conformal_rank
from jepa_edge.calibration.coverage import rate
from jepa_edge.calibration.evaluation.bootstrap import (
    balanced_accuracy,
    interval,
    paired_difference,
    time_weighted_accuracy,
)
from jepa_edge.calibration.evaluation.outcomes import Outcomes
from jepa_edge.calibration.records import Coverage
from safety import protocol
from safety.one import Result


def combine(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one entry per robot and variant."""
    entries = []
    for robot in protocol.ROBOTS:
        for variant in protocol.VARIANTS:
            own = [r for r in results if (r.job.robot, r.job.variant) == (robot, variant)]
            entries.append(_entry(robot, variant, own))
    return entries


def _entry(robot: str, variant: str, results: Sequence[Result]) -> dict[str, Any]:
    own = [result.own for result in results]
    return {
        "robot": robot,
        "variant": variant,
        "inert": sorted({fault for result in results for fault in result.inert}),
        "action_ratio": [result.report.action_use.ratio for result in results],
        "monitor": _detector(own),
        "rivals": {
            name: _rival(own, [result.rivals[name] for result in results])
            for name in results[0].rivals
        },
        "coverage": _coverage([row for result in results for row in result.coverage]),
        "group_coverage": {
            f"tertile {group + 1}": _coverage(
                [
                    row.coverage
                    for result in results
                    for row in result.group_coverage
                    if row.group == group
                ]
            )
            for group in range(3)
        },
        "spread": _spread(results),
        "seconds": {
            stage: float(np.median([result.seconds[stage] for result in results]))
            for stage in results[0].seconds
        },
    }


def plausible_alarms(seeds: int) -> tuple[float, float]:
    """Share of nominal episodes that alarm, central 95 % range, if the guarantee holds exactly.

    Every seed's threshold is a draw of its own, so that its count is beta-binomial, and the pooled
    one a sum of these. An interval around the measured share knows only the binomial part.
    """
    trials, episodes = protocol.NOMINAL_EPISODES, protocol.CONFORMAL_EPISODES
    above = episodes + 1 - conformal_rank(episodes, protocol.ALPHA)
    one = stats.betabinom(trials, above, episodes + 1 - above).pmf(np.arange(trials + 1))
    law = np.array([1.0])
    for _ in range(seeds):
        law = np.convolve(law, one)
    low, high = np.searchsorted(np.cumsum(law), [0.025, 0.975])
    return float(low) / (seeds * trials), float(high) / (seeds * trials)


def _detector(outcomes: Sequence[Outcomes]) -> dict[str, Any]:
    """False alarms per seed and pooled, accuracies, detection per condition."""
    alarms = [(int(one.alarmed.sum()), len(one.alarmed)) for one in outcomes]
    return {
        "false_alarms": [rate(*one) for one in alarms],
        "false_alarms_pooled": rate(sum(a for a, _ in alarms), sum(n for _, n in alarms)),
        "plausible_seed": plausible_alarms(1),
        "plausible_pooled": plausible_alarms(len(alarms)),
        "balanced": interval(balanced_accuracy, outcomes, 0),
        "time_weighted": interval(time_weighted_accuracy, outcomes, 0),
        "detected": {
            fault: rate(
                sum(int(one.faults[fault].detected.sum()) for one in outcomes),
                sum(int(one.faults[fault].fresh.sum()) for one in outcomes),
            )
            for fault in outcomes[0].faults
        },
    }


def _rival(own: Sequence[Outcomes], rival: Sequence[Outcomes]) -> dict[str, Any]:
    return {
        **_detector(rival),
        "gain_balanced": paired_difference(balanced_accuracy, own, rival, 0),
        "gain_time_weighted": paired_difference(time_weighted_accuracy, own, rival, 0),
    }


def _coverage(rows: Sequence[Coverage]) -> dict[str, Any]:
    """Rows inside their intervals, and coverage per horizon over all seeds."""
    horizons = sorted({row.horizon for row in rows})
    pooled = {}
    for horizon in horizons:
        own = [row.measured for row in rows if row.horizon == horizon]
        pooled[str(horizon)] = rate(sum(m.count for m in own), sum(m.trials for m in own))
    return {
        "rows": len(rows),
        "inside_binomial": sum(row.accepted for row in rows),
        "inside_beta_binomial": sum(row.plausible for row in rows),
        "pooled": pooled,
    }


def _spread(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Means over the seeds, per sampler and condition."""
    keys = [(row.name, row.condition) for row in results[0].spreads]
    entries = []
    for name, condition in keys:
        rows = [
            row
            for result in results
            for row in result.spreads
            if (row.name, row.condition) == (name, condition)
        ]
        per_horizon = np.array([[c.value for c in row.per_horizon] for row in rows])
        entries.append(
            {
                "sampler": name,
                "condition": condition,
                "windows": sum(row.windows for row in rows),
                "spearman": float(np.mean([row.overall.value for row in rows])),
                "spearman_seeds": [row.overall.value for row in rows],
                "per_horizon": per_horizon.mean(axis=0).tolist(),
                "per_horizon_lowest": per_horizon.min(axis=0).tolist(),
                "aurc": float(np.mean([row.aurc for row in rows])),
                "aurc_random": float(np.mean([row.aurc_random for row in rows])),
                "aurc_oracle": float(np.mean([row.aurc_oracle for row in rows])),
            }
        )
    return entries
