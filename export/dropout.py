# SPDX-License-Identifier: Apache-2.0
"""MC-dropout as a sampler, on the bench: the checkpoint's own dropout layers stay on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.errors import InputError
from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.families.lewm_checkpoint import load_checkpoint
from jepa_edge.latent_variable import Futures
from jepa_edge.manifest import ActionSpec


class DropoutSampler:
    """Futures under random dropout masks of the predictor, fresh ones per sample and step.

    What varies is the model, not the world: the whole variance counts as epistemic. It needs torch,
    so it runs on the bench only.
    Source: Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation".
    """

    def __init__(self, model: LeWM, action: ActionSpec) -> None:
        """Raises InputError when the predictor has no layer with a dropout above 0."""
        self._layers = [m for m in model.predictor.modules() if _rate(m) > 0.0]
        if not self._layers:
            raise InputError(
                "the checkpoint's predictor has no dropout (every rate is 0), so that its masks "
                "cannot differ; sample the fitted latent variable instead"
            )
        self._model = model.eval()
        self._mean = torch.tensor(action.mean, dtype=torch.float32)
        self._std = torch.tensor(action.std, dtype=torch.float32)

    @classmethod
    def load(cls, checkpoint: Path | str) -> DropoutSampler:
        """Read a checkpoint. Raises CheckpointError as `load_checkpoint`, InputError as above."""
        model, _, extras = load_checkpoint(checkpoint)
        return cls(model, extras.action)

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures, as `Sampler.sample`; the mean is the prediction without dropout."""
        dim = (1, self._model.config.latent_dim)
        if (
            samples < 2
            or history.shape[1:] != dim
            or not 1 <= len(history) <= len(actions)
            or actions.shape[1:] != self._mean.shape
        ):
            raise InputError(
                f"got {samples} samples, history {history.shape} and actions {actions.shape}; "
                f"expected 2 or more samples, (T, {dim[0]}, {dim[1]}) and T - 1 past actions plus "
                f"one or more future ones of {len(self._mean)} numbers"
            )
        past = torch.from_numpy(np.ascontiguousarray(history[:, 0], np.float32))[None]
        raw = torch.from_numpy(np.ascontiguousarray(actions, np.float32))
        commanded = ((raw - self._mean) / self._std)[None]
        with torch.inference_mode():
            mean = self._model.rollout(past, commanded)[0]
            with torch.random.fork_rng(devices=[]), self._dropping():
                torch.manual_seed(seed)
                drawn = self._model.rollout(
                    past.expand(samples, -1, -1), commanded.expand(samples, -1, -1)
                )
        latents = _array(drawn)
        variance = latents.var(axis=0, ddof=1).mean(axis=(1, 2))
        return Futures(
            latents=latents,
            mean=_array(mean),
            aleatoric=np.zeros_like(variance),
            epistemic=variance,
            spread=np.sqrt(variance),
        )

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Put the dropout layers, and nothing else, into training mode."""
        for layer in self._layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in self._layers:
                layer.training = False


def _rate(module: nn.Module) -> float:
    """Dropout of a layer of its own, or of an attention that drops weights itself."""
    rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0.0)
    return float(rate) if isinstance(rate, (int, float)) else 0.0


def _array(latents: Tensor) -> NDArray[np.float32]:
    """(..., H, D) to (..., H, 1, D)."""
    return np.ascontiguousarray(latents.unsqueeze(-2).numpy(), dtype=np.float32)
