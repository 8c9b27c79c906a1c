# SPDX-License-Identifier: Apache-2.0
"""Numbers and names that a manifest's records take, and those that they refuse."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from jepa_edge.manifest import ActionSpec, ObservationSpec

SEEN: dict[str, Any] = {
    "height": 8,
    "width": 8,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "rate_hz": 5.0,
}
ACTION: dict[str, Any] = {"dim": 4, "block": 2, "mean": [0.0] * 4, "std": [1.0] * 4}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        *((ObservationSpec, {"mean": [0.0, bad, 0.0]}, r"observation\.mean is .*finite")
          for bad in (math.nan, math.inf, -math.inf, 1e39)),
        *((ObservationSpec, {"std": [1.0, bad, 1.0]}, r"observation\.std is .*positive")
          for bad in (math.nan, math.inf, 0.0, -1.0, 1e-300, 1e13)),
        *((ActionSpec, {name: [bad] * 4}, rf"action\.{name} is .*finite")
          for name in ("mean", "low", "high") for bad in (math.nan, math.inf)),
        *((ActionSpec, {"std": [bad] * 4}, r"action\.std is .*(positive|finite)")
          for bad in (math.nan, 0.0, 1e-300)),
        (ActionSpec, {"names": ["x"]}, "has 1 names, expected 4 or 2"),
        (ActionSpec, {"names": ["x"] * 5}, "has 5 names, expected 4 or 2"),
        (ActionSpec, {"names": ["x"] * 2, "block": 1}, "has 2 names, expected 4, one per"),
    ],
)  # fmt: skip
def test_what_no_graph_can_compute_with_is_refused(
    kind: type[Any], values: dict[str, Any], message: str
) -> None:
    base = SEEN if kind is ObservationSpec else ACTION
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({**base, **values}, kind)


def test_usual_numbers_and_both_kinds_of_names_are_taken() -> None:
    seen = msgspec.convert({**SEEN, "std": [1e-12, 1.0, 1e12]}, ObservationSpec)
    assert seen.std[0] == 1e-12
    for names in ([], ["x", "y"], ["x0", "y0", "x1", "y1"]):
        assert msgspec.convert({**ACTION, "names": names}, ActionSpec).names == tuple(names)
