# SPDX-License-Identifier: Apache-2.0
"""The state machine against the tables of docs/flags.md: every reachable state x every event."""

from __future__ import annotations

import itertools
import re
from collections import deque
from pathlib import Path

import pytest

from jepa_edge.flags import FORCE_CAUTION, FORCE_UNKNOWN, Level, Reason
from jepa_edge.state_machine import Event, Phase, Rules, State, advance, refusal

from .flags_page import Oracle, tables, time_line

ROOT = Path(__file__).parents[1]
JUDGED = (Event.NOMINAL, Event.CAUTION, Event.REJECT)
RULES = [
    Rules(warm_up=warm_up, fall_after=fall_after, latch=latch)
    for warm_up in (2, 3)
    for fall_after in (1, 2, 3)
    for latch in (None, Level.CAUTION, Level.REJECT)
]


def _reachable(rules: Rules) -> list[State]:
    """Every state that some sequence of events leads to."""
    seen = {State()}
    waiting = deque(seen)
    while waiting:
        state = waiting.popleft()
        for event in Event:
            after = advance(state, event, rules)
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return list(seen)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_every_state_and_event_is_as_the_tables_say(rules: Rules) -> None:
    oracle = Oracle(rules)
    states = _reachable(rules)
    assert len(states) > rules.warm_up + rules.fall_after
    for state in states:
        assert state.level is oracle.level(state)
        for event in Event:
            assert advance(state, event, rules) == oracle.step(state, event), (state, event)


def test_no_row_of_the_tables_is_idle() -> None:
    used: set[str] = set()
    for rules in RULES:
        oracle = Oracle(rules)
        for state, event in itertools.product(_reachable(rules), Event):
            oracle.step(state, event)
        used |= oracle.used
    assert used == oracle.rows


def test_the_time_line_of_the_page_happens() -> None:
    rows = time_line()
    events = {"w": Event.UNJUDGED, "x": Event.INVALID}
    events |= {level.name[0]: Event(int(level)) for level in Level if level}
    rules = Rules(warm_up=3)
    state = State()
    for frame, entry in rows["own level"].items():
        state = advance(state, events[entry], rules)
        assert state.level.name[0] == rows["published"][frame], frame
        assert (state.latched is Level.REJECT) == (frame in rows["latched"]), frame
        if frame in rows["reset"]:
            accepted = not refusal(state, rules)
            assert rows["reset"][frame] == ("yes" if accepted else "no"), frame
            state = advance(state, Event.RESET, rules)
    assert set(rows["reset"].values()) == {"yes", "no"}


# The invariants below are told by published levels and events alone, not by the tables.


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_invalid_is_unknown_at_once_and_nominal_is_a_whole_warm_up_away(rules: Rules) -> None:
    for start in {advance(state, Event.INVALID, rules) for state in _reachable(rules)}:
        assert start.level is Level.UNKNOWN
        distance = {start: 0}
        waiting = deque([start])
        while waiting:
            state = waiting.popleft()
            for event in Event:
                after = advance(state, event, rules)
                if after not in distance:
                    # A request is no frame: it must not shorten the way.
                    distance[after] = distance[state] + (event is not Event.RESET)
                    waiting.append(after)
        known = [state for state in distance if state.level is not Level.UNKNOWN]
        assert min(distance[state] for state in known) == rules.warm_up + 1


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_only_a_verdict_leads_out_of_unknown(rules: Rules) -> None:
    for state, event in itertools.product(_reachable(rules), Event):
        after = advance(state, event, rules)
        if state.level is Level.UNKNOWN and after.level is not Level.UNKNOWN:
            assert event in JUDGED
        if event in (Event.INVALID, Event.UNJUDGED):
            assert after.level is Level.UNKNOWN


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_the_level_is_never_below_the_frames_own(rules: Rules) -> None:
    for state, event in itertools.product(_reachable(rules), JUDGED):
        after = advance(state, event, rules)
        assert after.level is Level.UNKNOWN or after.level >= Level(int(event))
        if state.level is not Level.UNKNOWN and event > state.level:
            assert after.level == event, "it rises at once"


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_a_latch_falls_by_an_accepted_reset_only(rules: Rules) -> None:
    for state, event in itertools.product(_reachable(rules), Event):
        after = advance(state, event, rules)
        if state.latched is Level.UNKNOWN:
            if after.latched is not Level.UNKNOWN:
                assert rules.latch is not None
                assert after.latched >= rules.latch
            continue
        assert state.level in (Level.UNKNOWN, Level.REJECT) or state.level >= state.latched
        if event is Event.RESET and not refusal(state, rules):
            assert after.latched is Level.UNKNOWN
            assert state.phase is Phase.RUN
            assert after.level < state.level
        else:
            assert after.latched >= state.latched


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_every_state_can_become_nominal_again(rules: Rules) -> None:
    for start in _reachable(rules):
        state = start
        for _ in range(rules.warm_up + 2 * rules.fall_after + 1):
            state = advance(state, Event.NOMINAL, rules)
        state = advance(state, Event.RESET, rules)
        assert state.level is Level.NOMINAL, start


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_over_every_sequence_of_any_length(rules: Rules) -> None:
    """Hysteresis, latching and reset, told from the last events: they are walked along with."""
    start: tuple[State, tuple[Event, ...]] = (State(), ())
    seen = {start}
    waiting = deque([start])
    accepted = fell = 0
    while waiting:
        state, recent = waiting.popleft()  # recent: judged frames since UNKNOWN, the last few
        for event in Event:
            after = advance(state, event, rules)
            told = recent
            calm = recent[-rules.fall_after :]
            if event is Event.RESET:
                if state.latched and not after.latched:
                    accepted += 1
                    assert len(calm) == rules.fall_after, "reset before the start-up was over"
                    assert max(calm) < state.latched, "reset while the fault was present"
            elif after.level is Level.UNKNOWN:
                told = ()
            else:
                told = (*recent, event)[-rules.fall_after - 1 :]
                started = len(recent) >= rules.fall_after
                wanted = rules.latch is not None and event >= rules.latch
                assert (after.latched >= event) or not (started and wanted), "a fault not latched"
                assert after.latched == state.latched or (started and wanted), "latched in start-up"
                if recent and after.level < state.level:
                    fell += 1
                    assert len(told) > rules.fall_after
                    assert max(told[-rules.fall_after :]) < state.level, "fell too early"
            step = (after, told)
            if step not in seen:
                seen.add(step)
                waiting.append(step)
    assert fell > 0
    assert (accepted > 0) == (rules.latch is not None)


def test_a_refused_reset_says_why() -> None:
    rules = Rules(warm_up=2, fall_after=2)

    def after(*events: Event) -> str:
        state = State()
        for event in (*[Event.UNJUDGED] * 2, *[Event.NOMINAL] * 2, *events):
            state = advance(state, event, rules)
        return refusal(state, rules)

    assert after() == "", "nothing is latched"
    assert "present" in after(Event.REJECT)
    assert "1 of 2 calmer" in after(Event.REJECT, Event.NOMINAL)
    assert after(Event.REJECT, Event.NOMINAL, Event.NOMINAL) == ""
    assert "no valid judgment" in after(Event.REJECT, Event.INVALID)
    again = [Event.REJECT, Event.INVALID, *[Event.UNJUDGED] * 2, Event.NOMINAL]
    assert "starting up, 1 more" in after(*again)
    assert after(*again, Event.NOMINAL) == ""


def test_zero_is_not_good() -> None:
    assert Level(0) is Level.UNKNOWN
    assert State().level is Level.UNKNOWN
    assert [Event(int(level)).name for level in Level if level] == [v.name for v in Level if v]


def test_reasons_spell_themselves() -> None:
    assert (Reason.STALE | Reason.INNOVATION).labels == ["stale", "innovation"]
    assert Reason(0).labels == []
    assert len(Reason(2**16 - 1).labels) == len(Reason) == 16


def test_the_page_and_the_message_know_every_reason() -> None:
    rows = tables()["reason", "bit", "forces", "when"]
    assert {row["reason"]: int(row["bit"]) for row in rows} == {
        reason.name.lower(): reason.value for reason in Reason if reason.name
    }
    for forced, mask in (("UNKNOWN", FORCE_UNKNOWN), ("CAUTION", FORCE_CAUTION)):
        named = [row["reason"] for row in rows if row["forces"] == forced]
        assert sorted(named) == sorted(mask.labels)
    (rows,) = [rows for header, rows in tables().items() if header[:2] == ("level", "value")]
    levels = {row["level"]: int(row["value"]) for row in rows}
    assert levels == {level.name: level.value for level in Level}
    message = (ROOT / "ros/jepa_msgs/msg/ConfidenceFlag.msg").read_text()
    constants = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", message)}
    expected = {f"REASON_{reason.name}": reason.value for reason in Reason}
    assert constants == expected | levels
