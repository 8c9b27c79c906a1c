# SPDX-License-Identifier: Apache-2.0
"""A simulated robot under its scripted policy, with a fault on request."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.session import Observation
from jepa_edge.sim import FaultKind, PushTSim, warm_up

SIMULATORS = ("pusht",)


def parse_fault(text: str) -> tuple[FaultKind, int]:
    """Read "KIND@STEP", e.g. "occlusion@20". Raises InputError when it is not of that form."""
    kind, _, step = text.partition("@")
    known = [fault.value for fault in FaultKind]
    if kind not in known or not (step.isascii() and step.isdigit()):
        raise InputError(f"fault {text!r}: expected KIND@STEP with KIND of {', '.join(known)}")
    return FaultKind(kind), int(step)


class SimulationSource:
    """Frames of a simulator that its scripted policy drives."""

    def __init__(
        self, name: str, manifest: Manifest, *, steps: int, seed: int, fault: str | None
    ) -> None:
        """Raises InputError when the simulator is unknown or does not fit the model."""
        if name not in SIMULATORS:
            raise InputError(f"simulator {name!r} is not known; there is {', '.join(SIMULATORS)}")
        kind, start = (None, 0) if fault is None else parse_fault(fault)
        if steps < 1 or seed < 0 or (kind is not None and start >= steps):
            raise InputError(
                f"got {steps} steps, seed {seed}, fault {fault}; expected at least one step, "
                "a seed of 0 or more, and a fault that begins within the steps"
            )
        if manifest.observation.color != "rgb":
            raise InputError(
                f"{name} draws rgb frames, the model takes {manifest.observation.color}"
            )
        self._steps = steps
        self._rng = np.random.default_rng(seed)
        self.sim = PushTSim(
            seed,
            fault=kind,
            fault_start=start,
            size=manifest.observation.height,
            block=manifest.action.block,
        )
        manifest.observation.check_frames(self.sim.frame[None])
        if self.sim.action_dim != manifest.action.dim:
            raise InputError(
                f"{name} takes {self.sim.action_dim} numbers per block, "
                f"the model {manifest.action.dim}; it was trained on another robot"
            )

    def __iter__(self) -> Iterator[Observation]:
        sim = self.sim
        policy = warm_up(sim, self._rng)
        yield Observation(stamp_s=0.0, frame=sim.frame)
        for step in range(self._steps):
            action = policy.act(sim.state)
            frame = sim.step(action)
            yield Observation(stamp_s=(step + 1) / sim.rate_hz, frame=frame, action=action)
