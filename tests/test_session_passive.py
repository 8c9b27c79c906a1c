# SPDX-License-Identifier: Apache-2.0
"""Sessions of models without actions, frame by frame and clip by clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.clip import clips_of
from jepa_edge.encoding import encode_episode
from jepa_edge.errors import InputError
from jepa_edge.faults import inject_recorded, parse_fault
from jepa_edge.flags import Level
from jepa_edge.manifest import ClipSpec
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Episode
from jepa_edge.session import Flag, Observation, Session, SessionConfig
from jepa_edge.world_model import WorldModel

from .passive_world import RATE_HZ, make_passive_bundle, picture_episode, record_pictures

CLIP = ClipSpec(frames=4, tubelet=2, stride=1, hop=2)


@pytest.fixture(scope="module", params=[None, CLIP], ids=["frames", "clips"])
def calibrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, clip = tmp_path_factory.mktemp("passive"), request.param
    bundle = make_passive_bundle(folder / "passive.jepa", clip=clip)
    rate_hz = RATE_HZ if clip is None else clip.hop * RATE_HZ
    runs = record_pictures(folder / "runs", range(40), camera_hz=rate_hz)
    calibrate_bundle(bundle, runs, CalibrateOptions(alpha=0.1, selftest_episodes=0))
    return bundle


@pytest.fixture
def model(calibrated: Path) -> WorldModel:
    return WorldModel.load(calibrated)


def steps(model: WorldModel, episode: Episode) -> Iterator[NDArray[np.uint8]]:
    """What the session sees of an episode, step by step."""
    clip = model.manifest.observation.clip
    if clip is None:
        yield from episode.frames
    else:
        yield from (part for _, part in clips_of(episode.frames, clip))


def run(session: Session, episode: Episode, **more: NDArray[np.float32]) -> list[Flag]:
    flags = []
    for step, frame in enumerate(steps(session.model, episode)):
        update = session.step(Observation(stamp_s=step / RATE_HZ, frame=frame, **more))
        assert update.futures is None
        flags.append(update.flag)
    return flags


def test_a_session_judges_what_the_batch_judges(model: WorldModel) -> None:
    monitor = Monitor.load(model)
    session = Session(model, monitor, SessionConfig(samples=8))
    clip = model.manifest.observation.clip
    camera_hz = RATE_HZ if clip is None else clip.hop * RATE_HZ
    episode = picture_episode(400, 23, camera_hz=camera_hz)
    flags = run(session, episode)
    encoded = encode_episode(model, episode)
    scores = monitor.episode(encoded.latents, encoded.actions, encoded.masked)
    assert len(flags) == len(scores)
    assert [flag.level for flag in flags[:3]] == [Level.UNKNOWN] * 3
    assert all(flag.level is not Level.UNKNOWN for flag in flags[3:])
    found = [flag.score for flag in flags[3:]]
    np.testing.assert_allclose(found, scores[3:].max(axis=1), rtol=1e-4, atol=1e-4)


def test_actions_that_come_all_the_same_are_left_out(model: WorldModel) -> None:
    episode = picture_episode(401, 13)
    plain = run(Session(model, Monitor.load(model)), episode)
    driven = run(
        Session(model, Monitor.load(model)),
        episode,
        action=np.full(7, 1e9, np.float32),
        planned=np.zeros((3, 7), np.float32),
    )
    assert [flag.score for flag in driven[3:]] == [flag.score for flag in plain[3:]]
    assert [flag.reasons for flag in driven] == [flag.reasons for flag in plain]


def test_an_occluded_camera_is_rejected_and_latches(model: WorldModel) -> None:
    session = Session(model, Monitor.load(model))
    onset = 13
    faulty = inject_recorded(picture_episode(402, 27), parse_fault(f"occlusion@{onset}"), None)
    flags = run(session, faulty)
    assert flags[-1].level is Level.REJECT
    assert "innovation" in flags[-1].reasons
    assert flags[-1].latched
    assert not session.reset_latch().accepted


def test_a_gap_and_a_new_episode_warm_up_anew(model: WorldModel) -> None:
    session = Session(model, Monitor.load(model))
    frame = next(steps(model, picture_episode(403)))
    stamps_s = [0.0, 0.2, 0.4, 0.6, 2.0, 2.2, 2.4, 2.6, 2.8]
    levels = []
    for stamp_s in stamps_s:
        flag = session.step(Observation(stamp_s=stamp_s, frame=frame)).flag
        levels.append("clock_jump" in flag.reasons or "warming_up" in flag.reasons)
    assert levels == [True] * 3 + [False] + [True] * 4 + [False]
    session.begin_episode()
    flag = session.step(Observation(stamp_s=0.0, frame=frame)).flag
    assert (flag.level, flag.reasons) == (Level.UNKNOWN, ("warming_up",))


def test_lost_camera_frames_warm_up_anew_though_the_stamps_are_even(model: WorldModel) -> None:
    session = Session(model, Monitor.load(model))
    frame = next(steps(model, picture_episode(403)))
    told = []
    for step in range(12):
        continues = step not in (0, 5)  # of the first there is nothing to continue
        observation = Observation(stamp_s=step / RATE_HZ, frame=frame, continues=continues)
        told.append(session.step(observation).flag.reasons[:1])
    warming = ("warming_up",)
    assert told[:3] == [warming] * 3
    assert told[5:9] == [("clock_jump",), warming, warming, warming]
    assert all(warming != reasons for reasons in (*told[3:5], *told[9:]))


def test_an_episode_with_a_gap_makes_no_clips(model: WorldModel) -> None:
    clip = model.manifest.observation.clip
    camera_hz = RATE_HZ if clip is None else clip.hop * RATE_HZ
    episode = picture_episode(406, 21, camera_hz=camera_hz)
    stamps_s = episode.stamps_s + 0.74 / camera_hz * (np.arange(21) > 4)
    near = replace(episode, stamps_s=stamps_s)
    encode_episode(model, near)
    lost = replace(episode, stamps_s=episode.stamps_s + 0.8 / camera_hz * (np.arange(21) > 4))
    if clip is None:
        encode_episode(model, lost)
        return
    with pytest.raises(InputError, match=r"pictures 406 has 1 gaps.*1\.80 .*after frame 4 at 0\.4"):
        encode_episode(model, lost)


def test_frames_that_do_not_fit_are_unknown(model: WorldModel) -> None:
    session = Session(model, Monitor.load(model))
    good = next(steps(model, picture_episode(404)))
    wrong = good[0] if good.ndim == 4 else np.repeat(good[None], 4, axis=0)
    flag = session.step(Observation(stamp_s=0.0, frame=wrong)).flag
    assert (flag.level, flag.reasons[0]) == (Level.UNKNOWN, "input_mismatch")


def test_an_uncalibrated_session_still_encodes(model: WorldModel) -> None:
    session = Session(model, None)
    update = session.step(Observation(stamp_s=0.0, frame=next(steps(model, picture_episode(405)))))
    assert update.embedding is not None
    assert update.flag.reasons == ("uncalibrated",)
