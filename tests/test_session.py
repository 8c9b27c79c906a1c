# SPDX-License-Identifier: Apache-2.0
"""The loop: every bad input gives UNKNOWN with its reason, good input gives calibrated levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import InputError
from jepa_edge.flags import Level
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Episode
from jepa_edge.session import Flag, Observation, Session, SessionConfig
from jepa_edge.sources.recorded import observations
from jepa_edge.world_model import WorldModel


@pytest.fixture(scope="module")
def model(calibrated_bundle: Path) -> WorldModel:
    return WorldModel.load(calibrated_bundle)


@pytest.fixture
def session(model: WorldModel) -> Session:
    return Session(model, Monitor.load(model), SessionConfig(samples=8))


@pytest.fixture
def stream(make_episode: Callable[[int], Episode]) -> list[Observation]:
    """A fresh nominal episode."""
    return list(observations(make_episode(9001)))


def _replace(observation: Observation, **changes: Any) -> Observation:
    fields = {name: getattr(observation, name) for name in observation.__slots__}
    return Observation(**{**fields, **changes})


def _run(session: Session, stream: list[Observation]) -> list[Flag]:
    return [session.step(observation).flag for observation in stream]


def test_nominal_episodes_warm_up_and_stay_nominal(
    session: Session, make_episode: Callable[[int], Episode]
) -> None:
    alarmed = 0
    for seed in range(9100, 9140):
        offset = 100.0 * (seed - 9100)
        stream = [_replace(o, stamp_s=o.stamp_s + offset) for o in observations(make_episode(seed))]
        flags = _run(session, stream)
        assert flags[0].level is Level.UNKNOWN
        assert "warming_up" in flags[0].reasons
        assert all(flag.level is not Level.UNKNOWN for flag in flags[6:])
        alarmed += any(flag.level >= Level.CAUTION for flag in flags)
    # alpha is 0.1; 11 of 40 has a probability below 0.1 % under it.
    assert alarmed <= 10


def test_a_changed_world_is_flagged_at_once_and_forgiven_slowly(
    session: Session, stream: list[Observation]
) -> None:
    dark = [
        _replace(o, frame=np.zeros_like(o.frame)) if 12 <= index < 15 else o
        for index, o in enumerate(stream)
    ]
    flags = _run(session, dark)
    assert flags[11].level is Level.NOMINAL
    assert flags[12].level is Level.REJECT
    assert flags[12].reasons
    assert flags[12].score > flags[12].reject_threshold
    assert all(flag.level >= Level.CAUTION for flag in flags[12:17])


def test_the_same_stream_gives_the_same_flags(model: WorldModel, stream: list[Observation]) -> None:
    runs = []
    for _ in range(2):
        fresh = Session(model, Monitor.load(model), SessionConfig(samples=4))
        updates = [fresh.step(observation) for observation in stream]
        runs.append(
            [
                (u.flag.level, u.flag.score, None if u.futures is None else u.futures.latents.sum())
                for u in updates
            ]
        )
    assert str(runs[0]) == str(runs[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frame": np.full((8, 8, 3), np.nan, np.float32)}, "non_finite"),
        ({"action": np.full(4, np.inf, np.float32)}, "non_finite"),
        ({"frame": np.zeros((8, 9, 3), np.uint8)}, "input_mismatch"),
        ({"frame": np.zeros((3, 8, 8), np.uint8)}, "input_mismatch"),
        ({"frame": np.zeros((8, 8, 3), np.float32)}, "input_mismatch"),
        ({"action": np.zeros(3, np.float32)}, "input_mismatch"),
        ({"action": None}, "input_mismatch"),
        ({"action": np.full(4, 1e300)}, "non_finite"),
        ({"action": [1.0, 2.0, 3.0, 4.0]}, "input_mismatch"),
        ({"action": np.array(["a"] * 4)}, "input_mismatch"),
        ({"frame": None}, "input_mismatch"),
        ({"frame": np.full((8, 8, 3), None)}, "input_mismatch"),
        ({"stamp_s": None}, "clock_jump"),
        ({"stamp_s": 1.81}, "clock_jump"),
        ({"stamp_s": -5.0}, "clock_jump"),
        ({"stamp_s": math.nan}, "clock_jump"),
        ({"stamp_s": 1e6}, "clock_jump"),
    ],
)
def test_bad_input_gives_unknown_with_its_reason_and_recovers(
    session: Session, stream: list[Observation], change: dict[str, Any], reason: str
) -> None:
    before = _run(session, stream[:10])
    assert before[-1].level is not Level.UNKNOWN
    bad = session.step(_replace(stream[10], **change))
    assert bad.flag.level is Level.UNKNOWN
    assert reason in bad.flag.reasons
    shift = 2e6 if reason == "clock_jump" else 0.0  # a new time base
    after = _run(session, [_replace(o, stamp_s=o.stamp_s + shift) for o in stream[11:]])
    assert after[0].level is Level.UNKNOWN, "the history has to fill again"
    assert after[-1].level is not Level.UNKNOWN


def test_an_embedding_is_published_only_when_it_is_finite_and_fresh(
    session: Session, stream: list[Observation]
) -> None:
    good = session.step(stream[0])
    assert good.embedding is not None
    bad = session.step(_replace(stream[1], frame=np.zeros((4, 4, 3), np.uint8)))
    assert bad.embedding is None
    assert bad.futures is None


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


def test_without_calibration_nothing_is_ever_nominal(
    model: WorldModel, stream: list[Observation]
) -> None:
    flags = _run(Session(model, None), stream)
    assert {flag.level for flag in flags} == {Level.UNKNOWN}
    assert all("uncalibrated" in flag.reasons for flag in flags)


def test_confidence_is_the_conformal_p_value(
    session: Session, make_episode: Callable[[int], Episode]
) -> None:
    lowest = []
    for seed in range(9200, 9260):
        offset = 100.0 * (seed - 9200)
        stream = [_replace(o, stamp_s=o.stamp_s + offset) for o in observations(make_episode(seed))]
        flags = _run(session, stream)
        lowest.append(np.nanmin([flag.confidence for flag in flags]))
        for flag in flags:
            if flag.level is Level.REJECT:
                assert flag.confidence < 0.1
    # An episode's lowest confidence is a conformal p-value: at most uniform, and not degenerate.
    assert np.mean(np.array(lowest) <= 0.5) < 0.7
    assert np.std(lowest) > 0.1


@pytest.mark.parametrize(
    "planned",
    [np.zeros((0, 4), np.float32), np.zeros((5, 3), np.float32), np.full((5, 4), np.nan)],
)
def test_a_bad_plan_costs_the_futures_and_nothing_else(
    session: Session, stream: list[Observation], planned: Any
) -> None:
    _run(session, stream[:10])
    update = session.step(_replace(stream[10], planned=planned))
    assert update.futures is None
    assert update.flag.level is not Level.UNKNOWN


def test_planned_actions_set_the_horizon(session: Session, stream: list[Observation]) -> None:
    _run(session, stream[:10])
    update = session.step(_replace(stream[10], planned=np.full((7, 4), 256.0, np.float32)))
    assert update.futures is not None
    assert update.futures.latents.shape == (8, 7, 1, 6)


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


@pytest.mark.parametrize(
    "setting",
    [
        {"samples": 1},
        {"seed": -1},
        {"max_age_s": math.nan},
        {"max_age_s": 0.0},
        {"max_gap_periods": math.nan},
        {"min_gap_periods": -1.0},
        {"horizon": 0},
        {"fall_after": 0},
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        SessionConfig(**setting)
