# SPDX-License-Identifier: Apache-2.0
"""A simulated robot under its scripted policy, with a fault on request."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from jepa_edge.clip import by_camera_frame
from jepa_edge.errors import InputError
from jepa_edge.faults import parse_fault
from jepa_edge.manifest import Manifest
from jepa_edge.session import Observation
from jepa_edge.sim import FaultySimulator, Simulator, make_simulator
from jepa_edge.sources.clips import clip_observations
from jepa_edge.sources.states import no_state


class SimulationSource:
    """Frames of a simulator that its scripted policy drives."""

    def __init__(
        self, name: str, manifest: Manifest, *, steps: int, seed: int, fault: str | None
    ) -> None:
        """Raises InputError when the simulator is unknown or does not fit the model, as one that
        takes the robot's state: the simulators give none."""
        no_state(manifest, f"sim:{name} is a simulator")
        injection = None if fault is None else parse_fault(fault)
        if steps < 1 or seed < 0 or (injection is not None and injection.onset >= steps):
            raise InputError(
                f"got {steps} steps, seed {seed}, fault {fault}; expected at least one step, "
                "a seed of 0 or more, and a fault that begins within the steps"
            )
        if manifest.observation.color != "rgb":
            raise InputError(
                f"{name} draws rgb frames, the model takes {manifest.observation.color}"
            )
        clip = manifest.observation.clip
        self._steps = steps if clip is None else clip.span - 1 + steps * clip.hop
        self._rng = np.random.default_rng(seed)
        healthy = make_simulator(
            name, seed, size=manifest.observation.height, block=_block(name, manifest)
        )
        self.sim = FaultySimulator(healthy, injection, seed)
        camera = by_camera_frame(manifest)
        camera.observation.check_frames(healthy.frame[None])
        _check_fits(healthy, camera)
        self._manifest = manifest

    def __iter__(self) -> Iterator[Observation]:
        return clip_observations(self._frames(), self._manifest.observation)

    def _frames(self) -> Iterator[Observation]:
        sim, acts = self.sim, self._manifest.action is not None
        policy = sim.warm_up(self._rng)
        yield Observation(stamp_s=0.0, frame=sim.frame)
        for step in range(self._steps):
            action = policy.act(sim.state)
            frame = sim.step(action)
            yield Observation(
                stamp_s=(step + 1) / sim.rate_hz, frame=frame, action=action if acts else None
            )


def _block(name: str, manifest: Manifest) -> int:
    """Steps of the simulator from one camera frame to the next."""
    if manifest.action is not None:
        return manifest.action.block
    alone = make_simulator(name, 0, size=manifest.observation.height, block=1)
    return max(1, round(alone.rate_hz / manifest.observation.camera_rate_hz))


def _check_fits(robot: Simulator, manifest: Manifest) -> None:
    """Raise InputError when a robot's actions or rate are not the model's."""
    action = manifest.action
    if action is not None and robot.action_dim != action.dim:
        raise InputError(
            f"{robot.name} takes {robot.action_dim} numbers per block, "
            f"the model {action.dim}; it was trained on another robot"
        )
    if not math.isclose(robot.rate_hz, manifest.observation.rate_hz, rel_tol=0.01):
        raise InputError(
            f"{robot.name} steps at {robot.rate_hz:g} Hz, the model at "
            f"{manifest.observation.rate_hz:g} Hz; it was trained on another robot"
        )
    if action is None:
        return
    for which, own, models in (
        ("low", robot.action_low, action.low),
        ("high", robot.action_high, action.high),
    ):
        if models and not np.allclose(own, models):
            raise InputError(
                f"{robot.name} takes actions with {which} {own}, the model with {which} "
                f"{models}; it was trained on another robot"
            )
