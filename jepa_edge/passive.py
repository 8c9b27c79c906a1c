# SPDX-License-Identifier: Apache-2.0
"""What a monitor measures of a model that takes no actions, and so predicts no step ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.channels import BASE_CHANNELS, Whitener, local_energy, log_energies
from jepa_edge.density import Flow
from jepa_edge.mlp import require

_INDEX = {channel.name: index for index, channel in enumerate(BASE_CHANNELS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PassiveObserver:
    """Everything fitted that turns a frame without an action into channels.

    recorded, motion: of the token-mean latent and of its change. flow: density of the token-mean
    latent; None where there were too few latents for one, and `recorded` stands in. expected: (N,)
    float32, mean masked energy of each token in nominal frames, 0 where no pattern hides it; None
    in a model without masks.
    """

    recorded: Whitener
    flow: Flow | None
    motion: Whitener
    expected: NDArray[np.float32] | None = None

    def measure(
        self,
        previous: NDArray[np.float32],
        observed: NDArray[np.float32],
        masked: NDArray[np.float32] | None,
    ) -> NDArray[np.float64]:
        """Return BASE_CHANNELS of B frames, (B, 9), NaN for those that need an action.

        previous, observed: (B, D), token means of the last two latents. masked: (B, N) float32,
        masked energy of the newest, needed where `expected` is. innovation: its mean over the
        hidden tokens, each in units of what is expected of it; innovation_local: over the tenth of
        them that is worst. An energy that is not a number counts as infinite: the model broke.
        """
        familiar = (self.recorded if self.flow is None else self.flow).score(observed)
        energies = {
            "motion": self.motion.score(observed - previous),
            "familiarity": familiar,
        }
        if self.expected is not None and masked is not None:
            hidden = self.expected > 0.0
            relative = masked[:, hidden] / self.expected[hidden]
            relative = np.where(np.isnan(relative), np.float32(np.inf), relative)
            energies["innovation"] = relative.mean(axis=1)
            energies["innovation_local"] = np.asarray(local_energy(relative), np.float32)
        values = np.full((len(observed), len(BASE_CHANNELS)), np.nan)
        for name, energy in energies.items():
            values[:, _INDEX[name]] = log_energies(energy)
        return values

    def check(self, dim: int, tokens: int | None) -> None:
        """Raise ValueError unless the arrays fit D = dim and N = tokens, None without masks."""
        self.recorded.check("recorded", dim)
        if self.flow is not None:
            self.flow.check("flow", dim)
        self.motion.check("motion", dim)
        if (self.expected is None) is not (tokens is None):
            there = "no masked energy" if self.expected is None else "masked energies"
            raise ValueError(f"calibrated with {there}, the model has {tokens or 'no'} such tokens")
        if self.expected is not None and tokens is not None:
            require("expected", self.expected, (tokens,))
            if self.expected.min() < 0.0 or self.expected.max() <= 0.0:
                raise ValueError(
                    f"expected lies between {self.expected.min():g} and {self.expected.max():g}, "
                    "expected masked energies of 0 or more, one of them above 0"
                )

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name every array for storage."""
        return {
            **self.recorded.to_arrays("recorded"),
            **({} if self.flow is None else self.flow.to_arrays("flow")),
            **self.motion.to_arrays("motion"),
            **({} if self.expected is None else {"expected": self.expected}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> PassiveObserver:
        """Read back what `to_arrays` named. Raises KeyError when an array is missing."""
        return cls(
            recorded=Whitener.from_arrays(arrays, "recorded"),
            flow=Flow.from_arrays(arrays, "flow") if "flow.center" in arrays else None,
            motion=Whitener.from_arrays(arrays, "motion"),
            expected=arrays.get("expected"),
        )
