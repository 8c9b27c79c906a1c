# SPDX-License-Identifier: Apache-2.0
"""The self-test: what arms a machine that is not the calibration's, and what must not."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from jepa_edge.arming import ArmingRecord, disarmed_reason, record_path, state_directory
from jepa_edge.binding import current_binding
from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration_file import Calibration
from jepa_edge.channels import first_step
from jepa_edge.errors import BundleError, CalibrationError, InputError
from jepa_edge.flags import Level
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import calibration_name, heads_name
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Episode, Recording
from jepa_edge.selftest import run_selftest, window_energies
from jepa_edge.selftest_file import SelfTest, read_selftest, selftest_name
from jepa_edge.session import Observation, Session
from jepa_edge.world_model import WorldModel

ELSEWHERE = "aarch64 neon+dotprod"


@pytest.fixture
def bundle(calibrated_bundle: Path, tmp_path: Path) -> Path:
    """A calibrated bundle, free to be altered."""
    return Path(shutil.copytree(calibrated_bundle, tmp_path / "linear.jepa"))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this machine is of another kind."""
    monkeypatch.setattr("jepa_edge.backends.onnxruntime.processor_class", lambda: ELSEWHERE)


def load(bundle: Path, state: Path) -> Monitor:
    return Monitor.load(WorldModel.load(bundle, "fp32"), state=state)


def alter(bundle: Path, change: Callable[[Path], None]) -> None:
    """Change files of a bundle and seal it again."""
    base = Bundle.open(bundle)
    with staged_bundle(bundle, base=base) as staging:
        change(staging)
        seal(staging, base.manifest)


class Perturbed(WorldModel):
    """The model with something done to what its predictor says."""

    def __init__(
        self, model: WorldModel, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> None:
        for name, value in vars(model).items():
            setattr(self, name, value)
        self._change = change

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self._change(super().predict(history, actions))


def perturbed(
    bundle: Path, state: Path, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> Monitor:
    monitor = load(bundle, state)
    return Monitor(Perturbed(monitor.model, change), monitor.observer, monitor.calibration)


def test_the_calibrating_machine_is_armed_and_counts_what_the_bench_did(
    bundle: Path, state: Path
) -> None:
    monitor = load(bundle, state)
    assert monitor.armed
    assert monitor.disarmed_reason == ""
    report = run_selftest(monitor, state=state)
    assert report.passed
    assert report.differences == ()
    assert [r.here for r in report.results] == [r.check.bench for r in report.results]
    assert len(report.results) == 1 + 5 + 6
    record = msgspec.json.decode(Path(report.record).read_bytes(), type=ArmingRecord)
    assert record.manifest_sha256 == monitor.model.manifest.sha256
    assert record.binding == current_binding(monitor.model)


def test_another_device_is_disarmed_until_the_selftest_passed_there(
    bundle: Path, state: Path, elsewhere: None, tmp_path: Path
) -> None:
    before = (bundle / calibration_name("fp32")).read_bytes()
    monitor = load(bundle, state)
    assert not monitor.armed
    assert ELSEWHERE in monitor.disarmed_reason
    assert "jepa-edge selftest" in monitor.disarmed_reason
    report = run_selftest(monitor, state=state)
    assert report.passed
    assert ELSEWHERE in report.differences[0]
    assert load(bundle, state).armed
    assert not load(bundle, tmp_path / "another state").armed
    assert (bundle / calibration_name("fp32")).read_bytes() == before


def test_another_runtime_needs_a_selftest_of_its_own(
    bundle: Path, state: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_selftest(load(bundle, state), state=state).passed
    monkeypatch.setattr("onnxruntime.__version__", "1.99.0")
    assert "1.99.0" in load(bundle, state).disarmed_reason
    assert run_selftest(load(bundle, state), state=state).passed
    assert load(bundle, state).armed


def test_a_disarmed_session_says_unknown(
    bundle: Path, state: Path, elsewhere: None, make_episode: Callable[[int], Episode]
) -> None:
    def levels(monitor: Monitor) -> tuple[set[Level], set[str]]:
        session, episode = Session(monitor.model, monitor), make_episode(900)
        flags = [
            session.step(
                Observation(
                    stamp_s=float(stamp), frame=frame, action=episode.actions[t - 1] if t else None
                )
            ).flag
            for t, (stamp, frame) in enumerate(zip(episode.stamps_s, episode.frames, strict=True))
        ]
        return {flag.level for flag in flags}, set(flags[-1].reasons)

    disarmed, reasons = levels(load(bundle, state))
    assert disarmed == {Level.UNKNOWN}
    assert "not_armed" in reasons
    run_selftest(load(bundle, state), state=state)
    armed, reasons = levels(load(bundle, state))
    assert Level.UNKNOWN in armed  # warming up
    assert armed - {Level.UNKNOWN}
    assert "not_armed" not in reasons


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("noise", lambda z: z + np.random.default_rng(len(z)).normal(0, 1.0, z.shape)),
        ("coarse", lambda z: np.round(z * 0.5) / 0.5),
        ("silent", np.zeros_like),
        ("nan", lambda z: np.full_like(z, np.nan)),
    ],
)
def test_an_engine_that_says_something_else_does_not_arm(
    bundle: Path,
    state: Path,
    elsewhere: None,
    name: str,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> None:
    assert run_selftest(load(bundle, state), state=state).passed
    assert load(bundle, state).armed
    broken = perturbed(bundle, state, lambda z: np.asarray(change(z), np.float32))
    report = run_selftest(broken, state=state)
    assert not report.passed
    assert report.failures
    assert report.record == ""
    assert not load(bundle, state).armed  # the older record is gone
    assert list(state.glob("*")) == []


def test_an_engine_that_is_deaf_to_faults_does_not_arm(bundle: Path, state: Path) -> None:
    """Thresholds that nothing exceeds: no false alarm, full coverage, and no detection."""
    monitor = load(bundle, state)
    deaf = msgspec.structs.replace(
        monitor.calibration,
        thresholds=msgspec.structs.replace(
            monitor.calibration.thresholds,
            caution=1e9,
            reject=1e9,
            nominal=(*monitor.calibration.thresholds.nominal[:-1], 1e9),
        ),
    )
    report = run_selftest(Monitor(monitor.model, monitor.observer, deaf), state=state)
    failed = [result.check.name for result in report.results if not result.passed]
    assert len(failed) >= 4
    assert all(name.startswith("detects ") for name in failed)


def test_a_small_difference_of_kernels_still_arms(bundle: Path, state: Path) -> None:
    rng = np.random.default_rng(0)
    near = perturbed(
        bundle, state, lambda z: np.asarray(z * (1 + rng.normal(0, 1e-4, z.shape)), np.float32)
    )
    assert run_selftest(near, state=state).passed


def test_a_record_of_another_bundle_does_not_arm(
    bundle: Path, state: Path, elsewhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    report = run_selftest(load(bundle, state), state=state)
    alter(bundle, lambda staging: (staging / "note.json").write_text("{}") and None)
    monitor = load(bundle, state)
    assert not monitor.armed
    # The old record under the new one's name.
    path = record_path(monitor.model, current_binding(monitor.model), state)
    shutil.copy(report.record, path)
    with caplog.at_level(logging.WARNING):
        assert not load(bundle, state).armed
    assert "another bundle, machine or version" in caplog.text


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b'{"schema_version": 1}', b"[]", None])
def test_a_corrupt_record_does_not_arm(
    bundle: Path,
    state: Path,
    elsewhere: None,
    payload: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = Path(run_selftest(load(bundle, state), state=state).record)
    whole = record.read_bytes()
    record.write_bytes(whole[:-20] if payload is None else payload)
    with caplog.at_level(logging.WARNING):
        assert not load(bundle, state).armed
    assert "run it again" in caplog.text
    record.write_bytes(whole.replace(b"}\n", b', "surplus": 1}\n'))
    assert not load(bundle, state).armed
    record.write_bytes(whole)
    assert load(bundle, state).armed


def test_a_record_of_another_version_does_not_arm(
    bundle: Path, state: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_selftest(load(bundle, state), state=state)
    monkeypatch.setattr("jepa_edge.arming.__version__", "99.0")
    assert not load(bundle, state).armed


def test_the_same_scores_under_other_graphs_or_preprocessing_are_refused_for_good(
    bundle: Path, state: Path
) -> None:
    """No self-test and no record can arm what was calibrated on something else."""
    run_selftest(load(bundle, state), state=state)
    written = msgspec.json.decode(
        (bundle / calibration_name("fp32")).read_bytes(), type=Calibration
    )
    for field in ("engine_sha256", "preprocessing_sha256", "scoring_sha256"):
        other = msgspec.structs.replace(written.binding, **{field: "ab" * 32})
        foreign = msgspec.structs.replace(written, binding=other)
        alter(bundle, lambda s, f=foreign: _write(s / calibration_name("fp32"), f))
        with pytest.raises(CalibrationError, match="abababababab"):
            load(bundle, state)


def test_an_int8_engine_under_an_fp32_calibration_is_refused(bundle: Path, state: Path) -> None:
    base = Bundle.open(bundle)
    with staged_bundle(bundle, base=base) as staging:
        fp32 = base.manifest.variants["fp32"]
        # Other bytes, the same numbers: even a perfect int8 needs its own calibration.
        for graph in ("encoder", "predictor"):
            model = onnx.load(staging / f"{graph}.onnx")
            model.doc_string = "int8"
            onnx.save(model, str(staging / f"{graph}8.onnx"))
        int8 = msgspec.structs.replace(
            fp32,
            precision="int8",
            encoder=msgspec.structs.replace(fp32.encoder, file="encoder8.onnx"),
            predictor=msgspec.structs.replace(fp32.predictor, file="predictor8.onnx"),
        )
        calibration = msgspec.json.decode(
            (staging / calibration_name("fp32")).read_bytes(), type=Calibration
        )
        renamed = msgspec.structs.replace(calibration, variant="int8")
        _write(staging / calibration_name("int8"), renamed)
        shutil.copy(staging / heads_name("fp32"), staging / heads_name("int8"))
        variants = {**base.manifest.variants, "int8": int8}
        seal(staging, msgspec.structs.replace(base.manifest, variants=variants))
    with pytest.raises(CalibrationError, match=r"quantization moves the scores.*calibrate"):
        Monitor.load(WorldModel.load(bundle, "int8"), state=state)
    assert load(bundle, state).armed


def test_a_selftest_of_another_calibration_or_none_is_refused(bundle: Path, state: Path) -> None:
    name = selftest_name("fp32")
    selftest = msgspec.json.decode((bundle / name).read_bytes(), type=SelfTest)
    other = msgspec.structs.replace(selftest, calibration_sha256="0" * 64)
    alter(bundle, lambda staging: _write(staging / name, other))
    with pytest.raises(CalibrationError, match="another calibration"):
        run_selftest(load(bundle, state), state=state)
    alter(bundle, lambda staging: (staging / name).unlink())
    with pytest.raises(CalibrationError, match=r"has no self-test.*--selftest-episodes"):
        run_selftest(load(bundle, state), state=state)


def test_an_episode_that_was_slipped_in_is_not_replayed(bundle: Path) -> None:
    selftest, recording = read_selftest(Bundle.open(bundle), "fp32")
    shutil.copy(recording.files[0], recording.path / "episode_99999.npz")
    with pytest.raises(BundleError, match="remove what is not"):
        read_selftest(Bundle.open(bundle), "fp32")
    assert len(recording) == len(selftest.plan.starts)


def test_the_stored_episodes_are_lossless_and_of_the_test_split(
    bundle: Path, make_episode: Callable[[int], Episode]
) -> None:
    from jepa_edge.calibration.dataset import split_episodes

    _, recording = read_selftest(Bundle.open(bundle), "fp32")
    held_out = split_episodes(120, 0.1, 0)["test"]
    originals = {_digest(make_episode(seed)): seed for seed in range(120)}
    found = [originals[_digest(episode)] for episode in recording]
    assert len(set(found)) == len(found) == min(24, len(held_out))
    assert set(found) <= set(held_out)


def test_energies_are_those_of_the_calibration(bundle: Path, state: Path) -> None:
    """The run-time code against the bench's, which set the radii."""
    from jepa_edge.calibration.dataset import EncodedEpisode, make_windows
    from jepa_edge.calibration.thresholds import window_energies as on_the_bench

    monitor = load(bundle, state)
    selftest, recording = read_selftest(Bundle.open(bundle), "fp32")
    episodes = [
        EncodedEpisode(name=e.name, latents=monitor.model.encode(e.frames), actions=e.actions)
        for e in recording
    ]
    windows = make_windows(monitor.model, episodes, monitor.model.manifest.history, 5)
    expected = on_the_bench(monitor.latent_variable, windows)
    rows = [
        np.flatnonzero(windows.episode == index)[start]
        for index, start in enumerate(selftest.plan.starts)
    ]
    here = window_energies(
        monitor,
        [e.latents for e in episodes],
        [e.actions for e in episodes],
        selftest.plan.starts,
    )
    np.testing.assert_allclose(here, expected[rows], rtol=1e-5)


def test_faults_begin_after_the_warm_up(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    selftest, _ = read_selftest(opened, "fp32")
    onsets = {int(text.rpartition("@")[2]) for text in selftest.plan.faults}
    assert len(onsets) == 1
    assert onsets.pop() >= first_step(opened.manifest.history)


def test_the_state_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_directory() == tmp_path / "jepa-edge"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert state_directory() == tmp_path / "home" / ".local" / "state" / "jepa-edge"


def test_reasons_are_empty_on_the_same_machine(bundle: Path, state: Path) -> None:
    model = WorldModel.load(bundle, "fp32")
    binding = current_binding(model)
    assert disarmed_reason(model, binding, state) == ""
    for field, value in (("runtime", "tensorrt 10"), ("device_class", "riscv64")):
        other = msgspec.structs.replace(binding, **{field: value})
        assert value in disarmed_reason(model, other, state)


def _write(path: Path, value: object) -> None:
    path.write_bytes(json_bytes(value))


def _digest(episode: Episode) -> str:
    bare = dataclasses.replace(episode, state=None)
    parts = (bare.frames.tobytes(), bare.actions.tobytes(), bare.stamps_s.tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_stored_selftest_is_a_recording(bundle: Path) -> None:
    selftest, _ = read_selftest(Bundle.open(bundle), "fp32")
    assert len(Recording(bundle / selftest.recording)) == len(selftest.plan.starts)


def test_a_plan_that_cannot_be_counted_is_refused(bundle: Path) -> None:
    name = selftest_name("fp32")
    whole = msgspec.json.decode((bundle / name).read_bytes(), type=SelfTest)

    def with_plan(**changes: object) -> SelfTest:
        return msgspec.structs.replace(whole, plan=msgspec.structs.replace(whole.plan, **changes))

    late = (*whole.plan.starts[:-1], 18)  # 25 frames, a history of 3 and 5 steps: 17 is the last
    for other, word in (
        (msgspec.structs.replace(whole, checks=whole.checks[:-1]), "has 11 checks, expected 12"),
        (with_plan(faults=whole.plan.faults[1:]), "has 12 checks, expected 11"),
        (with_plan(faults=("smog", *whole.plan.faults[1:])), "not in the library"),
        (with_plan(starts=late), "starts at 18 of episode"),
    ):
        alter(bundle, lambda staging, o=other: _write(staging / name, o))
        with pytest.raises(BundleError, match=word):
            read_selftest(Bundle.open(bundle), "fp32")
    alter(bundle, lambda staging: _write(staging / name, with_plan(starts=(*late[:-1], 17))))
    read_selftest(Bundle.open(bundle), "fp32")


def test_without_a_home_nothing_is_remembered_and_the_remedy_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: None, state: Path
) -> None:
    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monitor = Monitor.load(WorldModel.load(bundle, "fp32"))
    assert not monitor.armed
    with pytest.raises(InputError, match=r"--state DIR or set XDG_STATE_HOME"):
        run_selftest(monitor)
    assert run_selftest(monitor, state=state).passed
