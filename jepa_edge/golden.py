# SPDX-License-Identifier: Apache-2.0
"""Golden inputs and reference outputs: replayed wherever a variant is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from jepa_edge.bundle import Bundle

GOLDEN_NAME = "golden/golden.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Real inputs with the float32 torch model's outputs.

    frames (B, H, W, 3) uint8; latents (B, N, D) float32; history (B, T, N, D) float32;
    actions (B, T, A) float32, raw units; predictions (B, N, D) float32.
    """

    frames: NDArray[np.uint8]
    latents: NDArray[np.float32]
    history: NDArray[np.float32]
    actions: NDArray[np.float32]
    predictions: NDArray[np.float32]

    @classmethod
    def read(cls, bundle: Bundle) -> Golden:
        """Read a bundle's golden data. Raises BundleError when it has none."""
        return cls(**load_file(bundle.file(GOLDEN_NAME)))

    def write(self, path: str) -> None:
        """Store as safetensors."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in self.__slots__}
        save_file(arrays, path)
