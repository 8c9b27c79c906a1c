# SPDX-License-Identifier: Apache-2.0
"""One split of the recorded episodes, with everything that is computed once for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.dataset import EncodedEpisode, Windows, gather_windows
from jepa_edge.channels import Observer, episode_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The episodes of one split, the model's rollouts from all their histories, the windows."""

    episodes: list[EncodedEpisode]
    rolled: list[NDArray[np.float32]]
    windows: Windows
    history: int

    @classmethod
    def of(
        cls,
        encoded: Sequence[EncodedEpisode],
        rolled: Sequence[NDArray[np.float32]],
        rows: Sequence[int],
        history: int,
    ) -> Split:
        episodes, own = [encoded[row] for row in rows], [rolled[row] for row in rows]
        windows = gather_windows(episodes, own, history)
        return cls(episodes=episodes, rolled=own, windows=windows, history=history)

    def measure(self, observer: Observer) -> list[NDArray[np.float64]]:
        """Base channels of every episode at every step that can be judged."""
        return [
            observer.measure(episode_steps(rolled, e.latents, e.actions, self.history))
            for e, rolled in zip(self.episodes, self.rolled, strict=True)
        ]
