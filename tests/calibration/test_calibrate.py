# SPDX-License-Identifier: Apache-2.0
"""A whole calibration: what it writes, what it refuses, and that it leaves nothing half done."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import logging
import shutil
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from jepa_edge.bundle import Bundle, seal, sha256_file, staged_bundle
from jepa_edge.calibration import (
    CalibrateOptions,
    calibrate_bundle,
    evaluate_faults,
)
from jepa_edge.calibration.assess import warnings_of
from jepa_edge.calibration.conformal import predictive_interval
from jepa_edge.calibration.dataset import split_episodes
from jepa_edge.calibration.page import write_report
from jepa_edge.calibration.records import ActionUse, Coverage, VariantReport
from jepa_edge.channels import available
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Recording, RecordingInfo, RecordingWriter
from jepa_edge.risk import RiskThreshold
from jepa_edge.world_model import WorldModel

from .conftest import ACTION, OPTIONS, STEPS, Calibrated, record


def snapshot(path: Path) -> dict[str, str]:
    return {str(f.relative_to(path)): sha256_file(f) for f in path.rglob("*") if f.is_file()}


def test_the_bundle_is_whole_and_the_monitor_loads(calibrated: Calibrated) -> None:
    bundle = Bundle.open(calibrated.bundle)
    assert {
        "calibration/fp32.json",
        "calibration/fp32.safetensors",
        "reports/calibration_fp32.html",
        "reports/calibration_fp32.json",
    } < set(bundle.manifest.files)
    calibration = Monitor.load(WorldModel.load(bundle)).calibration
    assert calibration == calibrated.report.variants["fp32"].calibration
    assert calibration.binding.engine_sha256 == bundle.manifest.variant_sha256("fp32")
    assert sum(calibration.episodes.values()) == 80
    assert calibration.thresholds.episodes == calibration.episodes["conformal"]
    assert calibration.thresholds.caution <= calibration.thresholds.reject
    assert calibration.domain.steps_min == calibration.domain.steps_max == STEPS
    assert min(calibration.domain.action_low) >= 156.0
    assert [len(radius.energies) for radius in calibration.radii] == [5, 5]
    assert [radius.alpha for radius in calibration.radii] == [0.1, 0.05]
    stored = (calibrated.bundle / "reports/calibration_fp32.json").read_bytes()
    assert msgspec.json.decode(stored, type=VariantReport) == calibrated.report.variants["fp32"]


def test_the_report_is_a_page_with_its_figures(calibrated: Calibrated) -> None:
    page = (calibrated.bundle / "reports/calibration_fp32.html").read_text()
    for text in ("Reliability", "Coverage per horizon", "AURC", "innovation_long_mean", "plotly"):
        assert text in page


def test_thresholds_are_the_conformal_quantiles_of_what_the_monitor_sees(
    calibrated: Calibrated,
) -> None:
    """Scored anew by the run-time monitor, the conformal episodes give the stored scores."""
    model = WorldModel.load(calibrated.bundle)
    monitor = Monitor.load(model)
    thresholds, recording = monitor.calibration.thresholds, Recording(calibrated.data)
    splits = split_episodes(len(recording), OPTIONS.alpha, OPTIONS.seed)
    worst = []
    for index in splits["conformal"]:
        episode = recording.load(index)
        monitor.reset()
        scores = [
            monitor.update(latent, episode.actions[t - 1] if t else None)
            for t, latent in enumerate(model.encode(episode.frames))
        ]
        worst.append(max(s.score for s in scores if s is not None))
    np.testing.assert_allclose(np.sort(worst), thresholds.nominal, rtol=1e-3, atol=1e-3)
    rank = int(np.ceil((len(worst) + 1) * 0.9))
    assert thresholds.caution == thresholds.nominal[rank - 1]
    assert thresholds.reject_alpha == max(0.1 / 5, 1 / (len(worst) + 1))
    assert thresholds.p_value(thresholds.nominal[-1] + 1.0) == pytest.approx(1 / (len(worst) + 1))
    assert thresholds.p_value(-np.inf) == 1.0


def test_held_out_numbers_are_plausible(calibrated: Calibrated) -> None:
    report = calibrated.report.variants["fp32"]
    assert len(report.coverage) == 10
    assert all(row.accepted for row in report.coverage)
    assert all(row.measured.trials == 12 for row in report.coverage)
    for row in report.reliability:
        gap = np.abs(np.array(row.nominal) - np.array(row.conformal))
        assert gap.max() < 0.15
    # The exact law of the count, the threshold's own scatter included: 28 conformal episodes.
    quiet, _ = predictive_interval(12, report.calibration.thresholds.episodes, 0.1, 0.999)
    assert report.false_alarms.count <= 12 - quiet
    assert report.spread.windows == 48
    assert 0.0 < report.spread.aurc_oracle <= report.spread.aurc_random
    assert report.action_use.ratio > 1.0


def test_a_frozen_camera_is_seen_at_once(calibrated: Calibrated, tmp_path: Path) -> None:
    model = WorldModel.load(calibrated.bundle)
    onset = 9
    report = evaluate_faults(
        model,
        Monitor.load(model),
        Recording(record(tmp_path / "nominal", 40, seed=2)),
        {"frozen": Recording(record(tmp_path / "frozen", 20, seed=3, frozen_from=onset))},
        onset,
    )
    frozen = report.faults[0]
    assert frozen.detected.value == 1.0
    assert frozen.delay_median == 0.0
    assert frozen.delay_p90 == 0.0
    assert frozen.by_channel["motion"].value == 1.0
    assert frozen.early.value <= 0.3
    assert report.false_alarms.low <= 0.1
    there = available(model.manifest)
    assert set(report.nominal_by_channel) == {channel.name for channel in there}
    assert frozen.detected.trials == 20 - frozen.early.count
    assert frozen.early.trials == 20
    assert frozen.nominal_after_onset.value <= report.false_alarms.value + 0.1
    assert report.alarms_per_hour.value >= 0.0
    with pytest.raises(InputError, match="the fault never begins"):
        evaluate_faults(
            model,
            Monitor.load(model),
            Recording(calibrated.data),
            {"late": Recording(tmp_path / "frozen")},
            STEPS + 5,
        )


@pytest.fixture
def twins(calibrated: Calibrated) -> Bundle:
    """The calibrated bundle with a second variant of the same graphs, not calibrated."""
    bundle = Bundle.open(calibrated.bundle)
    variants = {**bundle.manifest.variants, "twin": bundle.manifest.variants["fp32"]}
    with staged_bundle(bundle.path, base=bundle) as staging:
        seal(staging, msgspec.structs.replace(bundle.manifest, variants=variants))
    return Bundle.open(bundle.path)


def test_calibrating_one_variant_keeps_the_others(
    calibrated: Calibrated, twins: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    before = snapshot(twins.path)
    options = dataclasses.replace(OPTIONS, variant="twin", seed=1)
    report = calibrate_bundle(twins.path, calibrated.data, options)
    assert list(report.variants) == ["twin"]
    assert report.variants["twin"].warnings  # the caller tells them, the log does not repeat them
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    after = snapshot(twins.path)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    assert "calibration/twin.json" in after
    Bundle.open(twins.path)


def test_all_variants_are_calibrated_and_the_seed_fixes_everything(
    calibrated: Calibrated, twins: Bundle
) -> None:
    options = dataclasses.replace(OPTIONS, variant="all")
    report = calibrate_bundle(twins.path, calibrated.data, options)
    assert list(report.variants) == ["fp32", "twin"]
    first = calibrated.report.variants["fp32"]
    for again in report.variants.values():
        assert again.calibration.thresholds == first.calibration.thresholds
        assert again.calibration.radii == first.calibration.radii
        assert again.coverage == first.coverage


def test_an_alpha_that_the_data_cannot_support_is_refused(
    linear_bundle: Path, nominal: Path
) -> None:
    before = snapshot(linear_bundle)
    stages: list[str] = []
    with pytest.raises(CalibrationError, match=r"=0\.001 needs 999 .* got 80; record 936 more"):
        calibrate_bundle(
            linear_bundle,
            nominal,
            CalibrateOptions(alpha=0.001),
            lambda stage, done, total: stages.append(stage),
        )
    assert stages == []
    assert snapshot(linear_bundle) == before


def test_short_episodes_are_refused(linear_bundle: Path, tmp_path: Path) -> None:
    source = Recording(record(tmp_path / "long", 40, seed=5))
    info = RecordingInfo(rate_hz=5.0, action_dim=ACTION)
    with RecordingWriter(tmp_path / "short", info) as writer:
        for episode in source:
            writer.add(
                type(episode)(
                    name=episode.name,
                    frames=episode.frames[:5],
                    actions=episode.actions[:4],
                    stamps_s=episode.stamps_s[:5],
                )
            )
    stages: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        stages.append(stage)

    with pytest.raises(CalibrationError, match="has 4 actions, a window of history 3"):
        calibrate_bundle(linear_bundle, tmp_path / "short", OPTIONS, progress)
    far = dataclasses.replace(OPTIONS, horizon=90)
    with pytest.raises(
        CalibrationError, match=r"horizon 90 needs 95, 3 of them before it; .* lower the horizon"
    ):
        calibrate_bundle(linear_bundle, tmp_path / "long", far, progress)
    assert stages == []


def _mixed(path: Path, lengths: list[int]) -> Path:
    """Runs of these lengths."""
    source = Recording(record(path.with_name(f"{path.name}_full"), len(lengths), seed=6))
    with RecordingWriter(path, RecordingInfo(rate_hz=5.0, action_dim=ACTION)) as writer:
        for episode, steps in zip(source, lengths, strict=True):
            cut = dataclasses.replace(
                episode,
                frames=episode.frames[: steps + 1],
                actions=episode.actions[:steps],
                stamps_s=episode.stamps_s[: steps + 1],
            )
            writer.add(cut)
    return path


def test_every_conformal_episode_counts_however_short(linear_bundle: Path, tmp_path: Path) -> None:
    """The spread's radius needs all nine of them at alpha 0.1; half the runs are the shortest."""
    options = dataclasses.replace(OPTIONS, conformal=9, groups=0, selftest_episodes=4)
    data = _mixed(tmp_path / "mixed", [10, STEPS] * 15)
    report = calibrate_bundle(linear_bundle, data, options).variants["fp32"]
    assert report.calibration.thresholds.episodes == 9
    assert report.calibration.domain.steps_min == 10
    assert any("same mix of lengths" in warning for warning in report.warnings)
    assert any("on 4 stored episodes" in warning for warning in report.warnings)
    stages: list[str] = []
    with pytest.raises(CalibrationError, match=r"has 9 actions, .* needs 10, 3 of them before it"):
        calibrate_bundle(
            linear_bundle,
            _mixed(tmp_path / "short", [9, STEPS] * 15),
            options,
            lambda stage, done, total: stages.append(stage),
        )
    assert stages == []


def test_action_groups_keep_the_alphas_that_they_support(
    linear_bundle: Path, tmp_path: Path
) -> None:
    """Too few episodes for the standard alpha of 0.05 in every group, enough for the user's."""
    data = record(tmp_path / "few", 45, seed=8)
    options = dataclasses.replace(OPTIONS, conformal=20, groups=5)
    calibration = calibrate_bundle(linear_bundle, data, options).variants["fp32"].calibration
    assert [radius.alpha for radius in calibration.radii] == [0.1, 0.05]
    assert calibration.groups is not None
    assert [radius.alpha for radius in calibration.groups.radii] == [0.1]


def test_the_verb_keeps_encoded_episodes(
    linear_bundle: Path, nominal: Path, tmp_path: Path
) -> None:
    command: click.Command = importlib.import_module("jepa_edge.cli.calibrate").command
    arguments = [str(linear_bundle), "--data", str(nominal), "--alpha", "0.1", "--variant", "fp32"]
    done = CliRunner().invoke(command, [*arguments, "--cache", str(tmp_path / "cache")])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "cache").glob("latents_*.bin"))) == 1


def test_risk_data_must_be_other_runs(linear_bundle: Path, nominal: Path, tmp_path: Path) -> None:
    shutil.copytree(nominal, tmp_path / "risk")
    for number, file in enumerate(sorted((tmp_path / "risk").glob("*.npz"))):
        if number == 17:
            file.rename(file.with_name("incident.npz"))
        else:
            file.unlink()
    options = dataclasses.replace(OPTIONS, max_risk=0.5)
    with pytest.raises(InputError, match=r"1 of 1 episodes in .*risk are in .*nominal too"):
        calibrate_bundle(linear_bundle, nominal, options, risk_data=tmp_path / "risk")


def test_a_bound_on_the_users_loss_takes_the_promise_off_the_page(
    calibrated: Calibrated, tmp_path: Path
) -> None:
    plain = calibrated.report.variants["fp32"]
    risk = RiskThreshold(
        threshold=plain.calibration.thresholds.caution,
        max_risk=0.1,
        delta=0.05,
        episodes=60,
        risk=0.01,
        p_value=0.01,
        candidates=10,
        passed=3,
    )
    bounded = msgspec.structs.replace(
        plain, calibration=msgspec.structs.replace(plain.calibration, risk=risk)
    )
    write_report(tmp_path / "plain.html", plain, "linear")
    write_report(tmp_path / "bounded.html", bounded, "linear")
    first, second = ((tmp_path / f"{n}.html").read_text() for n in ("plain", "bounded"))
    assert "passes a threshold at any step" in first
    assert "not guaranteed" not in first
    assert "passes the REJECT threshold at any step" in second
    assert "measured, not guaranteed" in second
    assert second.count("at most 10 % of episodes") == 0 < first.count("at most 10 % of episodes")
    assert "The drift alarm adds its own alpha" in first


def test_the_episodes_that_took_part_are_named(calibrated: Calibrated) -> None:
    stored = calibrated.report.variants["fp32"].calibration.episode_sha256
    files = sorted(calibrated.data.glob("*.npz"))
    assert stored == tuple(sorted(hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in files))


@pytest.mark.parametrize("same", [True, False])
def test_frozen_runs_are_refused(linear_bundle: Path, tmp_path: Path, same: bool) -> None:
    """A camera that stands still, always at one color or at another one per episode."""
    before = snapshot(linear_bundle)
    first = Recording(record(tmp_path / "moving", 40, seed=5)).load(0)
    with RecordingWriter(tmp_path / "still", RecordingInfo(rate_hz=5.0, action_dim=ACTION)) as out:
        for index in range(40):
            color = 100 if same else 60 + 3 * index
            frames = np.full_like(first.frames, color)
            out.add(dataclasses.replace(first, name=str(index), frames=frames))
    with pytest.raises(CalibrationError, match="the recorded runs do not move; record varied runs"):
        calibrate_bundle(linear_bundle, tmp_path / "still", OPTIONS)
    assert snapshot(linear_bundle) == before


def test_runs_that_repeat_one_another_are_refused(linear_bundle: Path, tmp_path: Path) -> None:
    first = Recording(record(tmp_path / "moving", 40, seed=5)).load(0)
    with RecordingWriter(tmp_path / "one", RecordingInfo(rate_hz=5.0, action_dim=ACTION)) as out:
        for index in range(40):
            out.add(dataclasses.replace(first, name=str(index)))
    with pytest.raises(CalibrationError, match=r"conformal scores tie .* record varied runs"):
        calibrate_bundle(linear_bundle, tmp_path / "one", OPTIONS)


def test_only_implausible_coverage_warns(calibrated: Calibrated) -> None:
    def row(plausible: bool) -> Coverage:
        return msgspec.structs.replace(
            calibrated.report.variants["fp32"].coverage[0], accepted=False, plausible=plausible
        )

    use = ActionUse(commanded=1.0, shuffled=2.0, ratio=2.0)
    domain = calibrated.report.variants["fp32"].calibration.domain
    assert warnings_of(use, [row(True)], domain) == ()
    (warning,) = warnings_of(use, [row(False)], domain)
    assert "come from 28 conformal episodes (all rows share that one draw)" in warning
    assert "may not be exchangeable" in warning
    deaf = msgspec.structs.replace(use, ratio=1.0)
    assert "hardly listens" in warnings_of(deaf, [], domain)[0]
    mixed = msgspec.structs.replace(domain, steps_min=9)
    (warning,) = warnings_of(use, [], mixed)
    assert "9 to 16 steps: the guarantees hold for episodes of the same mix of lengths" in warning


@pytest.mark.parametrize(
    ("info", "match"),
    [
        (
            RecordingInfo(rate_hz=10.0, action_dim=ACTION),
            "recorded at 10 Hz, the model takes frames at 5 Hz",
        ),
        (RecordingInfo(rate_hz=5.0, color="bgr", action_dim=ACTION), "holds bgr frames"),
    ],
)
def test_a_recording_of_another_kind_is_refused(
    linear_bundle: Path, nominal: Path, tmp_path: Path, info: RecordingInfo, match: str
) -> None:
    with RecordingWriter(tmp_path / "other", info) as writer:
        for episode in Recording(nominal):
            writer.add(episode)
    with pytest.raises(InputError, match=match):
        calibrate_bundle(linear_bundle, tmp_path / "other", OPTIONS)


@pytest.mark.parametrize(
    ("option", "value"), [("alpha", 0.0), ("alpha", 1.5), ("samples", 1), ("rank", 1000)]
)
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{option} is"):
        CalibrateOptions(**{option: value})


@pytest.mark.parametrize("count", [36, 50, 100, 400, 1000])
def test_splits_are_disjoint_and_support_alpha(count: int) -> None:
    splits = split_episodes(count, 0.05, seed=3)
    together = [index for chosen in splits.values() for index in chosen]
    assert sorted(together) == list(range(count))
    assert len(splits["conformal"]) >= 19
    assert len(splits["test"]) >= 5
    with pytest.raises(CalibrationError, match="record 1 more"):
        split_episodes(35, 0.05, seed=3)
