# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.vjepa2_masks import block_masks, future_mask


@pytest.mark.parametrize(
    "grid", [(8, 16, 16), (8, 24, 24), (1, 14, 14), (2, 7, 10), (2, 6, 5), (3, 2, 2), (1, 1, 2)]
)
def test_blocks_hide_every_token_once_in_halves(grid: tuple[int, int, int]) -> None:
    masks = block_masks(*grid)
    tokens = np.arange(np.prod(grid))
    assert masks.visible.shape == masks.hidden.shape == (2, len(tokens) // 2)
    assert np.array_equal(np.sort(masks.hidden.reshape(-1)), tokens)
    for visible, hidden in zip(masks.visible, masks.hidden, strict=True):
        assert np.array_equal(np.sort(np.concatenate([visible, hidden])), tokens)
        assert (np.diff(visible) > 0).all()
        assert (np.diff(hidden) > 0).all()
        assert visible.dtype == hidden.dtype == np.int64


def test_blocks_are_a_checkerboard_in_all_their_time() -> None:
    times, rows, columns = 3, 8, 8
    colours = np.zeros(times * rows * columns, int)
    colours[block_masks(times, rows, columns).hidden[1]] = 1
    board = np.zeros((rows, columns), int)
    for row, column in np.ndindex(rows, columns):
        board[row, column] = (row // 2 + column // 2) % 2
    assert np.array_equal(colours.reshape(times, rows, columns), np.stack([board] * times))


def test_blocks_of_an_odd_grid_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"15 x 15 patches .* model\.height"):
        block_masks(8, 15, 15)


def test_future_hides_the_newest_tubelet() -> None:
    masks = future_mask(8, 3, 5)
    assert masks.visible.tolist() == [list(range(105))]
    assert masks.hidden.tolist() == [list(range(105, 120))]


def test_one_tubelet_has_no_past() -> None:
    with pytest.raises(CheckpointError, match=r"one tubelet.*model\.clip_frames to 4"):
        future_mask(1, 4, 4)
