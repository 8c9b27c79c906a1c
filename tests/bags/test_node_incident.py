# SPDX-License-Identifier: Apache-2.0
"""The node itself, with its threads and its watchdog, recorded and made again at a desk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from jepa_edge.cli.replay import command
from jepa_edge.flags import Reason
from jepa_edge.nodes.messages import EMBEDDING, FLAG, IMAGE, MODEL_INFO
from jepa_edge.nodes.qos import Qos
from jepa_edge.recording import Episode
from jepa_edge.ros_types import ACTION
from jepa_edge.world_model import WorldModel

from ..nodes.rig import PERIOD_NS, T0_NS, Rig, image_fields, running, stamp_of
from .robot import Said, write_bag

TOPICS = {
    "image": IMAGE,
    "action": ACTION,
    "jepa/flag": FLAG,
    "jepa/embedding": EMBEDDING,
    "jepa/model_info": MODEL_INFO,
}


def recording(rig: Rig) -> list[Said]:
    """Record what is said on the node's topics; the times are those of the bus."""
    said: list[Said] = []
    recorder = rig.bus.backend("recorder")

    def keep(topic: str, kind: str) -> Callable[[Any], None]:
        return lambda message: said.append(Said(f"/{topic}", kind, rig.bus.now_ns(), message))

    for topic, kind in TOPICS.items():
        qos = Qos(depth=1000, transient_local=topic == "jepa/model_info")
        recorder.subscribe(topic, kind, qos, keep(topic, kind))
    return said


def test_an_incident_at_the_node_comes_out_again_at_the_desk(
    calibrated_bundle: Path,
    make_episode: Callable[..., Episode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    episode = make_episode(9300, 60)
    episode.frames[30:32] = 0  # the camera goes dark: REJECT, latched
    encode, stall_s = WorldModel.encode, [0.0]

    def slow(model: WorldModel, frames: Any, states: Any = None) -> Any:
        time.sleep(stall_s[0])
        return encode(model, frames, states)

    monkeypatch.setattr(WorldModel, "encode", slow)
    with running(calibrated_bundle, latch="reject", fall_after=2, max_age_s=0.25) as rig:
        said = recording(rig)
        rig.play(episode, 0, 12)
        # Inference is stuck for longer than a flag holds; time goes on.
        stall_s[0] = 0.6
        stamp = T0_NS + 12 * PERIOD_NS
        rig.command(stamp - PERIOD_NS + 10_000_000, episode.actions[11])
        rig.see(stamp + 5_000_000, **image_fields(stamp, episode.frames[12]))
        stall_s[0] = 0.0
        rig.play(episode, 13, 20)
        # The camera stops; the watchdog says so.
        rig.bus.set_time(T0_NS + 22 * PERIOD_NS)
        count = len(rig.flags)
        rig.bus.wait_for(lambda: len(rig.flags) >= count + 2)
        rig.play(episode, 23, 45)
        assert rig.bus.call("jepa/reset_latch").success
        rig.play(episode, 45, 47)
        assert rig.bus.call("jepa/begin_episode").success
        rig.play(episode, 47, 60)
        rig.node.deactivate()  # its last flag is in the bag too
        rig.bus.settle()
        flags = list(rig.flags)
    seen = Reason(0)
    for flag in flags:
        seen |= Reason(flag.reasons)
    for reason in (Reason.STALE, Reason.OVERLOAD, Reason.LATCHED, Reason.WARMING_UP):
        assert reason in seen
    assert flags[-1].episode == 1
    assert not flags[-1].latched
    bag = write_bag(tmp_path / "incident", said)
    arguments = [str(bag), "--bundle", str(calibrated_bundle), "--image-topic", "/image", "--json"]
    settings = ["--param", "fall_after=2"]
    done = CliRunner().invoke(command, [*arguments, *settings], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["differences"] == []
    assert told["same"]
    assert told["identities"][0]["known"]
    assert told["identities"][0]["differing"] == []
    assert told["compared"] == told["identical"] == len(flags)
    assert told["embeddings"] == told["embeddings_identical"] > 40
    # Which settings the node had matters, and is told.
    other = CliRunner().invoke(command, [*arguments, "--param", "fall_after=4"])
    assert other.exit_code == 3
    assert json.loads(other.stdout)["differences"]


def test_simulated_time_whose_ticks_are_the_stamps_too(
    calibrated_bundle: Path, make_episode: Callable[..., Episode], tmp_path: Path
) -> None:
    """Stamps near zero, and a watchdog that speaks at the very stamp of an image."""
    episode = make_episode(9301, 30)
    start_ns = 10**9
    with running(calibrated_bundle) as rig:
        said = recording(rig)
        for k in range(20):
            stamp = start_ns + k * PERIOD_NS
            if k:
                rig.command(stamp - PERIOD_NS, episode.actions[k - 1])
            if k == 12:
                continue  # lost
            if k == 13:
                # The clock stands at the stamp of an image that comes only afterwards.
                rig.bus.set_time(stamp)
                before = len(rig.flags)
                rig.bus.wait_for(lambda: len(rig.flags) > before)  # noqa: B023
                assert stamp_of(rig.flags[-1]) == stamp
            rig.see(stamp, **image_fields(stamp, episode.frames[k]))
        rig.node.deactivate()  # its last flag is in the bag too
        rig.bus.settle()
        flags = list(rig.flags)
    bag = write_bag(tmp_path / "bag", said)
    arguments = [str(bag), "--bundle", str(calibrated_bundle), "--image-topic", "/image", "--json"]
    done = CliRunner().invoke(command, [*arguments, "--param", "latch=none"])
    told = json.loads(done.stdout)
    assert told["differences"] == []
    assert told["compared"] == told["identical"] == len(flags)
    stale = [flag for flag in flags if Reason.STALE in Reason(flag.reasons)]
    assert stale
    assert np.isfinite([flag.score for flag in flags if flag.level]).all()
