# SPDX-License-Identifier: Apache-2.0
"""What every simulated robot can do, and a wrapper that makes any of them faulty."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jepa_edge.faults import ActionScale, ActuatorFilter, CameraFilter, FaultKind, Injection

WARM_UP_STEPS = 60
"""Action blocks run before step 0, so that the first steps look like the later ones."""


class Driver(Protocol):
    """A scripted policy."""

    def act(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next action block (A,) float32, raw units, from the true state (S,)."""


class Robot(Protocol):
    """What a policy drives: a simulator, healthy or faulty.

    name: the simulator's. rate_hz: action blocks per second. size: side of the frames, pixels.
    block: environment steps per action block. action_dim: numbers in it.
    """

    @property
    def name(self) -> str: ...
    @property
    def rate_hz(self) -> float: ...
    @property
    def size(self) -> int: ...
    @property
    def block(self) -> int: ...
    @property
    def action_dim(self) -> int: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def state(self) -> NDArray[np.float32]:
        """True state (S,) float32; no fault touches it."""

    @property
    def frame(self) -> NDArray[np.uint8]:
        """What the camera shows now, (size, size, 3) uint8 RGB; the caller owns it."""

    def reset(self, seed: int | None = None) -> NDArray[np.uint8]:
        """Start again from a random state; return the first frame. None draws the next start."""

    def step(self, action: ArrayLike) -> NDArray[np.uint8]:
        """Advance one action block (A,), raw units, and return the new frame."""

    def advance(self, action: ArrayLike) -> None:
        """Advance one action block without drawing."""

    def policy(self, rng: np.random.Generator) -> Driver:
        """Return the robot's own scripted policy, driven by `rng`."""


class Simulator(Robot, Protocol):
    """A healthy simulated robot. Its fields describe actions as jepa_edge.manifest.ActionSpec does.

    action_low, action_high: limits (A,) in raw units, which it clips actions to.
    """

    @property
    def action_low(self) -> tuple[float, ...]: ...
    @property
    def action_high(self) -> tuple[float, ...]: ...
    @property
    def action_units(self) -> str: ...
    @property
    def action_names(self) -> tuple[str, ...]: ...

    def set_dynamics(self, friction: float = 1.0, mass: float = 1.0) -> None:
        """Change the world from now on, resets included; both are factors, 1 is nominal."""


@runtime_checkable
class Choosy(Protocol):
    """A simulator whose physics can fail: it tells which runs to throw away."""

    def accepts(self, states: NDArray[np.float32]) -> bool:
        """Whether a run with these true states (T + 1, S) is one that a robot could have."""


def warm_up(robot: Robot, rng: np.random.Generator) -> Driver:
    """Run the scripted policy for a while on a freshly reset robot.

    rng: drives the policy. Returns the policy, to be asked for the actions from here on.
    """
    policy = robot.policy(rng)
    for _ in range(WARM_UP_STEPS):
        robot.advance(policy.act(robot.state))
    return policy


class FaultySimulator:
    """A simulator with one fault of the library, from its onset on; it behaves as a Robot.

    Steps count from reset. Commanded actions are never altered: record those. `simulator` is the
    healthy robot inside, with its true state and limits.
    """

    def __init__(
        self, simulator: Simulator, injection: Injection | None = None, seed: int = 0
    ) -> None:
        """simulator: is reset by reset() only. injection: None for a healthy robot so far.
        seed: decides what the fault draws at random.

        Raises InputError when the seed is negative.
        """
        self.simulator = simulator
        self.seed = seed
        self._last_executed: NDArray[np.float32] | None = None
        self._frame: NDArray[np.uint8] | None = None
        self._camera: CameraFilter | None = None
        self._actuator: ActuatorFilter | None = None
        self._begin(injection)

    @property
    def name(self) -> str:
        """Name of the simulator."""
        return self.simulator.name

    @property
    def rate_hz(self) -> float:
        """Action blocks per second."""
        return self.simulator.rate_hz

    @property
    def size(self) -> int:
        """Side of the frames in pixels."""
        return self.simulator.size

    @property
    def block(self) -> int:
        """Environment steps per action block."""
        return self.simulator.block

    @property
    def action_dim(self) -> int:
        """Numbers per action block."""
        return self.simulator.action_dim

    @property
    def state_names(self) -> tuple[str, ...]:
        """Columns of the true state."""
        return self.simulator.state_names

    @property
    def state(self) -> NDArray[np.float32]:
        """True state (S,) float32."""
        return self.simulator.state

    @property
    def steps(self) -> int:
        """Action blocks since reset."""
        return self._step

    @property
    def injection(self) -> Injection | None:
        """The fault, its onset counted since reset."""
        return self._injection

    @property
    def fault_active(self) -> bool:
        """Whether the fault, if there is one, has begun."""
        return self._injection is not None and self._step >= self._injection.onset

    @property
    def frame(self) -> NDArray[np.uint8]:
        """What the camera shows now, (size, size, 3) uint8 RGB, with the camera's fault if any."""
        if self._frame is None:
            clean = self.simulator.frame
            self._frame = clean if self._camera is None else self._camera(clean, self._step)
        return np.array(self._frame, np.uint8)

    def policy(self, rng: np.random.Generator) -> Driver:
        """Return the simulator's scripted policy; it knows nothing of the fault."""
        return self.simulator.policy(rng)

    def reset(self, seed: int | None = None) -> NDArray[np.uint8]:
        """Start again at step 0 from a random state, healthy until the fault's onset."""
        self._last_executed = None
        self.simulator.set_dynamics()
        self.simulator.reset(seed)
        self._begin(self._injection)
        return self.frame

    def warm_up(self, rng: np.random.Generator) -> Driver:
        """Run the scripted policy while healthy, then count steps from 0: the fault comes later.

        rng: drives the policy. Returns the policy, to be asked for the actions from step 0 on.
        """
        injection = self._injection
        self._begin(None)
        policy = warm_up(self, rng)
        self._begin(injection)
        return policy

    def inject(self, injection: Injection | None) -> None:
        """Break something from the next action block on, or repair everything with None.

        injection: its onset counts from the next block on, 0 for at once.
        """
        if injection is not None:
            # The next block's effect is first seen in the frame after it.
            now = self._step + (injection.fault.kind is FaultKind.CAMERA)
            injection = msgspec.structs.replace(injection, onset=now + injection.onset)
        self._begin(injection, self._step)

    def step(self, action: ArrayLike) -> NDArray[np.uint8]:
        """Advance one action block and return the new frame; arguments as for advance."""
        self.advance(action)
        return self.frame

    def advance(self, action: ArrayLike) -> None:
        """Advance one action block (A,), raw units, without drawing unless the fault needs frames.

        Raises InputError when the action has the wrong shape or is not finite.
        """
        injection = self._injection
        executed = action
        if self._actuator is not None:
            executed = self._actuator(np.asarray(action, np.float32), self._step)
        if injection is not None and self._step >= injection.onset - 1:
            if self._camera is not None and self._camera.needs_past:
                _ = self.frame
            if injection.fault.kind is FaultKind.DYNAMICS and self._step == injection.onset:
                self.simulator.set_dynamics(**_dynamics(injection))
        self.simulator.advance(executed)
        self._last_executed = np.array(executed, np.float32)
        self._step += 1
        self._frame = None

    def _begin(self, injection: Injection | None, step: int = 0) -> None:
        """Take over a fault at a step, with the world healthy and what came before remembered."""
        self._injection = injection
        self._step = step
        self._frame, self._camera, self._actuator = None, None, None
        self.simulator.set_dynamics()
        if injection is None:
            return
        if injection.fault.kind is FaultKind.CAMERA:
            self._camera = CameraFilter(injection, self.seed)
        elif injection.fault.kind is FaultKind.ACTUATOR:
            robot = self.simulator
            scale = ActionScale.from_limits(robot.action_low, robot.action_high, robot.block)
            self._actuator = ActuatorFilter(injection, scale, self.seed)
            if self._last_executed is not None:
                self._actuator(self._last_executed, step - 1)


def _dynamics(injection: Injection) -> dict[str, float]:
    """Arguments of set_dynamics; the friction fault's severity is the share that is lost."""
    if injection.name == "friction":
        return {"friction": 1.0 - injection.severity}
    return {injection.name: injection.severity}
