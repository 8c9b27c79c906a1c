# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a clip are hidden together, and predicted from the others."""

from __future__ import annotations

from typing import Literal

import numpy as np

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Masks

MaskKind = Literal["blocks", "future", "none"]

_REGIONS = 4


def block_masks(times: int, rows: int, columns: int) -> Masks:
    """Two patterns that hide every token once: the two colours of a 4 x 4 checkerboard.

    Each hides 8 blocks of the picture in all its time, as training does (8 blocks of 15 %, which
    overlap and hide about 3/4; here they do not overlap and hide 1/2).
    Raises CheckpointError where neither rows nor columns are even: the halves would differ.
    """
    if rows % 2 and columns % 2:
        raise CheckpointError(
            f"{rows} x {columns} patches cannot be halved into masks of one size, expected an even "
            'number of rows or columns; set model.height or model.width, or model.masks = "none"'
        )
    colour = (_regions(rows)[:, None] + _regions(columns)[None, :]) % 2
    hidden_at = np.broadcast_to(colour, (times, rows, columns)).reshape(-1)
    halves = np.stack([np.flatnonzero(hidden_at == side) for side in (0, 1)]).astype(np.int64)
    return Masks(visible=halves[::-1].copy(), hidden=halves, target_norm=True, distance="l1")


def future_mask(times: int, rows: int, columns: int) -> Masks:
    """One pattern: the newest tubelet is hidden from all the older ones.

    Raises CheckpointError where there is no older one.
    """
    if times < 2:
        raise CheckpointError(
            'model.masks is "future", but the clip has one tubelet, so that nothing older is left '
            'to predict from; set model.clip_frames to 4 or more, or model.masks = "blocks"'
        )
    split = (times - 1) * rows * columns
    tokens = np.arange(times * rows * columns, dtype=np.int64)[None]
    return Masks(
        visible=tokens[:, :split], hidden=tokens[:, split:], target_norm=True, distance="l1"
    )


def _regions(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The region of each row: 4 of them, the larger ones first, so that an even count halves."""
    sizes = [len(part) for part in np.array_split(np.arange(count), _REGIONS)]
    return np.repeat(np.arange(_REGIONS), sizes)
