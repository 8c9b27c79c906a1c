# SPDX-License-Identifier: Apache-2.0
"""The one noise-free rollout: a predictor fed with its own predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Maps history (B, T, N, D) and actions (B, T, A) to the next latent (B, N, D)."""


def roll(
    predict: Predict,
    history: NDArray[np.float32],
    actions: NDArray[np.float32],
    longest: int | None = None,
) -> NDArray[np.float32]:
    """Roll forward from histories (B, T, N, D): (B, H, N, D) float32.

    actions: (B, T - 1 + H, A) raw units, H of at least 1: the T - 1 taken between the history's
    latents, then H future ones. longest: the window grows to so many latents, then slides by one
    per step; None keeps it at T.
    """
    steps = history.shape[1]
    longest = steps if longest is None else longest
    window, predicted = history, []
    for end in range(steps, actions.shape[1] + 1):
        taken = np.ascontiguousarray(actions[:, end - window.shape[1] : end])
        latent = predict(window, taken)
        predicted.append(latent)
        kept = window[:, max(0, window.shape[1] + 1 - longest) :]
        window = np.concatenate([kept, latent[:, None]], axis=1)
    return np.stack(predicted, axis=1)
