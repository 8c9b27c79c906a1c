# SPDX-License-Identifier: Apache-2.0
"""Tests a calibration on the test split: coverage, false alarms, spread, use of the actions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.coverage import (
    measure_coverage,
    measure_group_coverage,
    measure_reliability,
    rate,
)
from jepa_edge.calibration.fit import DEAF, action_use
from jepa_edge.calibration.fit_spread import lengthen
from jepa_edge.calibration.mondrian import window_sizes
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.records import ActionUse, Coverage, GroupCoverage, VariantReport
from jepa_edge.calibration.split import Split
from jepa_edge.calibration.spread import evaluate_spread, pick_rows
from jepa_edge.calibration.thresholds import channel_scores, window_energies
from jepa_edge.calibration_file import Calibration, Domain
from jepa_edge.channels import LONG, Observer
from jepa_edge.futures import make_sampler
from jepa_edge.progress import Progress
from jepa_edge.world_model import WorldModel

_SPREAD_WINDOWS = 4
"""Windows per held-out episode in the spread report."""


def assess(
    model: WorldModel,
    observer: Observer,
    calibration: Calibration,
    data: Mapping[str, Split],
    options: CalibrateOptions,
    progress: Progress,
) -> VariantReport:
    """Return the report of one variant; the seconds are the caller's to fill in."""
    variable = observer.latent_variable
    windows = data["test"].windows
    energies = {
        name: window_energies(variable, data[name].windows)[:, : options.horizon]
        for name in ("conformal", "test")
    }
    spread = evaluate_spread(
        make_sampler(model, variable),
        lengthen(windows, pick=lambda e: pick_rows(e, _SPREAD_WINDOWS, options.seed)),
        samples=options.samples,
        seed=options.seed,
        progress=progress,
    )
    commanded, shuffled = action_use(model, windows, LONG, options.seed)
    use = ActionUse(commanded=commanded, shuffled=shuffled, ratio=shuffled / max(commanded, 1e-30))
    coverage = measure_coverage(
        energies["test"],
        windows.episode,
        calibration.radii,
        conformal_episodes=len(data["conformal"].episodes),
        seed=options.seed,
    )
    group_coverage: tuple[GroupCoverage, ...] = ()
    if calibration.groups is not None:
        group_coverage = measure_group_coverage(
            energies["test"],
            windows.episode,
            window_sizes(windows, model.manifest.require_action())[:, : options.horizon],
            calibration.groups,
            options.seed,
        )
    return VariantReport(
        calibration=calibration,
        coverage=coverage,
        group_coverage=group_coverage,
        reliability=measure_reliability(
            energies["conformal"],
            data["conformal"].windows.episode,
            energies["test"],
            windows.episode,
            math.prod(model.manifest.latent.compared),
        ),
        **alarm_rates(data["test"].measure(observer), calibration),
        spread=spread,
        action_use=use,
        gain=tuple(variable.gain.tolist()),
        warnings=warnings_of(use, coverage, calibration.domain),
        seconds={},
    )


def alarm_rates(
    measured: Sequence[NDArray[np.float64]], calibration: Calibration
) -> dict[str, Any]:
    """Return the fields of a report that count alarms in episodes' base channels, (T_k, 9) each."""
    thresholds = calibration.thresholds
    scores = [channel_scores(episode, calibration.channels) for episode in measured]
    worst = np.array([episode.max() for episode in scores])
    steps = np.concatenate([episode.max(axis=1) for episode in scores])
    return {
        "false_alarms": rate(int(np.sum(worst > thresholds.caution)), len(worst)),
        "rejections": rate(int(np.sum(worst > thresholds.reject)), len(worst)),
        "steps_alarmed": float(np.mean(steps > thresholds.caution)),
    }


def length_warnings(domain: Domain) -> list[str]:
    """Say that the guarantees hold for a mix of lengths, where there is one."""
    if domain.steps_min == domain.steps_max:
        return []
    return [
        (
            f"the episodes have {domain.steps_min} to {domain.steps_max} steps: the guarantees "
            "hold for episodes of the same mix of lengths; if long ones become more frequent, "
            "more of them alarm"
        )
    ]


def warnings_of(use: ActionUse, coverage: Sequence[Coverage], domain: Domain) -> tuple[str, ...]:
    """Say what a user should not overlook."""
    warnings = length_warnings(domain)
    if use.ratio < DEAF:
        warnings.append(
            f"the model hardly listens to its actions: {LONG}-step error with shuffled actions is "
            f"{use.ratio:.2f} x that with the commanded ones (1.5 or more is wanted); actuator "
            "faults will be missed"
        )
    missed = [row for row in coverage if not row.plausible]
    if missed:
        rows = ", ".join(f"alpha {row.alpha:g} horizon {row.horizon}" for row in missed)
        warnings.append(
            f"held-out coverage lies outside its 99 % interval at {rows}, even with the scatter "
            f"of radii that come from {missed[0].conformal_episodes} conformal episodes (all rows "
            "share that one draw); the episodes may not be exchangeable (were they recorded in "
            "different conditions?)"
        )
    return tuple(warnings)
