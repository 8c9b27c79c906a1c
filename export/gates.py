# SPDX-License-Identifier: Apache-2.0
"""The accuracy budget of every variant: what is measured, against which limits, in which words.

Never raw cosine: 0.9999 of it went with a centered cosine of 0.37. The same gates judge what ONNX
Runtime runs and what only TensorRT does, and the C++ engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jepa_edge.errors import InputError

_ROLLOUT_FACTOR = 3.0


def min_cosine(max_error: float) -> float:
    """Return the centered cosine that goes with an error budget: 0.99 at 0.1."""
    return 1.0 - max_error**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Limits on held-out windows, all centered.

    max_latent_error: of each graph by itself, RMS error over RMS spread of the latents; it asks for
        a centered cosine of 1 - max_latent_error^2, too.
    max_rollout_error: the same after every step of a rollout on the variant's own latents. None:
        three times max_latent_error. Five predictions and the encoding before them, each at its
        limit and independent, come to 2.4 times; a model that damps its errors stays below 1.5.
    min_rank_correlation: Spearman, of planner costs of candidate actions, mean over starts. None:
        1 / sqrt(1 + (2 max_rollout_error)^2), what costs keep to whose noise is that much of their
        spread; twice, since a cost is a squared distance.
    With a max_latent_error of 0.1 these are 0.3 and 0.857.
    Raises InputError when a limit is out of range.
    """

    max_latent_error: float = 0.1
    max_rollout_error: float | None = None
    min_rank_correlation: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.max_latent_error < 1.0:
            raise InputError(
                f"max_latent_error is {self.max_latent_error}, expected a number between 0 and 1: "
                "the part of the latents' spread that may be error; 0.1 is usual"
            )
        rollout, rank = self.max_rollout_error, self.min_rank_correlation
        if rollout is not None and not 0.0 < rollout < math.inf:
            raise InputError(
                f"max_rollout_error is {rollout}, expected a positive number: the part of the "
                "latents' spread that may be error along a rollout; 0.3 is usual"
            )
        if rank is not None and not -1.0 <= rank <= 1.0:
            raise InputError(
                f"min_rank_correlation is {rank}, expected a number between -1 and 1; 0.86 is usual"
            )

    @property
    def rollout_limit(self) -> float:
        """The largest error along a rollout."""
        if self.max_rollout_error is not None:
            return self.max_rollout_error
        return _ROLLOUT_FACTOR * self.max_latent_error

    @property
    def rank_limit(self) -> float:
        """The smallest rank correlation."""
        if self.min_rank_correlation is not None:
            return self.min_rank_correlation
        return 1.0 / math.sqrt(1.0 + (2.0 * self.rollout_limit) ** 2)

    def graph_failures(self, part: str, sqnr_db: float, centered_cosine: float) -> list[str]:
        """Return what of one graph misses the budget, a phrase each."""
        error, least = 10.0 ** (-sqnr_db / 20.0), min_cosine(self.max_latent_error)
        failures = []
        if not error <= self.max_latent_error:
            failures.append(
                f"latent error of the {part} {error:.3g} ({sqnr_db:.1f} dB), expected at most "
                f"{self.max_latent_error:g}"
            )
        if not centered_cosine >= least:
            failures.append(
                f"centered cosine of the {part} {centered_cosine:.4f}, expected at least "
                f"{least:.4f}"
            )
        return failures

    def rollout_failures(
        self, rollout_error: Sequence[float], rank_correlation: float | None
    ) -> list[str]:
        """Return what of rollouts and planner costs misses the budget, a phrase each.

        rollout_error: by step, empty where there was none; rank_correlation: None likewise.
        """
        failures = []
        if rollout_error:
            step = max(range(len(rollout_error)), key=lambda i: rollout_error[i])
            if not rollout_error[step] <= self.rollout_limit:
                failures.append(
                    f"rollout error {rollout_error[step]:.3g} after {step + 1} steps, expected at "
                    f"most {self.rollout_limit:.3g}"
                )
        if rank_correlation is not None and not rank_correlation >= self.rank_limit:
            failures.append(
                f"rank correlation of planner costs {rank_correlation:.3f}, expected at least "
                f"{self.rank_limit:.3f}"
            )
        return failures

    def failures(self, parity: Any) -> list[str]:
        """Return what a `VariantParity` misses, a phrase each; none means that it is in budget."""
        failures = []
        for graph in parity.graphs:
            failures += self.graph_failures(graph.part, graph.sqnr_db, graph.centered_cosine)
        return failures + self.rollout_failures(parity.rollout_error, parity.cost_rank_correlation)
