# SPDX-License-Identifier: Apache-2.0
"""Fits everything that turns latents into channels, on the fit split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.dataset import EncodedEpisode, Windows
from jepa_edge.calibration.fit_density import fit_flow
from jepa_edge.calibration.fit_heads import (
    fit_gain,
    fit_inverse,
    fit_mean_heads,
    fit_whitener,
    pooled_motion,
)
from jepa_edge.calibration.fit_scale import fit_scale_head, residual_base, training_rows
from jepa_edge.calibration.fit_spread import (
    conformalize_spread,
    fit_spread,
    lengthen,
    one_per_episode,
    recent_of,
    sampled_variance,
)
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.spread import pick_rows
from jepa_edge.channels import Observer, inverse_features
from jepa_edge.density import Flow
from jepa_edge.futures import NativeSampler, make_sampler
from jepa_edge.latent_variable import LatentVariable, Predictor
from jepa_edge.mlp import MLP
from jepa_edge.progress import Progress
from jepa_edge.rollout import roll
from jepa_edge.spread import SpreadCalibration
from jepa_edge.world_model import WorldModel

_FLOW_ROWS_PER_NUMBER = 20
"""Fewer latents than this per dimension do not carry a flow."""

DEAF = 1.3
"""Below this error ratio of shuffled to commanded actions, actuator faults will hardly show."""

_GAIN_WINDOWS = 512
_GAIN_SAMPLES = 4
_SPREAD_WINDOWS = 512
_SPREAD_SAMPLES = 16
_SPREAD_BATCH = 16
_SPREAD_NUMBERS = 1 << 16
"""Numbers of the latents whose rollouts are sampled at once."""


def fit_latent_variable(
    model: Predictor,
    windows: Windows,
    gain_windows: Windows,
    options: CalibrateOptions,
    progress: Progress,
) -> LatentVariable:
    """Fit scale head and mean heads on windows, then gain and calibration on gain_windows.

    gain_windows: from other episodes than windows, so that the gain corrects for overfitting. All
    windows of an episode, in order: what the calibration says of recent innovations needs them.
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
        tokens=blank.tokens,
    )
    picked = pick_rows(gain_windows.episode, _GAIN_WINDOWS, options.seed)
    most = gain_windows.most(_GAIN_WINDOWS)
    chosen = gain_windows.take(picked[np.sort(rng.permutation(len(picked))[:most])])
    gain = fit_gain(variable, model, chosen, _GAIN_SAMPLES, options.seed)
    variable = replace(variable, gain=gain)
    return replace(variable, calibration=_calibration(variable, model, gain_windows, options, rng))


def _calibration(
    variable: LatentVariable,
    model: Predictor,
    windows: Windows,
    options: CalibrateOptions,
    rng: np.random.Generator,
) -> SpreadCalibration:
    """Calibrate the spread of the variable's rollouts, on windows with a recent past if any."""
    recent = recent_of(windows)
    rows = np.flatnonzero(np.isfinite(recent))
    rows = rng.permutation(rows if len(rows) else len(windows))
    rows = rows[: windows.most(_SPREAD_WINDOWS)]
    part = windows.take(rows)
    if isinstance(model, WorldModel) and model.z_dim:  # its own z is what will be sampled
        native = NativeSampler(model, variable)
        drawn = sampled_variance(native, part, _SPREAD_SAMPLES, options.seed)
        return fit_spread(drawn, recent[rows], part)
    variance = []
    batch = min(_SPREAD_BATCH, max(1, _SPREAD_NUMBERS // part.history[:1, 0].size))
    for start in range(0, len(part), batch):  # patch latents of all at once fill the memory
        few = part.take(np.arange(start, min(start + batch, len(part))))
        latents, _, epistemic = variable.rollouts(
            model, few.history, few.actions, _SPREAD_SAMPLES, options.seed
        )
        latents = variable.compared(latents)
        aleatoric = latents.var(axis=1, ddof=1, dtype=np.float64).mean(axis=(2, 3))
        variance.append(aleatoric + epistemic)
    return fit_spread(np.concatenate(variance), recent[rows], part)


def conformalize_variable(
    model: WorldModel,
    variable: LatentVariable,
    windows: Windows,
    options: CalibrateOptions,
    progress: Progress,
) -> LatentVariable:
    """Give a fitted variable's spread its conformal radius per horizon.

    windows: all of the conformal split's, in order; nothing was fitted on these episodes.
    Raises CalibrationError when there are too few episodes for alpha.
    """
    if variable.calibration is None:
        return variable
    calibration = conformalize_spread(
        make_sampler(model, variable),
        variable.calibration,
        lengthen(windows, pick=lambda episode: one_per_episode(episode, options.seed)),
        options.alpha,
        samples=options.samples,
        seed=options.seed,
        progress=progress,
    )
    return replace(variable, calibration=calibration)


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
    episodes = [replace(e, latents=variable.compared(e.latents)) for e in episodes]
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
    return Observer(
        latent_variable=variable,
        recorded=fit_whitener(np.concatenate([e.latents.mean(axis=1) for e in episodes])),
        flow=fit_familiarity(episodes, options, progress),
        motion=fit_whitener(pooled_motion(episodes)),
        inverse=inverse,
        action_mean=mean.astype(np.float32),
        action_std=std.astype(np.float32),
        action_whiten=fit_whitener(np.concatenate([targets[k] - inverse(inputs[k]) for k in rest])),
    )


def fit_familiarity(
    episodes: Sequence[EncodedEpisode], options: CalibrateOptions, progress: Progress
) -> Flow | None:
    """Fit a flow to the token-mean latents; None where they are too few for one."""
    pooled = np.concatenate([e.latents.mean(axis=1) for e in episodes])
    if len(pooled) < _FLOW_ROWS_PER_NUMBER * pooled.shape[1]:
        return None
    owner = np.concatenate([np.full(len(e.latents), k) for k, e in enumerate(episodes)])
    return fit_flow(pooled, owner, options.density_hidden, options.seed, progress)


def action_use(model: Predictor, windows: Windows, steps: int, seed: int) -> tuple[float, float]:
    """Mean squared error at `steps` with the commanded and with shuffled future actions.

    A model that ignores its actions gives the same for both, and no actuator fault can show.
    """
    rng = np.random.default_rng(seed)
    chosen = windows.take(np.sort(rng.permutation(len(windows))[: windows.most(512)]))
    tokens, dim = chosen.observed.shape[2:]
    history = chosen.history.shape[1]
    shuffled = chosen.actions.copy()
    shuffled[:, history - 1 :] = shuffled[rng.permutation(len(chosen)), history - 1 :]
    errors = []
    for actions in (chosen.actions, shuffled):
        last = roll(model.predict, chosen.history, actions[:, : history - 1 + steps])[:, -1]
        last = last[:, :tokens, :dim]
        errors.append(float(np.mean((last - chosen.observed[:, steps - 1]) ** 2)))
    return errors[0], errors[1]


def _blank(
    base: NDArray[np.float32], windows: Windows, options: CalibrateOptions
) -> LatentVariable:
    """A latent variable whose heads are not there yet: only its feature layout is used."""
    tokens = windows.predicted.shape[2]
    nothing = MLP(
        center=np.zeros(1, np.float32), scale=np.ones(1, np.float32), weights=(), biases=()
    )
    return LatentVariable(
        base=base,
        factor=np.zeros((base.shape[1], min(options.rank, base.shape[1])), np.float32),
        scale_head=nothing,
        mean_heads=nothing,
        gain=np.ones(len(base), np.float32),
        tokens=tokens if tokens < windows.history.shape[2] else None,
    )
