# SPDX-License-Identifier: Apache-2.0
"""The loop: every bad input gives UNKNOWN with its reason, good input gives calibrated levels."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import InputError
from jepa_edge.flags import Level
from jepa_edge.latent_variable import Futures
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
    """Latches nothing: what is tested with it comes and goes."""
    return Session(model, Monitor.load(model), SessionConfig(samples=8, latch=None))


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
            if flag.raw_level is Level.REJECT:
                assert flag.confidence < 0.1
    # An episode's lowest confidence is a conformal p-value: at most uniform, and not degenerate.
    assert np.mean(np.array(lowest) <= 0.5) < 0.7
    assert np.std(lowest) > 0.1


@pytest.mark.parametrize(
    "planned",
    [
        np.zeros((0, 4), np.float32),
        np.zeros((5, 3), np.float32),
        np.full((5, 4), np.nan),
        np.full((5, 4), 1e300),
        np.zeros((101, 4), np.float32),
        np.zeros(4, np.float32),
        np.zeros((1, 5, 4), np.float32),
        [[256.0] * 4] * 5,
        [[1.0], [1.0, 2.0]],
        np.array([["a"] * 4] * 5),
        np.zeros((5, 4), np.complex64),
        np.full((5, 4), None),
        "plan",
        object(),
        7,
    ],
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
        {"latch": Level.NOMINAL},
        {"latch": Level.UNKNOWN},
        {"max_latency_s": 0.0},
        {"max_latency_s": math.nan},
        {"domain_tolerance": -0.1},
        {"domain_tolerance": math.nan},
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        SessionConfig(**setting)


class Switched(Monitor):
    """A monitor whose arming and drift can be set."""

    armed = True
    disarmed_reason = "other engine"
    drift_alarmed = False


@pytest.fixture
def switched(model: WorldModel) -> Switched:
    monitor = Switched.load(model)
    assert isinstance(monitor, Switched)
    return monitor


@pytest.fixture
def long_stream(make_episode: Any) -> list[Observation]:
    """A nominal episode of 70 steps; the calibration's have 24."""
    return list(observations(make_episode(9002, 70)))


def _dark(stream: list[Observation], first: int, last: int) -> list[Observation]:
    black = np.zeros_like(stream[0].frame)
    return [_replace(o, frame=black) if first <= i <= last else o for i, o in enumerate(stream)]


def test_a_rejection_stays_until_an_accepted_reset(
    model: WorldModel, long_stream: list[Observation]
) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0))
    stream = _dark(long_stream, 12, 14)
    flags = _run(session, stream[:14])
    assert flags[-1].level is Level.REJECT
    assert flags[-1].latched
    assert "latched" in flags[-1].reasons
    refused = session.reset_latch()
    assert not refused.accepted
    assert "fault is present" in refused.reason
    assert "innovation" in refused.reason, "it tells what the fault is"
    flags = _run(session, stream[14:])
    assert {flag.level for flag in flags} == {Level.REJECT}
    assert flags[-1].raw_level is Level.NOMINAL
    assert flags[-1].reasons == ("latched",)
    bad = session.step(_replace(stream[-1], stamp_s=-1.0)).flag
    assert (bad.level, bad.latched) == (Level.UNKNOWN, True)
    assert "no valid judgment" in session.reset_latch().reason
    session.begin_episode()
    flags = _run(session, long_stream[:7])
    assert [flag.level for flag in flags] == [Level.UNKNOWN] * 3 + [Level.REJECT] * 4
    accepted = session.reset_latch()
    assert accepted.accepted
    assert "REJECT released" in accepted.reason
    after = session.step(long_stream[7]).flag
    assert (after.level, after.latched, after.reasons) == (Level.NOMINAL, False, ())
    assert session.reset_latch().accepted, "nothing is latched"


def test_a_fault_during_the_start_up_does_not_latch(
    model: WorldModel, long_stream: list[Observation]
) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0, latch=Level.CAUTION))
    flags = _run(session, _dark(long_stream, 3, 3)[:5])
    assert flags[3].level is Level.REJECT
    assert not any(flag.latched for flag in flags)


@pytest.mark.parametrize(
    ("value", "outside"), [(550.0, False), (580.0, True), (-40.0, False), (-60.0, True)]
)
def test_actions_outside_the_calibrated_range(
    session: Session, stream: list[Observation], value: float, outside: bool
) -> None:
    # Calibrated on 0 to 512; a tenth of that range is tolerated.
    _run(session, stream[:10])
    action = np.array([256.0, 256.0, 256.0, value], np.float32)
    flag = session.step(_replace(stream[10], action=action)).flag
    assert ("out_of_domain" in flag.reasons) == outside
    assert flag.raw_level >= (Level.CAUTION if outside else Level.NOMINAL)


@pytest.mark.parametrize(
    ("stretch", "outside"), [(1.0, False), (1.09, False), (1.15, True), (0.92, False), (0.88, True)]
)
def test_a_frame_rate_outside_the_calibrated_one(
    session: Session, stream: list[Observation], stretch: float, outside: bool
) -> None:
    flags = _run(session, [_replace(o, stamp_s=stretch * o.stamp_s) for o in stream])
    assert not any("out_of_domain" in flag.reasons for flag in flags[:10]), "too few gaps to tell"
    assert all(("out_of_domain" in flag.reasons) == outside for flag in flags[10:])
    assert not outside or all(flag.level >= Level.CAUTION for flag in flags[10:])


def test_jitter_is_not_another_rate(session: Session, stream: list[Observation]) -> None:
    rng = np.random.default_rng(0)
    shifted = [_replace(o, stamp_s=o.stamp_s + rng.uniform(0.0, 0.07)) for o in stream]
    assert not any("out_of_domain" in flag.reasons for flag in _run(session, shifted))


def test_a_drift_alarm_is_caution_at_least(
    model: WorldModel, switched: Switched, stream: list[Observation]
) -> None:
    session = Session(model, switched, SessionConfig(samples=0))
    _run(session, stream[:10])
    switched.drift_alarmed = True
    flag = session.step(stream[10]).flag
    assert flag.level >= Level.CAUTION
    assert "drift" in flag.reasons


def test_not_armed_is_unknown_and_arming_warms_up_first(
    model: WorldModel,
    switched: Switched,
    stream: list[Observation],
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = Session(model, switched, SessionConfig(samples=4))
    before = _run(session, stream[:8])
    assert before[-1].level is not Level.UNKNOWN
    switched.armed = False
    with caplog.at_level(logging.WARNING):
        updates = [session.step(observation) for observation in stream[8:14]]
    assert all(update.flag.level is Level.UNKNOWN for update in updates)
    assert all("not_armed" in update.flag.reasons for update in updates)
    assert all(update.futures is None for update in updates)
    assert switched.drift.blocks == 0, "nothing is gathered, not for drift either"
    assert [r.getMessage() for r in caplog.records] == ["not armed: other engine"]
    switched.armed = True
    after = _run(session, stream[14:19])
    assert [flag.level is Level.UNKNOWN for flag in after] == [True] * 3 + [False] * 2


def test_a_run_longer_than_the_calibration_counts_its_periods(
    session: Session, long_stream: list[Observation], caplog: pytest.LogCaptureFixture
) -> None:
    # The calibration's episodes have 25 frames, the first 3 of which are not judged.
    with caplog.at_level(logging.WARNING):
        flags = _run(session, long_stream)
    assert [flag.episode_steps for flag in flags] == [0, 0, 0, *range(1, 69)]
    assert [flag.budget_period for flag in flags[:4]] == [0, 0, 0, 1]
    periods = {period: flags[3 + 22 * period].budget_period for period in range(3)}
    assert periods == {0: 1, 1: 2, 2: 3}
    assert flags[2 + 22].budget_period == 1
    assert sum("longer than the 22 judged" in r.getMessage() for r in caplog.records) == 1
    assert all("out_of_domain" not in flag.reasons for flag in flags), "not a level"
    session.begin_episode()
    again = _run(session, long_stream[:5])
    assert [flag.episode_steps for flag in again] == [0, 0, 0, 1, 2]
    assert "clock_jump" not in again[0].reasons, "an episode may begin at any time"


@pytest.mark.parametrize("stamp_s", [None, "1.0", math.nan, math.inf, 10**400, object()])
def test_no_stamp_whatever_raises(
    model: WorldModel, stream: list[Observation], stamp_s: Any
) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0), clock=lambda: 0.0)
    flag = session.step(_replace(stream[0], stamp_s=stamp_s)).flag
    assert flag.level is Level.UNKNOWN
    assert "clock_jump" in flag.reasons


def test_stamps_may_be_numpy_numbers(session: Session, stream: list[Observation]) -> None:
    flags = _run(session, [_replace(o, stamp_s=np.float32(o.stamp_s)) for o in stream])
    assert flags[-1].level is not Level.UNKNOWN


def test_a_score_that_is_no_number_gives_unknown(
    model: WorldModel, stream: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0))
    _run(session, stream[:8])
    predict = model.predict
    with monkeypatch.context() as patched:
        patched.setattr(
            type(model), "predict", lambda self, *arguments: predict(*arguments) * np.nan
        )
        flag = session.step(stream[8]).flag
    assert flag.level is Level.UNKNOWN
    assert "non_finite" in flag.reasons
    after = _run(session, stream[9:14])
    assert [flag.level is Level.UNKNOWN for flag in after] == [True] * 3 + [False] * 2


def test_a_monitor_of_another_model_is_refused(
    model: WorldModel, calibrated_bundle: Path, linear_bundle: Path
) -> None:
    monitor = Monitor.load(model)
    Session(WorldModel.load(calibrated_bundle), monitor, SessionConfig(samples=0))
    with pytest.raises(InputError, match=r"the monitor is of .*Monitor.load"):
        Session(WorldModel.load(linear_bundle), monitor, SessionConfig(samples=0))


def test_a_monitor_of_another_variant_is_refused(calibrated_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.jepa"
    shutil.copytree(calibrated_bundle, path)
    base = Bundle.open(path)
    fp32 = base.manifest.variants["fp32"]
    with staged_bundle(path, base=base) as staging:
        for graph in ("encoder", "predictor"):  # other bytes, the same numbers
            onnx_model = onnx.load(staging / f"{graph}.onnx")
            onnx_model.doc_string = "int8"
            onnx.save(onnx_model, str(staging / f"{graph}8.onnx"))
        int8 = msgspec.structs.replace(
            fp32,
            precision="int8",
            encoder=msgspec.structs.replace(fp32.encoder, file="encoder8.onnx"),
            predictor=msgspec.structs.replace(fp32.predictor, file="predictor8.onnx"),
        )
        variants = {**base.manifest.variants, "int8": int8}
        seal(staging, msgspec.structs.replace(base.manifest, variants=variants))
    monitor = Monitor.load(WorldModel.load(path, "fp32"))
    with pytest.raises(InputError, match=r"two.jepa fp32 .*two.jepa int8"):
        Session(WorldModel.load(path, "int8"), monitor, SessionConfig(samples=0))
    Session(WorldModel.load(path, "fp32"), monitor, SessionConfig(samples=0))


def test_a_used_monitor_starts_anew_with_a_session(
    model: WorldModel, stream: list[Observation]
) -> None:
    monitor = Monitor.load(model)
    first = _run(Session(model, monitor, SessionConfig(samples=0)), stream[:8])
    second = _run(Session(model, monitor, SessionConfig(samples=0)), stream[:8])
    assert [flag.reasons for flag in first] == [flag.reasons for flag in second]
    assert str([flag.score for flag in first]) == str([flag.score for flag in second])


def test_what_the_monitor_refuses_is_a_mismatch(
    model: WorldModel, stream: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(model, Monitor.load(model), SessionConfig(samples=0))

    def refuse(*_: object) -> None:
        raise InputError("another shape")

    monkeypatch.setattr(Monitor, "update", refuse)
    assert session.step(stream[0]).flag.reasons == ("input_mismatch", "warming_up")


def test_a_latch_is_not_released_after_the_input_stopped(
    model: WorldModel, long_stream: list[Observation]
) -> None:
    now = [0.0]
    session = Session(model, Monitor.load(model), SessionConfig(samples=0), clock=lambda: now[0])
    for observation in _dark(long_stream, 12, 14)[:30]:
        now[0] = observation.stamp_s + 0.01
        flag = session.step(observation).flag
    assert (flag.raw_level, flag.latched) == (Level.NOMINAL, True)
    now[0] += 60.0
    refused = session.reset_latch()
    assert not refused.accepted
    assert "no frame has come in time" in refused.reason
    now[0] = math.nan
    assert not session.reset_latch().accepted
    now[0] = observation.stamp_s + 0.01
    assert session.reset_latch().accepted


@pytest.mark.parametrize("stamp_s", [math.nan, 1e6])
def test_a_frame_without_a_time_of_its_own_is_not_kept(
    model: WorldModel, stream: list[Observation], stamp_s: float
) -> None:
    now = [0.0]
    monitor = Monitor.load(model)
    session = Session(model, monitor, SessionConfig(samples=0), clock=lambda: now[0])
    for observation in stream[:8]:
        now[0] = observation.stamp_s
        session.step(observation)
    now[0] = stream[8].stamp_s
    update = session.step(_replace(stream[8], stamp_s=stamp_s))
    assert update.embedding is None
    assert monitor.update(np.zeros((1, 6), np.float32), None) is None, "it begins with the next"


@pytest.mark.parametrize("field", ["latents", "mean", "spread", "bound"])
def test_futures_are_published_only_when_all_of_them_is_finite(
    model: WorldModel, stream: list[Observation], monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    session = Session(model, Monitor.load(model))
    _run(session, stream[:10])
    healthy = Monitor.sample_futures

    def broken(self: Monitor, *arguments: Any) -> Futures:
        futures = healthy(self, *arguments)
        part = getattr(futures, field)
        return dataclasses.replace(futures, **{field: np.full_like(part, np.inf)})

    assert session.step(stream[10]).futures is not None
    monkeypatch.setattr(Monitor, "sample_futures", broken)
    update = session.step(stream[11])
    assert update.futures is None
    assert update.flag.level is not Level.UNKNOWN


def test_the_bound_needs_the_samples_and_latents_of_the_calibration(
    model: WorldModel, stream: list[Observation]
) -> None:
    fitted = Monitor.load(model).latent_variable.calibration
    assert fitted is not None
    assert fitted.samples == 32
    for samples, complete in ((32, True), (8, False)):
        session = Session(model, Monitor.load(model), SessionConfig(samples=samples))
        futures = [session.step(observation).futures for observation in stream[:10]]
        assert futures[-1] is not None
        assert (futures[-1].bound is not None) == complete
        if fitted.recency > 0.0:
            assert futures[2] is not None
            assert futures[2].bound is None


def test_a_rate_at_the_limit_is_not_outside_by_rounding(
    model: WorldModel, stream: list[Observation]
) -> None:
    config = SessionConfig(samples=0, domain_tolerance=0.0)
    # In seconds since 1970, good to 2.4e-7 s; a hair slower, so that the gaps are not all alike.
    shifted = [_replace(o, stamp_s=o.stamp_s * (1.0 + 1e-7) + 1.7e9) for o in stream]
    session = Session(model, Monitor.load(model), config)
    middle = np.full(4, 256.0, np.float32)
    flags = _run(session, [o if o.action is None else _replace(o, action=middle) for o in shifted])
    assert not any("out_of_domain" in flag.reasons for flag in flags)


def test_a_gap_begins_no_drift_block_and_an_episode_does(
    model: WorldModel, long_stream: list[Observation]
) -> None:
    monitor = Monitor.load(model)
    session = Session(model, monitor, SessionConfig(samples=0))
    assert session.poll() is None
    _run(session, long_stream[:10])
    session.step(_replace(long_stream[10], frame=np.zeros((4, 4, 3), np.uint8)))
    _run(session, long_stream[11:])
    assert monitor.drift.blocks == 0
    session.begin_episode()
    _run(session, long_stream)
    assert monitor.drift.blocks == 1
