# SPDX-License-Identifier: Apache-2.0
"""Fits densities of latents: flow matching, and random network distillation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.calibration.train import perceptron, to_mlp, train
from jepa_edge.density import Flow
from jepa_edge.mlp import MLP
from jepa_edge.progress import Progress

_EPOCHS = 60
_FLOW_ROWS = 20_000
_RND_OUTPUTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Rnd:
    """Random network distillation: a fitted network imitates a random one where there was data.

    target, learner: map D numbers to K. Score: mean squared difference over its nominal mean.
    Source: Burda et al. 2019; FIPER (Roemer et al. 2025) for robot observations.
    """

    target: MLP
    learner: MLP
    mean: NDArray[np.float32]

    def score(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distillation error of values (B, D), 1 on average where they are nominal: (B,)."""
        error = np.mean((self.target(values) - self.learner(values)) ** 2, axis=1)
        return np.asarray(error / self.mean, np.float32)


def fit_flow(
    values: NDArray[np.float32],
    episode: NDArray[np.int64],
    hidden: int,
    seed: int,
    progress: Progress,
) -> Flow:
    """Fit a flow to values (M, D); a fifth of the episodes (M,) decides when to stop.

    Source: Lipman et al. 2023, conditional flow matching with straight paths.
    """
    rows = _thin(len(values), seed)
    values, episode = values[rows], episode[rows]
    center = values.mean(axis=0)
    scale = np.maximum(values.std(axis=0), 1e-6)
    data = torch.from_numpy(np.asarray((values - center) / scale, np.float32))
    dim = data.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = perceptron(dim + 2, hidden, dim)
        # One draw of noise and time per row, anew in every batch; the held-out rows keep theirs.
        generator = torch.Generator().manual_seed(seed)
        fixed = _noise_and_time(len(data), dim, torch.Generator().manual_seed(seed + 1))

        def loss(chosen: Tensor) -> Tensor:
            target = data[chosen]
            if torch.is_grad_enabled():
                noise, time = _noise_and_time(len(chosen), dim, generator)
            else:
                noise, time = fixed[0][chosen], fixed[1][chosen]
            mixed = (1.0 - time) * noise + time * target
            guess = net(torch.cat([mixed, time, time**2], dim=1))
            return nn.functional.mse_loss(guess, target - noise)

        train(
            net,
            loss,
            episode,
            learning_rate=2e-3,
            epochs=_EPOCHS,
            seed=seed,
            stage="fit density",
            progress=progress,
        )
    velocity = to_mlp(net, np.zeros(dim + 2, np.float32), np.ones(dim + 2, np.float32))
    return Flow(center=center.astype(np.float32), scale=scale.astype(np.float32), velocity=velocity)


def fit_rnd(
    values: NDArray[np.float32],
    episode: NDArray[np.int64],
    hidden: int,
    seed: int,
    progress: Progress,
) -> Rnd:
    """Fit random network distillation to values (M, D); episode: (M,), owner of each row."""
    rows = _thin(len(values), seed)
    values, episode = values[rows], episode[rows]
    center = values.mean(axis=0).astype(np.float32)
    scale = np.maximum(values.std(axis=0), 1e-6).astype(np.float32)
    blank = MLP(center=center, scale=scale, weights=(), biases=())
    data = torch.from_numpy(blank.standardize(values))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        target, learner = (perceptron(data.shape[1], hidden, _RND_OUTPUTS) for _ in range(2))
    with torch.no_grad():
        for layer in target:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2.0)  # rougher than what a fresh network would be
        wanted = target(data)
    train(
        learner,
        lambda chosen: nn.functional.mse_loss(learner(data[chosen]), wanted[chosen]),
        episode,
        learning_rate=2e-3,
        epochs=_EPOCHS,
        seed=seed,
        stage="fit random network distillation",
        progress=progress,
    )
    with torch.no_grad():
        mean = float(nn.functional.mse_loss(learner(data), wanted))
    return Rnd(
        target=to_mlp(target, center, scale),
        learner=to_mlp(learner, center, scale),
        mean=np.array(max(mean, 1e-12), np.float32),
    )


def _thin(count: int, seed: int) -> NDArray[np.int64]:
    """Row numbers, at most _FLOW_ROWS of them, drawn at random."""
    order = np.random.default_rng(seed).permutation(count)[:_FLOW_ROWS]
    return np.sort(order)


def _noise_and_time(rows: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    noise = torch.randn(rows, dim, generator=generator)
    return noise, torch.rand(rows, 1, generator=generator)
