# SPDX-License-Identifier: Apache-2.0
"""How familiar a latent is: a small fitted flow, evaluated in plain numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.mlp import MLP, require

FLOW_STEPS = 3
"""Midpoint steps from a latent back to noise: 1 % off in the norm where the data is Gaussian."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Flow matching: carry a latent back to the noise it came from; unlikely ones land far out.

    center, scale: (D,) float32, standardize the values. velocity: maps (value at time t, t, t^2)
    to the velocity from noise (t = 0) to data (t = 1), D numbers.
    Score: |Z|^2 / D, Z the noise. Source: logpZO, Xu et al. 2025 (FAIL-Detect); Lipman et al. 2023.
    """

    center: NDArray[np.float32]
    scale: NDArray[np.float32]
    velocity: MLP

    def score(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared norm per number of the noise behind values (B, D): (B,) float32."""
        state = (values - self.center) / self.scale
        span = np.float32(1.0 / FLOW_STEPS)
        for step in range(FLOW_STEPS, 0, -1):
            middle = state - 0.5 * span * self.velocity(with_time(state, step * span))
            state = state - span * self.velocity(with_time(middle, (step - 0.5) * span))
        return np.asarray(np.mean(state**2, axis=1), np.float32)

    def check(self, name: str, dim: int) -> None:
        """Raise ValueError unless the arrays fit D = dim."""
        require(f"{name}.center", self.center, (dim,))
        require(f"{name}.scale", self.scale, (dim,), positive=True)
        self.velocity.check(f"{name}.velocity", dim + 2, dim)

    def to_arrays(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """Name every array for storage."""
        return {
            f"{prefix}.center": self.center,
            f"{prefix}.scale": self.scale,
            **self.velocity.to_arrays(f"{prefix}.velocity"),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]], prefix: str) -> Flow:
        """Read back what `to_arrays` named. Raises KeyError when an array is missing."""
        return cls(
            center=arrays[f"{prefix}.center"],
            scale=arrays[f"{prefix}.scale"],
            velocity=MLP.from_arrays(arrays, f"{prefix}.velocity"),
        )


def with_time(values: NDArray[np.float32], time: np.float32) -> NDArray[np.float32]:
    """Append t and t^2 to values (B, D): (B, D + 2)."""
    clock = np.broadcast_to(np.array([time, time * time], np.float32), (len(values), 2))
    return np.concatenate([values, clock], axis=1)
