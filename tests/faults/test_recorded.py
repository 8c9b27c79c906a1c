# SPDX-License-Identifier: Apache-2.0
"""Faults in recordings: frames as the filter makes them, commands that explain the motion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jepa_edge.cli.record import command
from jepa_edge.errors import InputError
from jepa_edge.faults import (
    FAULTS,
    ActionScale,
    ActuatorFilter,
    CameraFilter,
    FaultKind,
    inject_recorded,
    inject_recording,
    parse_fault,
)
from jepa_edge.recording import Episode, Recording, RecordingInfo, RecordingWriter

LOW, HIGH = (0.0, -1.0) * 2, (10.0, 1.0) * 2
SCALE = ActionScale.from_limits(LOW, HIGH, 2)
STEPS = 20


def _episode(seed: int = 0, margin: float = 0.0) -> Episode:
    """A run whose actions keep away from their limits by a share of the range."""
    rng = np.random.default_rng(seed)
    span = np.subtract(HIGH, LOW)
    actions = LOW + span * rng.uniform(margin, 1 - margin, (STEPS, 4))
    return Episode(
        name="run",
        frames=rng.integers(0, 256, (STEPS + 1, 16, 12, 3)).astype(np.uint8),
        actions=actions.astype(np.float32),
        stamps_s=np.arange(STEPS + 1) / 5.0,
        state=rng.normal(size=(STEPS + 1, 3)).astype(np.float32),
    )


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    info = RecordingInfo(rate_hz=5.0, action_dim=4, state_names=("a", "b", "c"), source="robot")
    with RecordingWriter(tmp_path / "runs", info) as writer:
        for seed in range(3):
            writer.add(_episode(seed))
    return Recording(tmp_path / "runs")


@pytest.mark.parametrize("onset", [0, 1, 7, STEPS])
@pytest.mark.parametrize(
    "name", [fault.name for fault in FAULTS.values() if fault.kind is FaultKind.CAMERA]
)
def test_camera_faults_are_exactly_those_of_the_stream(name: str, onset: int) -> None:
    episode = _episode()
    injection = parse_fault(f"{name}@{onset}")
    faulty = inject_recorded(episode, injection, SCALE, seed=5)
    camera = CameraFilter(injection, 5)
    for step in range(STEPS + 1):
        np.testing.assert_array_equal(faulty.frames[step], camera(episode.frames[step], step))
    np.testing.assert_array_equal(faulty.frames[:onset], episode.frames[:onset])
    np.testing.assert_array_equal(faulty.actions, episode.actions)
    np.testing.assert_array_equal(faulty.state, episode.state)


@pytest.mark.parametrize("text", ["bias:0.3@5", "bias:1@0", "gain:0.7@5", "gain:2@5", "inverted@5"])
@pytest.mark.parametrize("seed", range(4))
def test_the_faulty_actuator_makes_the_recorded_motion_of_the_commands(
    text: str, seed: int
) -> None:
    episode = _episode(seed)
    injection = parse_fault(text)
    faulty = inject_recorded(episode, injection, SCALE, seed=seed)
    actuator = ActuatorFilter(injection, SCALE, seed)
    executed = np.stack([actuator(a, step) for step, a in enumerate(faulty.actions)])
    at_limit = (faulty.actions <= LOW) | (faulty.actions >= HIGH)
    within = ~at_limit
    np.testing.assert_allclose(executed[within], episode.actions[within], atol=1e-5)
    onset = injection.onset
    np.testing.assert_array_equal(faulty.actions[:onset], episode.actions[:onset])
    assert not np.isclose(faulty.actions[onset:], episode.actions[onset:]).all(1).any()
    assert within[onset:].mean() > 0.5
    assert (faulty.actions >= np.float32(LOW)).all()
    assert (faulty.actions <= np.float32(HIGH)).all()
    np.testing.assert_array_equal(faulty.frames, episode.frames)


def test_far_from_the_limits_nothing_is_clipped() -> None:
    episode = _episode(margin=0.3)
    injection = parse_fault("gain:0.7@4")
    faulty = inject_recorded(episode, injection, SCALE)
    center = np.array([5.0, 0.0] * 2)
    np.testing.assert_allclose(
        faulty.actions[4:], center + (episode.actions[4:] - center) / 0.7, atol=1e-5
    )


@pytest.mark.parametrize(("late", "onset"), [(1, 0), (3, 6), (5, 14)])
def test_a_delay_gives_the_commands_earlier_and_drops_the_end(late: int, onset: int) -> None:
    episode = _episode()
    injection = parse_fault(f"delay:{late}@{onset}")
    faulty = inject_recorded(episode, injection, SCALE)
    assert faulty.actions.shape[0] == STEPS - late
    assert faulty.state is not None
    assert len(faulty.frames) == len(faulty.stamps_s) == len(faulty.state) == STEPS - late + 1
    np.testing.assert_array_equal(faulty.frames, episode.frames[: STEPS - late + 1])
    actuator = ActuatorFilter(injection, SCALE)
    executed = np.stack([actuator(a, step) for step, a in enumerate(faulty.actions)])
    explained = np.r_[0:onset, onset + late : STEPS - late]
    np.testing.assert_array_equal(executed[explained], episode.actions[explained])


@pytest.mark.parametrize("name", ["stuck", "dead_axis", "friction", "mass"])
def test_what_changes_the_motion_needs_a_simulator(name: str) -> None:
    with pytest.raises(InputError, match=r"use a simulator, or one of occlusion, .*inverted"):
        inject_recorded(_episode(), parse_fault(f"{name}@5"), SCALE)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f"blur@{STEPS + 1}", "choose an onset within"),
        (f"bias@{STEPS}", "choose an onset within"),
        ("delay:6@14", "choose an earlier onset"),
        ("delay:30@0", "leaves 0"),
    ],
)
def test_a_fault_that_leaves_nothing_to_see_is_refused(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        inject_recorded(_episode(), parse_fault(text), SCALE)


def test_actions_of_another_robot_are_refused() -> None:
    scale = ActionScale.from_limits((0.0,) * 2, (1.0,) * 2, 1)
    with pytest.raises(InputError, match="4 numbers per action"):
        inject_recorded(_episode(), parse_fault("bias"), scale)


def test_a_whole_recording(recording: Recording, tmp_path: Path) -> None:
    done: list[int] = []
    out = tmp_path / "faulty"
    injection = parse_fault("salt:0.1@4")
    longest = inject_recording(recording, out, injection, seed=2, on_progress=done.append)
    assert (done, longest) == ([1, 2, 3], STEPS)
    faulty = Recording(out)
    assert faulty.info.source == "robot with salt:0.1@4 seed=2"
    assert faulty.info.state_names == recording.info.state_names
    patterns = set()
    for before, after in zip(recording, faulty, strict=True):
        np.testing.assert_array_equal(before.frames[:4], after.frames[:4])
        changed = (before.frames != after.frames).any(-1)[4:]
        assert changed.any((1, 2)).all()
        patterns.add(changed.tobytes())
    assert len(patterns) == 3  # every episode draws apart
    inject_recording(recording, tmp_path / "again", injection, seed=2)
    for one, two in zip(faulty, Recording(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)


def test_the_axes_of_recorded_actions_must_be_told(recording: Recording, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--block"):
        inject_recording(recording, tmp_path / "x", parse_fault("bias@4"))
    with pytest.raises(InputError, match="multiple of the block 3"):
        inject_recording(recording, tmp_path / "x", parse_fault("bias@4"), block=3)
    assert not (tmp_path / "x").exists()
    inject_recording(recording, tmp_path / "x", parse_fault("bias@4"), block=2)


@pytest.fixture
def cli() -> Callable[..., object]:
    return lambda *arguments: CliRunner().invoke(
        command, [str(argument) for argument in arguments], catch_exceptions=False
    )


def test_the_command_line_writes_it(
    recording: Recording, tmp_path: Path, cli: Callable[..., object]
) -> None:
    out = tmp_path / "out"
    done = cli("--from", recording.path, "--out", out, "--fault", "lag:2@3", "--json")
    assert json.loads(done.output) == {  # type: ignore[attr-defined]
        "out": str(out),
        "episodes": 3,
        "steps": STEPS,
        "seed": 0,
        "fault": {"name": "lag", "severity": 2.0, "onset": 3},
    }
    np.testing.assert_array_equal(Recording(out).load(0).frames[9], recording.load(0).frames[7])


def test_the_command_line_lists_the_library(cli: Callable[..., object]) -> None:
    listed = json.loads(cli("--list-faults", "--json").output)  # type: ignore[attr-defined]
    assert {entry["name"]: entry["severity"] for entry in listed} == {
        fault.name: fault.severity for fault in FAULTS.values()
    }
    lines = cli("--list-faults").output.splitlines()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines[1:-1]] == list(FAULTS)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("sim:pusht",), "--out"),
        (("--out", "x"), "expected one of them"),
        (("sim:pusht", "--from", "y", "--out", "x"), "expected one of them"),
        (("--from", "y", "--out", "x"), "needs --fault"),
        (("--from", "y", "--out", "x", "--fault", "blur"), "not a recording"),
        (("--from", "y", "--out", "x", "--fault", "blur", "--episodes", "100"), "for --episodes;"),
        (("--from", "y", "--out", "x", "--fault", "blur", "--steps", "40"), "for --steps;"),
        (("--from", "y", "--out", "x", "--fault", "blur", "--size", "9"), "for --size;"),
        (("--from", "y", "--out", "x", "--fault", "blur", "--workers", "2"), "for --workers;"),
        (("sim:tokamak", "--out", "x"), "sim:pusht or sim:reacher"),
        (("sim:pusht", "--out", "x", "--fault", "frozen@3"), "not in the library"),
    ],
)
def test_bad_calls_are_refused(
    arguments: tuple[str, ...], word: str, cli: Callable[..., object]
) -> None:
    with pytest.raises(InputError, match=word):
        cli(*arguments)
