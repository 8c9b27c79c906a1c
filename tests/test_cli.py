# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter

VERBS = ("record", "export", "calibrate", "run", "inspect")


def _cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "jepa-edge"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear line on stderr, exit code 2, nothing else."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in lines[0]


@pytest.fixture
def runs(tmp_path: Path, make_episode: Callable[[int], Episode]) -> Path:
    info = RecordingInfo(rate_hz=5.0, action_dim=4)
    with RecordingWriter(tmp_path / "runs", info) as writer:
        for seed in range(8001, 8004):
            writer.add(make_episode(seed))
    return tmp_path / "runs"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    done = _cli(verb, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"jepa-edge {verb}" in done.stdout
    assert verb in _cli("--help").stdout


def test_inspect_tells_what_is_inside(calibrated_bundle: Path) -> None:
    done = _cli("inspect", calibrated_bundle, "--replay")
    assert done.returncode == 0, done.stderr
    assert "golden pass" in done.stdout
    assert "calibrated" in done.stdout
    told = json.loads(_cli("inspect", calibrated_bundle, "--json").stdout)
    latent = told["manifest"]["latent"]
    assert (latent["tokens"], latent["dim"], latent["distance"]) == (1, 6, "l2")


def test_run_streams_flags_as_json_and_mcap_and_replays_them(
    calibrated_bundle: Path, runs: Path, tmp_path: Path
) -> None:
    mcap, jsonl = tmp_path / "out.mcap", tmp_path / "out.jsonl"
    done = _cli(
        "run", calibrated_bundle, "--source", runs, "--rate", 0, "--json",
        "--mcap", mcap, "--jsonl", jsonl,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    flags = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(flags) == 25
    assert flags[0]["level"] == "UNKNOWN"
    assert flags[-1]["level"] in ("NOMINAL", "CAUTION", "REJECT")
    assert len(flags[-1]["spread"]["aleatoric"]) == 5
    assert jsonl.read_text() == done.stdout
    replayed = _cli("run", calibrated_bundle, "--source", mcap, "--rate", 0, "--json")
    assert replayed.returncode == 0, replayed.stderr
    again = [json.loads(line) for line in replayed.stdout.splitlines()]
    assert [(f["level"], f["score"]) for f in again] == [(f["level"], f["score"]) for f in flags]


def test_the_plain_output_tells_changes_only(calibrated_bundle: Path, runs: Path) -> None:
    done = _cli("run", calibrated_bundle, "--source", runs, "--rate", 0)
    assert done.returncode == 0, done.stderr
    assert "UNKNOWN: warming_up" in done.stdout
    assert len(done.stdout.splitlines()) < 25


def test_a_reader_that_leaves_early_is_no_error(calibrated_bundle: Path, runs: Path) -> None:
    jepa_edge = Path(sys.executable).parent / "jepa-edge"
    line = f"{jepa_edge} run {calibrated_bundle} --source {runs} --rate 0 --json | head -n 1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_bad_bundles_are_refused_in_one_line(
    calibrated_bundle: Path, runs: Path, tmp_path: Path
) -> None:
    def damaged(name: str) -> Path:
        return Path(shutil.copytree(calibrated_bundle, tmp_path / name / "a.jepa"))

    truncated = damaged("truncated")
    file = truncated / "encoder.onnx"
    file.write_bytes(file.read_bytes()[:-9])
    flipped = damaged("flipped")
    file = flipped / "calibration" / "fp32.json"
    payload = bytearray(file.read_bytes())
    payload[len(payload) // 2] ^= 1
    file.write_bytes(payload)
    renamed = damaged("renamed")
    (renamed / "predictor.onnx").rename(renamed / "p.onnx")
    for bundle, word in ((truncated, "damaged"), (flipped, "damaged"), (renamed, "lacks")):
        _refused(_cli("run", bundle, "--source", runs), word)
        _refused(_cli("inspect", bundle), word)
        _refused(_cli("calibrate", bundle, "--data", runs), word)
    _refused(_cli("run", tmp_path / "missing.jepa", "--source", runs), "does not exist")


def test_bad_recordings_are_refused_in_one_line(
    calibrated_bundle: Path, runs: Path, tmp_path: Path
) -> None:
    file = runs / "episode_00000.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        good = dict(arrays)

    def attempt(**changes: object) -> subprocess.CompletedProcess[str]:
        np.savez(file, **{**good, **changes})  # type: ignore[arg-type]
        return _cli("run", calibrated_bundle, "--source", runs, "--rate", 0)

    frames = good["frames"]
    _refused(attempt(frames=frames.astype(np.float32) * np.nan), "float32", "uint8")
    _refused(attempt(frames=frames[:, :, :6]), "(8, 6, 3)", "(8, 8, 3)")
    _refused(attempt(frames=frames.transpose(0, 3, 1, 2).copy()), "channels come first")
    _refused(attempt(actions=good["actions"] * np.nan), "NaN")
    _refused(attempt(actions=good["actions"][:, :2].copy()), "action")
    info = json.loads((runs / "recording.json").read_text())
    (runs / "recording.json").write_text(json.dumps({**info, "color": "bgr"}))
    _refused(attempt(), "holds bgr frames", "rgb")


def test_an_alpha_that_the_data_cannot_support_is_refused(
    calibrated_bundle: Path, runs: Path
) -> None:
    before = {path: path.read_bytes() for path in calibrated_bundle.rglob("*") if path.is_file()}
    _refused(_cli("calibrate", calibrated_bundle, "--data", runs, "--alpha", 0.001), "alpha", "999")
    _refused(_cli("calibrate", calibrated_bundle, "--data", runs, "--alpha", 1.5), "alpha")
    after = {path: path.read_bytes() for path in calibrated_bundle.rglob("*") if path.is_file()}
    assert after == before


def test_an_uncalibrated_bundle_says_what_to_do(linear_bundle: Path, runs: Path) -> None:
    _refused(_cli("run", linear_bundle, "--source", runs), "jepa-edge calibrate")
    done = _cli("run", linear_bundle, "--source", runs, "--rate", 0, "--uncalibrated", "--json")
    assert done.returncode == 0, done.stderr
    levels = {json.loads(line)["level"] for line in done.stdout.splitlines()}
    assert levels == {"UNKNOWN"}


def test_checkpoints_of_another_kind_are_refused(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jepa"
    junk = tmp_path / "weights.ckpt"
    junk.write_bytes(b"not a checkpoint")
    _refused(_cli("export", junk, "--out", out, "--calibration-data", runs))
    _refused(_cli("export", tmp_path / "none", "--out", out, "--calibration-data", runs))
    assert not out.exists()


def test_wrong_usage_exits_with_two() -> None:
    for arguments in (["fly"], ["run"], ["run", "a.jepa", "--source", "x", "--rate", "-1"]):
        _refused(_cli(*arguments), "--help")


def test_hostile_options_are_refused(calibrated_bundle: Path, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    record = ("record", "sim:pusht", "--out", out, "--episodes", 1)
    _refused(_cli(*record, "--seed", -1), "--seed")
    _refused(_cli(*record, "--block", 0), "block=0")
    _refused(_cli(*record, "--fault", "occlusion@\u00b2"), "NAME[:SEVERITY][@ONSET]")
    _refused(_cli(*record, "--fault", "stuck@99"), "fault")
    assert not (tmp_path / "deep").exists()
    run = ("run", calibrated_bundle, "--source", runs, "--rate", 0)
    _refused(_cli(*run, "--samples", 1), "samples")
    _refused(_cli(*run, "--horizon", 0), "horizon")
    _refused(_cli(*run, "--seed", 2**70), "seed")
    _refused(_cli(*run, "--resize"), "videos")
    taken = tmp_path / "taken.jsonl"
    taken.write_text("precious")
    _refused(_cli(*run, "--jsonl", taken), "exists already")
    _refused(_cli(*run, "--mcap", taken), "exists already")
    _refused(_cli(*run, "--jsonl", out / "x.jsonl"), "No such file")
    assert taken.read_text() == "precious"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 64)
    _refused(_cli("run", calibrated_bundle, "--source", broken), "not a readable video")


def test_a_terminated_recording_leaves_nothing(tmp_path: Path) -> None:
    jepa_edge = str(Path(sys.executable).parent / "jepa-edge")
    arguments = ["record", "sim:pusht", "--episodes", "500", "--out", str(tmp_path / "runs")]
    process = subprocess.Popen([jepa_edge, *arguments], stderr=subprocess.PIPE)
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    time.sleep(0.5)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
