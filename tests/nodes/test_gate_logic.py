# SPDX-License-Identifier: Apache-2.0
"""The gate's decisions: what must never happen, under every order of events, and what must."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.errors import InputError
from jepa_edge.nodes.gate_logic import (
    FlagReport,
    FlagWatch,
    GateLimits,
    GateLogic,
    GateState,
    Why,
)

MS = 1_000_000
EPOCH = 1_700_000_000_000 * MS
LIMITS = GateLimits(
    caution=(0.5, 0.25),
    max_valid_for_ns=400 * MS,
    command_timeout_ns=0,
    resume_ramp_ns=0,
    stop_period_ns=50 * MS,
)


def report(level: int = 1, seq: int = 0, stamp_ms: int = 0, valid_for_ms: int = 300) -> FlagReport:
    """A flag; stamps count from EPOCH."""
    return FlagReport(
        level=level, seq=seq, stamp_ns=EPOCH + stamp_ms * MS, valid_for_ns=valid_for_ms * MS
    )


def gate(**changes: Any) -> GateLogic:
    return GateLogic(replace(LIMITS, **changes))


def send(logic: GateLogic, now_ms: int, clock_ms: int | None = None, **flag: Any) -> None:
    """Have a flag come in at now_ms; its stamp is of now, and so is the clock, unless given."""
    clock_ms = now_ms if clock_ms is None else clock_ms
    flag.setdefault("stamp_ms", now_ms)
    flag.setdefault("seq", now_ms)
    logic.on_flag(report(**flag), now_ms * MS, EPOCH + clock_ms * MS)


def state(logic: GateLogic, now_ms: float) -> GateState:
    return logic.decide(round(now_ms * MS)).state


def test_it_starts_stopped_and_the_first_good_flag_opens_it() -> None:
    logic = gate()
    assert logic.decide(0).why is Why.NO_FLAG
    assert logic.stop_due(0)
    send(logic, 10)
    assert state(logic, 10) is GateState.PASS
    assert not logic.stop_due(10 * MS)


@pytest.mark.parametrize("level", [0, 3, 4, 7, 255, -1, 2**31])
def test_every_other_level_stops_at_once(level: int) -> None:
    logic = gate()
    send(logic, 0)
    send(logic, 1, level=level)
    decision = logic.decide(1 * MS)
    assert decision.state is GateState.STOPPED
    assert decision.why is (Why.REJECT if level == 3 else Why.UNKNOWN)
    assert logic.stop_due(1 * MS)


def test_a_flag_ends_valid_for_after_its_stamp_and_not_a_nanosecond_later() -> None:
    logic = gate()
    send(logic, 1000, stamp_ms=900, valid_for_ms=300)  # 100 ms old when it comes
    assert logic.decide(1200 * MS - 1).state is GateState.PASS
    decision = logic.decide(1200 * MS)
    assert (decision.state, decision.why) == (GateState.STOPPED, Why.STALE)
    assert logic.stop_due(1200 * MS)


@pytest.mark.parametrize("valid_for_ms", [0, -1, -(10**9)])
def test_a_flag_that_holds_for_no_time_is_never_good(valid_for_ms: int) -> None:
    logic = gate()
    send(logic, 0, valid_for_ms=valid_for_ms, stamp_ms=100)
    assert logic.decide(0).why is Why.STALE


def test_a_stamp_in_the_future_gives_no_time() -> None:
    logic = gate()
    send(logic, 0, stamp_ms=200, valid_for_ms=300)
    assert state(logic, 299) is GateState.PASS
    assert state(logic, 300) is GateState.STOPPED
    send(logic, 400, stamp_ms=701, valid_for_ms=300)
    assert logic.decide(400 * MS).why is Why.FUTURE
    send(logic, 450)  # nor does it keep later flags of the true time out
    assert state(logic, 450) is GateState.PASS


def test_the_gates_own_limit_ends_a_flag_that_would_hold_for_ever() -> None:
    logic = gate()
    send(logic, 0, valid_for_ms=10**9)
    assert state(logic, 399) is GateState.PASS
    assert state(logic, 400) is GateState.STOPPED


def test_repetitions_never_extend_and_can_only_make_worse() -> None:
    logic = gate()
    send(logic, 0, seq=7)
    for now in range(10, 300, 10):
        send(logic, now, seq=7, stamp_ms=0, valid_for_ms=10_000)
        send(logic, now, seq=3, stamp_ms=-5)
    assert logic.flags.repeated == 58
    assert state(logic, 299) is GateState.PASS
    assert state(logic, 300) is GateState.STOPPED
    send(logic, 400, seq=8)
    send(logic, 401, seq=8, stamp_ms=400, level=2)
    assert state(logic, 401) is GateState.SCALED
    send(logic, 402, seq=8, stamp_ms=400, level=3)
    send(logic, 403, seq=8, stamp_ms=400, level=1)
    assert logic.decide(403 * MS).why is Why.REJECT
    send(logic, 404, seq=9)
    assert state(logic, 404) is GateState.PASS


def test_a_publisher_that_starts_again_is_believed() -> None:
    logic = gate()
    send(logic, 0, seq=5000)
    send(logic, 100, seq=0)
    assert state(logic, 399) is GateState.PASS
    assert (logic.flags.taken, logic.flags.restarts) == (2, 1)


def test_two_flags_of_one_frame_count_in_their_order() -> None:
    logic = gate()
    send(logic, 0, seq=1)
    send(logic, 100, seq=2, stamp_ms=0, level=0)  # the watchdog's, while inference hangs
    assert state(logic, 100) is GateState.STOPPED


def test_a_time_base_that_starts_again_does_not_lock_the_gate() -> None:
    logic = gate()
    send(logic, 10_000, seq=70)
    send(logic, 10_100, clock_ms=0, seq=70, stamp_ms=10_000)  # the same flag again: no news
    assert state(logic, 10_300) is GateState.STOPPED
    send(logic, 10_310, clock_ms=210, seq=1, stamp_ms=200)
    assert state(logic, 10_599) is GateState.PASS
    assert state(logic, 10_600) is GateState.STOPPED


def test_a_clock_that_is_set_back_does_not_renew_the_flag_that_is_there() -> None:
    logic = gate()
    send(logic, 10_000, seq=70)
    send(logic, 10_250, clock_ms=9_900, seq=70, stamp_ms=10_000)
    assert state(logic, 10_299) is GateState.PASS
    assert state(logic, 10_300) is GateState.STOPPED


def test_a_clock_that_is_set_right_makes_no_older_flag_new() -> None:
    """NTP steps by a millisecond, and a flag of before the REJECT is delivered again."""
    for step_ms, expected in ((1, Why.REJECT), (400, Why.REJECT), (401, Why.NOMINAL)):
        logic = gate()
        send(logic, 1000, seq=5)
        send(logic, 1100, seq=6, level=3)
        stamp_ms = 1000 - (step_ms > 400) * 300  # of the new time, where that has begun anew
        send(logic, 1101, clock_ms=1100 - step_ms, seq=5, stamp_ms=stamp_ms)
        assert logic.decide(1101 * MS).why is expected


@pytest.mark.parametrize("valid_for_ms", [-1, 0, 300])
def test_a_flag_without_sense_keeps_no_later_one_out(valid_for_ms: int) -> None:
    logic = gate()
    send(logic, 0, seq=5)
    send(logic, 100, level=0, seq=2**64 - 1, stamp_ms=10**9, valid_for_ms=valid_for_ms)
    assert state(logic, 100) is GateState.STOPPED
    send(logic, 200, seq=6)
    assert state(logic, 200) is GateState.PASS
    assert (logic.flags.repeated, logic.flags.restarts) == (0, 0)


def test_without_a_clock_no_flag_is_good() -> None:
    logic = gate()
    logic.on_flag(report(), 0, 0)
    assert logic.decide(0).why is Why.NO_CLOCK
    logic.on_flag(report(), 1, EPOCH)
    assert logic.decide(1).state is GateState.PASS


def test_caution_scales_each_component() -> None:
    logic = gate()
    send(logic, 0, level=2)
    decision = logic.decide(0)
    assert (decision.state, decision.why) == (GateState.SCALED, Why.CAUTION)
    assert (decision.linear, decision.angular) == (0.5, 0.25)
    stops = gate(caution=(0.0, 0.0))
    send(stops, 0, level=2)
    assert (stops.decide(0).state, stops.decide(0).why) == (GateState.STOPPED, Why.CAUTION)
    turns = gate(caution=(0.0, 1.0))
    send(turns, 0, level=2)
    assert (turns.decide(0).linear, turns.decide(0).angular) == (0.0, 1.0)


def test_commands_that_cease_stop_the_robot() -> None:
    logic = gate(command_timeout_ns=100 * MS)
    send(logic, 0)
    assert logic.decide(0).why is Why.NO_COMMAND
    logic.on_command(True, 10 * MS)
    assert state(logic, 109) is GateState.PASS
    assert logic.decide(110 * MS).why is Why.NO_COMMAND


def test_a_command_that_cannot_be_followed_stops_until_the_next() -> None:
    logic = gate()
    send(logic, 0)
    logic.on_command(False, 10 * MS)
    assert logic.decide(20 * MS).why is Why.BAD_COMMAND
    logic.on_command(True, 30 * MS)
    assert state(logic, 30) is GateState.PASS


def test_the_speed_comes_back_in_a_ramp() -> None:
    logic = gate(resume_ramp_ns=200 * MS)
    send(logic, 100, level=0)
    send(logic, 1000)
    for after, speed in ((0, 0.0), (50, 0.25), (100, 0.5), (199, 0.995)):
        decision = logic.decide((1000 + after) * MS)
        assert (decision.state, decision.why) == (GateState.SCALED, Why.RESUMING)
        assert decision.linear == decision.angular == pytest.approx(speed)
    assert logic.decide(1200 * MS).state is GateState.PASS
    send(logic, 1210, level=2)
    assert logic.decide(1210 * MS).linear == 0.5
    send(logic, 1260)
    assert logic.decide(1310 * MS).linear == pytest.approx(0.75)
    send(logic, 1320, level=0)
    send(logic, 1400)
    assert logic.decide(1400 * MS).linear == 0.0
    assert logic.stops == 1


def test_safe_commands_keep_their_rate() -> None:
    logic = gate()
    due = []
    for now in range(1000):
        if now == 205:
            send(logic, now, valid_for_ms=100)
        if logic.stop_due(now * MS):
            due.append(now)
            logic.on_safe(now * MS)
    assert due == [0, 50, 100, 150, 200, *range(305, 1000, 50)]
    assert logic.stops == 1


def test_every_stop_begins_at_once() -> None:
    logic = gate()
    logic.on_safe(0)
    send(logic, 10)
    send(logic, 20, level=3)
    assert logic.stop_due(20 * MS)


def test_messages_are_read_and_times_that_are_none_count_as_zero() -> None:
    def message(sec: Any, nanosec: Any) -> SimpleNamespace:
        return SimpleNamespace(
            level=2,
            seq=9,
            header=SimpleNamespace(stamp=SimpleNamespace(sec=3, nanosec=4)),
            valid_for=SimpleNamespace(sec=sec, nanosec=nanosec),
        )

    expected = FlagReport(level=2, seq=9, stamp_ns=3_000_000_004, valid_for_ns=1_000_000_002)
    assert FlagReport.of(message(1, 2)) == expected
    assert FlagReport.of(message(3600, 0)).valid_for_ns == 3600 * 10**9
    for sec, nanosec in (
        (-1, 0),
        (3601, 0),
        (2**31 - 1, 0),  # what NaN seconds become in a message
        (0, 1_000_000_000),
        (0, -1),
        (float("nan"), 0),
        (0, float("nan")),
        (float("inf"), 0),
    ):
        assert FlagReport.of(message(sec, nanosec)).valid_for_ns == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"caution": (1.1, 0.5)},
        {"caution": (0.5, float("nan"))},
        {"max_valid_for_ns": 0},
        {"command_timeout_ns": -1},
        {"resume_ramp_ns": -1},
        {"stop_period_ns": 0},
    ],
)
def test_limits_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        replace(LIMITS, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """A flag (report and clock), a command (good), or only a look at the gate."""

    wait_ms: int
    report: FlagReport | None = None
    clock_ns: int = 0
    good: bool | None = None


def flags() -> st.SearchStrategy[FlagReport]:
    """Few values, so that they meet often."""
    return st.builds(
        report,
        level=st.sampled_from([0, 1, 1, 1, 2, 2, 3, 9]),
        seq=st.integers(0, 4),
        stamp_ms=st.integers(-3, 6).map(lambda n: 100 * n),
        valid_for_ms=st.sampled_from([-5, 0, 100, 300, 300, 10_000]),
    )


EVENTS = st.lists(
    st.one_of(
        st.builds(
            Happened,
            wait_ms=st.sampled_from([0, 1, 50, 100, 300]),
            report=flags(),
            clock_ns=st.integers(-2, 8).map(lambda n: EPOCH + 100 * n * MS) | st.just(0),
        ),
        st.builds(Happened, wait_ms=st.sampled_from([0, 10, 100, 200]), good=st.booleans()),
        st.builds(Happened, wait_ms=st.sampled_from([0, 10, 100, 300])),
    ),
    max_size=25,
)


def vouches(flag: FlagReport, received: int, clock: int, now: int, longest: int) -> bool:
    """Whether a flag, seen all alone, says at this time that the robot may move."""
    lasts = min(flag.valid_for_ns, longest)
    return (
        flag.level in (1, 2)
        and clock > 0
        and flag.stamp_ns - clock <= lasts
        and received <= now < received + lasts
        and now - received + clock < flag.stamp_ns + flag.valid_for_ns
    )


@settings(max_examples=500, deadline=None)
@given(events=EVENTS, ramp=st.booleans(), timeout=st.booleans(), zero=st.booleans())
def test_nothing_goes_out_but_under_a_flag_that_vouches_for_it(
    events: list[Happened], ramp: bool, timeout: bool, zero: bool
) -> None:
    """At every instant at which commands may pass, whatever came in and whatever the clock did:

    a flag that came in vouches for it; the last thing received was no REJECT or UNKNOWN; the last
    command was good and in time; factors are CAUTION's where no NOMINAL vouches, and no higher than
    the ramp since the last stop.
    """
    limits = replace(
        LIMITS,
        caution=(0.0, 0.5) if zero else (0.5, 0.25),
        resume_ramp_ns=200 * MS if ramp else 0,
        command_timeout_ns=150 * MS if timeout else 0,
    )
    logic = GateLogic(limits)
    now = stopped_at = 0
    received: list[tuple[FlagReport, int, int]] = []
    command: tuple[int, bool] | None = None
    for event in events:
        for look in range(now, now + event.wait_ms * MS, 20 * MS):
            stopped_at = look if logic.decide(look).state is GateState.STOPPED else stopped_at
        now += event.wait_ms * MS
        if event.report is not None:
            logic.on_flag(event.report, now, event.clock_ns)
            received.append((event.report, now, event.clock_ns))
        if event.good is not None:
            logic.on_command(event.good, now)
            command = (now, event.good)
        decision = logic.decide(now)
        assert logic.decide(now) == decision
        if decision.state is GateState.STOPPED:
            assert decision.linear == decision.angular == 0.0
            stopped_at = now
            continue
        good = [flag for flag in received if vouches(*flag, now, limits.max_valid_for_ns)]
        assert good
        assert received[-1][0].level in (1, 2)
        assert command is None or command[1]
        if timeout:
            assert command is not None
            assert now - command[0] < limits.command_timeout_ns
        if not any(flag.level == 1 for flag, _, _ in good):
            assert decision.linear <= limits.caution[0]
            assert decision.angular <= limits.caution[1]
        if ramp:
            highest = (now - stopped_at) / limits.resume_ramp_ns
            assert max(decision.linear, decision.angular) <= highest + 1e-9
        assert (decision.state is GateState.PASS) == (decision.linear == decision.angular == 1.0)


def test_a_flag_of_before_a_restart_is_not_new_by_its_number() -> None:
    """Clocks differ by less than flags hold, and what a restart looks like came late."""
    watch = FlagWatch(400 * MS)
    watch.on_flag(report(1, 4, 1299, 300), 1100 * MS, EPOCH + 1019 * MS)
    watch.on_flag(report(0, 3, 1300, 300), 1120 * MS, EPOCH + 1039 * MS)
    assert watch.level(1120 * MS)[0] == 0
    watch.on_flag(report(1, 4, 1299, 300), 1140 * MS, EPOCH + 1059 * MS)
    assert watch.level(1140 * MS)[0] == 0
    assert watch.repeated == 1
    # A simulation that begins anew, its publisher counting on, is heard all the same.
    watch.on_flag(report(1, 5, 100, 300), 1160 * MS, EPOCH + 110 * MS)
    watch.on_flag(report(1, 6, 200, 300), 1260 * MS, EPOCH + 210 * MS)
    assert watch.level(1260 * MS)[0] == 1


@settings(max_examples=500, deadline=None)
@given(
    sent=st.lists(
        st.tuples(st.sampled_from([0, 1, 1, 1, 2, 3]), st.integers(-200, 200)), min_size=1
    ),
    picks=st.lists(st.tuples(st.integers(0, 30), st.integers(20, 200)), max_size=40),
    skew_ms=st.integers(-250, 250),
)
def test_repetitions_in_any_order_change_no_more_than_to_the_worse(
    sent: list[tuple[int, int]], picks: list[tuple[int, int]], skew_ms: int
) -> None:
    """The same flags with repetitions among them keep the gate shut wherever it is without them."""
    plain, repeated = FlagWatch(400 * MS), FlagWatch(400 * MS)
    now, delivered = 1000, 0
    stamps = [1000 + 100 * index + jitter for index, (_, jitter) in enumerate(sent)]
    for pick, wait_ms in picks:
        now += wait_ms
        index = min(pick, delivered, len(sent) - 1)
        flag = report(sent[index][0], index, stamps[index], 300)
        if index == delivered:
            delivered += 1
            plain.on_flag(flag, now * MS, EPOCH + (now + skew_ms) * MS)
        repeated.on_flag(flag, now * MS, EPOCH + (now + skew_ms) * MS)
        if plain.level(now * MS)[1] is Why.FUTURE:  # not believed, so that its repetition may be
            return
        for look in (now, now + 99, now + 299):
            expected = plain.level(look * MS)[0]
            found = repeated.level(look * MS)[0]
            if expected not in (1, 2):
                assert found not in (1, 2)
            assert not (expected == 2 and found == 1)


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.integers(50, 250), min_size=1, max_size=20),
    delays=st.lists(st.integers(0, 49), min_size=20, max_size=20),
    levels=st.lists(st.sampled_from([1, 2]), min_size=20, max_size=20),
)
def test_it_stays_open_while_flags_come_in_time(
    gaps: list[int], delays: list[int], levels: list[int]
) -> None:
    """valid_for 300 ms, gaps of at most 250 and delays below 50: there is always one that holds."""
    logic = gate()
    stamps = list(itertools.accumulate(gaps))
    ends = [*(s + d for s, d in zip(stamps[1:], delays[1:], strict=False)), stamps[-1] + 299]
    for seq, (stamp, end) in enumerate(zip(stamps, ends, strict=True)):
        send(logic, stamp + delays[seq], seq=seq, stamp_ms=stamp, level=levels[seq])
        expected = GateState.PASS if levels[seq] == 1 else GateState.SCALED
        for now in range(stamp + delays[seq], end, 7):
            assert state(logic, now) is expected
    assert logic.stops == 0
    assert state(logic, stamps[-1] + 300) is GateState.STOPPED
