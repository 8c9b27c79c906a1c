# SPDX-License-Identifier: Apache-2.0
"""Tests a calibration on the test split: coverage, false alarms, spread, use of the actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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
from jepa_edge.calibration.spread import evaluate_spread, pick_windows
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
    variable, thresholds = observer.latent_variable, calibration.thresholds
    windows = data["test"].windows
    energies = {
        name: window_energies(variable, data[name].windows)[:, : options.horizon]
        for name in ("conformal", "test")
    }
    scores = [channel_scores(m, calibration.channels) for m in data["test"].measure(observer)]
    worst = np.array([episode.max() for episode in scores])
    steps = np.concatenate([episode.max(axis=1) for episode in scores])
    spread = evaluate_spread(
        make_sampler(model, variable),
        pick_windows(lengthen(windows), _SPREAD_WINDOWS, options.seed),
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
            window_sizes(windows, model.manifest.action)[:, : options.horizon],
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
            model.manifest.latent.size,
        ),
        false_alarms=rate(int(np.sum(worst > thresholds.caution)), len(worst)),
        rejections=rate(int(np.sum(worst > thresholds.reject)), len(worst)),
        steps_alarmed=float(np.mean(steps > thresholds.caution)),
        spread=spread,
        action_use=use,
        gain=tuple(variable.gain.tolist()),
        warnings=warnings_of(use, coverage, calibration.domain),
        seconds={},
    )


def warnings_of(use: ActionUse, coverage: Sequence[Coverage], domain: Domain) -> tuple[str, ...]:
    """Say what a user should not overlook."""
    warnings = []
    if domain.steps_min != domain.steps_max:
        warnings.append(
            f"the episodes have {domain.steps_min} to {domain.steps_max} steps: the guarantees "
            "hold for episodes of the same mix of lengths; if long ones become more frequent, "
            "more of them alarm"
        )
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
