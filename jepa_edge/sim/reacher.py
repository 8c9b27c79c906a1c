# SPDX-License-Identifier: Apache-2.0
"""The Reacher as a robot: dm_control's two-link arm behind held torques, frames and true state."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.sim.reacher_policy import ReacherPolicy

HOLD = 5
"""Control steps of dm_control (0.02 s each) over which one torque command is held."""

ENV_RATE_HZ = 10.0
"""Torque commands per second: one per HOLD control steps."""

STATE_NAMES = (
    "shoulder_sin",
    "shoulder_cos",
    "wrist_sin",
    "wrist_cos",
    "shoulder_velocity",
    "wrist_velocity",
)
"""Columns of the ground-truth state: joint angles as unit vectors (the wrist's relative to the
upper arm), joint velocities in rad/s."""

ACTION_UNITS = "share of the motor's largest torque (0.05 N m)"

JOINTS = ("shoulder", "wrist")

WRIST_LIMIT_RAD = math.radians(160.0)
"""The wrist stops at this angle on both sides; the shoulder turns without end."""

_CAMERA = 0  # the fixed one, straight above the table
_FOVY_DEG = 40.0  # shows 0.27 m about the shoulder, the arm reaches 0.25 m; dm_control's own: 45
_HIDDEN_GROUP = 4  # geometry groups from 3 on are not drawn
_OVERSAMPLING = 2  # drawn at this multiple and averaged down: multisampling is 15 times slower
_PLAIN = {"shadow": False, "reflection": False, "fog": False, "skybox": False, "haze": False}


def _load() -> tuple[Any, Any]:
    """Import dm_control and return (its Reacher environment, mujoco).

    Raises MissingDependencyError when the extra is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dm_control's own imports use deprecated names
            import mujoco
            from dm_control import suite
    # Without the driver's library PyOpenGL lacks attributes; a bad MUJOCO_GL is a RuntimeError.
    except (ImportError, AttributeError, RuntimeError) as error:
        raise MissingDependencyError(
            f"the Reacher simulator needs dm_control and EGL rendering ({error}); install them "
            "with `pip install 'jepa-edge[mujoco]'` and your system's libegl1, or set MUJOCO_GL"
        ) from error
    return suite.load("reacher", "easy", task_kwargs={"random": 0}), mujoco


class ReacherSim:
    """One simulated two-link arm on a table, seen from above, that advances an action at a time.

    Frames are (size, size, 3) uint8 RGB. Actions are (2 * block,) float32: for every 0.1 s of the
    block the torque of shoulder and wrist, held, as a share of the motor's largest, in [-1, 1].
    A torque u held on ends in a velocity of 5 u rad/s.
    The task's target is neither drawn nor rewarded: the picture is arm on table.
    """

    name = "reacher"
    state_names = STATE_NAMES

    def __init__(self, seed: int = 0, *, size: int = 64, block: int = 1) -> None:
        """Build the simulator and reset it with `seed`.

        size: side of the frames in pixels. block: torque commands (0.1 s each) per action.
        Raises MissingDependencyError without the extra `mujoco`, InputError on a bad argument.
        """
        if not 8 <= size <= 512 or block < 1:
            raise InputError(
                f"ReacherSim got size={size}, block={block}; "
                "size is 8 to 512 pixels, block at least 1"
            )
        self.size = size
        self.block = block
        self.rate_hz = ENV_RATE_HZ / block
        self.action_dim = 2 * block
        self.action_low = (-1.0,) * self.action_dim
        self.action_high = (1.0,) * self.action_dim
        self.action_units = ACTION_UNITS
        self.action_names = tuple(f"{joint}{step}" for step in range(block) for joint in JOINTS)
        env, self._mujoco = _load()
        self._env = env
        self._physics = env.physics
        self._model = env.physics.model.ptr
        self._set_up_camera()
        self._nominal = (
            self._model.dof_damping.copy(),
            self._model.body_mass.copy(),
            self._model.body_inertia.copy(),
        )
        self._frame: NDArray[np.uint8] | None = None
        self.reset(seed)

    @property
    def state(self) -> NDArray[np.float32]:
        """True state (6,) float32, columns as in STATE_NAMES."""
        data = self._physics.data
        (shoulder, wrist), velocity = data.qpos, data.qvel
        angles = (math.sin(shoulder), math.cos(shoulder), math.sin(wrist), math.cos(wrist))
        return np.array([*angles, *velocity], np.float32)

    @property
    def frame(self) -> NDArray[np.uint8]:
        """What the camera shows now, (size, size, 3) uint8 RGB."""
        if self._frame is None:
            self._frame = self._draw()
        return np.array(self._frame, np.uint8)

    def reset(self, seed: int | None = None, state: ArrayLike | None = None) -> NDArray[np.uint8]:
        """Start again at rest, from random joint angles or a given state; return the first frame.

        seed: fixes the random start; None draws the next one. state: as for set_state.
        The dynamics stay as set_dynamics left them.
        """
        if seed is not None:
            self._env.task.random.seed(seed)
        self._env.reset()
        self._frame = None
        if state is not None:
            self.set_state(state)
        return self.frame

    def set_state(self, state: ArrayLike) -> None:
        """Put the arm exactly at a state (6,), velocities included.

        Raises InputError when state is no finite vector of 6 numbers or the wrist is beyond its
        limit.
        """
        values = np.asarray(state, np.float64)
        if values.shape != (len(STATE_NAMES),) or not np.isfinite(values).all():
            raise InputError(
                f"Reacher state has shape {values.shape}, expected 6 finite numbers: "
                + ", ".join(STATE_NAMES)
            )
        shoulder = math.atan2(values[0], values[1])
        wrist = math.atan2(values[2], values[3])
        if abs(wrist) > WRIST_LIMIT_RAD + 0.2:  # the limit is a soft one
            raise InputError(
                f"Reacher wrist at {math.degrees(wrist):.0f} degrees, expected at most 160 either "
                "way; pass a sine and cosine of an angle within"
            )
        with self._physics.reset_context():
            self._physics.data.qpos[:] = shoulder, wrist
            self._physics.data.qvel[:] = values[4:]
        self._frame = None

    def set_dynamics(self, friction: float = 1.0, mass: float = 1.0) -> None:
        """Scale the joints' damping and the links' mass with inertia, from now on; 1 is nominal.

        Raises InputError unless both are positive and finite.
        """
        if not (0.0 < friction < math.inf and 0.0 < mass < math.inf):
            raise InputError(
                f"ReacherSim.set_dynamics got friction={friction}, mass={mass}; "
                "both are positive multiples of the nominal value"
            )
        damping, masses, inertia = self._nominal
        model = self._model
        model.dof_damping[:] = friction * damping
        model.body_mass[:] = mass * masses
        model.body_inertia[:] = mass * inertia
        # What MuJoCo derives from the masses once (the joint limit's stiffness among it).
        self._mujoco.mj_setConst(model, self._mujoco.MjData(model))

    def policy(self, rng: np.random.Generator) -> ReacherPolicy:
        """Return the scripted policy for this robot, driven by `rng`."""
        return ReacherPolicy(rng, block=self.block)

    def step(self, action: ArrayLike) -> NDArray[np.uint8]:
        """Advance one action and return the new frame; arguments as for advance."""
        self.advance(action)
        return self.frame

    def advance(self, action: ArrayLike) -> None:
        """Advance one action without drawing; `frame` draws when it is asked for.

        action: (2 * block,) torques, clipped to [-1, 1].
        Raises InputError when the action has the wrong shape or is not finite.
        """
        torques = np.asarray(action, np.float64)
        if torques.shape != (self.action_dim,) or not np.isfinite(torques).all():
            raise InputError(
                f"Reacher action has shape {torques.shape}, expected {self.action_dim} finite "
                "numbers: torque of shoulder and wrist in [-1, 1] for every 0.1 s of the block"
            )
        for torque in np.clip(torques, -1.0, 1.0).reshape(self.block, 2):
            self._physics.set_control(torque)
            self._physics.step(HOLD)
        self._frame = None

    def _set_up_camera(self) -> None:
        """Look closer, leave out the target, and render without what costs time."""
        model = self._model
        model.cam_fovy[_CAMERA] = _FOVY_DEG
        model.geom_group[self._physics.model.name2id("target", "geom")] = _HIDDEN_GROUP
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.size * _OVERSAMPLING)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.size * _OVERSAMPLING)

    def _draw(self) -> NDArray[np.uint8]:
        side = self.size * _OVERSAMPLING
        picture = self._physics.render(side, side, camera_id=_CAMERA, render_flag_overrides=_PLAIN)
        sums = picture.astype(np.uint16).reshape(self.size, _OVERSAMPLING, self.size, -1, 3)
        mean = (sums.sum(axis=(1, 3)) + _OVERSAMPLING) // _OVERSAMPLING**2  # rounds half up
        return np.asarray(mean, np.uint8)
