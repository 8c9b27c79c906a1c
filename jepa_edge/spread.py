# SPDX-License-Identifier: Apache-2.0
"""From the variance of sampled futures to the error to expect, per horizon. For any sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.mlp import require

RECENT = 3
"""Latents beyond the model's history that tell how well it has predicted of late."""

FADING = 0.25
"""Weight of each innovation, as a share of the next newer one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadCalibration:
    """What makes a sampler's spread equal to realized error on held-out runs.

    scale: (H,) float32, factor on the sampler's variance. growth: (H,) float32, expected squared
    error at each step over the squared innovation of late. recency: share of the expected squared
    error that follows the innovations of late, in [0, 1]. radius: (H,) float32, the realized error
    stays below radius x spread with probability 1 - alpha; None before it was conformalized.
    usual: (H,) float32, what the spread itself stays below on nominal runs with probability
    1 - alpha; None without a radius. alpha: 0 without a radius. samples, latents: futures and
    latents of history that the radius was found with, 0 without one; a spread of others has another
    error. Horizons beyond H take the last numbers.
    """

    scale: NDArray[np.float32]
    growth: NDArray[np.float32]
    recency: float
    radius: NDArray[np.float32] | None = None
    usual: NDArray[np.float32] | None = None
    alpha: float = 0.0
    samples: int = 0
    latents: int = 0

    def spread(
        self, variance: NDArray[np.floating], recent: NDArray[np.floating] | float | None
    ) -> NDArray[np.float32]:
        """Root mean square error per latent number to expect: (..., H) float32.

        variance: (..., H), aleatoric plus epistemic, squared latent units. recent: (...), squared
        innovation of late (`recent_energy` in futures.py); None or NaN where nothing is known,
        infinite where the prediction broke. The spread is never NaN: what is no number is infinite.
        Both terms have the right mean on nominal runs, so that recency moves no average. The second
        is what tells a shifted world, which the heads never saw.
        Source: Mehra 1970, adaptive filtering by the innovations; blended, not estimated.
        """
        variance = np.asarray(variance, np.float64)
        conditional = variance * self._at(self.scale, variance.shape[-1])
        if recent is not None and self.recency > 0.0:
            known = np.asarray(recent, np.float64)[..., None]
            with np.errstate(invalid="ignore"):  # no share of something infinite
                local = known * self._at(self.growth, variance.shape[-1])
                blended = (1.0 - self.recency) * conditional + self.recency * local
            conditional = np.where(np.isnan(known), conditional, blended)
        expected = np.where(np.isnan(conditional), np.inf, conditional)
        with np.errstate(over="ignore"):
            return np.asarray(np.sqrt(expected), np.float32)

    def bound(
        self, spread: NDArray[np.float32], samples: int, latents: int
    ) -> NDArray[np.float32] | None:
        """Conformal bound on the realized error: (..., H) float32.

        spread: (..., H) from `spread`. samples, latents: how many it was made with. None before
        `radius` is set, and for another number of either: the radius was not found with it. Without
        recency latents beyond the model's history play no part.
        """
        if self.radius is None or not self._made_with(samples, latents):
            return None
        return np.asarray(spread * self._at(self.radius, spread.shape[-1]), np.float32)

    def usual_spread(self, horizon: int, samples: int, latents: int) -> NDArray[np.float32] | None:
        """What the spread stays below on nominal runs: (H,) float32; None where `bound` is."""
        if self.usual is None or not self._made_with(samples, latents):
            return None
        return np.asarray(self._at(self.usual, horizon), np.float32)

    def _made_with(self, samples: int, latents: int) -> bool:
        """Whether the conformal numbers hold for as many samples and latents."""
        return samples == self.samples and (self.recency == 0.0 or latents == self.latents)

    def _at(self, values: NDArray[np.float32], horizon: int) -> NDArray[np.float64]:
        chosen = values[np.minimum(np.arange(horizon), len(values) - 1)]
        return np.asarray(chosen, np.float64)

    def check(self) -> None:
        """Raise ValueError unless the numbers are positive, finite and of one length."""
        steps = (max(1, self.scale.size),)
        require("spread.scale", self.scale, steps, positive=True)
        require("spread.growth", self.growth, steps, positive=True)
        if not 0.0 <= self.recency <= 1.0:
            raise ValueError(f"spread.recency is {self.recency}, expected 0 to 1")
        if self.radius is not None:
            require("spread.radius", self.radius, steps, positive=True)
            if self.usual is not None:
                require("spread.usual", self.usual, steps, positive=True)
            if not 0.0 < self.alpha < 1.0:
                raise ValueError(f"spread.alpha is {self.alpha}, expected a number between 0 and 1")
            if self.samples < 2 or self.latents < 1:
                raise ValueError(
                    f"spread.samples is {self.samples} and spread.latents {self.latents}, expected "
                    "2 or more and 1 or more"
                )

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name every array for storage."""
        arrays = {
            "spread.scale": self.scale,
            "spread.growth": self.growth,
            "spread.recency": np.array([self.recency], np.float32),
        }
        if self.radius is not None:
            arrays["spread.radius"] = self.radius
            if self.usual is not None:
                arrays["spread.usual"] = self.usual
            arrays["spread.alpha"] = np.array([self.alpha], np.float32)
            arrays["spread.samples"] = np.array([self.samples], np.float32)
            arrays["spread.latents"] = np.array([self.latents], np.float32)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> SpreadCalibration | None:
        """Read back what `to_arrays` named; None where there is none.

        Raises KeyError when only a part of it is there, ValueError when one that is to be a number
        is none.
        """
        if not any(name.startswith("spread.") for name in arrays):
            return None
        radius = arrays.get("spread.radius")
        return cls(
            scale=arrays["spread.scale"],
            growth=arrays["spread.growth"],
            recency=_number(arrays, "spread.recency"),
            radius=radius,
            usual=arrays.get("spread.usual"),
            alpha=0.0 if radius is None else _number(arrays, "spread.alpha"),
            samples=0 if radius is None else int(_number(arrays, "spread.samples")),
            latents=0 if radius is None else int(_number(arrays, "spread.latents")),
        )


def _number(arrays: Mapping[str, NDArray[np.float32]], name: str) -> float:
    """Read one number. Raises KeyError without it, ValueError unless it is one, and finite."""
    array = arrays[name]
    if array.shape != (1,) or not math.isfinite(array[0]):
        raise ValueError(f"{name} has shape {array.shape}, expected one finite number")
    return float(array[0])


def recent_mean(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average squared innovations (R, B), newest first, with fading weights: (B,)."""
    weights = FADING ** np.arange(len(squared))
    return np.asarray(weights @ squared / weights.sum(), np.float64)
