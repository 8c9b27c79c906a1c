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
from jepa_edge.manifest import Manifest

GOLDEN_NAME = "golden/golden.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Inputs with the float32 torch model's outputs; parts that a model lacks are None.

    frames (B, H, W, 3) or (B, F, H, W, 3) uint8; latents (B, N, D) float32; states (B, S) float32;
    history (B, T, N, D) float32; actions (B, T, A) float32, raw units; predictions (B, N, D)
    float32; context (B, V, D) float32, the visible tokens of the first mask pattern, and masked
    (B, M, D) float32, what is predicted of its hidden ones.
    """

    frames: NDArray[np.uint8]
    latents: NDArray[np.float32]
    states: NDArray[np.float32] | None = None
    history: NDArray[np.float32] | None = None
    actions: NDArray[np.float32] | None = None
    predictions: NDArray[np.float32] | None = None
    context: NDArray[np.float32] | None = None
    masked: NDArray[np.float32] | None = None

    @classmethod
    def read(cls, bundle: Bundle) -> Golden:
        """Read a bundle's golden data. Raises BundleError when it has none or it does not fit."""
        path = bundle.file(GOLDEN_NAME)
        try:
            arrays = load_file(path)
            for name, (dtype, shape) in _expected(bundle.manifest).items():
                array = arrays[name]
                fits = array.ndim == len(shape) + 1 and all(
                    want in (have, None) for want, have in zip(shape, array.shape[1:], strict=True)
                )
                if array.dtype != dtype or not fits or len(array) < 2:
                    told = ", ".join("any" if n is None else str(n) for n in shape)
                    raise BundleError(
                        f"{path}: {name} is {array.dtype} {array.shape}, expected two or more of "
                        f"{np.dtype(dtype)} ({told}); export the bundle again"
                    )
            return cls(**arrays)
        except (SafetensorError, KeyError, TypeError) as error:
            raise BundleError(
                f"{path} is no golden data ({error}); export the bundle again"
            ) from error

    def write(self, path: str) -> None:
        """Store as safetensors."""
        arrays = {name: getattr(self, name) for name in self.__slots__}
        save_file({n: np.ascontiguousarray(a) for n, a in arrays.items() if a is not None}, path)


def _expected(manifest: Manifest) -> dict[str, tuple[type, tuple[int | None, ...]]]:
    """Type and shape without batch of every array that belongs to a model; None is any length."""
    latent = (manifest.latent.tokens, manifest.latent.dim)
    expected: dict[str, tuple[type, tuple[int | None, ...]]] = {
        "frames": (np.uint8, manifest.observation.frame_shape),
        "latents": (np.float32, latent),
    }
    if manifest.state is not None:
        expected["states"] = (np.float32, (manifest.state.dim,))
    if manifest.action is not None:
        expected["history"] = (np.float32, (manifest.history, *latent))
        expected["actions"] = (np.float32, (manifest.history, manifest.action.dim))
        expected["predictions"] = (np.float32, latent)
    if manifest.masks is not None:
        expected["context"] = (np.float32, (None, latent[1]))
        expected["masked"] = (np.float32, (None, None))
    return expected
