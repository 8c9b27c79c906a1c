# SPDX-License-Identifier: Apache-2.0
"""Bags with the robot's own state, for models that take it: read, calibrated on, replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.recording import BagRecording, open_recording
from jepa_edge.bags.topics import BagOptions, find_topics
from jepa_edge.bundle import Bundle
from jepa_edge.cli.calibrate import command as calibrate
from jepa_edge.cli.replay import command as replay
from jepa_edge.cli.run import command as run
from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.inputs import InputOptions
from jepa_edge.nodes.messages import EMBEDDING, FLAG, IMAGE, header
from jepa_edge.ros_types import ACTION
from jepa_edge.session import SessionConfig
from jepa_edge.sources import SourceOptions, open_source
from jepa_edge.world_model import WorldModel

from ..state_world import make_state_bundle, record_states, state_episode
from .robot import (
    ACTION_TOPIC,
    IMAGE_TOPIC,
    MAKE,
    PERIOD_NS,
    START_NS,
    STATE_TOPIC,
    Robot,
    Said,
    image,
    write_bag,
)

JOINTS = "sensor_msgs/msg/JointState"
FIELDS = ("position[elbow]", "velocity[0]")


def as_array(state: NDArray[np.float32], stamp_ns: int) -> Any:
    return MAKE(ACTION, data=state)


def as_joints(state: NDArray[np.float32], stamp_ns: int) -> Any:
    """The two numbers of a state among others, as FIELDS names them."""
    return MAKE(
        JOINTS,
        header=header(MAKE, stamp_ns, "base"),
        name=["wrist", "elbow"],
        position=np.array([9.0, float(state[0])]),
        velocity=np.array([float(state[1]), 7.0]),
    )


def said_of(seed: int, kind: str = ACTION, *, without: range = range(0)) -> list[Said]:
    """A run as a robot says it; no state within 0.05 s of the frames `without` names."""
    episode, said = state_episode(seed), []
    assert episode.robot_state is not None
    for step, frame in enumerate(episode.frames):
        stamp_ns = START_NS + step * PERIOD_NS
        if step not in without:
            make = as_array if kind == ACTION else as_joints
            state = make(episode.robot_state[step], stamp_ns)
            said.append(Said(STATE_TOPIC, kind, stamp_ns + 1_000_000, state))
        said.append(Said(IMAGE_TOPIC, IMAGE, stamp_ns + 3_000_000, image(frame, stamp_ns)))
        if step < len(episode.actions):
            command = MAKE(ACTION, data=episode.actions[step])
            said.append(Said(ACTION_TOPIC, ACTION, stamp_ns + 20_000_000, command))
    return said


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was calibrated on bags."""
    root = tmp_path_factory.mktemp("state")
    bundle = make_state_bundle(root / "state.jepa")
    (root / "bags").mkdir()
    for seed in range(36):
        write_bag(root / "bags" / f"run_{seed:02d}", said_of(seed, JOINTS))
    few = ("--alpha", "0.1", "--horizon", "3", "--groups", "0", "--selftest-episodes", "0")
    done = CliRunner().invoke(
        calibrate,
        [str(bundle), "--data", str(root / "bags"), "--state-fields", ",".join(FIELDS), *few],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    assert "dropped" not in done.output
    return bundle


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ACTION, BagOptions(state_topic=STATE_TOPIC)),
        (ACTION, BagOptions(action_topic=ACTION_TOPIC)),
        (JOINTS, BagOptions(state_fields=FIELDS)),
        (JOINTS, BagOptions(state_type="sensor_msgs/JointState", state_fields=FIELDS)),
    ],
)
def test_a_bag_gives_the_states_of_a_recording(
    kind: str, options: BagOptions, calibrated: Path, tmp_path: Path
) -> None:
    bag, manifest = (
        write_bag(tmp_path / "bag", said_of(700, kind)),
        Bundle.open(calibrated).manifest,
    )
    episode = state_episode(700)
    (read,) = open_recording(bag, manifest, options)
    np.testing.assert_array_equal(read.frames, episode.frames)
    np.testing.assert_array_equal(read.actions, episode.actions)
    assert read.robot_state is not None
    assert read.robot_state.dtype == np.float32
    np.testing.assert_array_equal(read.robot_state, episode.robot_state)
    seen = list(open_source(str(bag), manifest, SourceOptions(bag=options)))
    np.testing.assert_array_equal([one.state for one in seen], episode.robot_state)


def test_frames_without_a_state_cut_an_episode(calibrated: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(calibrated).manifest
    bag = write_bag(tmp_path / "bag", said_of(701, without=range(1, 2)))
    options = BagOptions(state_topic=STATE_TOPIC)
    recording = open_recording(bag, manifest, options)
    assert isinstance(recording, BagRecording)
    (read,) = recording
    episode = state_episode(701)
    assert read.robot_state is not None
    assert episode.robot_state is not None
    np.testing.assert_array_equal(read.robot_state, episode.robot_state[2:])
    assert "a frame without a state of the robot within 0.05 s" in recording.notes[0]


def test_states_that_nobody_told_of_name_the_option(calibrated: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(calibrated).manifest
    mute = [entry for entry in said_of(702) if entry.topic != STATE_TOPIC]
    several = [*said_of(702, JOINTS), *(_renamed(said_of(702, JOINTS), "/other/joints"))]
    for name, said, options, told in (
        ("mute", mute, BagOptions(), "holds none.*--state-topic"),
        ("several", several, BagOptions(), "/other/joints, /robot/proprio.*--state-topic"),
        ("several", several, BagOptions(state_topic="/nothing"), "name one with --state-topic"),
        ("several", several, BagOptions(state_topic=STATE_TOPIC), "state_fields is empty"),
    ):
        bag = tmp_path / name
        if not bag.exists():
            write_bag(bag, said)
        for reading in (open_recording, _source):
            with pytest.raises(InputError, match=told):
                reading(bag, manifest, options)


def _source(bag: Path, manifest: Any, options: BagOptions) -> None:
    list(open_source(str(bag), manifest, SourceOptions(bag=options)))


def _renamed(said: list[Said], topic: str) -> list[Said]:
    return [
        Said(topic, entry.type, entry.received_ns, entry.message)
        for entry in said
        if entry.topic == STATE_TOPIC
    ]


def test_the_nodes_own_name_is_the_state_and_no_command(tmp_path: Path) -> None:
    said = [
        Said("/left/state" if entry.topic == STATE_TOPIC else entry.topic, *_rest(entry))
        for entry in said_of(703)
    ]
    topics = find_topics(Bag(write_bag(tmp_path / "bag", said)), BagOptions())
    assert (topics.state, topics.action) == ("/left/state", ACTION_TOPIC)


def _rest(entry: Said) -> tuple[str, int, Any]:
    return entry.type, entry.received_ns, entry.message


def _replayed(bag: Path, bundle: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(
        replay, [str(bag), "--bundle", str(bundle), "--json", *options], catch_exceptions=False
    )
    return done.exit_code, json.loads(done.stdout)


def _run(bundle: Path, source: Path, *options: object) -> Result:
    arguments = [str(bundle), "--source", str(source), "--rate", "0", "--json"]
    done = CliRunner().invoke(run, [*arguments, *map(str, options)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def _flags(result: Result) -> list[dict[str, Any]]:
    flags = [json.loads(line) for line in result.stdout.splitlines()]
    for flag in flags:
        flag.pop("latency_s")
    return flags


def test_what_run_writes_is_replayed_to_the_same_flags(calibrated: Path, tmp_path: Path) -> None:
    runs = record_states(tmp_path / "runs", range(720, 721))
    mcap = tmp_path / "out.mcap"
    first = _run(calibrated, runs, "--mcap", mcap, "--samples", 4)
    assert {flag["level"] for flag in _flags(first)} != {"UNKNOWN"}
    code, told = _replayed(mcap, calibrated)
    assert (code, told["same"], told["compared"]) == (0, True, 19)
    assert told["embeddings"] == told["embeddings_identical"] == 19
    assert _flags(_run(calibrated, mcap, "--samples", 4)) == _flags(first)
    code, _ = _replayed(mcap, calibrated, "--out", str(tmp_path / "again.mcap"))
    assert code == 0
    code, told = _replayed(tmp_path / "again.mcap", calibrated)
    assert (code, told["same"]) == (0, True)


@pytest.fixture(params=[ACTION, JOINTS])
def robot(request: pytest.FixtureRequest, calibrated: Path) -> Robot:
    """A run of the node. One frame has no state near it, two come before their state."""
    kind = request.param
    options = InputOptions(state_type="std_msgs/Float32MultiArray")
    if kind == JOINTS:
        options = InputOptions(state_type="sensor_msgs/JointState", state_fields=FIELDS)
    model = WorldModel.load(calibrated)
    config = SessionConfig(samples=0)
    robot = Robot(model=model, monitor=Monitor.load(model), config=config, options=options)
    episode = state_episode(710, 24)
    assert episode.robot_state is not None
    for step, frame in enumerate(episode.frames):
        stamp_ns = robot.now_ns
        make = as_array if kind == ACTION else as_joints
        if step != 8:
            robot.feel(make(episode.robot_state[step], stamp_ns))
        robot.wait(3_000_000)
        robot.see(image(frame, stamp_ns))
        robot.wait(5_000_000)
        robot.feel(make(episode.robot_state[step] + 100.0, stamp_ns + 90_000_000))
        robot.wait(2_000_000)
        if step < len(episode.actions):
            robot.act(episode.actions[step])
        robot.wait(stamp_ns + PERIOD_NS - robot.now_ns)
    levels = {flag.level.name for flag in robot.flags}
    assert len(levels) > 1
    assert sum("input_mismatch" in flag.reasons for flag in robot.flags) >= 1
    return robot


def _how(robot: Robot) -> list[str]:
    joints = robot.options.state_fields
    return ["--state-fields", ",".join(FIELDS)] if joints else ["--state-topic", STATE_TOPIC]


def test_a_replay_takes_the_states_of_the_bag(
    robot: Robot, calibrated: Path, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", robot.said)
    code, told = _replayed(bag, calibrated, *_how(robot))
    assert (code, told["same"], told["compared"]) == (0, True, len(robot.flags))
    alone = write_bag(tmp_path / "alone", [e for e in robot.said if e.type != EMBEDDING])
    code, told = _replayed(alone, calibrated, *_how(robot))
    assert (code, told["same"], told["compared"]) == (0, True, len(robot.flags))
    unflagged = [e for e in robot.said if not e.type.startswith("jepa_msgs")]
    silent = write_bag(tmp_path / "silent", unflagged)
    done = CliRunner().invoke(
        replay,
        [str(silent), "--bundle", str(calibrated), *_how(robot)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    assert "25 frames" in done.output


def test_the_state_that_was_judged_is_the_embeddings(
    robot: Robot, calibrated: Path, tmp_path: Path
) -> None:
    """Without a state topic, only the frame that had no embedding has no state: the same."""
    others = [entry for entry in robot.said if entry.topic != STATE_TOPIC]
    code, told = _replayed(write_bag(tmp_path / "bag", others), calibrated)
    assert (code, told["same"]) == (0, True)
    if robot.options.state_fields:
        bag = write_bag(tmp_path / "unread", robot.said)
        code, told = _replayed(bag, calibrated)
        assert (code, told["same"]) == (0, True)
        assert any("--state-fields names no numbers" in note for note in told["notes"])
    flags = [entry for entry in others if entry.type in (FLAG, IMAGE)]
    code, told = _replayed(write_bag(tmp_path / "flags", flags), calibrated)
    assert code == 3
