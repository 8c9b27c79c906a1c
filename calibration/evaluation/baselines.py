# SPDX-License-Identifier: Apache-2.0
"""Detectors that others have published, our own implementations, on equal terms with the monitor:
the same latents, the same calibration episodes in the same split, the same alpha per episode, even
where the monitor's CAUTION threshold was lowered to bound the user's own loss.

Every one is a score per frame under a conformal band over time. Densities are fitted on the fit
split; one half of the standardize and conformal splits shapes the band, the other half sets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import FunctionalBand, functional_band
from jepa_edge.calibration.dataset import EncodedEpisode
from jepa_edge.calibration.evaluation.outcomes import FaultTraces, Traces
from jepa_edge.calibration.evaluation.work import map_threads
from jepa_edge.calibration.fit_density import fit_flow, fit_rnd
from jepa_edge.channels import first_step
from jepa_edge.latent_variable import Transitions
from jepa_edge.monitor import Monitor
from jepa_edge.pooling import token_means
from jepa_edge.progress import Progress

Episodes = Sequence[EncodedEpisode]
Curves = list[NDArray[np.float64]]

NAMES = (
    "flow density + band",
    "random network distillation + band",
    "innovation energy + band",
    "disagreement + band",
)
"""flow density: logpZO of FAIL-Detect (Xu et al. 2025). random network distillation: as in FIPER
(Roemer et al. 2025). innovation energy and disagreement: of this model's own latent variable, which
one that takes no actions has not."""

_HIDDEN = 128
_LARGEST = 1e12
"""Infinite scores count as this: the band's mean stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEpisodes:
    """Encoded episodes with one fault; onset and cluster as in FaultTraces."""

    onset: int
    episodes: Episodes
    cluster: NDArray[np.int64]


def baseline_traces(
    monitor: Monitor,
    splits: Mapping[str, Episodes],
    nominal: Episodes,
    cluster: NDArray[np.int64],
    faults: Mapping[str, FaultEpisodes],
    workers: int,
    progress: Progress,
) -> list[Traces]:
    """Calibrate every baseline at the monitor's alpha and score all episodes with it.

    splits: the calibration's fit, standardize and conformal episodes.
    Raises CalibrationError when there are too few of them for alpha.
    """
    alpha, seed = monitor.calibration.alpha, monitor.calibration.seed
    spec = monitor.model.manifest
    first, compared = first_step(spec.history), spec.latent.compared
    titles = NAMES if spec.action is not None else NAMES[:2]
    pooled = [token_means(episode.latents, compared, np.float32) for episode in splits["fit"]]
    owner = np.repeat(np.arange(len(pooled)), [len(rows) for rows in pooled])
    values = np.concatenate(pooled)
    flow = monitor.observer.flow  # the monitor's own flow, fitted on these very latents
    if flow is None:
        flow = fit_flow(values, owner, _HIDDEN, seed, progress)
    rnd = fit_rnd(values, owner, _HIDDEN, seed, progress)

    def measure(episode: EncodedEpisode) -> NDArray[np.float64]:
        """The scores of the frames that the monitor judges too, a row for each title."""
        if len(episode.latents) <= first:
            return np.empty((len(titles), 0))
        seen = token_means(episode.latents, compared, np.float32)[first:]
        rows = [flow.score(seen), rnd.score(seen)]
        if spec.action is not None:
            transitions, observed = _one_step(monitor, episode, first)
            variable = monitor.latent_variable
            rows += [variable.energy(transitions, observed), variable.disagreement(transitions)]
        stacked = np.stack(rows).astype(np.float64)
        return np.clip(np.nan_to_num(stacked, nan=_LARGEST), -_LARGEST, _LARGEST)

    groups: dict[str, Episodes] = {
        "calibration": [*splits["standardize"], *splits["conformal"]],
        "nominal": nominal,
        **{f"fault {name}": fault.episodes for name, fault in faults.items()},
    }
    everything = [episode for group in groups.values() for episode in group]
    results = iter(map_threads(measure, everything, workers, progress, "baselines"))
    measured = {name: [next(results) for _ in group] for name, group in groups.items()}

    found = []
    for index, title in enumerate(titles):
        band = functional_band(_rectangle([s[index] for s in measured["calibration"]]), alpha, seed)
        curves = {
            name: [
                _trace(score[index], band, min(first, len(episode.latents)))
                for score, episode in zip(measured[name], group, strict=True)
            ]
            for name, group in groups.items()
        }
        found.append(
            Traces(
                name=title,
                threshold=band.quantile,
                nominal=curves["nominal"],
                cluster=cluster,
                faults={
                    key: FaultTraces(
                        onset=fault.onset, episodes=curves[f"fault {key}"], cluster=fault.cluster
                    )
                    for key, fault in faults.items()
                },
            )
        )
    return found


def _rectangle(curves: Curves) -> NDArray[np.float64]:
    """Curves of like length (n, T): shorter ones go on with their last value."""
    longest = max(len(curve) for curve in curves)
    return np.stack([np.pad(curve, (0, longest - len(curve)), mode="edge") for curve in curves])


def _trace(curve: NDArray[np.float64], band: FunctionalBand, first: int) -> NDArray[np.float64]:
    """Height above the band's mean in widths, after -inf in `first` frames that none judges.

    Beyond its last frame the band goes on as it ends.
    """
    frame = np.minimum(np.arange(len(curve)), len(band.mean) - 1)
    height = (curve - band.mean[frame]) / band.modulation[frame]
    return np.concatenate([np.full(first, -np.inf), height])


def _one_step(
    monitor: Monitor, episode: EncodedEpisode, first: int
) -> tuple[Transitions, NDArray[np.float32]]:
    """One-step predictions of all judged frames beside what came."""
    model = monitor.model
    history = model.manifest.history
    times = np.arange(first, len(episode.latents))
    past = times[:, None] - history + np.arange(history)
    predicted = model.predict(episode.latents[past], episode.actions[past])
    transitions = Transitions(
        previous=episode.latents[times - 1],
        predicted=predicted,
        action=episode.actions[times - 1],
        step=np.ones(len(times), np.int64),
    )
    return transitions, episode.latents[times]
