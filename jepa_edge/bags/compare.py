# SPDX-License-Identifier: Apache-2.0
"""Whether a flag came out again, bit by bit, and in which fields not."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec

from jepa_edge.flags import Level, Reason
from jepa_edge.nodes.messages import time_ns

FED_FIELDS = ("seq", "episode", "input_age", "latency", "valid_for")
"""Fields that a replay is given by the flag itself where a bag begins within a run."""

PART_FIELDS = ("caution_threshold", "reject_threshold")
"""Fields that a flag has whatever came before it, and that nobody fed in."""

BUDGET_FIELDS = ("episode_steps", "budget_period")
"""Fields that count since the episode began."""

FIELDS = (
    "level",
    "raw_level",
    "latched",
    "reasons",
    "confidence",
    "score",
    "ood_score",
    "innovation",
    *BUDGET_FIELDS,
    *PART_FIELDS,
    *FED_FIELDS,
)
"""All but the header, which names the frame and so is what a flag is made again from."""

_BY_NAME = {"level": Level, "raw_level": Level}


class FieldDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One field that did not come out again; both values in words."""

    field: str
    recorded: str
    replayed: str


class FlagDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A flag that did not come out again. stamp_ns: of its frame; fields: those that differ."""

    run: int
    seq: int
    stamp_ns: int
    fields: tuple[FieldDifference, ...]


def differing(recorded: Any, replayed: Any, names: tuple[str, ...]) -> tuple[FieldDifference, ...]:
    """Return the fields of two ConfidenceFlags that differ in any bit; NaN equals NaN.

    names: the fields to look at.
    """
    found = []
    for name in names:
        first, second = getattr(recorded, name), getattr(replayed, name)
        if not _same(first, second):
            found.append(
                FieldDifference(
                    field=name, recorded=_words(name, first), replayed=_words(name, second)
                )
            )
    return tuple(found)


def _same(first: Any, second: Any) -> bool:
    if hasattr(first, "nanosec"):
        return time_ns(first) == time_ns(second)
    if not isinstance(first, float):
        return bool(first == second)
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    return _bits(first) == _bits(second)


def _bits(value: float) -> bytes:
    """A number as the float32 that the message holds."""
    return struct.pack("<f", value)


def _words(name: str, value: Any) -> str:
    if name in _BY_NAME:
        known = [level.name for level in Level if level == int(value)]
        return known[0] if known else str(int(value))
    if name == "reasons":
        return ", ".join(Reason(int(value)).labels) or "none"
    if hasattr(value, "nanosec"):
        return f"{time_ns(value) * 1e-9:.9f} s"
    if isinstance(value, float) and math.isfinite(value):
        single = struct.unpack("<f", _bits(value))[0]
        return f"{single:.9g}"
    return str(value)
