# SPDX-License-Identifier: Apache-2.0
"""Sampled futures of one history: through the C++ core where the bundle holds its predictor."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.engine import Precision, RolloutEngine
from jepa_edge.errors import InputError
from jepa_edge.latent_variable import Futures, LatentVariable
from jepa_edge.world_model import WorldModel


class FutureSampler:
    """Draws what `LatentVariable.rollout` draws, several times faster: the past is computed once
    for all samples, and nothing is allocated between the steps.

    precision: of the engine, the variant's own; None where the bundle has none, and the model's
    graph predicts. Calls from several threads take turns.
    """

    def __init__(self, model: WorldModel, variable: LatentVariable) -> None:
        self._model, self._variable = model, variable
        self._engine = model.own_engine()
        self._lock = threading.Lock()
        self._noise: tuple[int, int, _core.LatentNoise] | None = None
        self.precision: Precision | None = None
        if self._engine is not None:
            self.precision = self._engine.precision
            self._core_variable = _core.LatentVariable(variable.to_arrays())

    def __call__(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures; arguments, result and errors as of `LatentVariable.rollout`."""
        if self._engine is None:
            return self._variable.rollout(self._model, history, actions, samples, seed)
        manifest = self._model.manifest
        latent = (manifest.history, manifest.latent.tokens, manifest.latent.dim)
        past = manifest.history - 1
        if (
            history.shape != latent
            or actions.ndim != 2
            or actions.shape[1] != manifest.action.dim
            or samples < 2
            or len(actions) <= past
        ):
            raise InputError(
                f"got {samples} samples, history {history.shape} and actions {actions.shape}; "
                f"expected 2 or more samples, {latent} and ({past} past blocks plus one or more "
                f"future ones, {manifest.action.dim})"
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
        drawn = latents[0, 1:]
        return Futures(
            latents=drawn,
            mean=latents[0, 0],
            aleatoric=drawn.var(axis=0, ddof=1).mean(axis=(1, 2)),
            epistemic=epistemic[0],
        )

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
