# SPDX-License-Identifier: Apache-2.0
"""Small fully connected heads in plain numpy, stored as named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INPUT_LIMIT = 6.0
"""Standardized inputs are cut here: a head must not extrapolate without bounds on a new scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """Standardize, then linear layers with ReLU between them. A leading axis K makes K heads.

    center, scale: (I,) float32, of the inputs. weights: per layer ([K,] I, O) float32.
    biases: per layer ([K, 1,] O) float32.
    """

    center: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map inputs (B, I) to outputs (B, O), or (K, B, O) for K heads."""
        x = self.standardize(inputs)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if layer < last:
                x = np.maximum(x, np.float32(0.0))
        return np.asarray(x, np.float32)

    def standardize(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Center, scale and cut inputs (B, I), as the first layer sees them."""
        scaled = (inputs - self.center) / self.scale
        return np.asarray(np.clip(scaled, -INPUT_LIMIT, INPUT_LIMIT), np.float32)

    def check(self, name: str, inputs: int, outputs: int, heads: tuple[int, ...] = ()) -> None:
        """Raise ValueError unless this maps I = inputs to O = outputs with float32 arrays.

        name: of the head, for the message. heads: (K,) for K heads, () for one.
        """
        if not self.weights:
            raise ValueError(f"{name} has no layers, expected one or more")
        require(f"{name}.center", self.center, (inputs,))
        require(f"{name}.scale", self.scale, (inputs,), positive=True)
        width, last = inputs, len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = weight.shape[-1] if weight.ndim and layer < last else outputs
            require(f"{name}.{layer}.weight", weight, (*heads, width, out))
            require(f"{name}.{layer}.bias", bias, (*heads, 1, out) if heads else (out,))
            width = out

    def to_arrays(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """Name the arrays `prefix.center`, `prefix.0.weight`, ... for storage."""
        arrays = {f"{prefix}.center": self.center, f"{prefix}.scale": self.scale}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays[f"{prefix}.{layer}.weight"] = weight
            arrays[f"{prefix}.{layer}.bias"] = bias
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]], prefix: str) -> MLP:
        """Read back what `to_arrays` named. Raises KeyError when an array is missing."""
        layers = sum(1 for name in arrays if name.startswith(f"{prefix}.") and "weight" in name)
        return cls(
            center=arrays[f"{prefix}.center"],
            scale=arrays[f"{prefix}.scale"],
            weights=tuple(arrays[f"{prefix}.{layer}.weight"] for layer in range(layers)),
            biases=tuple(arrays[f"{prefix}.{layer}.bias"] for layer in range(layers)),
        )


def require(
    name: str, array: NDArray[np.float32], shape: tuple[int, ...], positive: bool = False
) -> None:
    """Raise ValueError unless a stored array is float32 of this shape, finite, maybe positive."""
    if array.dtype != np.float32 or array.shape != shape:
        raise ValueError(
            f"{name} is {array.dtype} with shape {array.shape}, expected float32 with {shape}"
        )
    if not np.isfinite(array).all() or (positive and not (array > 0.0).all()):
        kind = "positive and finite" if positive else "finite"
        raise ValueError(f"{name} holds numbers that are not {kind}")
