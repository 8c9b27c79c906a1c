# SPDX-License-Identifier: Apache-2.0
"""How close two sets of latents are. Raw cosine is no gate: a shared mean hides every error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _rows(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(len(array), -1)


def sqnr_db(reference: ArrayLike, actual: ArrayLike) -> float:
    """Signal to quantization noise, centered: 10 log10(var(reference) / mean squared error).

    reference, actual: (B, ...), the mean over B is removed from the signal. Infinite when equal.
    """
    ref, act = _rows(reference), _rows(actual)
    noise = float(np.mean((act - ref) ** 2))
    signal = float(np.mean((ref - ref.mean(axis=0)) ** 2))
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / noise)) if signal > 0.0 else float("-inf")


def centered_cosine(reference: ArrayLike, actual: ArrayLike) -> float:
    """Mean cosine over B of reference and actual, (B, ...), both minus the reference's mean."""
    ref, act = _rows(reference), _rows(actual)
    mean = ref.mean(axis=0)
    ref, act = ref - mean, act - mean
    norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(act, axis=1)
    return float(np.mean(np.sum(ref * act, axis=1) / np.maximum(norms, 1e-30)))
