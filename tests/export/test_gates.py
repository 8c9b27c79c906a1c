# SPDX-License-Identifier: Apache-2.0
"""The budget's gates: limits that follow from one number, and failures that name the gate."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.export.gates import Gates
from jepa_edge.export.parity import GraphParity, VariantParity, spearman


def _parity(
    sqnr_db: float = 25.0,
    cosine: float = 0.998,
    rollout: tuple[float, ...] = (0.1, 0.12, 0.15),
    rank: float | None = 0.99,
) -> VariantParity:
    graph = GraphParity(
        part="encoder",
        sqnr_db=sqnr_db,
        centered_cosine=cosine,
        size_bytes=1,
        size_ratio=1.0,
        latency_ms=None,
        latency_ratio=None,
        latency_batch64_ms=None,
        latency_batch64_ratio=None,
    )
    return VariantParity(graphs=(graph,), rollout_error=rollout, cost_rank_correlation=rank)


def test_limits_follow_the_latent_error_unless_they_are_given() -> None:
    gates = Gates(max_latent_error=0.1)
    assert gates.rollout_limit == pytest.approx(0.3)
    assert gates.rank_limit == pytest.approx(1.0 / math.sqrt(1.36))
    given = Gates(max_latent_error=0.1, max_rollout_error=0.2, min_rank_correlation=0.5)
    assert (given.rollout_limit, given.rank_limit) == (0.2, 0.5)
    assert Gates(max_rollout_error=0.5).rank_limit == pytest.approx(math.sqrt(0.5))


def test_the_rank_limit_is_what_costs_with_that_much_noise_keep() -> None:
    rng = np.random.default_rng(0)
    costs = rng.normal(size=40000)
    noisy = costs + 0.6 * rng.normal(size=40000)
    assert spearman(costs, noisy) == pytest.approx(Gates().rank_limit, abs=0.03)


@pytest.mark.parametrize(
    ("parity", "told"),
    [
        (_parity(sqnr_db=19.0), r"^latent error of the encoder 0\.112 \(19\.0 dB\), .* 0\.1$"),
        (_parity(cosine=0.98), r"^centered cosine of the encoder 0\.9800, .* at least 0\.9900$"),
        (_parity(rollout=(0.1, 0.4, 0.2)), r"^rollout error 0\.4 after 2 steps, .* at most 0\.3$"),
        (_parity(rank=0.5), r"^rank correlation of planner costs 0\.500, .* at least 0\.857$"),
        (_parity(sqnr_db=math.nan), r"^latent error of the encoder nan"),
        (_parity(rank=math.nan), r"^rank correlation of planner costs nan"),
    ],
)
def test_a_failure_names_its_gate(parity: VariantParity, told: str) -> None:
    failures = Gates().failures(parity)
    assert len(failures) == 1
    assert re.search(told, failures[0])


def test_what_was_not_measured_is_not_judged() -> None:
    assert Gates().failures(_parity(rollout=(), rank=None)) == []
    assert Gates().failures(_parity()) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_latent_error": 1.0}, "max_latent_error is 1.0"),
        ({"max_rollout_error": math.inf}, "max_rollout_error is inf"),
        ({"min_rank_correlation": -1.1}, "min_rank_correlation is -1.1"),
    ],
)
def test_limits_out_of_range_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Gates(**wrong)
