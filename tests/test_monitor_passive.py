# SPDX-License-Identifier: Apache-2.0
"""A monitor without actions: what it takes, what it refuses, and files that do not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration_file import Calibration
from jepa_edge.channels import CHANNELS, first_step
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.flags import Level, Reason
from jepa_edge.latent_map import LatentMap
from jepa_edge.manifest import calibration_name, heads_name
from jepa_edge.monitor import Monitor
from jepa_edge.world_model import WorldModel

from .passive_world import DIM, TOKENS, make_passive_bundle, picture_episode, record_pictures


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("passive")
    bundle = make_passive_bundle(folder / "passive.jepa")
    runs = record_pictures(folder / "runs", range(40))
    calibrate_bundle(bundle, runs, CalibrateOptions(alpha=0.1, selftest_episodes=0))
    return bundle


@pytest.fixture
def monitor(calibrated: Path) -> Monitor:
    return Monitor.load(WorldModel.load(calibrated))


def seen(monitor: Monitor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents and masked energies of one run."""
    frames = picture_episode(300).frames
    latents = monitor.model.encode(frames)
    return latents, monitor.model.masked_energy(frames, latents)


def test_the_warm_up_is_as_long_as_with_actions(monitor: Monitor) -> None:
    latents, masked = seen(monitor)
    first = first_step(monitor.model.manifest.history)
    scores = [
        monitor.update(latent, None, energy)
        for latent, energy in zip(latents[:8], masked[:8], strict=True)
    ]
    assert [score is None for score in scores] == [True] * first + [False] * (8 - first)
    monitor.reset()
    again = [
        monitor.update(latent, None, energy)
        for latent, energy in zip(latents[:8], masked[:8], strict=True)
    ]
    for one, other in zip(scores[first:], again[first:], strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.scores, other.scores)


def test_what_is_hidden_and_wrong_alarms_as_innovation(monitor: Monitor) -> None:
    latents, masked = seen(monitor)
    scores = None
    for index in range(10):
        energy = masked[index].copy()
        if index == 9:
            token = int(np.flatnonzero(~np.isnan(energy))[0])
            energy[token] *= 100.0
        scores = monitor.update(latents[index], None, energy)
        if scores is not None and index < 9:
            assert scores.level is Level.NOMINAL
    assert scores is not None
    assert scores.level is Level.REJECT
    assert scores.reasons == Reason.INNOVATION
    assert scores.by_channel()["innovation_local"] > monitor.calibration.thresholds.reject
    absent = {c.name for c in CHANNELS} - set(scores.by_channel())
    assert {"action", "delay", "spread", "disagreement", "innovation_long"} <= absent


def test_what_does_not_fit_is_refused_and_changes_nothing(monitor: Monitor) -> None:
    latents, masked = seen(monitor)
    for index in range(5):
        monitor.update(latents[index], None, masked[index])
    for latent, action, energy, why in (
        (latents[5], np.zeros(2, np.float32), masked[5], "takes none"),
        (latents[5], None, None, "masked energies"),
        (latents[5], None, masked[5, :3], "masked energies"),
        (latents[5, :3], None, masked[5], "latent has shape"),
        (np.full_like(latents[5], np.nan), None, masked[5], "latent has shape"),
    ):
        with pytest.raises(InputError, match=why):
            monitor.update(latent, action, energy)
    after = monitor.update(latents[5], None, masked[5])
    expected = monitor.episode(latents, np.zeros((20, 0), np.float32), masked)[5]
    assert after is not None
    np.testing.assert_allclose(after.scores, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="latents have shape"):
        monitor.episode(latents[:, :3], np.zeros((20, 0), np.float32), masked)
    with pytest.raises(InputError, match="masked energies"):
        monitor.episode(latents, np.zeros((20, 0), np.float32), masked[:-1])


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_a_broken_mask_prediction_is_infinite(monitor: Monitor, tokens: int) -> None:
    """One hidden token without a number is enough: it is not averaged away."""
    latents, masked = seen(monitor)
    broken = masked[5].copy()
    broken[np.flatnonzero(~np.isnan(broken))[:tokens]] = np.nan
    assert np.isnan(broken).sum() > np.isnan(masked[5]).sum()
    scores = None
    for index in range(6):
        scores = monitor.update(latents[index], None, masked[index] if index < 5 else broken)
    assert scores is not None
    assert scores.score == np.inf
    assert scores.level is Level.REJECT
    infinite = {c.name for c, s in zip(CHANNELS, scores.scores, strict=True) if s == np.inf}
    assert infinite == {"innovation", "innovation_local"}


def test_no_map_is_stored_where_nothing_can_be_imagined(calibrated: Path) -> None:
    assert LatentMap.read(Bundle.open(calibrated), "fp32") is None


def test_nothing_ahead_can_be_asked_for(monitor: Monitor) -> None:
    for ask in (
        lambda: monitor.latent_variable,
        lambda: monitor.sample_futures(
            np.zeros((1, TOKENS, DIM), np.float32), np.zeros((2, 1), np.float32), 4
        ),
    ):
        with pytest.raises(InputError, match="takes no actions"):
            ask()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("expected", None, "calibrated with no masked energy"),
        ("expected", np.zeros(TOKENS, np.float32), "one of them above 0"),
        ("expected", np.ones(TOKENS - 1, np.float32), "expected float32 with"),
        ("recorded.mean", np.zeros(DIM + 1, np.float32), "recorded.mean"),
        ("motion.whiten", None, "lacks the array"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    calibrated: Path, tmp_path: Path, name: str, value: NDArray[np.float32] | None, why: str
) -> None:
    opened = Bundle.open(calibrated)
    arrays = load((calibrated / heads_name("fp32")).read_bytes())
    arrays.pop(name)
    if value is not None:
        arrays[name] = value
    heads = save(arrays)
    calibration = msgspec.json.decode(
        (calibrated / calibration_name("fp32")).read_bytes(), type=Calibration
    )

    bound = msgspec.structs.replace(calibration, heads_sha256=hashlib.sha256(heads).hexdigest())
    with staged_bundle(tmp_path / "other.jepa") as staging:
        for file in opened.manifest.files:
            target = staging / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((calibrated / file).read_bytes())
        (staging / heads_name("fp32")).write_bytes(heads)
        (staging / calibration_name("fp32")).write_bytes(msgspec.json.encode(bound))
        seal(staging, opened.manifest)
    with pytest.raises(CalibrationError, match=why):
        Monitor.load(WorldModel.load(tmp_path / "other.jepa"))
