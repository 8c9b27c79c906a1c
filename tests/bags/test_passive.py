# SPDX-License-Identifier: Apache-2.0
"""Bags without commands: recorded, calibrated on, and replayed, for models without actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jepa_edge.bags.recording import open_recording
from jepa_edge.bundle import Bundle
from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.cli.replay import command as replay
from jepa_edge.manifest import ClipSpec
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.messages import IMAGE
from jepa_edge.ros_types import ACTION
from jepa_edge.session import SessionConfig
from jepa_edge.world_model import WorldModel

from ..passive_world import RATE_HZ, make_passive_bundle, picture_episode, record_pictures
from .robot import (
    ACTION_TOPIC,
    IMAGE_TOPIC,
    MAKE,
    PERIOD_NS,
    START_NS,
    Robot,
    Said,
    image,
    write_bag,
)

CLIP = ClipSpec(frames=4, tubelet=2, stride=1, hop=2)


@pytest.mark.parametrize("clip", [None, CLIP], ids=["frames", "clips"])
def test_a_bag_of_images_alone_is_a_recording(clip: ClipSpec | None, tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa", clip=clip)
    period_ns = PERIOD_NS if clip is None else PERIOD_NS // clip.hop
    episode = picture_episode(600)
    said = []
    for step, frame in enumerate(episode.frames):
        stamp_ns = START_NS + step * period_ns
        said.append(Said(IMAGE_TOPIC, IMAGE, stamp_ns + 3_000_000, image(frame, stamp_ns)))
        if step % 2:  # commands of some other robot on the bus are not read
            other = MAKE(ACTION, data=np.zeros(3, np.float32))
            said.append(Said(f"{ACTION_TOPIC}{step % 4}", ACTION, stamp_ns, other))
    bag = write_bag(tmp_path / "bag", said)
    recording = open_recording(bag, Bundle.open(bundle).manifest)
    assert recording.info.action_dim == 0
    assert recording.info.rate_hz == pytest.approx(RATE_HZ * (1 if clip is None else clip.hop))
    (read,) = recording
    np.testing.assert_array_equal(read.frames, episode.frames)
    assert read.actions.shape == (20, 0)


def test_a_replay_without_commands_is_identical(tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa")
    runs = record_pictures(tmp_path / "runs", range(40))
    calibrate_bundle(bundle, runs, CalibrateOptions(alpha=0.1, selftest_episodes=0))
    model = WorldModel.load(bundle)
    robot = Robot(model=model, monitor=Monitor.load(model), config=SessionConfig(samples=0))
    for frame in picture_episode(601).frames:
        stamp_ns = robot.now_ns
        robot.wait(3_000_000)
        robot.see(image(frame, stamp_ns))
        robot.wait(stamp_ns + PERIOD_NS - robot.now_ns)
    assert robot.flags[-1].level != 0
    bag = write_bag(tmp_path / "bag", robot.said)
    done = CliRunner().invoke(replay, [str(bag), "--bundle", str(bundle)])
    assert done.exit_code == 0, done.output
