# SPDX-License-Identifier: Apache-2.0
"""Bags are episodes: the same frames and actions, the same thresholds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from rosbags.rosbag2 import StoragePlugin

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.recording import BagRecording, open_recording
from jepa_edge.bags.topics import BagOptions
from jepa_edge.bundle import Bundle
from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.dataset import data_sha256
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.cli.calibrate import command as calibrate
from jepa_edge.cli.evaluate import command as evaluate
from jepa_edge.cli.run import command as run
from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.nodes.inputs import InputOptions, Inputs
from jepa_edge.nodes.messages import FLAG, IMAGE, header
from jepa_edge.recording import Episode, Recording, RecordingInfo, RecordingWriter
from jepa_edge.ros_types import ACTION

from .robot import ACTION_TOPIC, IMAGE_TOPIC, MAKE, PERIOD_NS, START_NS, Said, image, write_bag


@pytest.fixture
def manifest(linear_bundle: Path) -> Manifest:
    return Bundle.open(linear_bundle).manifest


def said_of(episode: Episode, start_ns: int = START_NS) -> list[Said]:
    """An episode as a robot says it: commands a moment after the frame that they follow."""
    said = []
    for step, frame in enumerate(episode.frames):
        stamp_ns = start_ns + step * PERIOD_NS
        said.append(Said(IMAGE_TOPIC, IMAGE, stamp_ns + 3_000_000, image(frame, stamp_ns)))
        if step < len(episode.actions):
            command = MAKE(ACTION, data=episode.actions[step])
            said.append(Said(ACTION_TOPIC, ACTION, stamp_ns + 20_000_000, command))
    return said


def same(first: Episode, second: Episode) -> bool:
    return bool(
        np.array_equal(first.frames, second.frames)
        and np.array_equal(first.actions, second.actions)
    )


def test_a_directory_of_bags_is_a_recording(
    make_episode: Callable[..., Episode], manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "bags").mkdir()
    for number in range(3):
        plugin = StoragePlugin.MCAP if number % 2 else StoragePlugin.SQLITE3
        said = said_of(make_episode(number))
        write_bag(tmp_path / "bags" / f"run_{number}", said, plugin=plugin)
    recording = open_recording(tmp_path / "bags", manifest)
    assert len(recording) == 3
    assert recording.info.rate_hz == pytest.approx(5.0, abs=1e-6)
    for number, episode in enumerate(recording):
        assert same(episode, make_episode(number))
        assert episode.name == f"run_{number}:0"
        assert episode.stamps_s[0] == pytest.approx(START_NS * 1e-9, abs=1e-6)
    folder = recording.files[0].parent
    assert folder.is_dir()
    del recording
    assert not folder.exists()


def test_digests_follow_the_bags_and_how_they_are_read(
    make_episode: Callable[..., Episode], manifest: Manifest, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", said_of(make_episode(0)))
    (first,) = open_recording(bag, manifest).digests
    shutil.copytree(bag, tmp_path / "renamed")
    assert open_recording(tmp_path / "renamed", manifest).digests == (first,)
    assert open_recording(Bag(bag).files[0], manifest).digests == (first,)
    for options in (
        BagOptions(image_topic=IMAGE_TOPIC, action_topic=ACTION_TOPIC),
        BagOptions(image_fit="crop", action_timeout_s=1.0),
    ):
        (held,) = open_recording(bag, manifest, options).digests
        assert held[:16] == first[:16], "the same episode, however it is read"
        assert held != first, "but not the same encoded frames"
    other = write_bag(tmp_path / "other", said_of(make_episode(1)))
    assert open_recording(other, manifest).digests[0][:16] != first[:16]
    (tmp_path / "twice").mkdir()
    for name in ("a", "b"):
        shutil.copytree(bag, tmp_path / "twice" / name)
    with pytest.raises(InputError, match="are the same"):
        open_recording(tmp_path / "twice", manifest)


def test_gaps_lost_commands_and_new_episodes_cut(
    make_episode: Callable[..., Episode], manifest: Manifest, tmp_path: Path
) -> None:
    episode = make_episode(0, 120)
    said = said_of(episode)
    images = [entry for entry in said if entry.topic == IMAGE_TOPIC]
    commands = [entry for entry in said if entry.topic == ACTION_TOPIC]
    lost = {id(entry) for entry in (images[30], images[31], commands[60], commands[61])}
    flags = [
        Said(
            "/jepa/flag",
            FLAG,
            images[n].received_ns + 5_000_000,
            MAKE(FLAG, header=header(MAKE, START_NS + n * PERIOD_NS, ""), seq=n, episode=n // 90),
        )
        for n in range(len(images))
        if n not in (30, 31)
    ]
    kept = [entry for entry in said if id(entry) not in lost]
    bag = write_bag(tmp_path / "bag", [*kept, *flags])
    recording = open_recording(bag, manifest)
    lengths = [len(episode.actions) for episode in recording]
    # Frames 0 to 29, 32 to 60 or 61, from there to 89, and 90 to the end.
    assert lengths[0] == 29
    assert lengths[-1] == 30
    assert len(lengths) == 4
    pieces = list(recording)
    assert same_part(pieces[0], episode, 0)
    assert same_part(pieces[1], episode, 32)
    assert same_part(pieces[3], episode, 90)
    assert isinstance(recording, BagRecording)
    short = open_recording(bag, manifest, horizon=25)
    assert len(short) < 4
    assert isinstance(short, BagRecording)
    assert any("dropped" in note and "a gap of" in note for note in short.notes)


def same_part(piece: Episode, whole: Episode, first: int) -> bool:
    steps = len(piece.actions)
    return bool(
        np.array_equal(piece.frames, whole.frames[first : first + steps + 1])
        and np.array_equal(piece.actions, whole.actions[first : first + steps])
    )


def test_thresholds_from_bags_are_those_from_the_recording(
    make_episode: Callable[..., Episode],
    linear_bundle: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "bags").mkdir()
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        for number in range(28):
            writer.add(make_episode(number))
            write_bag(tmp_path / "bags" / f"run_{number:03d}", said_of(make_episode(number)))
    from_bags = tmp_path / "from_bags.jepa"
    shutil.copytree(linear_bundle, from_bags)
    options = CalibrateOptions(alpha=0.2, selftest_episodes=4)
    expected = calibrate_bundle(linear_bundle, tmp_path / "runs", options).variants["fp32"]
    told = CliRunner().invoke(
        calibrate,
        [
            *(str(from_bags), "--data", str(tmp_path / "bags"), "--alpha", "0.2"),
            *("--selftest-episodes", "4", "--json"),
        ],
        catch_exceptions=False,
    )
    assert told.exit_code == 0, told.output
    found = msgspec.json.decode(told.stdout)["variants"]["fp32"]["calibration"]
    calibration = msgspec.to_builtins(expected.calibration)
    for name in ("thresholds", "channels", "radii", "episodes", "drift"):
        assert found[name] == msgspec.json.decode(msgspec.json.encode(calibration[name])), name
    bags = open_recording(tmp_path / "bags", Bundle.open(from_bags).manifest)
    assert found["data_sha256"] == data_sha256(bags) != expected.calibration.data_sha256
    assert found["episode_sha256"] == sorted(digest[:16] for digest in bags.digests)


def test_bags_can_be_evaluated_on(
    make_episode: Callable[..., Episode], calibrated_bundle: Path, tmp_path: Path
) -> None:
    for folder, dark in (("nominal", False), ("dark", True)):
        (tmp_path / folder).mkdir()
        for number in range(9400, 9408):
            episode = make_episode(number + 100 * dark)
            if dark:
                episode.frames[12:] = 0
            write_bag(tmp_path / folder / f"run_{number}", said_of(episode))
    told = CliRunner().invoke(
        evaluate,
        [
            *(str(calibrated_bundle), "--nominal", str(tmp_path / "nominal"), "--json"),
            *("--faults", f"dark={tmp_path / 'dark'}@12", "--samples", "32", "--workers", "1"),
            *("--image-topic", IMAGE_TOPIC),
        ],
        catch_exceptions=False,
    )
    assert told.exit_code == 0, told.output
    (fault,) = msgspec.json.decode(told.stdout)["alarms"]["faults"]
    assert fault["detected"]["count"] == fault["detected"]["trials"] > 4


def test_what_gives_no_episode_says_why(
    make_episode: Callable[..., Episode], manifest: Manifest, tmp_path: Path
) -> None:
    short = write_bag(tmp_path / "short", said_of(make_episode(0, 5)))
    with pytest.raises(InputError, match=r"6 frames from .* dropped"):
        open_recording(short, manifest)
    no_commands = [e for e in said_of(make_episode(0)) if e.topic == IMAGE_TOPIC]
    with pytest.raises(InputError, match="holds no commands"):
        open_recording(write_bag(tmp_path / "mute", no_commands), manifest)
    with pytest.raises(InputError, match="neither a recording"):
        open_recording(tmp_path / "nothing", manifest)
    large = [
        Said(IMAGE_TOPIC, IMAGE, n, image(np.zeros((16, 16, 3), np.uint8), PERIOD_NS * n))
        for n in range(1, 40)
    ]
    bag = write_bag(tmp_path / "large", [*large, *said_of(make_episode(0))[1:2]])
    with pytest.raises(InputError, match="image_fit"):
        open_recording(bag, manifest)


def test_a_recording_stays_a_recording(
    make_episode: Callable[..., Episode], manifest: Manifest, tmp_path: Path
) -> None:
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        writer.add(make_episode(0))
    recording = open_recording(tmp_path / "runs", manifest)
    assert type(recording) is Recording
    assert same(recording.load(0), make_episode(0))


def test_a_fast_camera_is_decimated_as_the_node_does(
    make_episode: Callable[..., Episode], manifest: Manifest, tmp_path: Path
) -> None:
    """max_age_s bounds how many frames may be left out between two."""
    pixels = make_episode(0).frames[0]

    def taken(options: InputOptions, camera_hz: float) -> list[int]:
        inputs = Inputs(manifest, options)
        stamps = [START_NS + round(k * 1e9 / camera_hz) for k in range(60)]
        messages = [(image(pixels, stamp), stamp + 1000) for stamp in stamps]
        return [n for n, (told, at) in enumerate(messages) if inputs.on_image(told, at)]

    for camera_hz in (6.0, 7.5, 9.0, 12.0):
        node = taken(InputOptions(max_age_s=0.25), camera_hz)
        assert taken(BagOptions(max_age_s=0.25).inputs(None), camera_hz) == node
    assert any(
        taken(BagOptions(max_age_s=0.25).inputs(None), hz) != taken(BagOptions().inputs(None), hz)
        for hz in (6.0, 6.5, 7.0, 7.5, 8.0)
    )


def test_bag_options_are_refused_for_a_recording(
    make_episode: Callable[..., Episode], calibrated_bundle: Path, tmp_path: Path
) -> None:
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        writer.add(make_episode(0))
    bundle, runs = str(calibrated_bundle), str(tmp_path / "runs")
    for verb, arguments in (
        (calibrate, [bundle, "--data", runs]),
        (evaluate, [bundle, "--nominal", runs, "--faults", "blur@5"]),
        (run, [bundle, "--source", runs]),
    ):
        told = CliRunner().invoke(verb, [*arguments, "--image-topic", "/x", "--image-fit", "crop"])
        assert isinstance(told.exception, InputError)
        assert "--image-topic, --image-fit" in str(told.exception)
    bag = write_bag(tmp_path / "bag", said_of(make_episode(0)))
    for option in ("--episode", "--steps"):
        told = CliRunner().invoke(run, [bundle, "--source", str(bag), option, "2"])
        assert isinstance(told.exception, InputError)
        assert option in str(told.exception)
