# SPDX-License-Identifier: Apache-2.0
"""From messages to observations: the same for a node, a replayed bag and a calibration's bag."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.image_fit import FITS, MODEL_FIT, fit_to
from jepa_edge.input_checks import checked_plan
from jepa_edge.manifest import ActionSpec, Manifest
from jepa_edge.nodes.clips import MAX_GAP, MIN_GAP, ClipGatherer
from jepa_edge.nodes.commands import Commands
from jepa_edge.nodes.fields import (
    ACTION_TYPES,
    ARRAY,
    STATE_TYPES,
    TRAJECTORY,
    FieldReader,
    full_name,
)
from jepa_edge.nodes.grid import FrameGrid
from jepa_edge.nodes.images import decode_image
from jepa_edge.nodes.messages import seconds, stamp_ns
from jepa_edge.nodes.trajectories import Trajectories
from jepa_edge.session import Observation
from jepa_edge.session_config import MAX_AGE_PERIODS

logger = logging.getLogger(__name__)

_LOG_EVERY = 100

_STATE_PERIODS = 4.0
"""How long states are kept, in periods, beside the slop and the age that a frame may have."""
_THIN_SLOP, _THIN_PERIODS = 0.25, 0.01
"""States closer together than both this share of the slop and of a period are thinned out."""

_LATENCY_PERIODS = 0.08
"""What a frame may take until its flag is out, while the flag before it must still be valid."""
_LEAST_GAP_PERIODS = 1.25
"""Where flags hold for about a period only, frames are left out all the same."""

_UNUSABLE = np.zeros(0, np.uint8)
"""Stands for a picture that could not be decoded: every session refuses it as INPUT_MISMATCH."""

_NO_NUMBERS = np.zeros(0, np.float32)
_NO_POINTS = (np.zeros(0, np.int64), np.zeros((0, 0), np.float32))

Values = TypeVar("Values")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """How messages are read.

    action_type, state_type: "package/Type"; an empty state_type is no state. action_fields,
    state_fields: paths of the numbers, such as linear.x or position[0]; may be empty for
    Float32MultiArray. action_timeout_s: longest that a command is held beyond its own time; 0 for
    half a period of the model where it is a whole block, else a period; trajectories are held for
    ever. sync_slop_s: how far from
    the image a state may be. image_fit: "model" for what the manifest says, "camera" for the same
    with pictures of the model's own size too, "exact", "crop" or "stretch". min_gap_periods,
    max_gap_periods, max_age_s: the session's limits; max_age_s of 0 stands for MAX_AGE_PERIODS. A
    model that takes no actions leaves what is said of them.
    Raises InputError for what cannot be.
    """

    action_type: str = ARRAY
    action_fields: tuple[str, ...] = ()
    action_timeout_s: float = 0.0
    state_type: str = ""
    state_fields: tuple[str, ...] = ()
    sync_slop_s: float = 0.05
    image_fit: str = MODEL_FIT
    min_gap_periods: float = 0.5
    max_gap_periods: float = 1.75
    max_age_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("action_type", self.action_type, ACTION_TYPES),
            ("state_type", self.state_type, ("", *STATE_TYPES)),
            ("image_fit", self.image_fit, FITS),
        ):
            if value not in choices:
                raise InputError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
        for name, number in (
            ("action_timeout_s", self.action_timeout_s),
            ("sync_slop_s", self.sync_slop_s),
            ("max_age_s", self.max_age_s),
        ):
            if not 0.0 <= number < math.inf:
                raise InputError(f"{name} is {number}, expected 0 or more seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An image message that the model gets, not decoded yet. Times in nanoseconds.

    clip: what a model of clips gets, decoded: the message's picture is the newest of it. breaks:
    how often the gathering of clips had begun anew by then.
    """

    message: Any
    stamp_ns: int
    received_ns: int
    clip: NDArray[np.generic] | None = None
    breaks: int = 0

    @property
    def header(self) -> Any:
        """The message's own."""
        return self.message.header


class _State(NamedTuple):
    """The robot's, with the time it is of and when it was received, nanoseconds."""

    time_ns: int
    received_ns: int
    values: NDArray[np.float32]


class Inputs:
    """Everything between messages and observations; deterministic in the sequence of calls.

    Messages without a stamp count from when they were received. Commands are actions as a
    controller sends them: those from one period before a frame until the frame led to it. When the
    clock is set back by more than a period, all that was remembered is forgotten. Methods may be
    called from any thread; those that take a message are cheap, and `observation` decodes and
    scales the picture; but for a model of clips `on_image` does that, so that every picture of a
    stream is decoded once.
    """

    def __init__(
        self, manifest: Manifest, options: InputOptions, clip_ends: Container[int] | None = None
    ) -> None:
        """clip_ends: stamps, ns, of the clips that a replay wants; None for one every hop.

        Raises InputError when the fields do not make up a step or a block of the model, or its
        state.
        """
        self._manifest = manifest
        self._options = options
        self._period_ns = round(1e9 / manifest.observation.rate_hz)
        self.states: FieldReader | None = None
        if options.state_type:
            self.states = FieldReader(options.state_type, options.state_fields, "state_fields")
        _check_states(self.states, manifest)
        self.actions: FieldReader | None = None
        self._commands: Commands | Trajectories | None = None
        if manifest.action is not None:
            self.actions = _action_reader(options, manifest.action)
            self._commands = _commands(options, manifest.action, self._period_ns)
        self._grid = _frame_grid(manifest, options)
        self._clips: ClipGatherer | None = None
        self._clip_order = threading.Lock()  # not held together with the other one
        clip = manifest.observation.clip
        if clip is not None:
            self._clips = ClipGatherer(
                clip, round(1e9 / manifest.observation.camera_rate_hz), clip_ends
            )
        self._breaks = 0  # of the last observation
        self._robot: deque[_State] = deque()
        slop_ns = round(1e9 * options.sync_slop_s)
        max_age_ns = round(1e9 * options.max_age_s) or round(MAX_AGE_PERIODS * self._period_ns)
        self._keep_states_ns = round(_STATE_PERIODS * self._period_ns) + slop_ns + max_age_ns
        self._thin_ns = min(_THIN_SLOP * slop_ns, _THIN_PERIODS * self._period_ns)
        self._plan: tuple[int, NDArray[np.float32]] | None = None
        self._newest_ns: int | None = None  # received
        self._unusable: Counter[str] = Counter()
        self._changed = threading.Condition()
        self.frames_seen = 0
        self.frames_decimated = 0
        self.frames_without_action = 0
        self.frames_without_state = 0

    def check_fields(self, make: Any) -> None:
        """Raise InputError when a type lacks a field that is to be read. make: `Backend.make`."""
        for reader in (self.actions, self.states):
            if reader is not None:
                point = {}
                if reader.type_name == TRAJECTORY:
                    point = {"points": [make(full_name("trajectory_msgs/JointTrajectoryPoint"))]}
                reader.check(make(full_name(reader.type_name), **point))

    @property
    def takes_clips(self) -> bool:
        """Whether frames are gathered, so that every camera frame counts."""
        return self._clips is not None

    @property
    def clips_broken(self) -> int:
        """How often a lost or unusable camera frame made a clip begin anew."""
        return 0 if self._clips is None else self._clips.breaks

    def restart(self) -> None:
        """Take the next frame whatever its stamp is, as after `Session.begin_episode`; no clip
        shows frames of before."""
        with self._changed:
            self._grid.restart()
        self._restart_clips()

    def forget(self) -> None:
        """Forget all that came; for a start after a time in which messages were not heard."""
        with self._changed:
            self._forget()
            self._grid.restart()
        self._restart_clips()

    def _restart_clips(self) -> None:
        if self._clips is not None:
            with self._clip_order:
                self._clips.reset()

    def on_image(self, message: Any, received_ns: int) -> Frame | None:
        """Return the frame if the model gets it, None if the camera is faster than the model, or
        the frame ends no clip."""
        stamp = stamp_ns(message.header)
        with self._changed:
            self._keep_up(received_ns)
            self.frames_seen += 1
            if not self._grid.takes(stamp, received_ns):
                self.frames_decimated += 1
                return None
        if self._clips is None:
            return Frame(message=message, stamp_ns=stamp, received_ns=received_ns)
        clip = self._clip(self._clips, message, stamp)
        if clip is None:
            return None
        pixels, breaks = clip
        return Frame(
            message=message, stamp_ns=stamp, received_ns=received_ns, clip=pixels, breaks=breaks
        )

    def _clip(
        self, clips: ClipGatherer, message: Any, stamp: int
    ) -> tuple[NDArray[np.generic], int] | None:
        """The clip that the message ends, if any, and how often gathering began anew before."""
        with self._clip_order:
            try:
                clip = clips.add(stamp, lambda: self._pixels(message))
            except InputError as error:
                self._warn("an image", error)
                clip = _UNUSABLE
            return None if clip is None else (clip, clips.breaks)

    def on_action(self, message: Any, received_ns: int) -> None:
        """Remember a command. One that lacks a number is remembered as one of no length."""
        commands, reader = self._commands, self.actions
        if commands is None or reader is None:
            return
        time_ns = _time_ns(message, received_ns)
        if isinstance(commands, Trajectories):
            after_ns, points = self._read(reader, reader.read_points, message, _NO_POINTS)
            with self._changed:
                self._keep_up(received_ns)
                commands.add(time_ns, received_ns, after_ns, points)
            return
        values = self._read(reader, reader.read, message, _NO_NUMBERS)
        with self._changed:
            self._keep_up(received_ns)
            commands.add(time_ns, received_ns, values)

    def on_state(self, message: Any, received_ns: int) -> None:
        """Remember the robot's state."""
        if self.states is None:
            return
        time_ns = _time_ns(message, received_ns)
        values = self._read(self.states, self.states.read, message, _NO_NUMBERS)
        with self._changed:
            self._keep_up(received_ns)
            self._remember_state(_State(time_ns, received_ns, values))
            self._changed.notify_all()

    def _remember_state(self, state: _State) -> None:
        """Keep it: the newest always, of those before none closer together than the thinning, and
        none longer than a frame may ask for it."""
        robot = self._robot
        if len(robot) > 1:
            before, last = robot[-2].time_ns, robot[-1].time_ns
            if before <= last <= state.time_ns and last - before < self._thin_ns:
                robot.pop()
        robot.append(state)
        while state.received_ns - robot[0].received_ns > self._keep_states_ns:
            robot.popleft()

    def on_plan(self, message: Any, received_ns: int) -> None:
        """Remember the blocks that the controller means to command next, (H, A) flattened.

        An empty plan ends the one before, and so does one that cannot be followed.
        """
        if self._manifest.action is None:
            return
        values = np.array(message.data, np.float32).reshape(-1)
        width = self._manifest.action.dim
        rows = values.reshape(-1, width if values.size % width == 0 else values.size)
        try:
            plan = (received_ns, checked_plan(rows, width)) if values.size else None
        except InputError as error:
            self._warn("a plan", error)
            plan = None
        with self._changed:
            self._keep_up(received_ns)
            self._plan = plan

    def _keep_up(self, received_ns: int) -> None:
        """Forget what is of the time before the clock was set back, as by a simulation that begins
        anew. Threads may bring messages in another order than they were received in."""
        newest_ns = received_ns if self._newest_ns is None else self._newest_ns
        if received_ns < newest_ns - self._period_ns:
            self._forget()
            newest_ns = received_ns
        self._newest_ns = max(newest_ns, received_ns)

    def _forget(self) -> None:
        if self._commands is not None:
            self._commands.clear()
        self._robot.clear()
        self._plan = None

    def _read(
        self, reader: FieldReader, read: Callable[[Any], Values], message: Any, unread: Values
    ) -> Values:
        try:
            return read(message)
        except InputError as error:
            self._warn(f"a {reader.type_name}", error)
            return unread

    def _warn(self, what: str, error: InputError) -> None:
        """Say what could not be used: the first, and then every hundredth."""
        with self._changed:
            self._unusable[what] += 1
            count = self._unusable[what]
        if count % _LOG_EVERY == 1:
            logger.warning("%s could not be used, for the %d. time: %s", what, count, error)

    def wait_for_state(self, frame: Frame, timeout_s: float) -> None:
        """Wait until a state as new as the frame is there, or the time is over."""
        if self.states is None or timeout_s <= 0.0:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: any(state.time_ns >= frame.stamp_ns for state in self._robot), timeout_s
            )

    def state(self, frame: Frame) -> NDArray[np.float32] | None:
        """Return the robot's state nearest to the frame, None if none is near enough."""
        with self._changed:
            nearest = min(
                self._robot, key=lambda state: abs(state.time_ns - frame.stamp_ns), default=None
            )
        slop_ns = round(1e9 * self._options.sync_slop_s)
        if nearest is None or abs(nearest.time_ns - frame.stamp_ns) > slop_ns:
            return None
        return nearest.values

    def observation(self, frame: Frame) -> Observation:
        """Return what the session is to see. Never raises: it refuses what could not be read."""
        action, planned = None, None
        with self._changed:
            if self._commands is not None:
                action = self._commands.led_to(frame.stamp_ns)
                planned = self._planned(frame.stamp_ns)
                self._tell_of(action, self._commands)
        pixels = frame.clip
        if pixels is None:
            try:
                pixels = self._pixels(frame.message)
            except InputError as error:
                self._warn("an image", error)
                pixels = _UNUSABLE
        state = None
        if self._manifest.state is not None:
            state = self.state(frame)
            self._tell_of_state(state)
        continues, self._breaks = frame.breaks == self._breaks, frame.breaks
        return Observation(
            stamp_s=seconds(frame.stamp_ns),
            frame=pixels,
            action=action,
            planned=planned,
            state=state,
            continues=continues,
        )

    def _tell_of_state(self, state: NDArray[np.float32] | None) -> None:
        """Count frames that no state was near enough to, and say so now and then."""
        if state is None:
            if self.frames_without_state % _LOG_EVERY == 0:
                logger.warning(
                    "no state of the robot within %.3f s of a frame, for the %d. time: is one "
                    "published on topic state, on the camera's clock? Else raise sync_wait_s or "
                    "sync_slop_s",
                    self._options.sync_slop_s,
                    self.frames_without_state + 1,
                )
            self.frames_without_state += 1

    def _tell_of(
        self, action: NDArray[np.float32] | None, commands: Commands | Trajectories
    ) -> None:
        """Count frames that no action led to, and say so now and then; the first has none."""
        if action is None:
            if self.frames_without_action % _LOG_EVERY == 1:
                logger.warning(
                    "no action led to a frame, for the %d. time: %s; is one published on topic "
                    "action for every period of %.3f s?",
                    self.frames_without_action + 1,
                    "none came yet" if commands.empty else "those that came are of another time",
                    1e-9 * self._period_ns,
                )
            self.frames_without_action += 1

    def _pixels(self, message: Any) -> NDArray[np.generic]:
        """The picture in the model's size and colors; one of floats is left for the session."""
        pixels, order = decode_image(message)
        if pixels.dtype != np.uint8:
            return pixels
        wanted = self._manifest.observation
        scaled = fit_to(wanted, pixels.view(np.uint8), self._options.image_fit)
        return np.ascontiguousarray(scaled if order == wanted.color else scaled[..., ::-1])

    def _planned(self, stamp_ns: int) -> NDArray[np.float32] | None:
        """What is left of the plan at a time: one block of it is over with every period.

        None when all is over, or the plan is for later than one period after that time.
        """
        if self._plan is None:
            return None
        made_ns, rows = self._plan
        age_periods = (stamp_ns - made_ns) / self._period_ns
        over = max(0, math.ceil(age_periods - 0.1))
        return rows[over:] if age_periods >= -1.0 and over < len(rows) else None


def _action_reader(options: InputOptions, action: ActionSpec) -> FieldReader:
    """Raises InputError when the fields do not make up a step or a block."""
    reader = FieldReader(options.action_type, options.action_fields, "action_fields")
    step = action.dim // action.block
    if reader.count not in (0, step, action.dim):
        named = f" ({', '.join(action.names)})" if action.names else ""
        raise InputError(
            f"action_fields names {reader.count} numbers, expected {step} for one step "
            f"or {action.dim} for a block of {action.block} steps{named}"
        )
    return reader


def _commands(options: InputOptions, action: ActionSpec, period_ns: int) -> Commands | Trajectories:
    model = {"dim": action.dim, "block": action.block, "period_ns": period_ns}
    if options.action_type == TRAJECTORY:
        return Trajectories(**model)
    return Commands(**model, timeout_ns=round(1e9 * options.action_timeout_s))


def _check_states(states: FieldReader | None, manifest: Manifest) -> None:
    """Raise InputError when the model takes a state that no message gives."""
    wanted = manifest.state
    if wanted is None:
        return
    named = f" ({', '.join(wanted.names)})" if wanted.names else ""
    if states is None:
        raise InputError(
            f"the model takes the robot's state, {wanted.dim} numbers{named}, and state_type is "
            "empty; name its type and fields"
        )
    if states.count not in (0, wanted.dim):
        raise InputError(
            f"state_fields names {states.count} numbers, expected the model's {wanted.dim}{named}"
        )


def _frame_grid(manifest: Manifest, options: InputOptions) -> FrameGrid:
    """Of the model's steps, or of the camera frames that clips are made of."""
    observation = manifest.observation
    valid_periods = options.max_age_s * observation.rate_hz or MAX_AGE_PERIODS
    longest = max(valid_periods - _LATENCY_PERIODS, _LEAST_GAP_PERIODS)
    if observation.clip is not None:
        # Flags come every hop frames, and clips end at any longer gap than their own limit.
        longest = observation.clip.hop * (longest - 1.0) + 1.0
        return FrameGrid(round(1e9 / observation.camera_rate_hz), MIN_GAP, MAX_GAP, longest)
    return FrameGrid(
        round(1e9 / observation.rate_hz),
        options.min_gap_periods,
        options.max_gap_periods,
        longest,
    )


def _time_ns(message: Any, received_ns: int) -> int:
    """The message's own stamp, or when it was received if it has none."""
    header = getattr(message, "header", None)
    return (0 if header is None else stamp_ns(header)) or received_ns
