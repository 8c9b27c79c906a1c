# SPDX-License-Identifier: Apache-2.0
"""Fits the aleatoric head: the conditional covariance of the innovation, by Gaussian likelihood."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.train import to_array, train
from jepa_edge.latent_variable import LatentVariable, Transitions
from jepa_edge.mlp import MLP
from jepa_edge.progress import Progress

logger = logging.getLogger(__name__)

_MAX_ROWS = 40_000
_EPOCHS = 30
_LOG_LIMIT = 3.0  # as in jepa_edge.latent_variable.bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Training rows, one per token of a transition. All float32.

    features: (M, I). residual: (M, D), innovation in units of base. episode: (M,) int.
    """

    features: NDArray[np.float32]
    residual: NDArray[np.float32]
    episode: NDArray[np.int64]


def transitions_of(windows: Windows, step: int) -> Transitions:
    """Return the transitions of all windows at rollout step 1, 2, ... H."""
    history = windows.history.shape[1]
    previous = windows.history[:, -1] if step == 1 else windows.predicted[:, step - 2]
    return Transitions(
        previous=previous,
        predicted=windows.predicted[:, step - 1],
        action=windows.actions[:, history - 2 + step],
        step=np.full(len(windows), step, np.int64),
    )


def residual_base(windows: Windows) -> NDArray[np.float32]:
    """Root mean square of the innovation per step and channel: (H, D) float32."""
    total = np.zeros(windows.predicted.shape[1:], np.float64)
    for rows in windows.parts():
        residual = windows.observed[rows] - windows.predicted[rows]
        total += np.sum(residual.astype(np.float64) ** 2, axis=0)
    base = np.sqrt(total.mean(axis=1) / len(windows))
    return np.asarray(np.maximum(base, 1e-4 * base.mean() + 1e-12), np.float32)


def training_rows(variable: LatentVariable, windows: Windows, rng: np.random.Generator) -> Rows:
    """Lay out all steps of all windows as rows, thinned at random to a size that fits in memory."""
    tokens = windows.observed.shape[2]
    features, residuals, episodes = [], [], []
    for step in range(1, windows.horizon + 1):
        count = len(windows)
        keep = max(1, _MAX_ROWS // (windows.horizon * tokens))
        chosen = np.arange(count)
        if count > keep:
            chosen = np.sort(rng.choice(count, keep, replace=False))
        part = windows.take(chosen)
        features.append(variable.features(transitions_of(part, step)))
        residual = part.observed[:, step - 1] - part.predicted[:, step - 1]
        residuals.append((residual / variable.base[step - 1]).reshape(-1, residual.shape[-1]))
        episodes.append(np.repeat(part.episode, tokens))
    return Rows(
        features=np.concatenate(features),
        residual=np.concatenate(residuals),
        episode=np.concatenate(episodes),
    )


class _ScaleNet(nn.Module):
    """The head in torch: log variances (D) and log amplitudes (R) around a constant factor."""

    def __init__(self, inputs: int, hidden: int, factor: Tensor, log_variance: Tensor) -> None:
        super().__init__()
        dim, rank = factor.shape
        self.hidden = nn.Linear(inputs, hidden)
        self.out = nn.Linear(hidden, dim + rank)
        self.factor = nn.Parameter(factor.clone())
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.cat([log_variance, torch.zeros(rank)]))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        out = self.out(torch.relu(self.hidden(features)))
        out = _LOG_LIMIT * torch.tanh(out / _LOG_LIMIT)
        dim = len(self.factor)
        return out[:, :dim], self.factor * torch.exp(0.5 * out[:, None, dim:])


def negative_log_likelihood(log_variance: Tensor, factor: Tensor, residual: Tensor) -> Tensor:
    """Mean of -log N(residual; 0, diag(exp(log_variance)) + F F^T) per dimension, no constant.

    log_variance, residual: (B, D). factor: (B, D, R). By Woodbury's identity and the determinant
    lemma, O(D R^2).
    """
    rank = factor.shape[2]
    precision = torch.exp(-log_variance)
    weighted = factor * precision[:, :, None]
    capacitance = factor.transpose(1, 2) @ weighted + torch.eye(rank)
    cholesky = torch.linalg.cholesky(capacitance)
    projected = weighted.transpose(1, 2) @ residual[:, :, None]
    solved = torch.linalg.solve_triangular(cholesky, projected, upper=False)[:, :, 0]
    form = (residual**2 * precision).sum(1) - (solved**2).sum(1)
    log_det = log_variance.sum(1) + 2.0 * cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
    loss: Tensor = 0.5 * (form + log_det).mean() / residual.shape[1]
    return loss


def fit_scale_head(
    rows: Rows, rank: int, hidden: int, seed: int, progress: Progress
) -> tuple[MLP, NDArray[np.float32]]:
    """Fit the head and its factor (D, R); a fifth of the episodes decides when to stop."""
    center = rows.features.mean(axis=0)
    scale = np.maximum(rows.features.std(axis=0), 1e-6)
    standard = MLP(center=center, scale=scale, weights=(), biases=())
    features = torch.from_numpy(standard.standardize(rows.features))
    residual = torch.from_numpy(rows.residual)
    factor, log_variance = _initial_factor(rows.residual, rank)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _ScaleNet(features.shape[1], hidden, factor, log_variance)

    def loss(chosen: Tensor) -> Tensor:
        log_variance, factor = net(features[chosen])
        return negative_log_likelihood(log_variance, factor, residual[chosen])

    reached = train(
        net,
        loss,
        rows.episode,
        learning_rate=2e-3,
        epochs=_EPOCHS,
        seed=seed,
        stage="fit scale head",
        progress=progress,
    )
    logger.info("scale head: held-out negative log likelihood %.4f per number", reached)
    head = MLP(
        center=center.astype(np.float32),
        scale=scale.astype(np.float32),
        weights=tuple(to_array(layer.weight.T) for layer in (net.hidden, net.out)),
        biases=tuple(to_array(layer.bias) for layer in (net.hidden, net.out)),
    )
    return head, to_array(net.factor)


def _initial_factor(residual: NDArray[np.float32], rank: int) -> tuple[Tensor, Tensor]:
    """Start from the leading eigenvectors of the average covariance."""
    covariance = np.cov(residual.astype(np.float64), rowvar=False).reshape(
        residual.shape[1], residual.shape[1]
    )
    values, vectors = np.linalg.eigh(covariance)
    rest = max(float(np.median(values)), 1e-6)
    strength = np.sqrt(np.maximum(values[-rank:] - rest, 1e-4 * rest))
    factor = vectors[:, -rank:] * strength
    variance = np.maximum(np.diag(covariance) - np.sum(factor**2, axis=1), 1e-2)
    return (
        torch.from_numpy(factor.astype(np.float32)),
        torch.from_numpy(np.log(variance).astype(np.float32)),
    )
