# SPDX-License-Identifier: Apache-2.0
"""Hysteresis, against the rules of docs/flags.md, over every short sequence of levels."""

from __future__ import annotations

import itertools

import pytest

from jepa_edge.flags import Level, Reason
from jepa_edge.state_machine import Hysteresis


@pytest.mark.parametrize("fall_after", [1, 2, 3])
def test_every_sequence_of_six_levels(fall_after: int) -> None:
    for sequence in itertools.product(Level, repeat=6):
        machine = Hysteresis(fall_after=fall_after)
        before, calm = Level.UNKNOWN, 0
        for raw in sequence:
            level = machine.update(raw)
            if raw is Level.UNKNOWN:
                assert level is Level.UNKNOWN
            else:
                assert level >= raw, "an alarm is never published lower than it is"
            if level < before and raw is not Level.UNKNOWN:
                assert calm + 1 >= fall_after, "a level fell too early"
            same_run = raw is not Level.UNKNOWN and before is not Level.UNKNOWN and raw < before
            calm = calm + 1 if same_run and level == before else 0
            before = level


def test_it_falls_to_the_highest_of_the_calmer_levels() -> None:
    machine = Hysteresis(fall_after=3)
    levels = [Level.REJECT, Level.NOMINAL, Level.CAUTION, Level.NOMINAL, Level.NOMINAL]
    published = [machine.update(raw) for raw in levels]
    assert published == [Level.REJECT, Level.REJECT, Level.REJECT, Level.CAUTION, Level.CAUTION]


def test_zero_is_not_good() -> None:
    assert Level(0) is Level.UNKNOWN
    assert Hysteresis().level is Level.UNKNOWN


def test_reasons_spell_themselves() -> None:
    assert (Reason.STALE | Reason.INNOVATION).labels == ["stale", "innovation"]
    assert Reason(0).labels == []
