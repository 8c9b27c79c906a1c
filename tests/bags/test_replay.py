# SPDX-License-Identifier: Apache-2.0
"""A replay of a bag gives its flags again, bit by bit, and says where it does not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from jepa_edge.bags.reader import Bag
from jepa_edge.cli.replay import EXIT_DIFFERS, EXIT_NOT_SHOWN, command
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.flags import Level, Reason
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.inputs import InputOptions
from jepa_edge.nodes.messages import (
    EMBEDDING,
    FLAG,
    IMAGE,
    MODEL_INFO,
    embedding_message,
    flag_message,
    header,
)
from jepa_edge.recording import Episode
from jepa_edge.session import SessionConfig
from jepa_edge.world_model import WorldModel

from .robot import (
    ACTION_TOPIC,
    IMAGE_TOPIC,
    MAKE,
    PERIOD_NS,
    START_NS,
    STORE,
    Robot,
    Said,
    image,
    write_bag,
)

FLAG_TOPIC, EMBEDDING_TOPIC = "/jepa/flag", "/jepa/embedding"

MAKERS = {
    "mcap": {},
    "mcap, zstd chunks": {"compression": CompressionMode.STORAGE},
    "mcap, zstd messages": {"compression": CompressionMode.MESSAGE},
    "sqlite3": {"plugin": StoragePlugin.SQLITE3},
    "sqlite3, zstd file": {"plugin": StoragePlugin.SQLITE3, "compression": CompressionMode.FILE},
}


@pytest.fixture(scope="module")
def model(calibrated_bundle: Path) -> WorldModel:
    return WorldModel.load(calibrated_bundle)


@pytest.fixture(scope="module")
def lively(model: WorldModel, make_episode: Callable[..., Episode]) -> Robot:
    """A run in which everything happens that a node can go through."""
    return live(model, make_episode(9100, 120), SessionConfig(samples=0))


def live(model: WorldModel, episode: Episode, config: SessionConfig, *, seed: int = 1) -> Robot:
    """Drive a robot through an episode with jitter, losses, faults, stalls and requests."""
    robot = Robot(model=model, monitor=Monitor.load(model), config=config, seed=seed)
    resets = 0
    rng = np.random.default_rng(seed)
    for step, frame in enumerate(episode.frames[:-1]):
        robot.wait(int(rng.integers(2_000_000, 30_000_000)))
        stamp_ns = robot.now_ns
        robot.wait(int(rng.integers(200_000, 9_000_000)))
        changes: dict[str, Any] = {}
        pixels = frame.copy()
        if step == 20:
            stamp_ns += 3_000_000_000  # a stamp from the future
        elif step == 26:
            stamp_ns -= 3_000_000_000  # an old one
        elif step == 32:
            changes["data"] = pixels.reshape(-1)[:50]  # a short buffer
        elif step == 36:
            changes["encoding"] = "yuv444"
        elif step == 41:
            robot.stall = 3  # the watchdog speaks while the step runs
        elif step in (62, 63):
            pixels[:] = 0  # dark: a latched REJECT
        robot.see(image(pixels, stamp_ns, **changes), dropped=step == 47)
        if step == 52:
            for _ in range(4):  # the camera stops: the watchdog speaks
                robot.wait(PERIOD_NS)
                robot.poll()
        if step >= 72 and not resets and robot.flags[-1].latched:
            resets += robot.session.reset_latch().accepted
        if step == 80:
            robot.begin_episode()
        if step in (95, 96, 97):
            robot.latency_s = 0.25  # slow: overload, and late
        else:
            robot.latency_s = 0.004
        action = episode.actions[step].copy()
        if step == 105:
            action[:] = np.nan
        if step != 110:  # a lost command
            robot.act(action)
        robot.wait(max(0, PERIOD_NS - (robot.now_ns - stamp_ns) % PERIOD_NS))
    return robot


def run(bag: Path, bundle: Path, *options: object) -> Result:
    arguments = [str(bag), "--bundle", str(bundle), *map(str, options)]
    return CliRunner().invoke(command, arguments)


def report(result: Result) -> dict[str, Any]:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_the_run_holds_all_that_is_to_be_made_again(lively: Robot) -> None:
    bits = [Reason(flag.reason_bits) for flag in lively.flags]
    for reason in (
        Reason.STALE,
        Reason.CLOCK_JUMP,
        Reason.INPUT_MISMATCH,
        Reason.NON_FINITE,
        Reason.OVERLOAD,
        Reason.LATCHED,
        Reason.WARMING_UP,
    ):
        assert any(reason in flag for flag in bits), reason
    assert any(flag.level is Level.REJECT for flag in lively.flags)
    latched = [flag.latched for flag in lively.flags]
    assert {True, False} <= set(latched[latched.index(True) :]), "latched, then released"
    assert lively.flags[-1].episode == 1
    assert sum(flag.level is not Level.UNKNOWN for flag in lively.flags) > 40


@pytest.mark.parametrize("kind", MAKERS)
def test_every_flag_comes_out_again(
    kind: str, lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", lively.said, **MAKERS[kind])  # type: ignore[arg-type]
    result = run(bag, calibrated_bundle, "--json")
    told = report(result)
    assert told["differences"] == []
    assert told["flags"] == told["compared"] == told["identical"] == len(lively.flags)
    embeddings = sum(entry.topic == "/jepa/embedding" for entry in lively.said)
    assert told["embeddings"] == told["embeddings_identical"] == embeddings > 60
    assert (told["not_made"], told["lost"], told["notes"]) == (0, 0, [])
    assert result.exit_code == 0


def without(said: list[Said], *topics: str) -> list[Said]:
    """Messages but for those of some topics."""
    return [entry for entry in said if entry.topic not in topics]


def test_without_embeddings_the_actions_are_worked_out_again(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", without(lively.said, "/jepa/embedding"))
    told = report(run(bag, calibrated_bundle, "--json"))
    assert told["identical"] == told["compared"] == len(lively.flags)
    assert told["embeddings"] == 0


def test_commands_that_nobody_said_how_to_read_are_left_to_the_embeddings(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    twist = [
        Said("/cmd_vel", "geometry_msgs/msg/Twist", e.received_ns, MAKE("geometry_msgs/msg/Twist"))
        for e in lively.said
        if e.topic == ACTION_TOPIC
    ]
    said = [*without(lively.said, ACTION_TOPIC), *twist]
    told = report(run(write_bag(tmp_path / "bag", said), calibrated_bundle, "--json"))
    assert any("--action-fields names no numbers" in note for note in told["notes"])
    # Without an embedding: the step that was stuck, and the one whose command held NaN, which the
    # next scores depend on.
    first, second = told["differences"][:2]
    assert first["fields"][0]["recorded"] == "stale, overload, warming_up"
    assert second["fields"][0]["recorded"] == "non_finite, warming_up"
    assert told["identical"] >= len(lively.flags) - 3
    raw = [dataclasses.replace(e, topic="/cmd_vel_raw") for e in twist]
    both = write_bag(tmp_path / "both", [*said, *raw])
    told = report(run(both, calibrated_bundle, "--json"))
    assert any("/cmd_vel, /cmd_vel_raw and --action-topic" in note for note in told["notes"])


def test_one_changed_pixel_is_told(lively: Robot, calibrated_bundle: Path, tmp_path: Path) -> None:
    said = list(lively.said)
    place = [n for n, entry in enumerate(said) if entry.topic == IMAGE_TOPIC][15]
    data = said[place].message.data.copy()
    data[7] ^= 1
    changed = dataclasses.replace(said[place].message, data=data)
    said[place] = dataclasses.replace(said[place], message=changed)
    result = run(write_bag(tmp_path / "bag", said), calibrated_bundle, "--json")
    told = report(result)
    assert result.exit_code == EXIT_DIFFERS
    first = told["differences"][0]
    stamp = changed.header.stamp
    assert first["stamp_ns"] == stamp.sec * 10**9 + stamp.nanosec
    assert "latent" in {field["field"] for field in first["fields"]}
    assert told["fields"]["score"] >= 1
    shown = run(tmp_path / "bag", calibrated_bundle)
    assert shown.exit_code == EXIT_DIFFERS
    assert f"first difference: run 0, flag {first['seq']}" in shown.stdout
    assert "score" in shown.stdout


def test_other_settings_are_told_and_the_bags_own_are_taken(
    model: WorldModel,
    make_episode: Callable[..., Episode],
    calibrated_bundle: Path,
    tmp_path: Path,
) -> None:
    config = SessionConfig(samples=0, latch=Level.CAUTION, fall_after=2, max_age_s=0.41)
    robot = live(model, make_episode(9101, 120), config)
    whole = write_bag(tmp_path / "whole", robot.said)
    assert report(run(whole, calibrated_bundle, "--json"))["same"], "ModelInfo tells them"
    assert run(whole, calibrated_bundle, "--param", "fall_after=4").exit_code == EXIT_DIFFERS
    untold = without(robot.said, "/jepa/model_info")
    bag = write_bag(tmp_path / "bag", untold)
    result = run(bag, calibrated_bundle, "--json")
    told = report(result)
    assert result.exit_code == EXIT_DIFFERS
    assert told["fields"].keys() & {"level", "latched"}
    assert any("max_age_s is 0.41 s" in note for note in told["notes"])
    given = ("--param", "latch=caution", "--param", "fall_after=2")
    assert report(run(bag, calibrated_bundle, "--json", *given))["same"]
    file = tmp_path / "robot.yaml"
    file.write_text("/**:\n  ros__parameters: {latch: caution, fall_after: 2, port: x}\n")
    assert report(run(bag, calibrated_bundle, "--json", "--params-file", file))["same"]
    values = {"bundle": ("x", 4), "latch": ("caution", 4), "fall_after": (2, 2)}
    event = parameter_event("/jepa_world_model", values)
    told_by_bag = write_bag(tmp_path / "events", [*untold, event])
    assert report(run(told_by_bag, calibrated_bundle, "--json"))["same"]


def parameter_event(node: str, values: dict[str, tuple[Any, int]]) -> Said:
    """What a node says on /parameter_events; values: name to value and its ParameterType."""
    names = {2: "integer_value", 4: "string_value"}
    parameters = [
        MAKE(
            "rcl_interfaces/msg/Parameter",
            name=name,
            value=MAKE("rcl_interfaces/msg/ParameterValue", type=kind, **{names[kind]: value}),
        )
        for name, (value, kind) in values.items()
    ]
    kind = "rcl_interfaces/msg/ParameterEvent"
    message = MAKE(kind, node=node, new_parameters=parameters)
    return Said("/parameter_events", kind, 1, message)


def test_a_bag_that_begins_within_a_run_is_compared_from_its_next_warm_up(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    cut = [n for n, entry in enumerate(lively.said) if entry.topic == "/jepa/flag"][10]
    bag = write_bag(tmp_path / "bag", lively.said[cut - 3 :])
    result = run(bag, calibrated_bundle, "--json")
    told = report(result)
    assert any("begins with flag" in note for note in told["notes"])
    assert 0 < told["partly"] < 20 < told["compared"]
    assert told["differences"] == []
    assert (told["same"], told["verdict"], result.exit_code) == (False, "not shown", EXIT_NOT_SHOWN)
    assert "not every flag could be compared" in run(bag, calibrated_bundle).stdout


def test_lost_flags_and_frames_are_told(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    lost = write_bag(tmp_path / "flags", [e for e in lively.said if seq_of(e) not in (30, 31)])
    result = run(lost, calibrated_bundle, "--json")
    told = report(result)
    assert (told["lost"], told["differences"]) == (2, [])
    assert (told["same"], result.exit_code) == (False, EXIT_NOT_SHOWN)
    # What could be compared in full after the gap was: a false level there shows.
    seqs = [seq_of(e) for e in lively.said]
    late = [n for n, seq in enumerate(seqs) if seq == 118]
    said = list(lively.said)
    for n in late:
        said[n] = with_flag(said[n], level=2)
    false = write_bag(tmp_path / "false", [e for e in said if seq_of(e) not in (30, 31)])
    assert run(false, calibrated_bundle, "--json").exit_code == EXIT_DIFFERS
    assert any("2 flags are missing" in note for note in told["notes"])
    # A flag that only the embedding still has is not lost.
    only = [e for e in lively.said if e.topic != "/jepa/flag" or seq_of(e) != 12]
    told = report(run(write_bag(tmp_path / "one", only), calibrated_bundle, "--json"))
    assert (told["lost"], told["same"]) == (0, True)

    images = [entry for entry in lively.said if entry.topic == IMAGE_TOPIC]
    missing = write_bag(tmp_path / "images", [e for e in lively.said if e is not images[70]])
    result = run(missing, calibrated_bundle, "--json")
    told = report(result)
    assert result.exit_code == EXIT_DIFFERS
    assert told["not_made"] == 1
    assert any("1 frames that were judged are not in the bag" in note for note in told["notes"])
    assert [f["field"] for d in told["differences"] for f in d["fields"]] == ["frame"]


def test_neighbours_that_were_recorded_in_the_wrong_order_are_put_right(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    """Two threads publish flags."""
    said = list(lively.said)
    flags = [n for n, entry in enumerate(said) if entry.topic == FLAG_TOPIC]
    for first in (5, 43):
        one, other = flags[first], flags[first + 1]
        said[one] = dataclasses.replace(said[one], received_ns=said[other].received_ns + 1)
    told = report(run(write_bag(tmp_path / "bag", said), calibrated_bundle, "--json"))
    assert (told["same"], told["lost"], len(told["identities"])) == (True, 0, 1)


def test_a_restarted_node_is_another_run(
    model: WorldModel,
    make_episode: Callable[..., Episode],
    calibrated_bundle: Path,
    tmp_path: Path,
) -> None:
    config = SessionConfig(samples=0)
    first = live(model, make_episode(9102, 60), config, seed=3)
    second = Robot(model=model, monitor=Monitor.load(model), config=config, now_ns=first.now_ns)
    for step, frame in enumerate(make_episode(9103, 30).frames[:-1]):
        second.wait(PERIOD_NS - 1_000_000)
        second.see(image(frame, second.now_ns - 500_000))
        second.act(make_episode(9103, 30).actions[step])
    said = [*first.said, *second.said]
    told = report(run(write_bag(tmp_path / "bag", said), calibrated_bundle, "--json"))
    assert told["same"], told
    assert len(told["identities"]) == 2
    assert told["compared"] == len(first.flags) + len(second.flags)


def test_another_bundle_is_told_before_anything_is_compared(
    lively: Robot,
    calibrated_bundle: Path,
    linear_bundle: Path,
    world: Any,
    make_episode: Callable[..., Episode],
    tmp_path: Path,
) -> None:
    bag = write_bag(tmp_path / "bag", lively.said)
    with pytest.raises(CalibrationError, match="calibrat"):
        report(run(bag, linear_bundle, "--json"))
    from jepa_edge.calibration.calibrate import calibrate_bundle
    from jepa_edge.calibration.options import CalibrateOptions
    from jepa_edge.recording import RecordingInfo, RecordingWriter

    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        for seed in range(200, 260):
            writer.add(make_episode(seed))
    options = CalibrateOptions(alpha=0.2, selftest_episodes=0)
    calibrate_bundle(linear_bundle, tmp_path / "runs", options)
    result = run(bag, linear_bundle)
    assert result.exit_code == EXIT_DIFFERS
    notes = result.stderr.splitlines()
    assert any("another calibration_sha256 judged then" in note for note in notes)
    told = report(run(bag, linear_bundle, "--json"))
    fields = {field["field"] for field in told["identities"][0]["differing"]}
    assert {"manifest_sha256", "calibration_sha256", "caution_threshold"} <= fields
    assert told["fields"]["caution_threshold"] == told["compared"]


def test_what_is_made_again_can_be_written_and_replayed(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", lively.said)
    out = tmp_path / "again.mcap"
    assert run(bag, calibrated_bundle, "--out", out, "--param", "samples=4").exit_code == 0
    lines = tmp_path / "again.jsonl"
    assert run(bag, calibrated_bundle, "--out", lines).exit_code == 0
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["level"] for record in records] == [flag.level.name for flag in lively.flags]
    written = [entry.message for entry in Bag(out).messages([FLAG_TOPIC])]
    original = [entry.message for entry in lively.said if entry.topic == FLAG_TOPIC]
    for again, first in zip(sorted(written, key=lambda m: m.seq), original, strict=True):
        assert STORE.serialize_cdr(again, FLAG)[40:] == STORE.serialize_cdr(first, FLAG)[40:]


def test_without_flags_all_frames_give_flags(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    said = without(lively.said, "/jepa/flag", "/jepa/embedding", "/jepa/model_info")
    bag = write_bag(tmp_path / "bag", said)
    result = run(bag, calibrated_bundle, "--json", "--out", tmp_path / "out.mcap")
    assert result.exit_code == 0, result.output
    levels = [json.loads(line)["level"] for line in result.stdout.splitlines()]
    images = sum(entry.topic == IMAGE_TOPIC for entry in said)
    assert len(levels) == images
    assert "NOMINAL" in levels
    assert "REJECT" in levels
    ignored = run(write_bag(tmp_path / "all", lively.said), calibrated_bundle, "--no-compare")
    assert ignored.stdout.splitlines()[-1].startswith(f"{images} frames")


def test_a_bag_that_cannot_be_replayed_says_why(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    other = [
        dataclasses.replace(entry, topic="/other")
        for entry in lively.said
        if entry.topic == IMAGE_TOPIC
    ]
    two = write_bag(tmp_path / "two", [*lively.said, *other])
    with pytest.raises(InputError, match="--image-topic"):
        report(run(two, calibrated_bundle))
    moved = [
        dataclasses.replace(
            entry,
            topic="/elsewhere",
            message=dataclasses.replace(
                entry.message,
                header=dataclasses.replace(
                    entry.message.header,
                    stamp=MAKE("builtin_interfaces/msg/Time", sec=n),
                ),
            ),
        )
        for n, entry in enumerate(other)
    ]
    wrong = write_bag(tmp_path / "wrong", [*lively.said, *moved])
    with pytest.raises(InputError, match=r"none of the \d+ frames"):
        report(run(wrong, calibrated_bundle, "--image-topic", "/elsewhere"))
    with pytest.raises(InputError, match="does not exist"):
        report(run(tmp_path / "nothing", calibrated_bundle))
    one = write_bag(tmp_path / "one", lively.said)
    with pytest.raises(InputError, match="NAME=VALUE"):
        report(run(two, calibrated_bundle, "--param", "latch"))
    with pytest.raises(InputError, match="not known"):
        report(run(one, calibrated_bundle, "--param", "lach=caution"))


def with_flag(entry: Said, **changes: Any) -> Said:
    """A flag, or an embedding's flag, that says something else."""
    message = entry.message
    if entry.topic == FLAG_TOPIC:
        return dataclasses.replace(entry, message=dataclasses.replace(message, **changes))
    flag = dataclasses.replace(message.flag, **changes)
    return dataclasses.replace(entry, message=dataclasses.replace(message, flag=flag))


def seq_of(entry: Said) -> int | None:
    """Number of a flag, or of an embedding's flag."""
    if entry.topic not in (FLAG_TOPIC, EMBEDDING_TOPIC):
        return None
    return int((entry.message if entry.topic == FLAG_TOPIC else entry.message.flag).seq)


def level(entry: Said) -> int:
    """Level of an embedding's flag."""
    return int(entry.message.flag.level)


def calm(
    model: WorldModel, episode: Episode, *, config: SessionConfig | None = None, **fields: Any
) -> Robot:
    """A run in which nothing happens."""
    robot = Robot(
        model=model,
        monitor=Monitor.load(model),
        config=config or SessionConfig(samples=0),
        **fields,
    )
    for step, frame in enumerate(episode.frames[:-1]):
        robot.wait(PERIOD_NS - 1_000_000)
        robot.see(image(frame, robot.now_ns - 500_000))
        robot.act(episode.actions[step])
    return robot


@pytest.fixture(scope="module")
def quiet(model: WorldModel, make_episode: Callable[..., Episode]) -> Robot:
    return calm(model, make_episode(9200, 40))


def test_a_bag_that_contradicts_itself_is_not_the_same(
    lively: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    place = [n for n, entry in enumerate(lively.said) if entry.topic == FLAG_TOPIC][10]
    false = with_flag(lively.said[place], level=3, raw_level=3, score=99.0)
    earlier = dataclasses.replace(false, received_ns=false.received_ns - 1)
    inserted = [*lively.said[:place], earlier, *lively.said[place:]]
    doubled = [
        dataclasses.replace(with_flag(e, level=1, score=0.0), received_ns=e.received_ns - 1)
        for e in lively.said
        if e.topic == FLAG_TOPIC
    ]
    falsified = [
        dataclasses.replace(with_flag(e, level=3), received_ns=e.received_ns - 2)
        if e.topic == EMBEDDING_TOPIC
        else e
        for e in lively.said
    ]
    bags = {
        "inserted": (inserted, 1),
        "doubled": ([*doubled, *without(lively.said, "/jepa/model_info")], len(lively.flags)),
        "embeddings": (
            falsified,
            sum(e.topic == EMBEDDING_TOPIC and level(e) < 3 for e in lively.said),
        ),
    }
    for name, (said, count) in bags.items():
        bag = write_bag(tmp_path / name, said)
        result = run(bag, calibrated_bundle, "--json")
        told = report(result)
        assert result.exit_code == EXIT_DIFFERS, name
        assert told["compared"] - told["identical"] == count, name
        assert "and elsewhere in the bag" in told["differences"][0]["fields"][0]["recorded"]
    honest = [*lively.said, *(e for e in lively.said if e.topic == FLAG_TOPIC and seq_of(e))]
    copies = write_bag(tmp_path / "copies", honest)
    assert report(run(copies, calibrated_bundle, "--json"))["same"], "two equal copies"


def test_a_gap_hides_no_false_levels(quiet: Robot, calibrated_bundle: Path, tmp_path: Path) -> None:
    """Where nothing warms up anew, nothing after a gap can be compared: that is not the same."""
    said = [
        with_flag(e, level=3, raw_level=3, score=99.0) if seq_of(e) else e
        for e in quiet.said
        if seq_of(e) != 1
    ]
    result = run(write_bag(tmp_path / "bag", said), calibrated_bundle, "--json")
    assert (report(result)["same"], result.exit_code) == (False, EXIT_NOT_SHOWN)


def test_flags_and_embeddings_that_come_late_are_of_the_same_run(
    quiet: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    said = list(without(quiet.said, EMBEDDING_TOPIC))
    flags = [n for n, entry in enumerate(said) if entry.topic == FLAG_TOPIC]
    late = said[flags[13]].received_ns + 1
    said[flags[10]] = dataclasses.replace(said[flags[10]], received_ns=late)
    embedding = [
        dataclasses.replace(e, received_ns=e.received_ns + 12 * PERIOD_NS)
        if e.topic == EMBEDDING_TOPIC and seq_of(e) == 10
        else e
        for e in quiet.said
        if not (e.topic == FLAG_TOPIC and seq_of(e) == 10)
    ]
    for name, changed in (("flag", said), ("embedding", embedding)):
        told = report(run(write_bag(tmp_path / name, changed), calibrated_bundle, "--json"))
        assert (told["same"], told["lost"], len(told["identities"])) == (True, 0, 1), name


def test_a_simulation_that_is_reset_is_another_run(
    model: WorldModel,
    make_episode: Callable[..., Episode],
    calibrated_bundle: Path,
    tmp_path: Path,
) -> None:
    """The same stamps again, with other frames; with a ModelInfo, and without."""
    first, second = calm(model, make_episode(9201, 40)), calm(model, make_episode(9202, 40))
    later = first.now_ns - START_NS + 10**9
    said = first.said + [
        dataclasses.replace(e, received_ns=e.received_ns + later) for e in second.said
    ]
    for name, kept in (("told", said), ("untold", without(said, "/jepa/model_info"))):
        told = report(run(write_bag(tmp_path / name, kept), calibrated_bundle, "--json"))
        assert told["differences"] == []
        assert told["compared"] == len(first.flags) + len(second.flags)
        assert (told["same"], len(told["identities"])) == (True, 2)


def test_a_clock_whose_ticks_are_the_stamps_is_a_clock(
    model: WorldModel,
    make_episode: Callable[..., Episode],
    calibrated_bundle: Path,
    tmp_path: Path,
) -> None:
    """Every age is 0, and one step took longer than a flag holds."""
    episode = make_episode(9203, 40)
    robot = Robot(model=model, monitor=Monitor.load(model), config=SessionConfig(samples=0))
    for step, pixels in enumerate(episode.frames[:-1]):
        robot.now_ns = START_NS + (step + 1) * PERIOD_NS
        message = image(pixels, robot.now_ns)
        robot._say(IMAGE_TOPIC, IMAGE, message)
        frame = robot.inputs.on_image(message, robot.now_ns)
        assert frame is not None
        robot.latency_s = 0.9 if step == 20 else 0.004
        observation = robot.inputs.observation(frame)
        update = robot.session.step(observation)
        flag = flag_message(MAKE, update.flag, frame.header)
        robot._say(FLAG_TOPIC, FLAG, flag, 1)
        if update.embedding is not None:
            action = observation.action
            said = embedding_message(MAKE, update.embedding, frame.header, flag, action=action)
            robot._say(EMBEDDING_TOPIC, EMBEDDING, said, 2)
        robot.flags.append(update.flag)
        robot.now_ns += 3
        robot.act(episode.actions[step])
    assert all(flag.input_age_s == 0.0 for flag in robot.flags)
    assert "stale" in robot.flags[20].reasons
    told = report(run(write_bag(tmp_path / "bag", robot.said), calibrated_bundle, "--json"))
    assert (told["same"], told["compared"]) == (True, len(robot.flags))


def test_recorded_flags_never_vanish(quiet: Robot, calibrated_bundle: Path, tmp_path: Path) -> None:
    """A bag that begins within a run, with images of another camera."""
    cut = next(n for n, e in enumerate(quiet.said) if seq_of(e) == 5)

    def moved(entry: Said, by_ns: int) -> Said:
        if entry.topic != IMAGE_TOPIC:
            return entry
        stamp = entry.message.header.stamp
        head = header(MAKE, stamp.sec * 10**9 + stamp.nanosec + by_ns, "camera")
        return dataclasses.replace(entry, message=dataclasses.replace(entry.message, header=head))

    near = write_bag(tmp_path / "near", [moved(e, 1000) for e in quiet.said[cut + 1 :]])
    with pytest.raises(InputError, match=r"none of the \d+ frames"):
        report(run(near, calibrated_bundle))
    far = write_bag(tmp_path / "far", [moved(e, 10**12) for e in quiet.said[cut + 1 :]])
    with pytest.raises(InputError, match="holds no flag on /jepa/flag that can be made again"):
        report(run(far, calibrated_bundle))
    assert run(far, calibrated_bundle, "--no-compare").exit_code == 0


def test_another_nodes_embeddings_are_left_alone(
    quiet: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    said = [
        dataclasses.replace(e, topic="/b" + e.topic)
        if e.topic == EMBEDDING_TOPIC
        else dataclasses.replace(e, topic="/a" + e.topic)
        if e.topic.startswith("/jepa")
        else e
        for e in quiet.said
    ]
    told = report(run(write_bag(tmp_path / "bag", said), calibrated_bundle, "--json"))
    assert (told["same"], told["embeddings"]) == (True, 0)


def test_a_run_with_cropped_images_comes_out_again_without_options(
    model: WorldModel,
    make_episode: Callable[..., Episode],
    calibrated_bundle: Path,
    tmp_path: Path,
) -> None:
    """ModelInfo tells how images are read: 4 : 3 here, as 640 x 480 are."""
    episode = make_episode(9204, 40)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (len(episode.frames), 24, 32, 3), dtype=np.uint8)
    frames[:, :, 4:28] = np.kron(episode.frames, np.ones((1, 3, 3, 1), np.uint8))
    wide = dataclasses.replace(episode, frames=frames)
    robot = calm(model, wide, options=InputOptions(image_fit="crop"))
    assert sum(flag.level is not Level.UNKNOWN for flag in robot.flags) > 20
    bag = write_bag(tmp_path / "bag", robot.said)
    told = report(run(bag, calibrated_bundle, "--json"))
    assert (told["same"], told["compared"]) == (True, len(robot.flags))
    with pytest.raises(InputError, match="image_fit"):
        report(
            run(
                write_bag(tmp_path / "untold", without(robot.said, "/jepa/model_info")),
                calibrated_bundle,
            )
        )


def test_escape_sequences_in_a_bag_do_not_reach_the_terminal(
    quiet: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    escape = "\x1b]0;owned\x07"
    said = [
        dataclasses.replace(e, message=dataclasses.replace(e.message, runtime="x" + escape))
        if e.type == MODEL_INFO
        else e
        for e in quiet.said
    ]
    result = run(write_bag(tmp_path / "info", said), calibrated_bundle)
    assert "another runtime judged then" in result.stderr
    assert "\x1b" not in result.stderr
    cameras = [
        dataclasses.replace(e, topic="/cam" + escape) for e in quiet.said if e.topic == IMAGE_TOPIC
    ]
    two = write_bag(tmp_path / "two", [*quiet.said, *cameras])
    with pytest.raises(InputError, match="--image-topic") as error:
        report(run(two, calibrated_bundle))
    assert "\x1b" not in str(error.value)
    assert "/cam" in str(error.value)


def test_options_that_a_replay_does_not_listen_to_are_refused(
    quiet: Robot, calibrated_bundle: Path, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", quiet.said)
    for options, word in (
        (("--uncalibrated",), "--uncalibrated"),
        (("--param", "bundle=/nope.jepa"), "bundle"),
        (("--param", "variant=nope"), "variant"),
        (("--param", "action_type=geometry_msgs/Twist"), "action_type"),
        (("--no-compare", "--flag-topic", FLAG_TOPIC), "--flag-topic"),
    ):
        with pytest.raises(InputError, match=word):
            report(run(bag, calibrated_bundle, *options))


def test_an_interrupted_replay_leaves_no_file(
    quiet: Robot, calibrated_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "bag", quiet.said)
    asked = []

    def interrupt() -> None:
        asked.append(1)
        if len(asked) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("jepa_edge.cli.stop.check", interrupt)
    for options in ((), ("--no-compare",)):
        asked.clear()
        result = run(bag, calibrated_bundle, "--out", tmp_path / "x.jsonl", *options)
        assert result.exit_code != 0
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    with pytest.raises(InputError, match="no directory"):
        report(run(bag, calibrated_bundle, "--out", tmp_path / "none" / "x.jsonl"))
