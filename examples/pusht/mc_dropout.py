# SPDX-License-Identifier: Apache-2.0
"""MC-dropout on the torch model: the published baseline that the latent variable stands beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_edge.export.checkpoint import load_checkpoint

Sampler = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


def mc_dropout_sampler(checkpoint: Path, samples: int, seed: int) -> Sampler:
    """Return a sampler: (T, N, D) history and (T - 1 + H, A) raw actions to (S, H, N, D) futures.

    The predictor's dropout stays on, everything else is in evaluation mode.
    Source: Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation".
    """
    model, _, extras = load_checkpoint(checkpoint)
    model.eval()
    for module in model.predictor.modules():
        module.training = True
    mean = torch.tensor(extras.action.mean, dtype=torch.float32)
    std = torch.tensor(extras.action.std, dtype=torch.float32)
    torch.manual_seed(seed)

    @torch.inference_mode()
    def sample(history: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32]:
        latents = torch.from_numpy(history[:, 0]).expand(samples, -1, -1)
        commanded = ((torch.from_numpy(actions) - mean) / std).expand(samples, -1, -1)
        futures = model.rollout(latents, commanded)
        return np.asarray(futures[:, :, None].numpy(), np.float32)

    return sample
