# SPDX-License-Identifier: Apache-2.0
"""Sampled futures of one history, through the C++ core where the bundle holds its predictor, and
what turns the spread of any sampler into the error to expect."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.engine import Precision, RolloutEngine
from jepa_edge.errors import InputError
from jepa_edge.latent_variable import (
    Futures,
    LatentVariable,
    Predictor,
    Sampler,
    Transitions,
)
from jepa_edge.spread import RECENT, SpreadCalibration, recent_mean
from jepa_edge.world_model import WorldModel


class FutureSampler:
    """Draws what `LatentVariable.rollout` draws, several times faster: the past is computed once
    for all samples, and nothing is allocated between the steps.

    precision: of the engine, the variant's own; None where the bundle has none, and the model's
    graph predicts. Calls from several threads take turns.
    """

    def __init__(self, model: WorldModel, variable: LatentVariable) -> None:
        self._model, self._variable = model, variable
        latent = model.manifest.latent
        whole = latent.compared == (latent.tokens, latent.dim)
        self._engine = model.own_engine() if whole else None  # its noise is for all of a latent
        self._lock = threading.Lock()
        self._noise: tuple[int, int, _core.LatentNoise] | None = None
        self.precision: Precision | None = None
        if self._engine is not None:
            self.precision = self._engine.precision
            self._core_variable = _core.LatentVariable(variable.to_arrays())

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures; arguments, result and errors as of `Sampler.sample`."""
        manifest = self._model.manifest
        older = max(0, len(history) - manifest.history)
        history, actions = history[older:], actions[older:]
        if self._engine is None:
            return self._variable.rollout(self._model, history, actions, samples, seed)
        latent = (manifest.history, manifest.latent.tokens, manifest.latent.dim)
        action, past = manifest.require_action(), manifest.history - 1
        if (
            history.shape != latent
            or actions.ndim != 2
            or actions.shape[1] != action.dim
            or samples < 2
            or len(actions) <= past
        ):
            raise InputError(
                f"got {samples} samples, history {history.shape} and actions {actions.shape}; "
                f"expected 2 or more samples, {latent} and ({past} past blocks plus one or more "
                f"future ones, {action.dim})"
            )
        horizon, rows = len(actions) - past, samples + 1  # row 0 is the noise-free prediction
        core, noise = self._reserve(self._engine, horizon, rows)
        actions = np.ascontiguousarray(actions, np.float32)
        status, latents, epistemic = noise.rollout(
            core,
            np.ascontiguousarray(history[None], np.float32),
            actions[None, :past],
            actions[None, past:],
            samples=rows,
            seed=seed,
            noise_free_first=True,
        )
        if status not in (_core.Status.OK, _core.Status.NON_FINITE_OUTPUT):
            raise InputError(
                f"history {history.shape} and actions {actions.shape} do not fit the model or are "
                f"not finite: the core says {status.name}"
            )
        return Futures.of(latents[0, 1:], latents[0, 0], epistemic[0])

    def _reserve(
        self, engine: RolloutEngine, horizon: int, rows: int
    ) -> tuple[_core.Engine, _core.LatentNoise]:
        """The engine and the noise, with room for this many steps and rows."""
        with self._lock:
            if self._noise is None or horizon > self._noise[0] or rows > self._noise[1]:
                have = self._noise or (0, 0, None)
                horizon, rows = max(horizon, have[0]), max(rows, have[1])
                noise = _core.LatentNoise(
                    self._core_variable,
                    self._model.manifest.latent.tokens,
                    candidates=1,
                    horizon=horizon,
                    samples=rows,
                    threads=engine.threads,
                )
                self._noise = (horizon, rows, noise)
            return engine.core(1, self._noise[0], self._noise[1]), self._noise[2]


class NativeSampler:
    """Draws the z of a model that was trained with one, through its predictor graph.

    variable: whose mean heads tell the epistemic part; without it that part is 0.
    Raises InputError when the model has no z.
    """

    def __init__(self, model: WorldModel, variable: LatentVariable | None = None) -> None:
        if not model.z_dim:
            raise InputError(
                f"{model.bundle.path} has no latent variable of its own (noise in its manifest); "
                "sample the fitted one instead"
            )
        self._model, self._variable = model, variable

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures, as `Sampler.sample`.

        Each number of z is shifted and scaled to mean 0 and variance 1 over the samples, as the
        fitted latent variable does; z = 0 gives the mean.
        """
        steps, width = self._model.manifest.history, self._model.z_dim
        older = max(0, len(history) - steps)
        history, actions = history[older:], actions[older:]
        horizon = len(actions) - steps + 1
        if samples < 2 or len(history) != steps or horizon < 1:
            raise InputError(
                f"got {samples} samples, history {history.shape} and actions {actions.shape}; "
                f"expected 2 or more samples, {steps} latents, {steps - 1} past blocks plus one or "
                "more future ones"
            )
        rows = samples + 1  # row 0 is the mean prediction
        window = np.repeat(history[None].astype(np.float32), rows, axis=0)
        latents = np.empty((rows, horizon, *history.shape[1:]), np.float32)
        epistemic = np.zeros(horizon, np.float32)
        for step in range(horizon):
            z = np.zeros((rows, width), np.float32)
            drawn = _core.standard_normal(seed, step, samples * width).reshape(samples, width)
            z[1:] = (drawn - drawn.mean(axis=0)) / drawn.std(axis=0, ddof=1)
            taken = actions[step : step + steps].astype(np.float32)
            repeated = np.repeat(taken[None], rows, axis=0)
            latents[:, step] = self._model.predict(window, repeated, z)
            if self._variable is not None:
                transition = Transitions(
                    previous=window[:1, -1],
                    predicted=latents[:1, step],
                    action=taken[None, -1],
                    step=np.array([step + 1]),
                )
                epistemic[step] = self._variable.disagreement(transition)[0]
            window = np.concatenate([window[:, 1:], latents[:, None, step]], axis=1)
        compared = self._model.manifest.latent.compared
        return Futures.of(latents[1:], latents[0], epistemic, compared)


class CalibratedSampler:
    """Any sampler, with spread, bound and usual spread of its futures calibrated per horizon.

    Older latents than the model's history, RECENT at best, sharpen the spread; without them it
    rests on the sampler's variance alone. Bound and usual spread are None unless as many samples
    and latents are used as it was calibrated with.
    """

    def __init__(
        self,
        model: Predictor,
        sampler: Sampler,
        calibration: SpreadCalibration,
        history: int,
        compared: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """history: T, latents that the model predicts from. compared: tokens and channels that
        errors count; None for all."""
        self._model, self._sampler, self._compared = model, sampler, compared
        self._calibration, self._history = calibration, history

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures, as `Sampler.sample`; the sampler itself sees the newest T latents."""
        older = len(history) - self._history
        if older < 0 or history.ndim != 3 or actions.ndim != 2:
            raise InputError(
                f"got history {history.shape} and actions {actions.shape}, expected "
                f"({self._history} or more, N, D) and (one per latent but the newest, plus H, A)"
            )
        futures = self._sampler.sample(history[older:], actions[older:], samples, seed)
        recent = None
        if older and self._calibration.recency > 0.0:
            recent = recent_energy(
                self._model, history[None], actions[None], self._history, self._compared
            )
        variance = futures.aleatoric.astype(np.float64) + futures.epistemic
        spread = self._calibration.spread(variance, None if recent is None else recent[0])
        used = min(len(history), self._history + RECENT)
        return replace(
            futures,
            spread=spread,
            bound=self._calibration.bound(spread, samples, used),
            usual=self._calibration.usual_spread(spread.size, samples, used),
        )


def make_sampler(model: WorldModel, variable: LatentVariable) -> Sampler:
    """Return the model's own z where it has one, else the fitted latent variable.

    Calibrated if the variable is: its calibration was fitted on this very sampler.
    """
    own = NativeSampler if model.z_dim else FutureSampler
    sampler: Sampler = own(model, variable)
    if variable.calibration is None:
        return sampler
    spec = model.manifest
    return CalibratedSampler(
        model, sampler, variable.calibration, spec.history, spec.latent.compared
    )


def recent_energy(
    model: Predictor,
    history: NDArray[np.float32],
    actions: NDArray[np.float32],
    steps: int,
    compared: tuple[int | None, int | None] = (None, None),
) -> NDArray[np.float64]:
    """Mean squared innovation of the newest latents, the newest weighing most: (B,) float64.

    history: (B, T + R, N, D), R of 1 or more; at most RECENT are used. actions: (B, T + R - 1 or
    more, A), raw units, the first ones lie between the latents. steps: T. compared: as of
    `Futures.of`. Per latent number; infinite where a prediction or a latent is not finite: the
    model broke.
    """
    batch, length = history.shape[:2]
    count = min(length - steps, RECENT)
    ends = [length - 1 - k for k in range(count)]  # the latents that were predicted
    windows = np.concatenate([history[:, end - steps : end] for end in ends])
    taken = np.concatenate([actions[:, end - steps : end] for end in ends])
    predicted = model.predict(np.ascontiguousarray(windows), np.ascontiguousarray(taken))
    observed = np.concatenate([history[:, end] for end in ends])
    tokens, dim = compared
    residual = (observed.astype(np.float64) - predicted)[:, :tokens, :dim]
    squared = np.mean(residual**2, axis=(1, 2))
    squared = np.where(np.isfinite(squared), squared, np.inf)
    return recent_mean(squared.reshape(count, batch))
