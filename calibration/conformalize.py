# SPDX-License-Identifier: Apache-2.0
"""Everything that the conformal split decides: thresholds, radii, groups, the drift reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.mondrian import fit_edges, fit_group_radii, window_sizes
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.sequential import fit_drift
from jepa_edge.calibration.split import Split
from jepa_edge.calibration.thresholds import (
    alphas_with,
    channel_scores,
    check_varied,
    fit_radii,
    fit_standardization,
    fit_thresholds,
    window_energies,
)
from jepa_edge.channels import Observer
from jepa_edge.errors import CalibrationError
from jepa_edge.manifest import Manifest


def conformalize(
    observer: Observer,
    data: Mapping[str, Split],
    spec: Manifest,
    options: CalibrateOptions,
    warnings: list[str],
) -> dict[str, Any]:
    """Return the fields of `Calibration` that the conformal split decides, by name.

    data: the splits by name. warnings: one is added when there are no radii per action group.
    Raises CalibrationError when there are too few episodes for alpha, or nothing in them moves.
    """
    windows, action = data["conformal"].windows, spec.require_action()
    decided = conformalize_scores(
        data["standardize"].measure(observer), data["conformal"].measure(observer), options
    )
    energies = window_energies(observer.latent_variable, windows)[:, : options.horizon]
    radii = fit_radii(energies, windows.episode, alphas_with(options.alpha))
    groups = None
    try:
        if options.groups:
            edges = fit_edges(
                window_sizes(data["fit"].windows, action)[:, : options.horizon],
                options.groups,
            )
            groups = fit_group_radii(
                energies,
                windows.episode,
                window_sizes(windows, action)[:, : options.horizon],
                edges,
                [radius.alpha for radius in radii],
                required=options.alpha,
            )
    except CalibrationError as error:
        warnings.append(f"no radii per action group: {error}")
    return {**decided, "radii": radii, "groups": groups}


def conformalize_scores(
    standardize: Sequence[NDArray[np.float64]],
    conformal: Sequence[NDArray[np.float64]],
    options: CalibrateOptions,
) -> dict[str, Any]:
    """Return those fields that rest on the channels alone: scales, thresholds, drift reference.

    standardize, conformal: base channels of the episodes of these splits, (T_k, 9) each.
    Raises CalibrationError when there are too few episodes for alpha, or nothing in them moves.
    """
    scales = fit_standardization(standardize)
    scores = [channel_scores(measured, scales).max(axis=1) for measured in conformal]
    worst = np.array([episode.max() for episode in scores])
    check_varied(scales, worst)
    return {
        "channels": scales,
        "thresholds": fit_thresholds(worst, options.alpha),
        "drift": fit_drift(scores, options.alpha, options.seed),
    }
