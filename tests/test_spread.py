# SPDX-License-Identifier: Apache-2.0
"""The spread's own arithmetic, its storage, and what a damaged file says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jepa_edge.spread import SpreadCalibration, recent_mean

FITTED = SpreadCalibration(
    scale=np.array([4.0, 1.0], np.float32),
    growth=np.array([1.0, 3.0], np.float32),
    recency=0.25,
    radius=np.array([2.0, 1.5], np.float32),
    alpha=0.1,
)


def test_spread_blends_the_sampled_variance_with_the_recent_innovation() -> None:
    variance = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    spread = FITTED.spread(variance, np.array([8.0, 0.0, np.nan]))
    by_hand = [
        [0.75 * 4 + 0.25 * 8, 0.75 * 2 + 0.25 * 24, 0.75 * 3 + 0.25 * 24],
        [0.75 * 4, 0.75 * 2, 0.75 * 3],
        [4.0, 2.0, 3.0],
    ]
    np.testing.assert_allclose(spread, np.sqrt(by_hand), rtol=1e-6)
    np.testing.assert_allclose(FITTED.spread(variance[0], None), np.sqrt(by_hand[2]), rtol=1e-6)
    bound = FITTED.bound(spread[0])
    assert bound is not None
    np.testing.assert_allclose(bound, spread[0] * [2.0, 1.5, 1.5], rtol=1e-6)
    assert replace(FITTED, radius=None, alpha=0.0).bound(spread[0]) is None


def test_newer_innovations_weigh_more() -> None:
    np.testing.assert_allclose(recent_mean(np.array([[21.0], [0.0], [0.0]])), [16.0])
    np.testing.assert_allclose(recent_mean(np.array([[0.0], [0.0], [21.0]])), [1.0])


@pytest.mark.parametrize("fitted", [FITTED, replace(FITTED, radius=None, alpha=0.0)])
def test_storage_keeps_everything(fitted: SpreadCalibration) -> None:
    arrays = fitted.to_arrays()
    assert all(array.dtype == np.float32 for array in arrays.values())
    again = SpreadCalibration.from_arrays({**arrays, "base": np.ones(2, np.float32)})
    assert again is not None
    again.check()
    np.testing.assert_array_equal(again.scale, fitted.scale)
    np.testing.assert_array_equal(again.growth, fitted.growth)
    assert again.recency == fitted.recency
    assert again.alpha == pytest.approx(fitted.alpha)
    assert (again.radius is None) is (fitted.radius is None)
    assert SpreadCalibration.from_arrays({"base": np.ones(2, np.float32)}) is None
    for name in set(arrays) - {"spread.radius"}:
        with pytest.raises(KeyError, match=name):
            SpreadCalibration.from_arrays({k: v for k, v in arrays.items() if k != name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": np.array([1.0, -1.0], np.float32)}, "spread.scale holds"),
        ({"scale": np.zeros(0, np.float32)}, "spread.scale"),
        ({"growth": np.array([1.0, np.nan], np.float32)}, "spread.growth holds"),
        ({"growth": np.ones(3, np.float32)}, "spread.growth is float32 with shape"),
        ({"recency": 1.5}, "spread.recency is 1.5"),
        ({"recency": float("nan")}, "spread.recency is nan"),
        ({"radius": np.ones((2, 1), np.float32)}, "spread.radius"),
        ({"alpha": 0.0}, "spread.alpha is 0.0"),
    ],
)
def test_damaged_numbers_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FITTED, **change).check()  # type: ignore[arg-type]
