# SPDX-License-Identifier: Apache-2.0
"""One long held-out episode in which one fault after the other comes and goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.faults import parse_fault
from jepa_edge.monitor import Monitor
from jepa_edge.session import Observation, Session, SessionConfig, Update
from jepa_edge.sim import FaultySimulator, PushTSim
from jepa_edge.world_model import WorldModel

STEPS = 150
FAULTS = (
    ("occlusion", 20, 32),
    ("freeze", 52, 64),
    ("stuck", 84, 96),
    ("friction", 112, 150),
)
"""Fault, first step that it acts on, first step that is healthy again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Showcase:
    """What the robot saw and what the session said: frames (T, H, W, 3) and one update each."""

    frames: NDArray[np.uint8]
    updates: list[Update]
    rate_hz: float

    def alarmed(self, start: int, stop: int) -> bool:
        """Whether CAUTION or REJECT was published from frame start + 1 to stop."""
        return any(update.flag.level >= 2 for update in self.updates[start + 1 : stop + 1])


def run_showcase(model: WorldModel, seed: int) -> Showcase:
    """Drive a session through the episode; the commanded actions are what the session is told."""
    rng = np.random.default_rng(seed)
    sim = FaultySimulator(PushTSim(int(rng.integers(2**31))))
    policy = sim.warm_up(rng)
    session = Session(model, Monitor.load(model), SessionConfig(samples=32, latch=None))
    begins = {start: fault for fault, start, _ in FAULTS}
    ends = {stop for _, _, stop in FAULTS}
    frames = [sim.frame]
    updates = [session.step(Observation(stamp_s=0.0, frame=frames[0]))]
    for step in range(STEPS):
        if step in begins:
            sim.inject(parse_fault(begins[step]))
        elif step in ends:
            sim.inject(None)
        action = policy.act(sim.state)
        frames.append(sim.step(action))
        observation = Observation(stamp_s=(step + 1) / sim.rate_hz, frame=frames[-1], action=action)
        updates.append(session.step(observation))
    return Showcase(frames=np.stack(frames), updates=updates, rate_hz=sim.rate_hz)
