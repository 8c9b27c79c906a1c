# SPDX-License-Identifier: Apache-2.0
"""Fits everything that turns latents into channels, on the fit split."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.dataset import EncodedEpisode, Windows
from jepa_edge.calibration.fit_heads import (
    fit_gain,
    fit_inverse,
    fit_mean_heads,
    fit_whitener,
    pooled_motion,
)
from jepa_edge.calibration.fit_scale import fit_scale_head, residual_base, training_rows
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.spread import pick_windows
from jepa_edge.channels import Observer, inverse_features
from jepa_edge.latent_variable import LatentVariable, Predictor
from jepa_edge.mlp import MLP
from jepa_edge.progress import Progress
from jepa_edge.rollout import roll

_GAIN_WINDOWS = 512
_GAIN_SAMPLES = 4


def fit_latent_variable(
    model: Predictor,
    windows: Windows,
    gain_windows: Windows,
    options: CalibrateOptions,
    progress: Progress,
) -> LatentVariable:
    """Fit scale head and mean heads on windows, then the rollout's gain on gain_windows.

    gain_windows: from other episodes than windows, so that the gain corrects for overfitting.
    """
    rng = np.random.default_rng(options.seed)
    base = residual_base(windows)
    blank = _blank(base, windows, options)
    rows = training_rows(blank, windows, rng)
    rank = min(options.rank, base.shape[1])
    scale_head, factor = fit_scale_head(rows, rank, options.hidden, options.seed, progress)
    variable = LatentVariable(
        base=base,
        factor=factor,
        scale_head=scale_head,
        mean_heads=fit_mean_heads(rows, options.members, options.hidden, options.seed),
        gain=blank.gain,
    )
    chosen = pick_windows(gain_windows, _GAIN_WINDOWS, options.seed)
    chosen = chosen.take(np.sort(rng.permutation(len(chosen))[:_GAIN_WINDOWS]))
    gain = fit_gain(variable, model, chosen, _GAIN_SAMPLES, options.seed)
    return LatentVariable(
        base=base,
        factor=factor,
        scale_head=scale_head,
        mean_heads=variable.mean_heads,
        gain=gain,
    )


def fit_observer(
    variable: LatentVariable,
    episodes: list[EncodedEpisode],
    options: CalibrateOptions,
    progress: Progress,
) -> Observer:
    """Fit familiarity, motion and inverse dynamics around a latent variable.

    Of the inverse head's errors only the last fifth of the episodes, on which it was not fitted,
    sets their scale.
    """
    actions = np.concatenate([episode.actions for episode in episodes])
    mean = actions.mean(axis=0)
    std = np.maximum(actions.std(axis=0), 1e-6)
    inputs = [inverse_features(e.latents[:-2], e.latents[1:-1], e.latents[2:]) for e in episodes]
    targets = [((e.actions[1:] - mean) / std).astype(np.float32) for e in episodes]
    fitted = max(2, len(episodes) - max(1, len(episodes) // 5))
    inverse = fit_inverse(
        np.concatenate(inputs[:fitted]),
        np.concatenate(targets[:fitted]),
        np.concatenate([np.full(len(t), k) for k, t in enumerate(targets[:fitted])]),
        options.hidden,
        options.seed,
        progress,
    )
    rest = range(fitted, len(episodes))
    pooled = np.concatenate([e.latents.mean(axis=1) for e in episodes])
    return Observer(
        latent_variable=variable,
        latent=fit_whitener(pooled),
        motion=fit_whitener(pooled_motion(episodes)),
        inverse=inverse,
        action_mean=mean.astype(np.float32),
        action_std=std.astype(np.float32),
        action_whiten=fit_whitener(np.concatenate([targets[k] - inverse(inputs[k]) for k in rest])),
    )


def action_use(model: Predictor, windows: Windows, steps: int, seed: int) -> tuple[float, float]:
    """Mean squared error at `steps` with the commanded and with shuffled future actions.

    A model that ignores its actions gives the same for both, and no actuator fault can show.
    """
    rng = np.random.default_rng(seed)
    chosen = windows.take(np.sort(rng.permutation(len(windows))[:512]))
    history = chosen.history.shape[1]
    shuffled = chosen.actions.copy()
    shuffled[:, history - 1 :] = shuffled[rng.permutation(len(chosen)), history - 1 :]
    errors = []
    for actions in (chosen.actions, shuffled):
        last = roll(model.predict, chosen.history, actions[:, : history - 1 + steps])[:, -1]
        errors.append(float(np.mean((last - chosen.observed[:, steps - 1]) ** 2)))
    return errors[0], errors[1]


def _blank(
    base: NDArray[np.float32], windows: Windows, options: CalibrateOptions
) -> LatentVariable:
    """A latent variable whose heads are not there yet: only its feature layout is used."""
    nothing = MLP(
        center=np.zeros(1, np.float32), scale=np.ones(1, np.float32), weights=(), biases=()
    )
    return LatentVariable(
        base=base,
        factor=np.zeros((base.shape[1], min(options.rank, base.shape[1])), np.float32),
        scale_head=nothing,
        mean_heads=nothing,
        gain=np.ones(len(base), np.float32),
    )
