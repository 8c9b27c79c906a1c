# SPDX-License-Identifier: Apache-2.0
"""Fits what needs no likelihood: mean heads, inverse dynamics, whiteners, the rollout's gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torch import nn

from jepa_edge.calibration.dataset import EncodedEpisode, Windows
from jepa_edge.calibration.fit_scale import Rows
from jepa_edge.calibration.train import perceptron, to_mlp, train
from jepa_edge.channels import Whitener
from jepa_edge.latent_variable import LatentVariable, Predictor, Transitions
from jepa_edge.mlp import MLP
from jepa_edge.progress import Progress

_RIDGE = 1e-2
_EPOCHS = 40


def fit_mean_heads(rows: Rows, members: int, hidden: int, seed: int) -> MLP:
    """Fit K heads for the innovation's mean, each on its own bootstrap sample of the episodes.

    A head is a random ReLU layer and a ridge regression: closed form, and far from the data the
    members disagree because each bends elsewhere.
    Source: Lakshminarayanan et al. 2017; Rahimi & Recht 2007 for the random layer.
    """
    rng = np.random.default_rng(seed)
    center, scale = rows.features.mean(axis=0), np.maximum(rows.features.std(axis=0), 1e-6)
    inputs = MLP(center=center, scale=scale, weights=(), biases=()).standardize(rows.features)
    width = inputs.shape[1]
    names, owner = np.unique(rows.episode, return_inverse=True)
    first, first_bias, last, last_bias = [], [], [], []
    for _ in range(members):
        weight = rng.normal(0.0, width**-0.5, (width, hidden)).astype(np.float32)
        bias = rng.uniform(-1.0, 1.0, (1, hidden)).astype(np.float32)
        drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        weights = drawn[owner].astype(np.float32)[:, None]
        phi = np.maximum(inputs @ weight + bias, 0.0)
        phi = np.concatenate([phi, np.ones((len(phi), 1), np.float32)], axis=1)
        gram = (phi * weights).T @ phi
        ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        solution = np.linalg.solve(
            (gram + ridge).astype(np.float64), ((phi * weights).T @ rows.residual)
        )
        first.append(weight)
        first_bias.append(bias)
        last.append(solution[:-1].astype(np.float32))
        last_bias.append(solution[-1:].astype(np.float32))
    return MLP(
        center=center.astype(np.float32),
        scale=scale.astype(np.float32),
        weights=(np.stack(first), np.stack(last)),
        biases=(np.stack(first_bias), np.stack(last_bias)),
    )


def fit_inverse(
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    episode: NDArray[np.int64],
    hidden: int,
    seed: int,
    progress: Progress,
) -> MLP:
    """Fit the inverse-dynamics head: features (M, I) -> standardized actions (M, A)."""
    center, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    inputs = MLP(center=center, scale=scale, weights=(), biases=()).standardize(features)
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = perceptron(x.shape[1], hidden, y.shape[1])
    train(
        net,
        lambda chosen: nn.functional.smooth_l1_loss(net(x[chosen]), y[chosen], beta=0.1),
        episode,
        learning_rate=3e-3,
        epochs=_EPOCHS,
        seed=seed,
        stage="fit inverse dynamics",
        progress=progress,
    )
    return to_mlp(net, center, scale)


def fit_whitener(values: NDArray[np.float32]) -> Whitener:
    """Fit mean and shrunk covariance of values (M, D), M at least 2.

    Source: Ledoit & Wolf 2004.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    covariance, _ = ledoit_wolf(values.astype(np.float64) - mean, assume_centered=True)
    eigenvalues, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    floor = 1e-8 * max(float(eigenvalues.max()), 1e-12)
    whiten = vectors / np.sqrt(np.maximum(eigenvalues, floor))
    return Whitener(mean=mean.astype(np.float32), whiten=whiten.astype(np.float32))


def pooled_motion(episodes: Sequence[EncodedEpisode]) -> NDArray[np.float32]:
    """Changes of the token-mean latent over one step, all episodes together: (M, D)."""
    return np.concatenate([np.diff(e.latents.mean(axis=1), axis=0) for e in episodes])


def fit_gain(
    variable: LatentVariable, model: Predictor, windows: Windows, samples: int, seed: int
) -> NDArray[np.float32]:
    """Find the noise amplitude per step with which sampled variance equals realized error: (H,).

    Step by step: what earlier noise has grown into is measured, the rest is added. Noise that the
    predictor amplifies beyond the realized error cannot be taken back; the gain is then 0.
    """
    count, steps = windows.history.shape[:2]
    gain = np.zeros(windows.horizon, np.float32)
    window = np.repeat(windows.history, samples, axis=0)
    commanded = np.repeat(windows.actions, samples, axis=0)
    for index in range(windows.horizon):
        taken = np.ascontiguousarray(commanded[:, index : index + steps])
        predicted = model.predict(window, taken)
        transitions = Transitions(
            previous=window[:, -1],
            predicted=predicted,
            action=taken[:, -1],
            step=np.ones(len(predicted), np.int64),
        )
        # One group: here, unlike in a rollout, every row gets its own z, or few samples would do
        # for all windows together.
        noise = variable.noise(transitions, len(predicted) - 1, seed, stream=index)
        residual = windows.observed[:, index] - windows.predicted[:, index]
        varied = _sample_variance(variable.compared(predicted), count)
        missing = np.mean(residual.astype(np.float64) ** 2) - varied
        added = max(float(np.mean(variable.spread(transitions), dtype=np.float64)), 1e-30)
        gain[index] = np.sqrt(max(missing, 0.0) / added)
        latent = predicted + gain[index] * noise
        window = np.concatenate([window[:, 1:], latent[:, None]], axis=1)
    return gain


def _sample_variance(latents: NDArray[np.float32], count: int) -> float:
    """Mean variance over the samples within each of count groups."""
    grouped = latents.reshape(count, -1, *latents.shape[1:])
    return float(grouped.var(axis=1, ddof=1, dtype=np.float64).mean())
