# SPDX-License-Identifier: Apache-2.0
"""The node of a model without actions: no command is heard, nothing is predicted, flags go out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.messages import model_info_message
from jepa_edge.nodes.planner import PlannerNode
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.world_model import WorldModel

from ..passive_world import DIM, TOKENS, make_passive_bundle, picture_episode, record_pictures
from .bus import LocalBus, make
from .rig import PERIOD_NS, T0_NS, header_of, image_fields, running


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("passive")
    bundle = make_passive_bundle(folder / "passive.jepa")
    runs = record_pictures(folder / "runs", range(40))
    calibrate_bundle(bundle, runs, CalibrateOptions(alpha=0.1, selftest_episodes=0))
    return bundle


def test_flags_are_the_session_s_and_nothing_is_predicted(calibrated: Path) -> None:
    model = WorldModel.load(calibrated)
    session = Session(model, Monitor.load(model), SessionConfig(latch=None))
    episode = picture_episode(500, 12)
    with running(calibrated) as rig:
        flags = []
        for k, frame in enumerate(episode.frames):
            stamp = T0_NS + k * PERIOD_NS
            rig.command(stamp - 1_000_000, np.ones(5, np.float32))  # nobody listens
            flags.append(rig.see(stamp + 5_000_000, **image_fields(stamp, frame)))
        rig.bus.settle()
        embeddings = list(rig.embeddings)
        assert rig.predictions == []
        _, _, values = rig.diagnose()
    for k, (flag, frame) in enumerate(zip(flags, episode.frames, strict=True)):
        said = session.step(Observation(stamp_s=(T0_NS + k * PERIOD_NS) / 1e9, frame=frame)).flag
        assert (flag.level, flag.reasons) == (said.level, said.reason_bits)
        np.testing.assert_array_equal(np.float32(flag.score), np.float32(said.score))
    assert flags[-1].level != 0
    assert [(e.tokens, e.dim, e.action.size) for e in embeddings] == [(TOKENS, DIM, 0)] * 12
    assert values["frames_without_action"] == "0"
    limits = SessionConfig(samples=8)
    header = header_of(T0_NS)
    info = model_info_message(make, model, session.monitor, header, limits=limits)
    assert (info.action_dim, info.action_block, info.horizon) == (0, 0, 0)
    assert (list(info.action_names), info.action_units, info.armed) == ([], "", True)


def test_the_planner_refuses_the_bundle(calibrated: Path) -> None:
    with LocalBus() as bus:
        node = PlannerNode(bus.backend("jepa_planner", parameters={"bundle": str(calibrated)}))
        with pytest.raises(InputError, match=r"takes no actions.*planned"):
            node.start()
