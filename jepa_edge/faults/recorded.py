# SPDX-License-Identifier: Apache-2.0
"""Faults put into recorded episodes after the fact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.errors import InputError
from jepa_edge.faults.actuator import ActionScale, ActuatorFilter
from jepa_edge.faults.camera import CameraFilter
from jepa_edge.faults.library import FAULTS, FaultKind, Injection
from jepa_edge.manifest import ActionSpec
from jepa_edge.recording import Episode, Recording, RecordingWriter


def inject_recorded(
    episode: Episode,
    injection: Injection,
    action_spec: ActionSpec | ActionScale | None,
    seed: int = 0,
) -> Episode:
    """Return the episode as it would have been recorded with a fault.

    Camera faults change the frames from the onset on, exactly as CameraFilter does. Recorded motion
    cannot change any more, so bias, gain, inverted and delay change the commands from the onset on
    to those of which the faulty actuator makes the recorded motion. Two limits of that: a command
    beyond the limits of the actions is clipped to them, where the fault then shows less; and a
    delay of k steps drops the last k steps, whose commands would have been given later, and leaves
    the k steps from the onset on, while the delay builds up, explained by no command.

    action_spec: the model's actions, for actuator faults; None in a model that takes none. seed: as
    for the filters.
    Raises InputError when only a simulator can show the fault, the onset leaves nothing of it
    within the episode, or the model takes no actions that could be faulty.
    """
    _check_possible(injection)
    steps, onset = episode.actions.shape[0], injection.onset
    last = steps if injection.fault.kind is FaultKind.CAMERA else steps - 1
    if onset > last:
        raise InputError(
            f"fault {injection.name} begins at step {onset}, episode {episode.name} ends at "
            f"{last}; choose an onset within the episode"
        )
    if injection.fault.kind is FaultKind.CAMERA:
        camera = CameraFilter(injection, seed)
        frames = np.stack([camera(frame, step) for step, frame in enumerate(episode.frames)])
        return dataclasses.replace(episode, frames=frames)
    if action_spec is None:
        raise InputError(
            f"fault {injection.name} changes commands, and the model takes none; choose a fault of "
            "the camera"
        )
    actuator = ActuatorFilter(injection, action_spec, seed)
    if injection.name == "delay":
        return _delayed(episode, injection)
    if episode.actions.shape[1] != actuator.scale.center.size:
        raise InputError(
            f"episode {episode.name} has {episode.actions.shape[1]} numbers per action, the "
            f"action's description {actuator.scale.center.size}; use the recording's own"
        )
    actions = episode.actions.copy()
    actions[onset:] = actuator.limited(actuator.inverse(actions[onset:]))
    return dataclasses.replace(episode, actions=actions)


def inject_recording(
    recording: Recording,
    out: Path,
    injection: Injection,
    *,
    seed: int = 0,
    block: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write a recording in which every episode has the fault; return the longest one's steps.

    out: directory to create. seed: every episode draws apart. block: environment steps per action,
    which actuator faults need to know; their center, unit and limits are measured on the
    recording's own actions. on_progress: called with the number of episodes done.
    Raises InputError as inject_recorded does, when an actuator fault has no block, and when out
    exists.
    """
    _check_possible(injection)
    if injection.fault.kind is FaultKind.ACTUATOR and block is None:
        raise InputError(
            f"fault {injection.name} needs the environment steps per action of {recording.path}; "
            "pass them (--block)"
        )
    scale = ActionScale.from_actions(
        np.concatenate([episode.actions for episode in recording]), block or 1
    )
    source = f"{recording.info.source} with {injection} seed={seed}"
    info = msgspec.structs.replace(recording.info, source=source.strip())
    longest = 0
    with RecordingWriter(out, info) as writer:
        for index, episode in enumerate(recording):
            own_seed = int(np.random.default_rng([seed, index]).integers(2**31))
            faulty = inject_recorded(episode, injection, scale, own_seed)
            writer.add(faulty)
            longest = max(longest, faulty.actions.shape[0])
            if on_progress is not None:
                on_progress(index + 1)
    return longest


def _check_possible(injection: Injection) -> None:
    """Raise InputError when only a simulator can show the fault."""
    if injection.fault.simulator_only:
        possible = ", ".join(name for name, fault in FAULTS.items() if not fault.simulator_only)
        raise InputError(
            f"fault {injection.name} changes how the robot moves, which a recording cannot show "
            f"after the fact; use a simulator, or one of {possible}"
        )


def _delayed(episode: Episode, injection: Injection) -> Episode:
    """The recorded motion as that of commands given `severity` steps earlier."""
    late, onset = injection.steps, injection.onset
    kept = episode.actions.shape[0] - late
    if kept <= onset:
        raise InputError(
            f"fault {injection} on episode {episode.name} of {episode.actions.shape[0]} steps: "
            f"a delay of {late} steps leaves {max(kept, 0)}, none of them after the onset; "
            "choose an earlier onset or a shorter delay"
        )
    actions = np.concatenate([episode.actions[:onset], episode.actions[onset + late :]])
    return dataclasses.replace(
        episode,
        frames=episode.frames[: kept + 1],
        actions=actions,
        stamps_s=episode.stamps_s[: kept + 1],
        state=None if episode.state is None else episode.state[: kept + 1],
        loss=None if episode.loss is None else episode.loss[: kept + 1],
        robot_state=None if episode.robot_state is None else episode.robot_state[: kept + 1],
    )
