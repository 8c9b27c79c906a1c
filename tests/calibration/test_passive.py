# SPDX-License-Identifier: Apache-2.0
"""Calibration of models without actions: what it promises, sees, and refuses."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.bundle import Bundle
from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.dataset import hold
from jepa_edge.calibration.evaluation import EvaluateOptions, evaluate
from jepa_edge.calibration.evaluation.files import write_files
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.passive import _expected as expected_energy_of
from jepa_edge.calibration.passive import fit_passive
from jepa_edge.channels import BASE_CHANNELS, available
from jepa_edge.cli.app import cli
from jepa_edge.encoding import EncodedEpisode, encode_episode, frame_of, step_seeing, steps_of
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.faults import inject_recorded, parse_fault
from jepa_edge.manifest import ClipSpec
from jepa_edge.monitor import Monitor
from jepa_edge.passive import PassiveObserver
from jepa_edge.progress import silent
from jepa_edge.recording import Episode, Recording, RecordingInfo, RecordingWriter
from jepa_edge.selftest import run_selftest
from jepa_edge.world_model import WorldModel

from ..passive_world import (
    DIM,
    HIDDEN,
    RATE_HZ,
    TOKENS,
    make_passive_bundle,
    picture_episode,
    record_pictures,
)

ALPHA, CALIBRATION, FRESH = 0.1, 90, 120
CLIP = ClipSpec(frames=4, tubelet=2, stride=1, hop=2)
OPTIONS = CalibrateOptions(alpha=ALPHA, conformal=60, selftest_episodes=5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_pictures(tmp_path_factory.mktemp("runs") / "runs", range(CALIBRATION))


@pytest.fixture(scope="module", params=[True, False], ids=["masks", "encoder only"])
def calibrated(
    request: pytest.FixtureRequest, runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A calibrated bundle, with a mask predictor and without one."""
    folder = tmp_path_factory.mktemp("passive")
    bundle = make_passive_bundle(folder / "passive.jepa", masks=request.param)
    calibrate_bundle(bundle, runs, OPTIONS)
    return bundle


@pytest.fixture(scope="module")
def fresh() -> list[Episode]:
    return [picture_episode(seed) for seed in range(1000, 1000 + FRESH)]


def worst(monitor: Monitor, episode: Episode, first: int = 0) -> float:
    """Largest score of an episode from a frame on."""
    encoded = encode_episode(monitor.model, episode)
    scores = monitor.episode(encoded.latents, encoded.actions, encoded.masked)
    return float(np.nanmax(scores[first:]))


def test_nominal_episodes_alarm_at_alpha_and_faults_far_more_often(
    calibrated: Path, fresh: list[Episode]
) -> None:
    monitor = Monitor.load(WorldModel.load(calibrated))
    assert monitor.armed
    thresholds = monitor.calibration.thresholds
    alarms = sum(worst(monitor, episode) > thresholds.caution for episode in fresh)
    # Beta-binomial: the threshold is drawn with the conformal episodes.
    above = int((thresholds.episodes + 1) * ALPHA)
    law = stats.betabinom(FRESH, above, thresholds.episodes + 1 - above)
    assert law.ppf(0.001) <= alarms <= law.ppf(0.999)

    def seen(change: Callable[[Episode], Episode]) -> float:
        found = [worst(monitor, change(e), 10) > thresholds.caution for e in fresh[:30]]
        return float(np.mean(found))

    assert seen(lambda e: e) < 0.3
    for fault in ("occlusion:0.3@10", "freeze@10", "salt@10", "exposure@10"):
        injection = parse_fault(fault)
        assert seen(lambda e, i=injection: inject_recorded(e, i, None)) > 0.8, fault  # type: ignore[misc]

    def elsewhere(episode: Episode) -> Episode:
        frames = episode.frames.copy()
        frames[10:] = 255 - frames[10:, ::-1]
        return dataclasses.replace(episode, frames=frames)

    assert seen(elsewhere) == 1.0


def test_streaming_gives_what_the_batch_gives(calibrated: Path) -> None:
    model = WorldModel.load(calibrated)
    monitor = Monitor.load(model)
    episode = picture_episode(7)
    encoded = encode_episode(model, episode)
    assert encoded.latents.shape == (21, 1, DIM)
    expected = monitor.episode(encoded.latents, encoded.actions, encoded.masked)
    for frame, row in zip(episode.frames, expected, strict=True):
        latent = model.encode(frame[None])
        masked = model.masked_energy(frame[None], latent)[0] if model.has_masks else None
        scores = monitor.update(latent[0], None, masked)
        if np.isnan(row).all():
            assert scores is None
        else:
            assert scores is not None
            np.testing.assert_allclose(scores.scores, row, rtol=1e-4, atol=1e-4)
            there = {c.name for c in available(model.manifest)}
            assert set(scores.by_channel()) == there
    whole = monitor.episode(model.encode(episode.frames), encoded.actions, encoded.masked)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)


def test_the_report_says_what_there_is(calibrated: Path) -> None:
    model = WorldModel.load(calibrated)
    page = (calibrated / "reports/calibration_fp32.html").read_text()
    assert "takes no actions" in page
    assert ("no mask predictor" in page) is not model.has_masks
    calibration = Monitor.load(model).calibration
    assert (calibration.radii, calibration.groups, calibration.horizon) == ((), None, 0)
    assert calibration.domain.action_low == ()
    assert calibration.domain.rate_hz == RATE_HZ
    names = [scale.name for scale in calibration.channels]
    assert names == [channel.name for channel in available(model.manifest)]
    assert ("innovation_local" in names) is model.has_masks


def test_the_self_test_replays_faults_of_the_camera_only(calibrated: Path, tmp_path: Path) -> None:
    monitor = Monitor.load(WorldModel.load(calibrated))
    report = run_selftest(monitor, state=tmp_path)
    assert report.passed, report.failures
    names = [result.check.name.split("@")[0].split(":")[0] for result in report.results]
    cameras = ["occlusion", "freeze", "exposure", "salt"]
    assert names == ["false alarms", *(f"detects {name}" for name in cameras)]


def test_evaluation_leaves_out_what_needs_actions(calibrated: Path, tmp_path: Path) -> None:
    model = WorldModel.load(calibrated)
    monitor = Monitor.load(model)
    nominal = Recording(record_pictures(tmp_path / "nominal", range(500, 515)))
    report = evaluate(
        model, monitor, nominal, ["all"], EvaluateOptions(fault_episodes=4, workers=1)
    )
    assert (report.forecast, report.action_use) == (None, None)
    assert report.skipped["bias"] == "it changes commands, and the model takes none"
    assert {fault.fault for fault in report.alarms.faults} >= {"occlusion", "freeze", "lag"}
    assert set(report.alarms.nominal_by_channel) == {c.name for c in available(model.manifest)}
    assert any("takes no actions" in warning for warning in report.warnings)
    write_files(tmp_path / "out", report)
    assert "No forecasts" in (tmp_path / "out" / "evaluation.html").read_text()
    for fault, why in (("bias@5", "changes commands"), ("sim:pusht", "takes no actions")):
        with pytest.raises(InputError, match=why):
            evaluate(model, monitor, nominal, [fault])


def test_baselines_are_those_that_need_no_prediction(
    calibrated: Path, runs: Path, tmp_path: Path
) -> None:
    model = WorldModel.load(calibrated)
    nominal = Recording(record_pictures(tmp_path / "nominal", range(500, 510)))
    options = EvaluateOptions(fault_episodes=4, workers=1, calibration_data=runs)
    report = evaluate(model, Monitor.load(model), nominal, ["occlusion@10"], options)
    assert [row.name.split()[0] for row in report.baselines] == ["flow", "random"]


def test_the_commands_work_or_refuse_in_one_line(calibrated: Path, tmp_path: Path) -> None:
    nominal = record_pictures(tmp_path / "nominal", range(600, 606))
    done = CliRunner().invoke(
        cli,
        ["evaluate", str(calibrated), "--nominal", str(nominal), "--faults", "occlusion@10"],
    )
    assert done.exit_code == 0, done.output
    assert "takes no actions" in done.output
    done = CliRunner().invoke(
        cli, ["selftest", str(calibrated)], env={"XDG_STATE_HOME": str(tmp_path)}
    )
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(
        cli, ["run", str(calibrated), "--source", str(nominal), "--rate", "0", "--json"]
    )
    assert done.exit_code == 0, done.output
    levels = [msgspec.json.decode(line)["level"] for line in done.output.splitlines()]
    assert len(levels) == 21
    assert sum(level != "UNKNOWN" for level in levels) == 21 - 3


def test_a_recorded_loss_lowers_the_threshold(runs: Path, tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa", clip=CLIP)
    data = record_pictures(tmp_path / "runs", range(60), 25, camera_hz=2 * RATE_HZ)
    with RecordingWriter(
        tmp_path / "risk", RecordingInfo(rate_hz=2 * RATE_HZ, action_dim=0)
    ) as writer:
        for seed in range(700, 770):
            episode = picture_episode(seed, 25, camera_hz=2 * RATE_HZ)
            loss = np.zeros(25, np.float32)
            if seed % 2:
                episode = inject_recorded(episode, parse_fault("occlusion@14"), None)
                loss[20:] = 1.0
            writer.add(dataclasses.replace(episode, loss=loss))
    options = CalibrateOptions(alpha=ALPHA, max_risk=0.08, selftest_episodes=0)
    report = calibrate_bundle(bundle, data, options, risk_data=tmp_path / "risk")
    risk = report.variants["fp32"].calibration.risk
    assert risk is not None
    assert risk.risk < 0.02  # what is occluded is seen before it costs anything


def test_clips_are_judged_in_model_steps(tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "clips.jepa", clip=CLIP)
    data = record_pictures(tmp_path / "runs", range(60), 25, camera_hz=2 * RATE_HZ)
    report = calibrate_bundle(bundle, data, CalibrateOptions(alpha=ALPHA, selftest_episodes=5))
    domain = report.variants["fp32"].calibration.domain
    assert (domain.rate_hz, domain.steps_min, domain.steps_max) == (RATE_HZ, 10, 10)
    model = WorldModel.load(bundle)
    monitor = Monitor.load(model)
    assert run_selftest(monitor, state=tmp_path / "state").passed
    nominal = Recording(record_pictures(tmp_path / "nominal", range(800, 810), 25, camera_hz=10.0))
    told = evaluate(model, monitor, nominal, ["occlusion@14"], EvaluateOptions(workers=1))
    assert told.rate_hz == RATE_HZ
    (fault,) = told.alarms.faults
    assert fault.onset == 6  # frames 12 to 15 are the first clip with frame 14 or a later one
    assert fault.detected.value == 1.0
    short = record_pictures(tmp_path / "short", range(40), 12, camera_hz=2 * RATE_HZ)
    with pytest.raises(CalibrationError, match="12 frames, 5 steps of the model, expected 8"):
        calibrate_bundle(bundle, short, CalibrateOptions(alpha=ALPHA))


@pytest.mark.parametrize("clip", [None, CLIP, ClipSpec(frames=3, stride=2, hop=4)])
def test_frames_and_steps_are_counted_as_clips_are_gathered(clip: ClipSpec | None) -> None:
    newest = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    if clip is not None:
        newest = [n for n in newest if n >= clip.span - 1 and (n - clip.span + 1) % clip.hop == 0]
    assert steps_of(11, clip) == len(newest)
    assert steps_of(0, clip) == 0
    assert [frame_of(step, clip) for step in range(len(newest))] == newest
    for frame in range(newest[-1] + 1):
        assert step_seeing(frame, clip) == next(k for k, n in enumerate(newest) if n >= frame)


def observer(masked: NDArray[np.float32]) -> PassiveObserver:
    rng = np.random.default_rng(0)
    episodes = [
        EncodedEpisode(
            name=str(k),
            latents=rng.normal(size=(10, 1, DIM)).astype(np.float32),
            actions=np.zeros((9, 0), np.float32),
            masked=masked,
        )
        for k in range(4)
    ]
    return fit_passive(episodes, CalibrateOptions(), silent)


def test_one_token_that_is_wrong_is_not_averaged_away() -> None:
    masked = np.full((10, TOKENS), np.nan, np.float32)
    hidden = np.unique(HIDDEN)
    masked[:, hidden] = np.linspace(0.1, 2.0, hidden.size)  # tokens differ in what is expected
    fitted = observer(masked)
    assert fitted.expected is not None
    np.testing.assert_allclose(fitted.expected[hidden], masked[0, hidden], rtol=1e-6)
    assert not np.delete(fitted.expected, hidden).any()
    names = [channel.name for channel in BASE_CHANNELS]
    still = np.zeros((2, DIM), np.float32)
    rows = masked[:2].copy()
    rows[1, hidden[0]] *= 8.0
    values = fitted.measure(still, still, rows)
    mean, local = names.index("innovation"), names.index("innovation_local")
    np.testing.assert_allclose(values[0, [mean, local]], 0.0, atol=1e-6)
    top = int(np.ceil(0.1 * hidden.size))
    assert values[1, local] == pytest.approx(np.log((8.0 + top - 1) / top), rel=1e-5)
    assert values[1, mean] == pytest.approx(np.log(1.0 + 7.0 / hidden.size), rel=1e-5)
    broken = rows.copy()
    broken[0, hidden[3]] = np.nan
    assert np.isposinf(fitted.measure(still, still, broken)[0, [mean, local]]).all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_masked_energies_that_are_not_finite_are_refused(value: float) -> None:
    masked = np.full((10, TOKENS), np.nan, np.float32)
    masked[:, :4] = 1.0
    masked[3, 2] = value
    with pytest.raises(CalibrationError, match="of 4 tokens hold numbers that are not finite"):
        observer(masked)
    with pytest.raises(CalibrationError, match="of 0 tokens"):
        observer(np.full((10, TOKENS), np.nan, np.float32))


def masked_episodes(count: int, steps: int, tokens: int) -> list[EncodedEpisode]:
    """Episodes of unlike energies whose last tokens no pattern hides."""
    rng = np.random.default_rng(6)
    episodes = []
    for index in range(count):
        masked = rng.gamma(2.0, 10.0**index, (steps + index, tokens)).astype(np.float32)
        masked[:, -tokens // 4 :] = np.nan
        episodes.append(
            EncodedEpisode(
                name=str(index),
                latents=rng.normal(size=(steps + index, 1, DIM)).astype(np.float32),
                actions=np.zeros((steps + index - 1, 0), np.float32),
                masked=masked,
            )
        )
    return episodes


def test_what_to_expect_is_the_mean_over_all_frames() -> None:
    episodes = masked_episodes(4, 10, TOKENS)
    every = np.concatenate([e.masked for e in episodes if e.masked is not None])
    fitted = fit_passive(episodes, CalibrateOptions(), silent).expected
    assert fitted is not None
    hidden = ~np.isnan(every[0])
    assert not fitted[~hidden].any()
    np.testing.assert_allclose(fitted[hidden], every[:, hidden].astype(float).mean(0), rtol=1e-6)


def test_masked_energies_are_fitted_one_episode_at_a_time() -> None:
    """Many tokens: what lies on disk is never all in memory, nor copied to float64."""
    episodes = [hold(e) for e in masked_episodes(2, 40, 4096)] * 40
    masked = [e.masked for e in episodes if e.masked is not None]
    assert not any(array.flags.owndata for array in masked)  # on disk
    tracemalloc.start()
    try:
        assert expected_energy_of(episodes) is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * masked[0].nbytes < 0.1 * sum(array.nbytes for array in masked)


def test_other_patterns_void_a_calibration(runs: Path, tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa")
    calibrate_bundle(bundle, runs, OPTIONS)
    opened = Bundle.open(bundle)
    from safetensors.numpy import save_file

    from jepa_edge.bundle import seal, staged_bundle

    with staged_bundle(bundle, base=opened) as staging:
        (staging / "masks.safetensors").unlink()
        rows = {"visible": HIDDEN[:2], "hidden": HIDDEN[1:]}
        save_file(rows, staging / "masks.safetensors")
        seal(staging, opened.manifest)
    with pytest.raises(CalibrationError, match="preprocessing"):
        Monitor.load(WorldModel.load(bundle))
