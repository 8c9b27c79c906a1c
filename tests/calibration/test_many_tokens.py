# SPDX-License-Identifier: Apache-2.0
"""Models of several tokens that carry the robot's state: only what energies compare is judged."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jepa_edge import channels, latent_variable
from jepa_edge.calibration import dataset, spool
from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.channels import available, local_energy
from jepa_edge.encoding import encode_episode
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.flags import Level
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Recording, RecordingInfo, RecordingWriter
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.world_model import WorldModel

from ..state_world import (
    ACTION,
    DIM,
    PATCHES,
    RATE_HZ,
    SEEN,
    STATE,
    TOKENS,
    make_state_bundle,
    record_states,
    state_episode,
)

OPTIONS = CalibrateOptions(
    alpha=0.1, horizon=3, hidden=16, rank=2, members=3, samples=8, selftest_episodes=4, groups=0
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_states(tmp_path_factory.mktemp("runs") / "runs", range(36))


@pytest.fixture(scope="module")
def calibrated(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = make_state_bundle(tmp_path_factory.mktemp("state") / "state.jepa")
    calibrate_bundle(bundle, runs, OPTIONS)
    return bundle


def test_the_state_is_carried_and_not_judged(calibrated: Path) -> None:
    model = WorldModel.load(calibrated)
    monitor = Monitor.load(model)
    variable = monitor.latent_variable
    assert (variable.tokens, variable.base.shape[1]) == (PATCHES, SEEN)
    assert variable.calibration is not None
    names = {scale.name for scale in monitor.calibration.channels}
    assert names == {channel.name for channel in available(model.manifest)}
    assert "innovation_local" in names

    encoded = encode_episode(model, state_episode(1000))
    assert encoded.latents.shape[1:] == (TOKENS, DIM)
    scores = monitor.episode(encoded.latents, encoded.actions)
    assert np.nanmax(scores) < 2.0 * monitor.calibration.thresholds.caution
    moved = encoded.latents.copy()
    rng = np.random.default_rng(0)
    moved[:, PATCHES:] += rng.normal(0.0, 1e3, moved[:, PATCHES:].shape).astype(np.float32)
    moved[:, :, SEEN:] += 77.0
    np.testing.assert_array_equal(monitor.episode(moved, encoded.actions), scores)


def test_sampled_futures_leave_the_state_alone(calibrated: Path) -> None:
    model = WorldModel.load(calibrated)
    monitor = Monitor.load(model)
    encoded = encode_episode(model, state_episode(1001))
    futures = monitor.sample_futures(encoded.latents[:7], encoded.actions[:9], 16, 0)
    states = encoded.latents[6, PATCHES, :STATE] + np.cumsum(encoded.actions[6:9], axis=0)
    np.testing.assert_allclose(futures.mean[:, PATCHES, :STATE], states, rtol=1e-6)
    for part in (futures.latents[:, :, PATCHES:], futures.latents[:, :, :, SEEN:]):
        np.testing.assert_array_equal(part, np.broadcast_to(part[:1], part.shape))
    seen = futures.latents[:, :, :PATCHES, :SEEN]
    assert (seen.var(axis=0) > 0.0).all()
    np.testing.assert_allclose(
        futures.aleatoric, seen.var(axis=0, ddof=1).mean(axis=(1, 2)), rtol=1e-5
    )
    error = np.sqrt(np.mean((futures.mean - encoded.latents[7:10])[:, :PATCHES, :SEEN] ** 2))
    assert 0.2 < futures.spread.mean() / error < 5.0


def test_a_session_takes_the_state(calibrated: Path) -> None:
    model = WorldModel.load(calibrated)
    episode = state_episode(1002)
    assert episode.robot_state is not None
    session = Session(model, Monitor.load(model), SessionConfig(samples=4, horizon=2))
    levels = []
    for step, frame in enumerate(episode.frames):
        observation = Observation(
            stamp_s=float(episode.stamps_s[step]),
            frame=frame,
            action=episode.actions[step - 1] if step else None,
            state=episode.robot_state[step],
        )
        update = session.step(observation)
        levels.append(update.flag.level)
    assert update.futures is not None
    assert update.futures.latents.shape == (4, 2, TOKENS, DIM)
    assert Level.UNKNOWN not in levels[4:]
    later_s = observation.stamp_s
    for wrong in (None, np.zeros(STATE + 1, np.float32)):
        later_s += 1.0 / RATE_HZ
        missing = dataclasses.replace(observation, stamp_s=later_s, state=wrong)
        assert session.step(missing).flag.reasons[0] == "input_mismatch"


def test_a_recording_without_the_state_is_refused(calibrated: Path, tmp_path: Path) -> None:
    with RecordingWriter(
        tmp_path / "runs", RecordingInfo(rate_hz=RATE_HZ, action_dim=ACTION)
    ) as writer:
        for seed in range(30):
            writer.add(dataclasses.replace(state_episode(seed), robot_state=None))
    with pytest.raises(InputError, match="robot_state"):
        calibrate_bundle(calibrated, Recording(tmp_path / "runs"), OPTIONS)


def test_patch_latents_lie_on_disk(
    calibrated: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if every array were too large: the same thresholds, and no file is left."""
    bundle = make_state_bundle(tmp_path / "state.jepa")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(spool, "EPISODE_BYTES", 0)
    monkeypatch.setattr(dataset, "SPLIT_BYTES", 0)
    monkeypatch.setattr(channels, "_ROLL_NUMBERS", 3 * 2 * TOKENS * DIM)
    monkeypatch.setattr(latent_variable, "_PART", 7 * PATCHES * SEEN * 2)
    report = calibrate_bundle(bundle, runs, OPTIONS).variants["fp32"]
    assert list(folder.iterdir()) == []
    expected = Monitor.load(WorldModel.load(calibrated)).calibration
    assert report.calibration.thresholds.caution == pytest.approx(
        expected.thresholds.caution, rel=0.02
    )
    np.testing.assert_allclose(
        report.calibration.radii[0].energies, expected.radii[0].energies, rtol=0.02
    )


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CalibrationError, match=r"no room for 0\.1 GB.*TMPDIR"):
        spool.empty((10, 10), np.float32, 0)
    assert shutil.disk_usage(tempfile.gettempdir()).free > 0
    assert spool.empty((10, 10), np.float32, 400).shape == (10, 10)


def test_arrays_on_disk_share_files_and_go_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of episodes would else take a descriptor each."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spool, "FILE_BYTES", 4 << 20)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=(40 + k, 7, 300)).astype(np.float32) for k in range(40)]
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(spool.held, arrays))
    assert sum(array.nbytes for array in kept) > 16 << 20
    assert len(list(descriptors.iterdir())) - before <= 10
    for array, copy in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(copy, array)
        assert copy.dtype == np.float32
        assert not copy.flags.owndata
    large = spool.empty((1 << 21,), np.float32, 0)  # has a file of its own
    large[...] = 1.0
    np.testing.assert_array_equal(kept[-1], arrays[-1])
    del kept, copy, large
    assert len(list(descriptors.iterdir())) == before
    assert list(tmp_path.iterdir()) == []


def test_local_energy_is_that_of_the_worst_tenth() -> None:
    rng = np.random.default_rng(2)
    energies = rng.gamma(2.0, size=(5, 37))
    expected = np.sort(energies, axis=1)[:, -4:].mean(axis=1)
    np.testing.assert_allclose(local_energy(energies), expected)
    np.testing.assert_allclose(local_energy(energies[:, :1]), energies[:, 0])
