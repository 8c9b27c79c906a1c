# SPDX-License-Identifier: Apache-2.0
"""Golden inputs and reference outputs: replayed wherever a variant is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError

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
        """Read a bundle's golden data. Raises BundleError when it has none or it does not fit."""
        path = bundle.file(GOLDEN_NAME)
        manifest = bundle.manifest
        seen, latent = manifest.observation, (manifest.latent.tokens, manifest.latent.dim)
        expected = {
            "frames": (np.uint8, (seen.height, seen.width, 3)),
            "latents": (np.float32, latent),
            "history": (np.float32, (manifest.history, *latent)),
            "actions": (np.float32, (manifest.history, manifest.action.dim)),
            "predictions": (np.float32, latent),
        }
        try:
            arrays = load_file(path)
            for name, (dtype, shape) in expected.items():
                array = arrays[name]
                if array.dtype != dtype or array.shape[1:] != shape or len(array) < 2:
                    raise BundleError(
                        f"{path}: {name} is {array.dtype} {array.shape}, expected two or more of "
                        f"{np.dtype(dtype)} {shape}; export the bundle again"
                    )
            return cls(**arrays)
        except (SafetensorError, KeyError, TypeError) as error:
            raise BundleError(
                f"{path} is no golden data ({error}); export the bundle again"
            ) from error

    def write(self, path: str) -> None:
        """Store as safetensors."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in self.__slots__}
        save_file(arrays, path)
