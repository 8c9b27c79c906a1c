# SPDX-License-Identifier: Apache-2.0
"""The moment that futures are imagined from, and the goal: recordings, trajectories, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.array_files import as_floats, read_array, read_arrays
from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.goals import goal_state
from jepa_edge.image_fit import MODEL_FIT, fit_to
from jepa_edge.manifest import Manifest
from jepa_edge.recording import Recording, check_fits

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A piece of a run: F frames of the model's size, (F, H, W, 3) uint8, in time order.

    actions: (F - 1 or more, A) float32 raw units, action t taken at frame t; None where they are
    not known. states: (F, S) float32, None where they are not known. told: where it came from.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32] | None
    states: NDArray[np.float32] | None
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The moment: T frames, oldest first, and the T - 1 actions between them.

    frames: (T, H, W, 3) uint8. past_actions: (T - 1, A) float32. states: (T, S) float32 or None.
    last_action: (A,) float32, commanded right before the newest frame, None where not known.
    """

    frames: NDArray[np.uint8]
    past_actions: NDArray[np.float32]
    states: NDArray[np.float32] | None
    last_action: NDArray[np.float32] | None
    told: str


def read_run(
    source: Path,
    manifest: Manifest,
    *,
    episode: int = 0,
    fit: str = MODEL_FIT,
    state: NDArray[np.float32] | None = None,
) -> Run:
    """Read a run.

    source: a recording's directory; an `.npz` with `observations` (F, H, W, 3) uint8 and, if there
    are, `states` (F, S) and `actions` (F - 1, A), a leading axis of 1 being dropped; an `.npy` of
    one picture or several; a picture file. fit: how pictures of another size are fitted. state:
    (S,) of a picture, for a model that takes it.
    Raises InputError when it is none of these or does not fit, MissingDependencyError for a picture
    file without Pillow.
    """
    if source.is_dir():
        return _from_recording(source, manifest, episode)
    states = actions = None
    if source.suffix == ".npz":
        arrays = _read_npz(source)
        frames = arrays["observations"]
        states, actions = arrays.get("states"), arrays.get("actions")
    elif source.suffix == ".npy":
        frames = read_array(source)
    elif source.suffix.lower() in _PICTURES:
        frames = _read_picture(source, manifest.observation.color)
    else:
        raise InputError(
            f"{source} is no recording, .npz, .npy or picture ({', '.join(_PICTURES)}); name one"
        )
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or not len(frames):
        raise InputError(f"{source} holds {frames.shape}, expected uint8 frames (F, H, W, 3)")
    fitted = np.stack([fit_to(manifest.observation, frame, fit) for frame in frames])
    if states is None and state is not None:
        states = np.repeat(state[None], len(frames), axis=0)
    return Run(
        frames=fitted,
        actions=_checked("actions", actions, source, len(frames) - 1, _action_dim(manifest)),
        states=_checked("states", states, source, len(frames), _state_dim(manifest)),
        told=str(source),
    )


def scene_of(run: Run, manifest: Manifest, frame: int | None = None) -> Scene:
    """Cut the model's history out of a run.

    frame: number of the newest frame; None for the middle of the run, or later where the history
    needs it. Raises InputError when the run lacks frames, actions or states that the model needs.
    """
    manifest.require_action()
    count, longest = len(run.frames), manifest.history
    shortest = manifest.min_history or longest
    if frame is None:
        frame = min(max(count // 2, longest - 1), count - 1)
    if not 0 <= frame < count:
        raise InputError(f"{run.told} has frames 0 to {count - 1}, got frame {frame}")
    steps = min(longest, frame + 1)
    if run.actions is None:
        steps = min(steps, 1)
    if steps < shortest:
        raise InputError(
            f"{run.told} gives {steps} frame{'s' * (steps != 1)} with the actions between them up "
            f"to frame {frame}, the model needs {shortest}; choose a later frame, or a recording"
        )
    states = None
    if manifest.state is not None:
        if run.states is None:
            raise InputError(
                f"{run.told} holds no states, the model takes {manifest.state.dim} numbers "
                f"({', '.join(manifest.state.names) or 'raw units'}); give them with --state"
            )
        states = run.states[frame - steps + 1 : frame + 1]
    first = frame - steps + 1
    width = _action_dim(manifest) or 0
    past = np.zeros((0, width), np.float32)
    if steps > 1 and run.actions is not None:
        past = run.actions[first:frame]
    known = run.actions is not None and frame > 0
    return Scene(
        frames=run.frames[first : frame + 1],
        past_actions=past,
        states=states,
        last_action=run.actions[frame - 1] if known and run.actions is not None else None,
        told=f"{run.told}, frame {frame}",
    )


def goal_frame(
    run: Run, goal: str, manifest: Manifest, fit: str = MODEL_FIT
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None, str]:
    """Return the goal's frame (H, W, 3), its state (S,) or None, and where it came from.

    goal: number of a frame of the run, or a picture file (.npy, .png, ...). A picture has no state;
    `goals.goal_state` says what stands for it.
    Raises InputError when there is no such frame, or a state is missing and energies see it.
    """
    if goal.isascii() and goal.isdigit():
        # A number of thousands of digits is no int for Python.
        number = int(goal) if len(goal) < 18 else len(run.frames)
        if number >= len(run.frames):
            raise InputError(
                f"{run.told} has frames 0 to {len(run.frames) - 1}, got goal {goal[:18]}"
            )
        state = None if run.states is None else run.states[number]
        return run.frames[number], goal_state(manifest, state), f"{run.told}, frame {number}"
    other = read_run(Path(goal), manifest, fit=fit)
    state = None if other.states is None else other.states[-1]
    return other.frames[-1], goal_state(manifest, state), other.told


def _from_recording(path: Path, manifest: Manifest, episode: int) -> Run:
    recording = Recording(path)
    check_fits(recording, manifest.observation, manifest.action, manifest.state)
    if not 0 <= episode < len(recording):
        raise InputError(f"{path} holds episodes 0 to {len(recording) - 1}, got episode {episode}")
    loaded = recording.load(episode)
    manifest.observation.check_frames(loaded.frames)
    return Run(
        frames=loaded.frames,
        actions=loaded.actions if manifest.action is not None else None,
        states=loaded.robot_state if manifest.state is not None else None,
        told=f"{path}, episode {episode}",
    )


def _read_npz(path: Path) -> Mapping[str, NDArray[np.generic]]:
    found = read_arrays(path)
    if "observations" not in found:
        raise InputError(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}, expected observations "
            "(F, H, W, 3), and states and actions if there are"
        )
    ranks = {"observations": 4, "states": 2, "actions": 2}
    for name, rank in ranks.items():
        if name in found and found[name].ndim == rank + 1 and len(found[name]) == 1:
            found[name] = found[name][0]
    return {name: found[name] for name in ranks if name in found}


def _read_picture(path: Path, color: str) -> NDArray[np.uint8]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path} needs Pillow to be read; install it with `pip install pillow`, or store the "
            "picture as .npy"
        ) from error
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.uint8)
    except (
        OSError,
        SyntaxError,
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return np.ascontiguousarray(pixels[:, :, ::-1]) if color == "bgr" else pixels


def _action_dim(manifest: Manifest) -> int | None:
    return None if manifest.action is None else manifest.action.dim


def _state_dim(manifest: Manifest) -> int | None:
    return None if manifest.state is None else manifest.state.dim


def _checked(
    name: str,
    values: NDArray[np.generic] | None,
    source: Path,
    rows: int,
    width: int | None,
) -> NDArray[np.float32] | None:
    """What the model takes of it, as float32. Raises InputError on another shape."""
    if values is None or width is None:
        return None
    if values.ndim != 2 or len(values) < rows or values.shape[1] != width:
        raise InputError(
            f"{source}: {name} have shape {values.shape}, expected ({rows}, {width}), raw units"
        )
    return as_floats(name, values, source)
