# SPDX-License-Identifier: Apache-2.0
"""The spread's own arithmetic, its storage, and what a damaged file says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.futures import CalibratedSampler, recent_energy
from jepa_edge.latent_variable import Futures
from jepa_edge.spread import RECENT, SpreadCalibration, recent_mean

FITTED = SpreadCalibration(
    scale=np.array([4.0, 1.0], np.float32),
    growth=np.array([1.0, 3.0], np.float32),
    recency=0.25,
    radius=np.array([2.0, 1.5], np.float32),
    usual=np.array([0.5, 0.7], np.float32),
    alpha=0.1,
    samples=16,
    latents=6,
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
    bound = FITTED.bound(spread[0], 16, 6)
    assert bound is not None
    np.testing.assert_allclose(bound, spread[0] * [2.0, 1.5, 1.5], rtol=1e-6)
    assert replace(FITTED, radius=None, alpha=0.0).bound(spread[0], 16, 6) is None


def test_a_broken_prediction_makes_the_spread_infinite_not_smaller() -> None:
    variance = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, np.inf]])
    spread = FITTED.spread(variance, np.array([np.inf, np.nan]))
    assert np.isposinf(spread[0]).all()
    np.testing.assert_allclose(spread[1], [2.0, np.inf, np.inf])
    without = replace(FITTED, recency=0.0).spread(variance[0], np.inf)
    np.testing.assert_allclose(without, np.sqrt([4.0, 2.0, 3.0]), rtol=1e-6)


def test_the_bound_holds_only_as_it_was_calibrated() -> None:
    spread = np.ones(2, np.float32)
    assert FITTED.bound(spread, 8, 6) is None
    assert FITTED.bound(spread, 16, 3) is None
    indifferent = replace(FITTED, recency=0.0)
    assert indifferent.bound(spread, 16, 3) is not None, "older latents play no part"
    assert indifferent.bound(spread, 17, 3) is None
    np.testing.assert_allclose(FITTED.usual_spread(3, 16, FITTED.latents), [0.5, 0.7, 0.7])
    assert FITTED.usual_spread(3, 17, FITTED.latents) is None
    assert FITTED.usual_spread(3, 16, 3) is None


def test_newer_innovations_weigh_more() -> None:
    np.testing.assert_allclose(recent_mean(np.array([[21.0], [0.0], [0.0]])), [16.0])
    np.testing.assert_allclose(recent_mean(np.array([[0.0], [0.0], [21.0]])), [1.0])


@pytest.mark.parametrize("fitted", [FITTED, replace(FITTED, radius=None, usual=None, alpha=0.0)])
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
    if fitted.radius is not None:
        assert (again.samples, again.latents) == (fitted.samples, fitted.latents)
    assert (again.radius is None) is (fitted.radius is None)
    assert (again.usual is None) is (fitted.usual is None)
    assert SpreadCalibration.from_arrays({"base": np.ones(2, np.float32)}) is None
    for name in set(arrays) - {"spread.radius", "spread.usual"}:
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
        ({"usual": np.array([1.0, np.inf], np.float32)}, "spread.usual"),
        ({"alpha": 0.0}, "spread.alpha is 0.0"),
        ({"scale": np.array(1.0, np.float32)}, "spread.scale is float32 with shape"),
        ({"samples": 1}, "spread.samples is 1"),
        ({"latents": 0}, "spread.latents 0"),
    ],
)
def test_damaged_numbers_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FITTED, **change).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["recency", "alpha", "samples", "latents"])
@pytest.mark.parametrize(
    "value", [np.zeros(0, np.float32), np.array(0.5, np.float32), np.array([np.inf], np.float32)]
)
def test_what_is_to_be_one_number_is_one(name: str, value: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=f"spread.{name} has shape"):
        SpreadCalibration.from_arrays({**FITTED.to_arrays(), f"spread.{name}": value})


class Constant:
    """Predicts one number, and samples futures that scatter about it."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return np.full_like(history[:, 0], self.value)

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        shape = (samples, len(actions) - len(history) + 1, *history.shape[1:])
        latents = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        return Futures.of(latents, np.zeros(shape[1:], np.float32))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_prediction_that_broke_of_late_makes_the_spread_infinite(wrong: float) -> None:
    history, actions = np.zeros((3 + RECENT, 1, 4), np.float32), np.zeros((7, 2), np.float32)
    assert recent_energy(Constant(wrong), history[None], actions[None], 3) == np.inf
    broken = CalibratedSampler(Constant(wrong), Constant(0.0), FITTED, 3)
    assert np.isposinf(broken.sample(history, actions, 16).spread).all()
    young = broken.sample(history[RECENT:], actions[RECENT:], 16)
    assert np.isfinite(young.spread).all(), "nothing is known of late"


@pytest.mark.parametrize(
    ("samples", "older", "bounded"),
    [(16, RECENT, True), (8, RECENT, False), (16, 1, False), (16, 0, False), (16, 9, True)],
)
def test_the_sampler_publishes_a_bound_only_where_it_holds(
    samples: int, older: int, bounded: bool
) -> None:
    history = np.ones((3 + older, 1, 4), np.float32)
    actions = np.zeros((4 + older, 2), np.float32)
    sampler = CalibratedSampler(Constant(0.0), Constant(0.0), FITTED, 3)
    assert (sampler.sample(history, actions, samples).bound is not None) == bounded
