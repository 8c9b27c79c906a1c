# SPDX-License-Identifier: Apache-2.0
"""What the loop hands on: no frame of the episode before, and the very state that was judged."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.nodes.inputs import Frame, Inputs
from jepa_edge.recording import Episode
from jepa_edge.session import Observation

from ..state_world import make_state_bundle, state_episode
from .rig import ARRAY, PERIOD_NS, T0_NS, image_fields, running, stamp_of


def test_frames_of_before_a_begun_episode_are_left_out(
    calibrated_bundle: Path, make_episode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is being decoded when the episode begins, one waits for its turn."""
    episode: Episode = make_episode(9001)
    inside, go = threading.Event(), threading.Event()
    decode = Inputs.observation

    def held(self: Inputs, frame: Frame) -> Observation:
        inside.set()
        assert go.wait(20.0)
        return decode(self, frame)

    monkeypatch.setattr(Inputs, "observation", held)
    with running(calibrated_bundle, diagnostics_period_s=0.05) as rig:
        before = [T0_NS, T0_NS + PERIOD_NS]
        for stamp, pixels in zip(before, episode.frames, strict=False):
            rig.bus.set_time(stamp + 5_000_000)
            rig.bus.publish("image", "sensor_msgs/msg/Image", **image_fields(stamp, pixels))
            assert inside.wait(5.0)
            rig.bus.settle()
        assert rig.bus.call("jepa/begin_episode").success
        go.set()
        stamp = T0_NS + 2 * PERIOD_NS
        flag = rig.see(stamp + 5_000_000, **image_fields(stamp, episode.frames[2]))
        assert flag.episode == 1
        assert not {stamp_of(f) for f in rig.flags} & set(before)
        rig.diagnose()
        assert rig.diagnose()[2]["frames_dropped"] == "2"


def test_the_state_that_is_published_is_the_one_that_was_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, episode = make_state_bundle(tmp_path / "state.jepa"), state_episode(7)
    asked: list[int] = []
    look_up = Inputs.state

    def counted(self: Inputs, frame: Frame) -> Any:
        asked.append(frame.stamp_ns)
        return look_up(self, frame)

    monkeypatch.setattr(Inputs, "state", counted)
    options = {"state_type": "std_msgs/Float32MultiArray", "uncalibrated": True}
    with running(bundle, diagnostics_period_s=0.05, **options) as rig:
        assert episode.robot_state is not None
        stamps = [T0_NS + k * PERIOD_NS for k in range(4)]
        for k, stamp in enumerate(stamps):
            rig.bus.set_time(stamp)
            if k:  # nobody tells the first
                rig.bus.publish("state", ARRAY, data=episode.robot_state[k])
            rig.bus.settle()
            rig.see(stamp + 5_000_000, **image_fields(stamp, episode.frames[k]))
        rig.bus.wait_for(lambda: len(rig.embeddings) == 3)
        rig.diagnose()
        values = rig.diagnose()[2]
    assert asked == stamps
    for embedding, stamp in zip(rig.embeddings, stamps[1:], strict=True):
        expected = episode.robot_state[stamps.index(stamp)]
        np.testing.assert_array_equal(embedding.state, expected)
    assert (values["frames_without_state"], values["clips_broken"]) == ("1", "0")
