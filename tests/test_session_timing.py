# SPDX-License-Identifier: Apache-2.0
"""What a session says of time: stale input, slow steps, and a step that is stuck."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.flags import Level
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Episode
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.sources.recorded import observations
from jepa_edge.world_model import WorldModel


@pytest.fixture(scope="module")
def model(calibrated_bundle: Path) -> WorldModel:
    return WorldModel.load(calibrated_bundle)


@pytest.fixture
def stream(make_episode: Callable[[int], Episode]) -> list[Observation]:
    """A fresh nominal episode."""
    return list(observations(make_episode(9001)))


def _replace(observation: Observation, **changes: Any) -> Observation:
    fields = {name: getattr(observation, name) for name in observation.__slots__}
    return Observation(**{**fields, **changes})


def test_a_late_frame_is_stale(model: WorldModel, stream: list[Observation]) -> None:
    now = [0.0]
    session = Session(model, Monitor.load(model), clock=lambda: now[0])
    for observation in stream[:10]:
        now[0] = observation.stamp_s + 0.01
        fresh = session.step(observation).flag
    assert fresh.level is not Level.UNKNOWN
    assert fresh.input_age_s == pytest.approx(0.01)
    assert session.poll() is None
    now[0] = stream[10].stamp_s + 0.5
    silent = session.poll()
    assert silent is not None
    assert (silent.level, silent.reasons) == (Level.UNKNOWN, ("stale", "warming_up"))
    late = session.step(stream[10]).flag
    assert late.level is Level.UNKNOWN
    assert "stale" in late.reasons


def test_a_stamp_from_the_future_does_not_blind_the_watchdog(
    model: WorldModel, stream: list[Observation]
) -> None:
    now = [0.0]
    session = Session(model, Monitor.load(model), clock=lambda: now[0])
    session.step(stream[0])
    now[0] = 0.2
    assert "clock_jump" in session.step(_replace(stream[1], stamp_s=1e6)).flag.reasons
    now[0] = 100.0
    silent = session.poll()
    assert silent is not None
    assert "stale" in silent.reasons


@pytest.mark.parametrize("broken", [math.nan, None, "now"])
def test_a_clock_that_tells_no_time_makes_everything_stale(
    model: WorldModel, stream: list[Observation], broken: Any
) -> None:
    now: list[Any] = [0.0]
    session = Session(model, Monitor.load(model), SessionConfig(samples=0), clock=lambda: now[0])
    for observation in stream[:8]:
        now[0] = observation.stamp_s
        assert session.step(observation).flag.seq < 4 or session.poll() is None
    now[0] = broken
    late = session.step(stream[8]).flag
    assert late.level is Level.UNKNOWN
    assert "stale" in late.reasons
    silent = session.poll()
    assert silent is not None
    assert "stale" in silent.reasons


def test_slow_steps_in_a_row_are_an_overload(model: WorldModel, stream: list[Observation]) -> None:
    slow = {6, 9, 10, 11, 12}
    taken = [0.5 if index in slow else 0.01 for index in range(len(stream))]
    ticks = iter([tick for took in taken for tick in (0.0, took)])
    config = SessionConfig(samples=0, max_latency_s=0.4, latch=None)
    session = Session(model, Monitor.load(model), config, timer=partial(next, ticks))
    flags = [session.step(observation).flag for observation in stream]
    assert [flag.latency_s for flag in flags] == taken
    overloaded = [flag.seq for flag in flags if "overload" in flag.reasons]
    assert overloaded == [11, 12]
    assert all(flags[i].raw_level >= Level.CAUTION for i in overloaded)
    assert flags[10].raw_level is Level.NOMINAL


@pytest.mark.parametrize(("clock", "overloaded"), [(True, True), (False, False)])
def test_the_latency_limit_is_a_period_where_time_is_real(
    model: WorldModel, stream: list[Observation], clock: bool, overloaded: bool
) -> None:
    # Every step seems to take 0.25 s: more than the period of 0.2 s, less than the 0.4 s of stale.
    ticks = iter(np.arange(1000) * 0.25)
    now = [0.0]
    session = Session(
        model,
        Monitor.load(model),
        clock=(lambda: now[0]) if clock else None,
        timer=partial(next, ticks),
    )
    for observation in stream[:10]:
        now[0] = observation.stamp_s
        flag = session.step(observation).flag
    assert ("overload" in flag.reasons) == overloaded
    assert flag.level >= (Level.CAUTION if overloaded else Level.NOMINAL)


@pytest.mark.parametrize(
    ("age_s", "latency_s", "stale"), [(0.1, 0.29, False), (0.1, 0.31, True), (0.41, 0.0, True)]
)
def test_a_verdict_that_comes_late_is_stale(
    model: WorldModel, stream: list[Observation], age_s: float, latency_s: float, stale: bool
) -> None:
    now, taken = [0.0], [0.0]
    tick = [0]

    def timer() -> float:
        tick[0] += 1
        return taken[0] if tick[0] % 2 == 0 else 0.0

    config = SessionConfig(samples=4)
    session = Session(model, Monitor.load(model), config, clock=lambda: now[0], timer=timer)
    for index, observation in enumerate(stream):
        slow = index == 10
        now[0] = observation.stamp_s + (age_s if slow else 0.0)
        taken[0] = latency_s if slow else 0.0
        update = session.step(observation)
        assert (update.embedding is None) == (slow and stale)
        if slow:
            assert ("stale" in update.flag.reasons) == stale
            assert (update.flag.level is Level.UNKNOWN) == stale
            assert (update.flag.input_age_s, update.flag.latency_s) == pytest.approx(
                (age_s, latency_s)
            )
    # The history was dropped with the stale frame: 4 frames of warm-up from there, as at the start.
    assert update.flag.level is not Level.UNKNOWN


def test_a_stuck_step_is_stale_before_it_ends(
    model: WorldModel, stream: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    session = Session(model, Monitor.load(model), SessionConfig(samples=0), clock=lambda: now[0])
    for observation in stream[:8]:
        now[0] = observation.stamp_s
        last = session.step(observation).flag
    assert last.level is Level.NOMINAL
    inside, go_on = threading.Event(), threading.Event()
    encode = WorldModel.encode

    def stuck(
        self: WorldModel, frames: NDArray[np.uint8], states: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        inside.set()
        assert go_on.wait(10.0)
        return encode(self, frames, states)

    monkeypatch.setattr(WorldModel, "encode", stuck)
    flags = []
    now[0] = stream[8].stamp_s
    worker = threading.Thread(target=lambda: flags.append(session.step(stream[8]).flag))
    worker.start()
    assert inside.wait(10.0)
    first, second = session.stalled(), session.stalled()
    go_on.set()
    worker.join()
    for flag in (first, second, *flags):
        assert flag.level is Level.UNKNOWN
        assert {"stale", "overload"} <= set(flag.reasons)
    assert [flag.seq for flag in (first, second, *flags)] == [8, 9, 10]
    # What was judged before the stall does not carry over: the warm-up begins anew.
    levels = []
    for observation in stream[9:15]:
        now[0] = observation.stamp_s
        levels.append(session.step(observation).flag.level)
    unknown = levels.count(Level.UNKNOWN)
    assert unknown >= model.manifest.history
    assert levels == [Level.UNKNOWN] * unknown + [Level.NOMINAL] * (6 - unknown)


def test_a_stall_between_two_steps_ends_the_next_one(
    model: WorldModel, stream: list[Observation]
) -> None:
    now = [0.0]
    session = Session(model, Monitor.load(model), SessionConfig(samples=0), clock=lambda: now[0])
    for observation in stream[:10]:
        now[0] = observation.stamp_s
        if observation is stream[9]:
            session.stalled()
        flag = session.step(observation).flag
    assert {"stale", "overload"} <= set(flag.reasons)


def test_a_session_without_a_clock_cannot_be_watched(model: WorldModel) -> None:
    with pytest.raises(InputError, match="no clock"):
        Session(model, Monitor.load(model)).stalled()


def test_flags_count_the_episodes_begun(model: WorldModel, stream: list[Observation]) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0))
    episodes = []
    for index, observation in enumerate(stream[:6]):
        if index in (2, 5):
            session.begin_episode()
        episodes.append(session.step(observation).flag.episode)
    assert episodes == [0, 0, 1, 1, 1, 2]


def test_a_latch_stays_while_nothing_can_be_judged(
    model: WorldModel, make_episode: Callable[[int], Episode]
) -> None:
    now = [0.0]
    session = Session(model, Monitor.load(model), SessionConfig(samples=0), clock=lambda: now[0])
    for index, observation in enumerate(observations(make_episode(9001))):
        now[0] = observation.stamp_s
        dark = index == 12
        frame = np.zeros_like(observation.frame) if dark else observation.frame
        flag = session.step(_replace(observation, frame=frame)).flag
    assert (flag.raw_level, flag.latched) == (Level.NOMINAL, True)
    session.stalled()
    refused = session.reset_latch()
    assert not refused.accepted
    assert "stuck" in refused.reason


def test_a_failing_runtime_leaves_no_gap_to_compare_over(
    model: WorldModel, stream: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0, latch=None))
    for observation in stream[:10]:
        session.step(observation)
    encode = WorldModel.encode
    monkeypatch.setattr(WorldModel, "encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.step(stream[10])
    monkeypatch.setattr(WorldModel, "encode", encode)
    flags = [session.step(observation).flag for observation in stream[11:18]]
    assert "warming_up" in flags[0].reasons
    assert flags[-1].level is Level.NOMINAL
    assert all(flag.level in (Level.UNKNOWN, Level.NOMINAL) for flag in flags)


def test_a_bad_stream_does_not_fill_the_log(
    model: WorldModel, stream: list[Observation], caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0))
    for index in range(150):
        bad = np.zeros((4, 4, 3), np.uint8)
        session.step(_replace(stream[0], stamp_s=0.2 * index, frame=bad))
    told = [record for record in caplog.records if "not used" in record.message]
    assert len(told) == 2
