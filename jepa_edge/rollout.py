# SPDX-License-Identifier: Apache-2.0
"""The one noise-free rollout: a predictor fed with its own predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Maps history (B, T, N, D) and actions (B, T, A) to the next latent (B, N, D)."""


def roll(
    predict: Predict, history: NDArray[np.float32], actions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Roll forward from histories (B, T, N, D): (B, H, N, D) float32.

    actions: (B, T - 1 + H, A) raw units, H of at least 1: the T - 1 taken between the history's
    latents, then H future ones. The window slides by one latent per step.
    """
    steps = history.shape[1]
    window, predicted = history, []
    for step in range(actions.shape[1] - steps + 1):
        latent = predict(window, np.ascontiguousarray(actions[:, step : step + steps]))
        predicted.append(latent)
        window = np.concatenate([window[:, 1:], latent[:, None]], axis=1)
    return np.stack(predicted, axis=1)
