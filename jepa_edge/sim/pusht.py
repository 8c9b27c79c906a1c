# SPDX-License-Identifier: Apache-2.0
"""PushT as a robot: the real `gym-pusht` environment behind action blocks, frames and states."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.sim.policy import ScriptedPolicy

ENV_RATE_HZ = 10.0
"""Control rate of gym-pusht: environment steps per second."""

WORKSPACE = 512.0
"""Side of the square workspace, in the simulator's pixels."""

STATE_NAMES = ("agent_x", "agent_y", "block_x", "block_y", "block_sin", "block_cos")
"""Columns of the ground-truth state: positions in simulator pixels, the block's angle as a unit
vector."""

_BLOCK_MASS = 1.0  # gym-pusht's

GOAL_BLOCK_POSE = (256.0, 256.0, math.pi / 4)
"""Pose of the green goal T that the environment draws: x, y in pixels, angle in rad."""


def goal_state(agent_x: float = 256.0, agent_y: float = 430.0) -> NDArray[np.float32]:
    """Return the state (6,) float32 with the block on the goal and the agent at a given place."""
    x, y, angle = GOAL_BLOCK_POSE
    return np.array([agent_x, agent_y, x, y, math.sin(angle), math.cos(angle)], np.float32)


def _make_env() -> tuple[Any, Any, Any]:
    """Import gym-pusht and return (environment, cv2, pygame).

    Raises MissingDependencyError when the extra is not installed.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        # pygame asks setuptools for pkg_resources, which warns on some versions of both.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cv2
            import pygame
            from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise MissingDependencyError(
            f"the PushT simulator needs gym-pusht ({error}); "
            "install it with `pip install 'jepa-edge[sim]'`"
        ) from error
    # "state" observations cost nothing; frames are drawn once per block, in `_draw`.
    return PushTEnv(obs_type="state", render_mode="rgb_array"), cv2, pygame


class PushTSim:
    """One simulated PushT robot that advances an action block at a time.

    Frames are (size, size, 3) uint8 RGB, the 512-pixel picture averaged down (the environment's
    own resize skips pixels, which hides motions under 8 pixels). Actions are (2 * block,) float32:
    the absolute target position of the agent for every environment step of the block, x then y,
    simulator pixels in [0, 512].
    """

    name = "pusht"
    state_names = STATE_NAMES

    def __init__(self, seed: int = 0, *, size: int = 64, block: int = 2) -> None:
        """Build the simulator and reset it with `seed`.

        size: side of the frames in pixels. block: environment steps (0.1 s each) per action block.
        Raises MissingDependencyError without the extra `sim`, InputError on a bad argument.
        """
        if size < 8 or block < 1:
            raise InputError(
                f"PushTSim got size={size}, block={block}; "
                "size is at least 8 pixels, block at least 1"
            )
        self.size = size
        self.block = block
        self.rate_hz = ENV_RATE_HZ / block
        self.action_dim = 2 * block
        self.action_low = (0.0,) * self.action_dim
        self.action_high = (WORKSPACE,) * self.action_dim
        self.action_units = "px"
        self.action_names = tuple(f"{axis}{step}" for step in range(block) for axis in "xy")
        self._env, self._cv2, self._pygame = _make_env()
        self._friction, self._mass = 1.0, 1.0
        self._frame: NDArray[np.uint8] | None = None
        self.reset(seed)

    @property
    def state(self) -> NDArray[np.float32]:
        """True state (6,) float32, columns as in STATE_NAMES."""
        agent, block = self._env.agent.position, self._env.block.position
        angle = self._env.block.angle
        return np.array(
            [agent[0], agent[1], block[0], block[1], math.sin(angle), math.cos(angle)], np.float32
        )

    @property
    def frame(self) -> NDArray[np.uint8]:
        """What the camera shows now, (size, size, 3) uint8 RGB."""
        if self._frame is None:
            self._frame = self._draw()
        return np.array(self._frame, np.uint8)

    @property
    def coverage(self) -> float:
        """Share of the goal T that the block covers, 0 to 1; above 0.95 PushT counts as solved."""
        return float(self._env._get_coverage())

    @property
    def block_distance(self) -> float:
        """Distance of the block's position from the goal's, in simulator pixels."""
        x, y = self._env.block.position
        return math.hypot(x - GOAL_BLOCK_POSE[0], y - GOAL_BLOCK_POSE[1])

    def reset(self, seed: int | None = None, state: ArrayLike | None = None) -> NDArray[np.uint8]:
        """Start again from a random state or a given one; return the first frame.

        seed: fixes the random start; None draws the next one. state: as for set_state.
        The dynamics stay as set_dynamics left them.
        """
        self._env.reset(seed=seed)  # builds the world anew
        self._frame = None
        self._apply_dynamics()
        if state is not None:
            self.set_state(state)
        return self.frame

    def set_dynamics(self, friction: float = 1.0, mass: float = 1.0) -> None:
        """Change table and block from now on; 1 is nominal.

        friction: of the table. At 1 the block stops at once, as in gym-pusht; below, it keeps the
        share 1 - friction of its velocity per second. mass: factor on the block's mass, added at
        its center of gravity, so that it turns more easily than it moves. Mass spread over the
        block changes nothing, measured bit by bit at 20 times: the agent follows its path whatever
        it meets.
        Raises InputError unless friction lies in [0, 1] and mass is positive.
        """
        if not (0.0 <= friction <= 1.0 and 0.0 < mass < math.inf):
            raise InputError(
                f"PushTSim.set_dynamics got friction={friction}, mass={mass}; friction is 0 to 1, "
                "mass a positive factor"
            )
        self._friction, self._mass = friction, mass
        self._apply_dynamics()

    def policy(self, rng: np.random.Generator) -> ScriptedPolicy:
        """Return the scripted policy for this robot, driven by `rng`."""
        return ScriptedPolicy(rng, block=self.block)

    def accepts(self, states: NDArray[np.float32]) -> bool:
        """Whether the block stayed within the walls: the agent can squeeze it through them."""
        return bool(((states[:, 2:4] > 0.0) & (states[:, 2:4] < WORKSPACE)).all())

    def set_state(self, state: ArrayLike) -> None:
        """Put agent and block exactly at a state (6,), at rest.

        Raises InputError when state is no finite vector of 6 numbers.
        """
        values = np.asarray(state, np.float64)
        if values.shape != (6,) or not np.isfinite(values).all():
            raise InputError(
                f"PushT state has shape {values.shape}, expected 6 finite numbers: "
                + ", ".join(STATE_NAMES)
            )
        agent, block = self._env.agent, self._env.block
        # The environment's own reset sets the position first and then turns the block about its
        # center of gravity, which moves the position again, and takes a physics step on top. Here
        # the angle comes first and no time passes.
        block.angle = math.atan2(values[4], values[5])
        block.position = (values[2], values[3])
        agent.position = (values[0], values[1])
        for body in (agent, block):
            body.velocity = (0.0, 0.0)
            body.angular_velocity = 0.0
            self._env.space.reindex_shapes_for_body(body)
        self._frame = None

    def step(self, action: ArrayLike) -> NDArray[np.uint8]:
        """Advance one action block and return the new frame; arguments as for advance."""
        self.advance(action)
        return self.frame

    def advance(self, action: ArrayLike) -> None:
        """Advance one action block without drawing; `frame` draws when it is asked for.

        action: (2 * block,) target positions in simulator pixels, clipped to [0, 512].
        Raises InputError when the action has the wrong shape or is not finite.
        """
        targets = np.asarray(action, np.float64)
        if targets.shape != (self.action_dim,) or not np.isfinite(targets).all():
            raise InputError(
                f"PushT action has shape {targets.shape}, expected {self.action_dim} finite "
                "numbers: target x, y in pixels for every environment step of the block"
            )
        targets = np.clip(targets, 0.0, WORKSPACE).reshape(self.block, 2)
        for target in targets:
            self._env.step(target)
        self._frame = None

    def _apply_dynamics(self) -> None:
        self._env.space.damping = 1.0 - self._friction
        self._env.block.mass = self._mass * _BLOCK_MASS

    def _draw(self) -> NDArray[np.uint8]:
        screen = self._env._draw()
        picture = np.frombuffer(self._pygame.image.tobytes(screen, "RGB"), np.uint8)
        side = int(WORKSPACE)
        small = self._cv2.resize(
            picture.reshape(side, side, 3),
            (self.size, self.size),
            interpolation=self._cv2.INTER_AREA,
        )
        return np.asarray(small, np.uint8)
