# SPDX-License-Identifier: Apache-2.0
"""The whole evaluation on a small world: from recordings to the filed page, and what it refuses."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from jepa_edge.calibration.evaluation import (
    EvaluateOptions,
    EvaluationReport,
    baselines,
    episodes,
    evaluate,
    sources,
)
from jepa_edge.calibration.evaluation.files import write_files
from jepa_edge.calibration.evaluation.sources import parse_faults
from jepa_edge.channels import available
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.faults import FAULTS
from jepa_edge.monitor import Monitor
from jepa_edge.progress import silent
from jepa_edge.recording import Episode, Recording, RecordingInfo, RecordingWriter
from jepa_edge.world_model import WorldModel

ACTION, STEPS, ONSET = 4, 24, 9


@pytest.fixture(scope="session")
def make_runs(
    tmp_path_factory: pytest.TempPathFactory, make_episode: Callable[[int], Episode]
) -> Callable[..., Path]:
    """Records color episodes with these seeds; frozen_from: the frame repeats from there on."""

    def make(seeds: range, frozen_from: int | None = None) -> Path:
        path = tmp_path_factory.mktemp("runs") / "runs"
        with RecordingWriter(path, RecordingInfo(rate_hz=5.0, action_dim=ACTION)) as writer:
            for seed in seeds:
                episode = make_episode(seed)
                if frozen_from is not None:
                    episode.frames[frozen_from:] = episode.frames[frozen_from - 1]
                writer.add(episode)
        return path

    return make


@pytest.fixture(scope="session")
def test_runs(make_runs: Callable[..., Path]) -> Path:
    """60 nominal episodes that no calibration has seen."""
    return make_runs(range(200, 260))


@pytest.fixture(scope="session")
def calibration_runs(make_runs: Callable[..., Path]) -> Path:
    """The very episodes that `calibrated_bundle` was calibrated on."""
    return make_runs(range(120))


@pytest.fixture(scope="session")
def frozen_runs(make_runs: Callable[..., Path]) -> Path:
    return make_runs(range(300, 320), frozen_from=ONSET)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "latents"


@pytest.fixture(scope="session")
def monitor(calibrated_bundle: Path) -> Monitor:
    return Monitor.load(WorldModel.load(calibrated_bundle))


@pytest.fixture(scope="session")
def report(
    monitor: Monitor, test_runs: Path, calibration_runs: Path, frozen_runs: Path, cache: Path
) -> EvaluationReport:
    """An evaluation with injected and recorded faults, and baselines."""
    return evaluate(
        monitor.model,
        monitor,
        Recording(test_runs),
        [f"exposure:2@{ONSET},gain:1.02@{ONSET}", f"stopped={frozen_runs}@{ONSET}"],
        EvaluateOptions(
            fault_episodes=30, calibration_data=calibration_runs, samples=20, cache=cache
        ),
    )


def test_the_report_says_what_happened(report: EvaluationReport, monitor: Monitor) -> None:
    calibration = monitor.calibration
    assert report.alpha == calibration.alpha
    assert report.conformal_episodes == calibration.thresholds.episodes
    assert report.provenance.binding.engine_sha256 == calibration.binding.engine_sha256
    assert report.provenance.calibration_data_sha256 == calibration.data_sha256
    names = [fault.fault for fault in report.alarms.faults]
    assert names == ["exposure:2", "gain:1.02", "stopped"]
    assert [source.kind for source in report.provenance.sources] == [
        "camera",
        "actuator",
        "recorded",
    ]
    assert [source.onset for source in report.provenance.sources] == [ONSET, ONSET + 1, ONSET]
    assert [source.episodes for source in report.provenance.sources] == [30, 30, 20]
    bright, weak, stopped = report.alarms.faults
    assert bright.detected.value == 1.0
    assert bright.by_channel["familiarity"].value > 0.9
    assert stopped.detected.value == 1.0
    assert stopped.delay_median == 0.0
    assert weak.detected.value < 0.3
    assert report.undetected == ("gain:1.02",)
    assert report.rankings["exposure:2"].auroc > 0.95
    there = available(monitor.model.manifest)
    assert set(report.alarms.nominal_by_channel) == {channel.name for channel in there}


def test_false_alarms_agree_with_the_monitor_run_step_by_step(
    report: EvaluationReport, monitor: Monitor, test_runs: Path
) -> None:
    alarmed = 0
    for episode in Recording(test_runs):
        monitor.reset()
        latents = monitor.model.encode(episode.frames)
        scores = [
            monitor.update(latent, episode.actions[step - 1] if step else None)
            for step, latent in enumerate(latents)
        ]
        caution = monitor.calibration.thresholds.caution
        alarmed += any(score.score > caution for score in scores if score is not None)
    assert (report.alarms.false_alarms.count, report.alarms.false_alarms.trials) == (alarmed, 60)
    assert report.own_point.run_length.alarms == alarmed
    assert report.accuracy.true_negatives == pytest.approx(1 - alarmed / 60)


def test_baselines_are_calibrated_as_the_monitor_is(report: EvaluationReport) -> None:
    assert len(report.baselines) == 4
    for row in report.baselines:
        assert row.false_alarms.trials == 60
        assert row.false_alarms.low <= report.alpha
        expected = report.accuracy.balanced.value - row.accuracy.balanced.value
        assert row.gain_balanced.value == pytest.approx(expected)
        assert row.gain_balanced.low <= expected <= row.gain_balanced.high
    flow = report.baselines[0]
    assert flow.detected["exposure:2"].value > 0.9
    assert flow.detected["stopped"].value < 0.5, "a frozen picture looks familiar"


def test_a_second_evaluation_reads_the_cache_and_says_the_same(
    report: EvaluationReport,
    monitor: Monitor,
    test_runs: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(WorldModel, "encode", refuse)
    again = evaluate(
        monitor.model,
        monitor,
        Recording(test_runs),
        [f"exposure:2@{ONSET}"],
        EvaluateOptions(fault_episodes=30, samples=20, cache=cache),
    )
    assert again.alarms.faults[0] == report.alarms.faults[0]
    assert again.forecast == report.forecast
    assert again.baselines == ()


def test_the_calibrations_own_runs_are_no_test(monitor: Monitor, calibration_runs: Path) -> None:
    with pytest.raises(InputError, match="prove nothing"):
        evaluate(monitor.model, monitor, Recording(calibration_runs), ["freeze"])


def test_baselines_want_the_calibrations_own_runs(monitor: Monitor, test_runs: Path) -> None:
    options = EvaluateOptions(calibration_data=test_runs, samples=8, fault_episodes=2)
    with pytest.raises(InputError, match="the calibration's own recording"):
        evaluate(monitor.model, monitor, Recording(test_runs), ["freeze"], options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soot", "not in the library"),
        ("blur:9", "severity 9, expected"),
        ("gripper=runs@late", "expected NAME=DIR"),
        ("=runs@3", "expected NAME=DIR"),
        ("blur,blur", "more than once"),
        ("stuck", "use a simulator"),
        ("blur@400", "choose an onset within the episode"),
        ("sim:submarine", "submarine"),
    ],
)
def test_faults_that_cannot_be_run_are_refused(
    monitor: Monitor, test_runs: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(monitor.model, monitor, Recording(test_runs), [text])


def test_what_the_user_asks_for_is_what_is_run() -> None:
    requests, skipped = parse_faults(["all"], 7)
    shown = {name for name, fault in FAULTS.items() if not fault.simulator_only}
    assert {request.name for request in requests} == shown
    assert set(skipped) == set(FAULTS) - shown
    assert {request.onset for request in requests} == {7, 8}
    requests, skipped = parse_faults(["blur:0.1@3,blur:0.1@5", "x=a@b/c@2", "sim:pusht"], 7)
    assert [request.name for request in requests[:3]] == ["blur:0.1@3", "blur:0.1@5", "x"]
    assert requests[2].path == Path("a@b/c")
    assert [request.simulator for request in requests[3:]] == ["pusht"] * len(FAULTS)
    assert skipped == {}
    both, skipped = parse_faults(["all", "sim:pusht/stuck"], 7)
    assert "stuck" not in skipped
    assert both[-1].origin == "simulated: pusht"


class _Page(HTMLParser):
    """All text, all links, and whether there is a script."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_holds_the_numbers_of_the_json(report: EvaluationReport, tmp_path: Path) -> None:
    write_files(tmp_path / "out", report)
    stored = (tmp_path / "out/evaluation.json").read_bytes()
    assert msgspec.json.decode(stored, type=EvaluationReport) == report
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "evaluation.html",
        "evaluation.json",
    ]
    page = _Page()
    page.feed((tmp_path / "out/evaluation.html").read_text())
    text = re.sub(r"\s+", " ", " ".join(page.text))
    assert "script" not in page.tags, "it must print without running anything"
    assert all(link.startswith("data:") for link in page.links)
    alarms = report.alarms.false_alarms
    assert f"{alarms.count}/{alarms.trials}" in text
    assert f"{100 * alarms.low:.1f}, {100 * alarms.high:.1f}" in text
    for fault in report.alarms.faults:
        assert f"({fault.detected.count}/{fault.detected.trials})" in text
        assert f"{report.rankings[fault.fault].auroc:.3f}" in text
    for row in report.baselines:
        assert f"{row.gain_balanced.value:.3f} [{row.gain_balanced.low:.3f}" in text
    for row in report.forecast.horizons:
        assert f"{row.crps:.4g}" in text
    for digest in (report.provenance.nominal_sha256, report.provenance.binding.engine_sha256):
        assert digest in text
    start = text.index("What is not detected")
    assert "gain:1.02" in text[start : text.index("Data and method")]
    for word in ("claims", "guaranteed", "exchangeable", "Observability", "Provenance"):
        assert word in text


def _run(arguments: list[str]) -> Any:
    module = importlib.import_module("jepa_edge.cli.evaluate")
    command: click.Command = module.command
    return CliRunner().invoke(command, arguments)


def test_the_verb_writes_files_and_prints_json(
    calibrated_bundle: Path, test_runs: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evaluation"
    common = [
        str(calibrated_bundle),
        *("--nominal", str(test_runs), "--cache", str(cache), "--samples", "8"),
        *("--faults", f"exposure:2@{ONSET}", "--faults", f"gain:1.02@{ONSET}"),
        *("--fault-episodes", "30", "--out", str(out)),
    ]
    done = _run(common)
    assert done.exit_code == 0, done.output
    assert "exposure:2" in done.stdout
    assert "NOT SHOWN TO BE SEEN" in done.stdout
    assert f"report: {out / 'evaluation.html'}" in done.stdout
    done = _run([*common, "--json"])
    printed = msgspec.json.decode(done.stdout.encode(), type=EvaluationReport)
    stored = msgspec.json.decode((out / "evaluation.json").read_bytes(), type=EvaluationReport)
    assert printed == stored


def test_the_verb_refuses_what_does_not_go_together(
    calibrated_bundle: Path, test_runs: Path, linear_bundle: Path
) -> None:
    asked = ["--nominal", str(test_runs), "--faults", "freeze"]
    done = _run([str(calibrated_bundle), *asked, "--baselines"])
    assert done.exit_code == 2
    assert "--calibration-data" in done.output
    done = _run([str(linear_bundle), *asked, "--variant", "fp32"])
    assert isinstance(done.exception, CalibrationError)
    assert "jepa-edge calibrate" in str(done.exception)


def test_warnings_name_what_weakens_the_claim(
    monitor: Monitor, make_runs: Callable[..., Path], tmp_path: Path
) -> None:
    """Runs with other light than the calibration's: more false alarms than alpha allows."""
    source = Recording(make_runs(range(400, 420)))
    with RecordingWriter(tmp_path / "dim", source.info) as writer:
        for episode in source:
            frames = (episode.frames * 0.5).astype(np.uint8)
            writer.add(
                Episode(
                    name=episode.name,
                    frames=frames[:20],
                    actions=episode.actions[:19],
                    stamps_s=episode.stamps_s[:20],
                )
            )
    options = EvaluateOptions(samples=8, fault_episodes=2)
    found = evaluate(monitor.model, monitor, Recording(tmp_path / "dim"), ["freeze@9"], options)
    assert any("not like the calibration episodes" in text for text in found.warnings)
    assert any("20 of 20 nominal episodes are shorter or longer" in w for w in found.warnings)


def _cut(episode: Episode, steps: int) -> Episode:
    return Episode(
        name=episode.name,
        frames=episode.frames[: steps + 1],
        actions=episode.actions[:steps],
        stamps_s=episode.stamps_s[: steps + 1],
    )


def _write(path: Path, episodes: Iterable[Episode]) -> Recording:
    with RecordingWriter(path, RecordingInfo(rate_hz=5.0, action_dim=ACTION)) as writer:
        for episode in episodes:
            writer.add(episode)
    return Recording(path)


def test_calibrated_episodes_are_recognized_under_another_name(
    monitor: Monitor, calibration_runs: Path, test_runs: Path, make_runs: Callable[..., Path]
) -> None:
    """One file removed, the others renamed; and one old episode among fresh ones."""
    known = make_runs(range(120))
    (known / "episode_00000.npz").unlink()
    for index, file in enumerate(sorted(known.glob("*.npz"), reverse=True)):
        file.rename(known / f"run_{index:04d}.npz")
    with pytest.raises(InputError, match=r"119 of 119 episodes .* took part in the calibration"):
        evaluate(monitor.model, monitor, Recording(known), ["freeze"])
    mixed = make_runs(range(119, 140))
    with pytest.raises(InputError, match=r"1 of 21 episodes .* took part in the calibration"):
        evaluate(monitor.model, monitor, Recording(mixed), ["freeze"])
    with pytest.raises(InputError, match=r"1 of 21 episodes .* took part in the calibration"):
        evaluate(monitor.model, monitor, Recording(test_runs), [f"x={mixed}@9"])


@pytest.fixture
def not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused, is refused before the long part."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("encoded already")

    monkeypatch.setattr(WorldModel, "encode", refuse)


@pytest.mark.usefixtures("not_encoded")
def test_what_will_not_work_is_refused_before_anything_is_encoded(
    monitor: Monitor, test_runs: Path, frozen_runs: Path, calibration_runs: Path
) -> None:
    nominal = Recording(test_runs)
    with pytest.raises(InputError, match="fewer than 31 frames; the fault never begins"):
        evaluate(monitor.model, monitor, nominal, [f"x={frozen_runs}@30"])
    with pytest.raises(InputError, match="simulated runs have 24 steps"):
        evaluate(monitor.model, monitor, nominal, ["sim:pusht/stuck@24"])
    manifest = monitor.model.manifest
    sources.check_simulator("pusht", manifest)
    other = msgspec.structs.replace(manifest.action, block=1)
    with pytest.raises(InputError, match=r"has 2 numbers .* at 10 Hz, the model takes 4 at 5 Hz"):
        sources.check_simulator("pusht", msgspec.structs.replace(manifest, action=other))
    few = msgspec.structs.replace(
        monitor.calibration, episodes={**monitor.calibration.episodes, "conformal": 2}, alpha=0.05
    )
    scarce = Monitor(monitor.model, monitor.observer, few)
    options = EvaluateOptions(calibration_data=calibration_runs)
    with pytest.raises(CalibrationError, match="need 38 standardize and conformal episodes"):
        evaluate(monitor.model, scarce, nominal, ["freeze@9"], options)


def test_short_nominal_episodes_are_left_out_and_counted(
    monitor: Monitor,
    make_runs: Callable[..., Path],
    calibration_runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two that end before the fault begins, one before the monitor has judged a frame."""
    monkeypatch.delattr(baselines, "fit_flow")  # the monitor's own flow is there
    source = Recording(make_runs(range(500, 520)))
    lengths = {0: 5, 3: 7, 4: 1}
    nominal = _write(
        tmp_path / "mixed", (_cut(e, lengths.get(i, STEPS)) for i, e in enumerate(source))
    )
    slow = _write(tmp_path / "slow", (_cut(e, 16) for e in Recording(make_runs(range(520, 530)))))
    report = evaluate(
        monitor.model,
        monitor,
        nominal,
        [f"exposure:2@{ONSET}", f"slow={slow.path}@{ONSET}"],
        EvaluateOptions(samples=8, fault_episodes=10, calibration_data=calibration_runs),
    )
    bright, cut = report.alarms.faults
    assert monitor.observer.flow is not None
    assert report.alarms.episodes == 20
    assert bright.early.trials == 10
    assert bright.nominal_after_onset.trials <= 17
    assert bright.detected.value > 0.9
    assert (bright.frames, cut.frames) == (STEPS + 1 - ONSET, 17 - ONSET)
    told = " ".join(report.warnings)
    assert "3 nominal and 0 faulty episodes are too short" in told
    assert "10 of 10 runs with slow are shorter or longer than the 24 to 24 steps" in told
    assert [row.false_alarms.trials for row in report.baselines] == [20] * 4


def test_every_window_is_sampled_with_a_seed_of_its_own(
    monitor: Monitor, test_runs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    sample = monitor.sample_futures

    def watched(past: Any, actions: Any, samples: int = 32, seed: int = 0) -> Any:
        seeds.append(seed)
        return sample(past, actions, samples, seed)

    monkeypatch.setattr(monitor, "sample_futures", watched)
    options = EvaluateOptions(samples=8, fault_episodes=30, cache=cache, seed=7)
    evaluate(monitor.model, monitor, Recording(test_runs), [f"exposure:2@{ONSET}"], options)
    assert seeds == list(range(7, 7 + len(seeds)))
    assert len(seeds) > 50
    with pytest.raises(InputError, match="samples is 7, expected 8"):
        EvaluateOptions(samples=7)


def test_simulated_runs_are_kept_apart_by_all_they_depend_on(
    monitor: Monitor, test_runs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str] = []

    def note(request: object, manifest: object, out: Path, *rest: object) -> Recording:
        folders.append(out.name)
        return Recording(test_runs)

    monkeypatch.setattr(episodes, "simulate", note)
    options = EvaluateOptions(cache=cache)
    source = episodes.Episodes(
        monitor.model, monitor.calibration, Recording(test_runs), options, silent
    )
    requests, _ = parse_faults(["sim:reacher/stuck@3"], 3)
    source.encode_faulty(requests)
    observation = monitor.model.manifest.observation
    assert f"size_{observation.height}_block_{monitor.model.manifest.action.block}_" in folders[0]
    assert folders[0].endswith(sources.library_digest())


def test_a_bound_on_the_users_loss_takes_the_guarantee_off_the_page(
    report: EvaluationReport, tmp_path: Path
) -> None:
    def text(of: EvaluationReport, name: str) -> str:
        write_files(tmp_path / name, of)
        page = _Page()
        page.feed((tmp_path / name / "evaluation.html").read_text())
        return re.sub(r"\s+", " ", " ".join(page.text))

    promise = "A fresh nominal episode passes the CAUTION threshold with probability at most"
    plain = text(report, "plain")
    assert promise in plain
    assert "drift alarm adds" in plain
    assert "mix of lengths" in plain
    lowered = text(msgspec.structs.replace(report, bounds_loss=True), "lowered")
    assert promise not in lowered
    assert "The calibration allows" not in lowered
    assert "measured, not guaranteed" in lowered
    assert "passes the REJECT threshold with probability at most" in lowered
