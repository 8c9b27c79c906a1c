# SPDX-License-Identifier: Apache-2.0
"""Records PushT runs of the scripted policy, on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.sim.faults import FaultKind
from jepa_edge.sim.policy import ScriptedPolicy
from jepa_edge.sim.pusht import ENV_RATE_HZ, STATE_NAMES, PushTSim

WARM_UP_STEPS = 60
"""Action blocks run before step 0, so that the first steps look like the later ones."""

_TRIES = 20


def record_pusht(
    out: Path,
    episodes: int,
    steps: int,
    seed: int = 0,
    *,
    fault: FaultKind | None = None,
    fault_start: int = 0,
    size: int = 64,
    block: int = 2,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Record the scripted policy; the same arguments always give the same recording.

    out: directory to create. episodes, steps: how many runs, and action blocks in each.
    seed: different seeds share no randomness. fault, fault_start: what breaks, and at which step.
    size, block: as for PushTSim. workers: processes. on_progress: called with the number of
    episodes done.
    Raises InputError when out exists or a number is out of range, MissingDependencyError without
    the extra `sim`.
    """
    if min(episodes, steps, workers, block) < 1 or seed < 0 or size < 8:
        raise InputError(
            f"got episodes={episodes}, steps={steps}, workers={workers}, block={block}, "
            f"seed={seed}, size={size}; expected at least 1, a seed of 0 or more, and 8 pixels"
        )
    if fault is not None and not 0 <= fault_start < steps:
        raise InputError(
            f"the fault starts at step {fault_start} of {steps}; choose a step within the episode"
        )
    info = RecordingInfo(
        rate_hz=ENV_RATE_HZ / block,
        action_dim=2 * block,
        state_names=STATE_NAMES,
        source=f"sim:pusht seed={seed} fault={fault.value if fault else 'none'}"
        + (f" fault_start={fault_start}" if fault else ""),
    )
    make = partial(
        _record_one,
        steps=steps,
        seed=seed,
        fault=fault,
        fault_start=fault_start,
        size=size,
        block=block,
    )
    with RecordingWriter(out, info) as writer:
        if workers == 1:
            _write(writer, map(make, range(episodes)), on_progress)
        else:
            context = multiprocessing.get_context("spawn")
            with context.Pool(workers) as pool:
                _write(writer, pool.imap(make, range(episodes), chunksize=4), on_progress)


def warm_up(sim: PushTSim, rng: np.random.Generator) -> ScriptedPolicy:
    """Run the policy for a while on a freshly reset simulator, healthy, and restart its clock.

    rng: drives the policy. Returns the policy, to be asked for the actions from step 0 on.
    """
    policy = ScriptedPolicy(rng, block=sim.block)
    fault, sim.fault = sim.fault, None
    for _ in range(WARM_UP_STEPS):
        sim.advance(policy.act(sim.state))
    sim.fault = fault
    sim.restart_clock()
    return policy


def _write(
    writer: RecordingWriter,
    recorded: Iterator[Episode],
    on_progress: Callable[[int], None] | None,
) -> None:
    for done, episode in enumerate(recorded, start=1):
        writer.add(episode)
        if on_progress is not None:
            on_progress(done)


def _record_one(
    index: int,
    *,
    steps: int,
    seed: int,
    fault: FaultKind | None,
    fault_start: int,
    size: int,
    block: int,
) -> Episode:
    """Record episode `index`. A run in which the block is squeezed through a wall is drawn anew."""
    sim = PushTSim(fault=fault, fault_start=fault_start, size=size, block=block)
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, index, attempt])
        sim.reset(int(rng.integers(2**31)))
        frames = np.empty((steps + 1, size, size, 3), np.uint8)
        states = np.empty((steps + 1, len(STATE_NAMES)), np.float32)
        actions = np.empty((steps, 2 * block), np.float32)
        policy = warm_up(sim, rng)
        frames[0], states[0] = sim.frame, sim.state
        for step in range(steps):
            actions[step] = policy.act(sim.state)
            frames[step + 1] = sim.step(actions[step])
            states[step + 1] = sim.state
        if _inside(states):
            break
    return Episode(
        name=f"episode_{index:05d}",
        frames=frames,
        actions=actions,
        stamps_s=np.arange(steps + 1, dtype=np.float64) / sim.rate_hz,
        state=states,
    )


def _inside(states: NDArray[np.float32]) -> bool:
    """Whether the block stayed within the walls at all steps."""
    return bool(((states[:, 2:4] > 0.0) & (states[:, 2:4] < 512.0)).all())
