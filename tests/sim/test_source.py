# SPDX-License-Identifier: Apache-2.0
"""A simulator as a source of observations."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("pymunk")

from jepa_edge.errors import InputError
from jepa_edge.faults import parse_fault
from jepa_edge.manifest import Manifest
from jepa_edge.sim import FaultySimulator, PushTSim
from jepa_edge.sources import SourceOptions, open_source
from jepa_edge.sources.simulation import SimulationSource
from jepa_edge.world_model import WorldModel


@pytest.fixture
def manifest(linear_bundle: Path) -> Manifest:
    return WorldModel.load(linear_bundle, "fp32").manifest


def _changed(manifest: Manifest, part: str, **fields: object) -> Manifest:
    spec = msgspec.structs.replace(getattr(manifest, part), **fields)
    return msgspec.structs.replace(manifest, **{part: spec})


def test_observations_are_the_simulators_under_its_policy(manifest: Manifest) -> None:
    options = SourceOptions(fault="occlusion:0.5@3", steps=5, seed=4)
    stream = list(open_source("sim:pusht", manifest, options))
    size = manifest.observation.height
    sim = FaultySimulator(PushTSim(4, size=size), parse_fault("occlusion:0.5@3"), 4)
    policy = sim.warm_up(np.random.default_rng(4))
    assert stream[0].action is None
    np.testing.assert_array_equal(stream[0].frame, sim.frame)
    for step, observation in enumerate(stream[1:]):
        action = policy.act(sim.state)
        np.testing.assert_array_equal(observation.action, action)
        np.testing.assert_array_equal(observation.frame, sim.step(action))
        assert observation.stamp_s == pytest.approx((step + 1) / 5.0)
    assert len(stream) == 6


def _open(manifest: Manifest, name: str = "pusht", **options: object) -> SimulationSource:
    return SimulationSource(
        name,
        manifest,
        **{"steps": 5, "seed": 0, "fault": None, **options},  # type: ignore[arg-type]
    )


def test_what_does_not_fit_the_model_is_refused(manifest: Manifest) -> None:
    _open(manifest)
    with pytest.raises(InputError, match="there is pusht, reacher"):
        _open(manifest, "walker")
    with pytest.raises(InputError, match="rgb"):
        _open(_changed(manifest, "observation", color="bgr"))
    with pytest.raises(InputError, match="steps at 5 Hz, the model at 10 Hz"):
        _open(_changed(manifest, "observation", rate_hz=10.0))
    with pytest.raises(InputError, match="numbers per block"):
        _open(_changed(manifest, "action", block=1))
    with pytest.raises(InputError, match="another robot"):
        _open(_changed(manifest, "action", high=(1.0,) * manifest.action.dim))
    for bad in ({"steps": 0}, {"seed": -1}, {"fault": "stuck@5"}):
        with pytest.raises(InputError, match="expected at least one step"):
            _open(manifest, **bad)
    with pytest.raises(InputError, match="not in the library"):
        _open(manifest, fault="frozen@2")
