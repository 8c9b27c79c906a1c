# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge run`: what its options do to the flags, and the line that sums a run up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jepa_edge.cli.run import command
from jepa_edge.errors import InputError
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter


@pytest.fixture
def flicker(tmp_path: Path, make_episode: Callable[..., Episode]) -> Path:
    """A recording in which the camera goes dark for two frames."""
    episode = make_episode(9003, 60)
    episode.frames[12:14] = 0
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        writer.add(episode)
    return tmp_path / "runs"


def _run(bundle: Path, source: Path, *options: object) -> Result:
    arguments = [str(bundle), "--source", str(source), "--rate", "0", "--samples", "0"]
    return CliRunner().invoke(command, [*arguments, *map(str, options)], catch_exceptions=True)


def _levels(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [json.loads(line)["level"] for line in result.stdout.splitlines()]


def test_a_rejection_latches_unless_told_otherwise(calibrated_bundle: Path, flicker: Path) -> None:
    latched = _levels(_run(calibrated_bundle, flicker, "--json"))
    assert set(latched[12:]) == {"REJECT"}
    free = _levels(_run(calibrated_bundle, flicker, "--json", "--latch", "none"))
    assert latched[:13] == free[:13]
    assert free[-1] == "NOMINAL"


def test_fall_after_holds_an_alarm_longer(calibrated_bundle: Path, flicker: Path) -> None:
    def alarmed(fall_after: int) -> int:
        options = ("--json", "--latch", "none", "--fall-after", fall_after)
        return sum(
            level in ("CAUTION", "REJECT")
            for level in _levels(_run(calibrated_bundle, flicker, *options))[12:]
        )

    assert alarmed(1) < alarmed(3) < alarmed(8)


def test_json_tells_the_frames_own_level_and_the_latch(
    calibrated_bundle: Path, flicker: Path
) -> None:
    last = json.loads(_run(calibrated_bundle, flicker, "--json").stdout.splitlines()[-1])
    told = {name: last[name] for name in ("level", "raw_level", "latched", "reasons")}
    expected = {
        "level": "REJECT",
        "raw_level": "NOMINAL",
        "latched": True,
        "reasons": ["latched"],
    }
    assert told == expected
    assert (last["episode_steps"], last["budget_period"]) == (58, 3)


def test_the_last_line_sums_up(calibrated_bundle: Path, flicker: Path) -> None:
    counts = Counter(_levels(_run(calibrated_bundle, flicker, "--json")))
    summary = _run(calibrated_bundle, flicker).stdout.splitlines()[-1]
    assert summary.startswith("61 frames: ")
    for level in ("UNKNOWN", "NOMINAL", "CAUTION", "REJECT"):
        assert f"{level} {counts[level]}" in summary
    assert "first REJECT at frame 12" in summary
    assert summary.endswith("latched until a reset")


def test_steps_are_the_models_whatever_it_takes() -> None:
    help_text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "model steps to run" in help_text
    assert "action blocks" not in help_text


def test_impossible_settings_are_refused(calibrated_bundle: Path, flicker: Path) -> None:
    refused = _run(calibrated_bundle, flicker, "--fall-after", 0)
    assert isinstance(refused.exception, InputError)
    assert "fall_after" in str(refused.exception)
    assert _run(calibrated_bundle, flicker, "--latch", "nominal").exit_code == 2
