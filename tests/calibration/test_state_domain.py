# SPDX-License-Identifier: Apache-2.0
"""The robot's own state is held against what the calibration's episodes had."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.errors import CalibrationError
from jepa_edge.manifest import calibration_name
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Recording
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.world_model import WorldModel

from ..state_world import STATE, make_state_bundle, record_states, state_episode

OPTIONS = CalibrateOptions(
    alpha=0.1, horizon=3, hidden=16, rank=2, members=3, samples=8, selftest_episodes=0, groups=0
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_states(tmp_path_factory.mktemp("runs") / "runs", range(36))


@pytest.fixture(scope="module")
def calibrated(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = make_state_bundle(tmp_path_factory.mktemp("state") / "state.jepa")
    calibrate_bundle(bundle, runs, OPTIONS)
    return bundle


def _reasons(
    model: WorldModel, seed: int, spoil: Callable[[NDArray[np.float32], int], NDArray[np.float32]]
) -> list[tuple[str, ...]]:
    """Reasons of the flags of an episode whose states are spoiled, frame by frame."""
    episode = state_episode(seed)
    assert episode.robot_state is not None
    session = Session(model, Monitor.load(model), SessionConfig(samples=0, latch=None))
    return [
        session.step(
            Observation(
                stamp_s=float(episode.stamps_s[step]),
                frame=frame,
                action=episode.actions[step - 1] if step else None,
                state=spoil(episode.robot_state, step),
            )
        ).flag.reasons
        for step, frame in enumerate(episode.frames)
    ]


def test_a_state_outside_of_the_calibrated_range_is_out_of_domain(
    calibrated: Path, runs: Path
) -> None:
    model = WorldModel.load(calibrated)
    domain = Monitor.load(model).calibration.domain
    states = np.concatenate([e.robot_state for e in Recording(runs) if e.robot_state is not None])
    np.testing.assert_array_equal(domain.state_low, states.min(axis=0))
    np.testing.assert_array_equal(domain.state_high, states.max(axis=0))
    far = np.float32(1.2) * states.max(axis=0) - np.float32(0.2) * states.min(axis=0)
    near = np.float32(1.05) * states.max(axis=0) - np.float32(0.05) * states.min(axis=0)
    moving = np.arange(99, dtype=np.float32)[:, None] * np.float32(1e-3)
    for wrong, found in ((far, True), (near, False), (np.full(STATE, 1e30), True)):
        told = _reasons(model, 1003, lambda _, k, w=wrong: (w - moving[k]).astype(np.float32))  # type: ignore[misc]
        assert ["out_of_domain" in reasons for reasons in told] == [found] * len(told)


def test_a_state_that_stands_while_the_command_changes_is_out_of_domain(calibrated: Path) -> None:
    model = WorldModel.load(calibrated)
    assert Monitor.load(model).calibration.domain.state_still_steps == 0
    told = _reasons(model, 1010, lambda states, k: states[min(k, 5)] - states[0])
    frozen = ["out_of_domain" in reasons for reasons in told]
    assert frozen == [k >= 5 + 6 for k in range(len(told))]


def test_a_calibration_from_before_states_were_judged_is_refused(
    calibrated: Path, tmp_path: Path
) -> None:
    path = tmp_path / "old.jepa"
    shutil.copytree(calibrated, path)
    bundle = Bundle.open(path)
    name = calibration_name("fp32")
    old = json.loads(bundle.file(name).read_bytes())
    for key in ("state_low", "state_high", "state_still_steps"):
        del old["domain"][key]
    with staged_bundle(path, base=bundle) as staging:
        (staging / name).write_text(json.dumps(old))
        seal(staging, bundle.manifest)
    with pytest.raises(CalibrationError, match=r"0 numbers of the robot's state.*takes 2.*again"):
        Monitor.load(WorldModel.load(path))


def test_a_frame_without_a_state_says_so(
    calibrated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(WorldModel.load(calibrated), None)
    frame = state_episode(1005).frames[0]
    with caplog.at_level(logging.WARNING):
        flag = session.step(Observation(stamp_s=0.0, frame=frame)).flag
    assert flag.reasons == ("input_mismatch", "uncalibrated")
    assert "no state of the robot within sync_slop_s" in caplog.text
