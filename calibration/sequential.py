# SPDX-License-Identifier: Apache-2.0
"""From nominal episodes to the reference of the drift monitor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_edge.drift import CAPACITY, DriftReference, block_score
from jepa_edge.errors import CalibrationError


def fit_drift(scores: Sequence[NDArray[np.float64]], alpha: float, seed: int) -> DriftReference:
    """Make the drift monitor's reference: one block per episode, from its first judged step.

    scores: largest channel score at every judged step of each episode, (T_k,), of episodes that
    the channels were not fitted on. A block is as long as the shortest episode: blocks of
    different episodes do not know of each other, steps do. alpha: probability that the alarm is
    ever raised on a robot that stays nominal. seed: of the smoothing of ranks.
    Raises CalibrationError when there is no episode or step, or a score is not finite.
    """
    steps = min((len(episode) for episode in scores), default=0)
    if steps == 0:
        raise CalibrationError(
            f"{len(scores)} episodes with {steps} judged steps in the shortest, expected one or "
            "more of each; record longer episodes"
        )
    blocks = np.array([block_score(episode[:steps]) for episode in scores])
    if not np.isfinite(blocks).all():
        raise CalibrationError(
            f"{int(np.sum(~np.isfinite(blocks)))} of {blocks.size} nominal blocks have a score "
            "that is not finite; leave steps out that were not judged, and check the model"
        )
    return DriftReference(
        nominal=tuple(np.sort(blocks).tolist()),
        block_steps=steps,
        alpha=alpha,
        seed=seed,
        capacity=max(CAPACITY, 2 * blocks.size),
    )
