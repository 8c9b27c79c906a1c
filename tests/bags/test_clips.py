# SPDX-License-Identifier: Apache-2.0
"""Clips in files: what `run --mcap` writes and a node's bag holds gives the same flags again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from jepa_edge.bags.reader import Bag
from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.cli.replay import command as replay
from jepa_edge.cli.run import command as run
from jepa_edge.manifest import ClipSpec
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.images import decode_image
from jepa_edge.nodes.messages import IMAGE, stamp_ns
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.session import SessionConfig
from jepa_edge.world_model import WorldModel

from ..passive_world import RATE_HZ, make_passive_bundle, picture_episode, record_pictures
from .robot import IMAGE_TOPIC, PERIOD_NS, START_NS, Robot, Said, image, write_bag

CLIP = ClipSpec(frames=4, tubelet=2, hop=2)
SHAPES = [
    CLIP,
    ClipSpec(frames=2, tubelet=2, hop=2),
    ClipSpec(frames=4, tubelet=2, stride=2, hop=4),
    ClipSpec(frames=2, stride=3, hop=3),
    ClipSpec(frames=2, tubelet=2, hop=6),
    ClipSpec(frames=1, hop=3),
]


def shape_name(clip: ClipSpec) -> str:
    return f"{clip.frames}x{clip.stride}hop{clip.hop}"


def _run(bundle: Path, source: Path, *options: object) -> list[dict[str, Any]]:
    """The flags, but for their latency."""
    arguments = [str(bundle), "--source", str(source), "--rate", "0", "--json"]
    done: Result = CliRunner().invoke(run, [*arguments, *map(str, options)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    flags = [json.loads(line) for line in done.stdout.splitlines()]
    for flag in flags:
        flag.pop("latency_s")
        flag["stamp_s"] = round(flag["stamp_s"], 9)  # as a message holds it
    return flags


def _replayed(bag: Path, bundle: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(
        replay, [str(bag), "--bundle", str(bundle), "--json", *options], catch_exceptions=False
    )
    return done.exit_code, json.loads(done.stdout)


def _record(path: Path, episode: Episode, camera_hz: float) -> Path:
    with RecordingWriter(path, RecordingInfo(rate_hz=camera_hz, action_dim=0)) as writer:
        writer.add(episode)
    return path


def _without(episode: Episode, lost: list[int]) -> Episode:
    """The episode as a camera gives it that loses frames, and whose stamps jitter then."""
    period_s = float(episode.stamps_s[1])
    jitter_s = np.random.default_rng(1).uniform(-0.12, 0.12, len(episode.stamps_s)) * period_s
    stamps_s = episode.stamps_s + (1.0 + jitter_s if lost else 0.0)
    kept = [k for k in range(len(episode.frames)) if k not in lost]
    return Episode(
        name="lossy",
        frames=episode.frames[kept],
        actions=np.zeros((len(kept) - 1, 0), np.float32),
        stamps_s=stamps_s[kept],
    )


@pytest.mark.parametrize("lost", [[], [0, 20, 31, 32, 33]], ids=["whole", "lossy"])
@pytest.mark.parametrize("clip", SHAPES, ids=shape_name)
def test_what_run_writes_of_clips_is_replayed(
    clip: ClipSpec, lost: list[int], tmp_path: Path
) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa", clip=clip)
    camera_hz = RATE_HZ * clip.hop
    whole = picture_episode(620, 61, camera_hz=camera_hz)
    runs = _record(tmp_path / "runs", _without(whole, lost), camera_hz)
    mcap = tmp_path / "out.mcap"
    first = _run(bundle, runs, "--uncalibrated", "--mcap", mcap)
    assert len(first) >= 5
    code, told = _replayed(mcap, bundle)
    assert (code, told["same"], told["compared"]) == (0, True, len(first))
    assert told["embeddings_identical"] == told["embeddings"] == len(first)
    assert _run(bundle, mcap, "--uncalibrated") == first


def test_a_file_of_clips_holds_the_cameras_frames_once(tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa", clip=CLIP)
    camera_hz = RATE_HZ * CLIP.hop
    episode = picture_episode(621, 20, camera_hz=camera_hz)
    runs = _record(tmp_path / "runs", episode, camera_hz)
    _run(bundle, runs, "--uncalibrated", "--mcap", tmp_path / "out.mcap")
    messages = [entry.message for entry in Bag(tmp_path / "out.mcap").messages([IMAGE_TOPIC])]
    pictures = np.stack([decode_image(message)[0] for message in messages])
    np.testing.assert_array_equal(pictures, episode.frames)
    stamps_s = [1e-9 * stamp_ns(message.header) for message in messages]
    np.testing.assert_allclose(stamps_s, episode.stamps_s, atol=1e-8)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    bundle = make_passive_bundle(root / "passive.jepa", clip=CLIP)
    runs = record_pictures(root / "runs", range(40), 41, camera_hz=RATE_HZ * CLIP.hop)
    calibrate_bundle(bundle, runs, CalibrateOptions(alpha=0.1, selftest_episodes=0))
    return bundle


def test_a_judged_run_of_clips_is_replayed(calibrated: Path, tmp_path: Path) -> None:
    camera_hz = RATE_HZ * CLIP.hop
    episode = picture_episode(622, 61, camera_hz=camera_hz)
    episode.frames[40:44] = 0
    runs = _record(tmp_path / "runs", episode, camera_hz)
    mcap = tmp_path / "out.mcap"
    first = _run(calibrated, runs, "--mcap", mcap)
    assert {flag["level"] for flag in first} >= {"UNKNOWN", "NOMINAL", "REJECT"}
    code, told = _replayed(mcap, calibrated)
    assert (code, told["same"], told["compared"]) == (0, True, len(first))


def _robot(bundle: Path, *, faster: int, frames: int = 121) -> Robot:
    """A node's run, with a camera that is so many times faster than the model's."""
    model = WorldModel.load(bundle)
    robot = Robot(model=model, monitor=Monitor.load(model), config=SessionConfig(samples=0))
    period_ns = PERIOD_NS // (CLIP.hop * faster)
    for frame in picture_episode(623, frames, camera_hz=1e9 / period_ns).frames:
        shown_ns = robot.now_ns
        robot.wait(3_000_000)
        robot.see(image(frame, shown_ns))
        robot.wait(shown_ns + period_ns - robot.now_ns)
    assert len(robot.flags) > 15
    return robot


@pytest.mark.parametrize("faster", [1, 2, 3])
def test_a_nodes_bag_of_clips_is_replayed(faster: int, calibrated: Path, tmp_path: Path) -> None:
    robot = _robot(calibrated, faster=faster)
    code, told = _replayed(write_bag(tmp_path / "bag", robot.said), calibrated)
    assert (code, told["same"], told["compared"]) == (0, True, len(robot.flags))


@pytest.mark.parametrize(
    ("faster", "begins"), [(1, 40), (1, 41), (2, 40), (2, 41), (3, 42), (3, 43)]
)
def test_a_bag_that_begins_within_a_run_leaves_out_clips_of_before(
    faster: int, begins: int, calibrated: Path, tmp_path: Path
) -> None:
    robot = _robot(calibrated, faster=faster)
    images = [entry for entry in robot.said if entry.topic == IMAGE_TOPIC]
    said = robot.said[robot.said.index(images[begins]) :]
    code, told = _replayed(write_bag(tmp_path / "bag", said), calibrated)
    assert code == 4, told["differences"]
    assert told["left_out"] >= 1
    assert told["partly"] + told["compared"] == told["flags"] >= 9
    assert told["embeddings_identical"] == told["embeddings"] >= 9
    assert any("their clips begin before the bag" in note for note in told["notes"])


def test_a_frame_that_the_recorder_lost_is_told(calibrated: Path, tmp_path: Path) -> None:
    robot = _robot(calibrated, faster=1)
    images = [entry for entry in robot.said if entry.topic == IMAGE_TOPIC]
    ends = {round(1e9 * flag.stamp_s / 1e6) for flag in robot.flags}
    within = next(
        entry for entry in images[60:] if round(stamp_ns(entry.message.header) / 1e6) not in ends
    )
    said = [entry for entry in robot.said if entry is not within]
    code, told = _replayed(write_bag(tmp_path / "bag", said), calibrated)
    assert code == 3
    clips = [one for one in told["differences"] if one["fields"][0]["field"] == "clip"]
    assert len(clips) == told["not_made"] == CLIP.span // CLIP.hop
    assert any("cannot be put together" in note for note in told["notes"])
    assert told["not_made"] + told["partly"] + told["compared"] == told["flags"]


def test_a_fast_camera_is_followed_over_episodes_and_from_before_the_node(
    calibrated: Path, tmp_path: Path
) -> None:
    model = WorldModel.load(calibrated)
    early = [Said(IMAGE_TOPIC, IMAGE, START_NS - k, _dark(START_NS - k)) for k in (30_000_000,)]
    robot = Robot(model=model, monitor=Monitor.load(model), config=SessionConfig(samples=0))
    period_ns = PERIOD_NS // (CLIP.hop * 2)
    for step, frame in enumerate(picture_episode(624, 120, camera_hz=1e9 / period_ns).frames):
        if step in (37, 80):
            robot.begin_episode()
        shown_ns = robot.now_ns
        robot.wait(3_000_000)
        robot.see(image(frame, shown_ns))
        robot.wait(shown_ns + period_ns - robot.now_ns)
    assert {flag.episode for flag in robot.flags} == {0, 1, 2}
    code, told = _replayed(write_bag(tmp_path / "bag", [*early, *robot.said]), calibrated)
    assert (code, told["same"], told["compared"]) == (0, True, len(robot.flags))


def _dark(shown_ns: int) -> Any:
    return image(np.zeros((24, 24, 3), np.uint8), shown_ns)
