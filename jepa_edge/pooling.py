# SPDX-License-Identifier: Apache-2.0
"""The token mean of latents, over what energies compare."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.float64)


def token_means(
    latents: NDArray[np.float32], compared: tuple[int, int], dtype: type[Number]
) -> NDArray[Number]:
    """Return the mean over tokens of latents (..., N, D): (..., C) dtype, and summed in it.

    compared: how many tokens and channels count, the first ones (`LatentSpec.compared`).
    """
    tokens, dim = compared
    return np.asarray(latents[..., :tokens, :dim].mean(axis=-2, dtype=dtype), dtype)
