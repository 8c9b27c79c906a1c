# SPDX-License-Identifier: Apache-2.0
"""Batches of bounded memory, for latents that are large."""

from __future__ import annotations

_BYTES = 16 * 2**20
"""Of latents in one call: attention inside the graph takes many times as much."""


def rows_per_chunk(floats: int) -> int:
    """Return how many rows of so many float32 numbers one call may take, at least 1."""
    return max(1, _BYTES // (4 * max(1, floats)))
