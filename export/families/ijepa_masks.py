# SPDX-License-Identifier: Apache-2.0
"""Fixed patterns of hidden patches: equal blocks that together hide every patch once."""

from __future__ import annotations

import math

import numpy as np

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Masks

WANTED_SHARE = 0.175
"""Of the picture, in one hidden block: the middle of I-JEPA's training range, 0.15 to 0.2."""


def block_masks(rows: int, columns: int) -> Masks:
    """Tile a grid with equal rectangles, each hidden once while the rest is visible.

    The tiling is the one nearest to square blocks of the share seen in training: quadrants for 14 x
    14, 16 x 16 and 28 x 28, nine blocks of 5 x 5 for 15 x 15.
    Raises CheckpointError for a grid of one patch.
    """
    if rows * columns < 2:
        raise CheckpointError(
            f"a grid of {rows} x {columns} patches cannot be masked, expected two patches or more; "
            "pass a model of a larger picture"
        )

    def misfit(tiling: tuple[int, int]) -> float:
        down, across = tiling
        share = math.log(1.0 / (down * across) / WANTED_SHARE)
        aspect = math.log((rows / down) / (columns / across))
        return abs(share) + abs(aspect)

    tilings = [
        (down, across)
        for down in range(1, rows + 1)
        for across in range(1, columns + 1)
        if rows % down == 0 and columns % across == 0 and down * across > 1
    ]
    down, across = min(tilings, key=misfit)
    row, column = np.divmod(np.arange(rows * columns), columns)
    block = (row * down // rows) * across + column * across // columns
    hidden = np.stack([np.flatnonzero(block == k) for k in range(down * across)])
    visible = np.stack([np.flatnonzero(block != k) for k in range(down * across)])
    return Masks(
        visible=visible.astype(np.int64),
        hidden=hidden.astype(np.int64),
        target_norm=True,
        distance="smooth_l1",
    )
