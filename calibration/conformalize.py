# SPDX-License-Identifier: Apache-2.0
"""Everything that the conformal split decides: thresholds, radii, groups, the drift reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    windows = data["conformal"].windows
    scales = fit_standardization(data["standardize"].measure(observer))
    scores = [channel_scores(m, scales).max(axis=1) for m in data["conformal"].measure(observer)]
    worst = np.array([episode.max() for episode in scores])
    check_varied(scales, worst)
    energies = window_energies(observer.latent_variable, windows)[:, : options.horizon]
    radii = fit_radii(energies, windows.episode, alphas_with(options.alpha))
    groups = None
    try:
        if options.groups:
            edges = fit_edges(
                window_sizes(data["fit"].windows, spec.action)[:, : options.horizon],
                options.groups,
            )
            groups = fit_group_radii(
                energies,
                windows.episode,
                window_sizes(windows, spec.action)[:, : options.horizon],
                edges,
                [radius.alpha for radius in radii],
                required=options.alpha,
            )
    except CalibrationError as error:
        warnings.append(f"no radii per action group: {error}")
    return {
        "channels": scales,
        "thresholds": fit_thresholds(worst, options.alpha),
        "radii": radii,
        "groups": groups,
        "drift": fit_drift(scores, options.alpha, options.seed),
    }
