# SPDX-License-Identifier: Apache-2.0
"""Makes simulators by name and records runs of their scripted policies, on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from jepa_edge.errors import InputError
from jepa_edge.faults import Injection
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.sim.pusht import PushTSim
from jepa_edge.sim.reacher import ReacherSim
from jepa_edge.sim.simulator import Choosy, FaultySimulator, Simulator

_TRIES = 20
_FAULT_STREAM = 1_000  # beyond the tries: the fault draws apart from the policy


class _Maker(Protocol):
    def __call__(self, seed: int = 0, *, size: int, block: int) -> Simulator: ...


SIMULATORS: dict[str, tuple[_Maker, int]] = {"pusht": (PushTSim, 2), "reacher": (ReacherSim, 1)}
"""Every simulator by name, with its usual environment steps per action block.

Their third-party packages are imported when one is made.
"""


def make_simulator(
    name: str, seed: int = 0, *, size: int = 64, block: int | None = None
) -> Simulator:
    """Return a simulator of SIMULATORS, reset with `seed`.

    size: side of the frames in pixels. block: environment steps per action, None for the usual.
    Raises InputError on an unknown name or bad number, MissingDependencyError without its extra.
    """
    if name not in SIMULATORS:
        raise InputError(f"simulator {name!r} is not known; there is {', '.join(SIMULATORS)}")
    make, usual = SIMULATORS[name]
    return make(seed, size=size, block=usual if block is None else block)


def record(
    name: str,
    out: Path,
    episodes: int,
    steps: int,
    seed: int = 0,
    *,
    injection: Injection | None = None,
    size: int = 64,
    block: int | None = None,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Record a simulator's scripted policy; the same arguments always give the same recording.

    name: one of SIMULATORS. out: directory to create. episodes, steps: how many runs, and action
    blocks in each. seed: different seeds share no randomness. injection: what breaks, and at which
    step. size, block: as for make_simulator. workers: processes. on_progress: called with the
    number of episodes done.
    Raises InputError when out exists, a number is out of range, or the simulator accepts no run of
    an episode, MissingDependencyError without the simulator's extra.
    """
    if min(episodes, steps, workers, block or 1) < 1 or block == 0 or seed < 0 or size < 8:
        raise InputError(
            f"got episodes={episodes}, steps={steps}, workers={workers}, block={block}, "
            f"seed={seed}, size={size}; expected at least 1, a seed of 0 or more, and 8 pixels"
        )
    if injection is not None and injection.onset >= steps:
        raise InputError(
            f"the fault starts at step {injection.onset} of {steps}; choose a step within the "
            "episode"
        )
    robot = _robot(name, size, block)
    info = RecordingInfo(
        rate_hz=robot.rate_hz,
        action_dim=robot.action_dim,
        state_names=robot.state_names,
        source=f"sim:{name} seed={seed} fault={injection or 'none'}",
    )
    make = partial(
        _record_one, name=name, steps=steps, seed=seed, injection=injection, size=size, block=block
    )
    with RecordingWriter(out, info) as writer:
        if workers == 1:
            _write(writer, map(make, range(episodes)), on_progress)
        else:
            context = multiprocessing.get_context("spawn")
            with context.Pool(workers) as pool:
                _write(writer, pool.imap(make, range(episodes), chunksize=4), on_progress)


@lru_cache(maxsize=1)
def _robot(name: str, size: int, block: int | None) -> Simulator:
    """One simulator per process: some take long to build."""
    return make_simulator(name, size=size, block=block)


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
    name: str,
    steps: int,
    seed: int,
    injection: Injection | None,
    size: int,
    block: int | None,
) -> Episode:
    """Record episode `index`. A run that its simulator does not accept is drawn anew.

    Raises InputError when it accepts none of _TRIES.
    """
    healthy = _robot(name, size, block)
    fault_seed = int(np.random.default_rng([seed, index, _FAULT_STREAM]).integers(2**31))
    robot = FaultySimulator(healthy, injection, fault_seed)
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, index, attempt])
        robot.reset(int(rng.integers(2**31)))
        frames = np.empty((steps + 1, size, size, 3), np.uint8)
        states = np.empty((steps + 1, len(robot.state_names)), np.float32)
        actions = np.empty((steps, robot.action_dim), np.float32)
        policy = robot.warm_up(rng)
        frames[0], states[0] = robot.frame, robot.state
        for step in range(steps):
            actions[step] = policy.act(robot.state)
            frames[step + 1] = robot.step(actions[step])
            states[step + 1] = robot.state
        if not isinstance(healthy, Choosy) or healthy.accepts(states):
            break
    else:
        raise InputError(
            f"{name} accepted none of {_TRIES} runs drawn for episode {index} (seed {seed}, "
            f"{steps} steps); choose more steps or another seed"
        )
    return Episode(
        name=f"episode_{index:05d}",
        frames=frames,
        actions=actions,
        stamps_s=np.arange(steps + 1, dtype=np.float64) / robot.rate_hz,
        state=states,
    )
