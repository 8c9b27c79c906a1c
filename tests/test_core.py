# SPDX-License-Identifier: Apache-2.0
"""The C++ core against published vectors, float64 algebra and statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jepa_edge import _core

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ([ONES] * 4, [ONES] * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_known_answers(
    counter: list[int], key: list[int], expected: tuple[int, ...]
) -> None:
    # Known-answer vectors of Random123 (philox4x32 10), Salmon et al. 2011.
    assert _core.philox4x32(counter, key) == expected


def test_normals_are_normal_and_streams_independent() -> None:
    first, second = (_core.standard_normal(3, stream, 200_000) for stream in (0, 1))
    for sample in (first, second):
        assert stats.kstest(sample, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert not np.array_equal(first, _core.standard_normal(4, 0, 200_000))


def test_a_number_depends_on_its_place_alone() -> None:
    long = _core.standard_normal(9, 2, 1001)
    for count in (0, 1, 3, 4, 5, 1000):
        assert np.array_equal(_core.standard_normal(9, 2, count), long[:count])


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5),
    dim=st.integers(1, 40),
    rank=st.integers(0, _core.MAX_RANK),
    seed=st.integers(0, 2**32 - 1),
)
def test_energy_is_the_mahalanobis_form(batch: int, dim: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    variance = np.exp(rng.normal(size=(batch, dim))).astype(np.float32)
    factor = rng.normal(size=(batch, dim, rank)).astype(np.float32)
    residual = rng.normal(size=(batch, dim)).astype(np.float32)
    energy = _core.innovation_energy(variance, factor, residual)
    for row in range(batch):
        f = factor[row].astype(np.float64)
        sigma = np.diag(variance[row].astype(np.float64)) + f @ f.T
        r = residual[row].astype(np.float64)
        expected = r @ np.linalg.solve(sigma, r) / dim
        assert energy[row] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_samples_have_the_covariance_they_were_asked_for() -> None:
    rng = np.random.default_rng(0)
    dim, rank, count = 5, 2, 200_000
    variance = np.exp(rng.normal(size=dim)).astype(np.float32)
    factor = rng.normal(size=(dim, rank)).astype(np.float32)
    z = _core.standard_normal(1, 0, count * (dim + rank)).reshape(count, -1)
    drawn = _core.sample(
        np.ascontiguousarray(np.broadcast_to(variance, (count, dim))),
        np.ascontiguousarray(np.broadcast_to(factor, (count, dim, rank))),
        z,
    )
    expected = np.diag(variance) + factor @ factor.T
    assert np.abs(np.cov(drawn.T) - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(bad: float) -> None:
    variance, factor = np.ones((1, 4), np.float32), np.ones((1, 4, 2), np.float32)
    residual = np.array([[1.0, bad, 0.0, 0.0]], np.float32)
    assert not np.isfinite(_core.innovation_energy(variance, factor, residual)[0])
    poisoned = factor.copy()
    poisoned[0, 1, 0] = np.nan
    residual = np.ones((1, 4), np.float32)
    assert not np.isfinite(_core.innovation_energy(variance, poisoned, residual)[0])


def test_shapes_and_types_are_checked() -> None:
    variance, factor = np.ones((2, 4), np.float32), np.ones((2, 4, 3), np.float32)
    with pytest.raises(ValueError, match="disagree"):
        _core.innovation_energy(variance, factor, np.ones((2, 5), np.float32))
    wide = np.ones((2, 4, 17), np.float32)
    with pytest.raises(ValueError, match="rank 17"):
        _core.innovation_energy(variance, wide, np.ones((2, 4), np.float32))
    with pytest.raises(TypeError):
        _core.innovation_energy(variance.astype(np.float64), factor, np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="negative"):
        _core.standard_normal(0, 0, -1)
