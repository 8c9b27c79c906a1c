# SPDX-License-Identifier: Apache-2.0
"""Sampled futures of one history: through the C++ core where the bundle holds its predictor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.engine import Precision
from jepa_edge.errors import InputError
from jepa_edge.latent_variable import Futures, LatentVariable
from jepa_edge.world_model import WorldModel


class FutureSampler:
    """Draws what `LatentVariable.rollout` draws, several times faster: the past is computed once
    for all samples, and nothing is allocated between the steps.

    precision: of the rollout engine; None where the bundle has none, and the model's own graph
    predicts.
    """

    def __init__(self, model: WorldModel, variable: LatentVariable) -> None:
        self._model, self._variable = model, variable
        self._engine = model.engine()
        self._noise: _core.LatentNoise | None = None
        self._reserved = (0, 0)
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
        past = len(history) - 1
        horizon = len(actions) - past
        if samples < 2 or horizon < 1:
            raise InputError(
                f"got {samples} samples and actions {actions.shape} for history {history.shape}; "
                "expected 2 or more samples and T - 1 past actions plus one or more future ones"
            )
        rows = samples + 1  # row 0 is the noise-free prediction
        core = self._engine.core(1, horizon, rows)
        if self._noise is None or horizon > self._reserved[0] or rows > self._reserved[1]:
            self._reserved = (max(horizon, self._reserved[0]), max(rows, self._reserved[1]))
            self._noise = _core.LatentNoise(
                self._core_variable,
                self._model.manifest.latent.tokens,
                candidates=1,
                horizon=self._reserved[0],
                samples=self._reserved[1],
                threads=self._engine.threads,
            )
        actions = np.ascontiguousarray(actions, np.float32)
        status, latents, epistemic = self._noise.rollout(
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
