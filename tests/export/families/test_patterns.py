# SPDX-License-Identifier: Apache-2.0
"""What `Masks` holds its patterns to."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.export.families.base import Masks


@pytest.mark.parametrize(
    ("visible", "hidden", "told"),
    [
        ([[1, 0]], [[2]], r"visible\[0\] is \[1, 0\].*ascend"),
        ([[0]], [[1, 1]], r"hidden\[0\].*each once"),
        ([[0], [1]], [[1], [1]], "pattern 1 has token 1 visible and hidden"),
        ([[0], [1]], [[1]], "2 visible and 1 hidden"),
        ([[-1, 0]], [[1]], "indices from 0"),
        ([0], [[1]], r"expected int64 \(patterns, tokens\)"),
    ],
)
def test_patterns_that_are_none(visible: list[object], hidden: list[object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Masks(
            visible=np.array(visible, np.int64),
            hidden=np.array(hidden, np.int64),
            target_norm=True,
            distance="l1",
        )
