# SPDX-License-Identifier: Apache-2.0
"""Actuator faults on a stream of action blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jepa_edge.errors import InputError
from jepa_edge.faults.library import FaultKind, Injection
from jepa_edge.manifest import ActionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionScale:
    """What an actuator fault must know of an action block; all arrays (A,) float64, raw units.

    block: environment steps in the block. center: about which gain and inversion act. unit: one
    standard deviation of the commands, in which a bias is measured. low, high: limits that what is
    executed keeps to, infinite where there are none.
    """

    block: int
    center: NDArray[np.float64]
    unit: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __post_init__(self) -> None:
        dim = self.center.size
        shapes = {self.center.shape, self.unit.shape, self.low.shape, self.high.shape}
        if shapes != {(dim,)} or dim < 1 or self.block < 1 or dim % self.block:
            raise InputError(
                f"action scale has arrays of shapes {sorted(shapes)} for a block of {self.block}; "
                "expected four of one length, a multiple of the block"
            )

    @property
    def axes(self) -> int:
        """Numbers per environment step."""
        return self.center.size // self.block

    @classmethod
    def from_limits(cls, low: ArrayLike, high: ArrayLike, block: int) -> ActionScale:
        """Return the scale of commands between limits (A,).

        The center is the middle, the unit the standard deviation of commands spread evenly.
        Raises InputError when the limits are not finite or not in order.
        """
        lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
        if lower.shape != upper.shape or not np.all(np.isfinite(upper - lower) & (lower < upper)):
            raise InputError(
                f"action limits low={lower.tolist()} and high={upper.tolist()}: expected finite "
                "numbers with low below high everywhere"
            )
        return cls(
            block=block,
            center=(lower + upper) / 2,
            unit=(upper - lower) / math.sqrt(12.0),
            low=lower,
            high=upper,
        )

    @classmethod
    def from_spec(cls, spec: ActionSpec) -> ActionScale:
        """Return the scale of a model's actions: from its limits, else from mean and std."""
        if spec.low and spec.high:
            return cls.from_limits(spec.low, spec.high, spec.block)
        mean, std = np.asarray(spec.mean, np.float64), np.asarray(spec.std, np.float64)
        limitless = np.full(mean.shape, np.inf)
        return cls(
            block=spec.block,
            center=mean,
            unit=std,
            low=np.asarray(spec.low or -limitless, np.float64),
            high=np.asarray(spec.high or limitless, np.float64),
        )

    @classmethod
    def from_actions(cls, actions: NDArray[np.float32], block: int) -> ActionScale:
        """Return the scale of recorded actions (n, A): mean and std, the same in the whole block.

        Limits are the smallest and largest command seen.
        Raises InputError when A is not a multiple of the block.
        """
        dim = actions.shape[-1]
        if block < 1 or dim % block:
            raise InputError(
                f"{dim} numbers per action are not a multiple of the block {block}; "
                "give the number of environment steps per action"
            )
        steps = np.asarray(actions, np.float64).reshape(-1, dim // block)
        center, unit, low, high = (
            np.tile(value, block)
            for value in (steps.mean(0), steps.std(0), steps.min(0), steps.max(0))
        )
        return cls(block=block, center=center, unit=unit, low=low, high=high)


class ActuatorFilter:
    """Turns commanded action blocks into executed ones as a faulty actuator would.

    Call it with one block after the other, each with its step; a fault that holds or delays
    commands must be given every block from step onset - 1 on. With an onset of 0 the first block
    counts as what was in force before.
    """

    def __init__(
        self, injection: Injection, scale: ActionSpec | ActionScale, seed: int = 0
    ) -> None:
        """seed: decides what the fault draws at random.

        Raises InputError unless the fault is one of the actuator and the seed is 0 or more.
        """
        if injection.fault.kind is not FaultKind.ACTUATOR:
            raise InputError(
                f"fault {injection.name} is one of the {injection.fault.kind.value}, not of the "
                "actuator; it does not change actions"
            )
        if seed < 0:
            raise InputError(f"fault {injection.name}: seed {seed}, expected 0 or more")
        self.injection = injection
        self.scale = ActionScale.from_spec(scale) if isinstance(scale, ActionSpec) else scale
        rng = np.random.default_rng(seed)
        axes, block = self.scale.axes, self.scale.block
        self._bias = (
            np.tile(rng.choice((-1.0, 1.0), axes), block) * injection.severity * self.scale.unit
        )
        self._dead = np.tile(np.arange(axes) == rng.integers(axes), block)
        self._past: dict[int, NDArray[np.float32]] = {}

    def __call__(self, action: NDArray[np.float32], step: int) -> NDArray[np.float32]:
        """Return the block (A,) float32 that is executed when `action` is commanded at a step.

        Raises InputError when the action has another shape or is not finite, or an earlier one
        that the fault holds or executes was never passed.
        """
        command = np.asarray(action, np.float32)
        if command.shape != self.scale.center.shape or not np.isfinite(command).all():
            raise InputError(
                f"fault {self.injection.name}: action has shape {command.shape}, expected "
                f"{self.scale.center.size} finite numbers"
            )
        held = self._remembered(command, step)
        if step < self.injection.onset:
            return command
        match self.injection.name:
            case "stuck":
                return self._hold(held)
            case "dead_axis":
                return np.where(self._dead, self._hold(held), command)
            case "delay":
                return np.array(held, np.float32)
            case _:
                return self.limited(self.affine(command))

    def affine(self, commands: NDArray[np.float32]) -> NDArray[np.float64]:
        """What bias, gain and inversion make of commands (..., A), before the limits."""
        factor, offset = self._line()
        return self.scale.center + factor * (commands - self.scale.center) + offset

    def inverse(self, executed: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the commands (..., A) of which bias, gain or inversion makes `executed`."""
        factor, offset = self._line()
        return self.scale.center + (executed - self.scale.center - offset) / factor

    def limited(self, actions: NDArray[np.float64]) -> NDArray[np.float32]:
        """Clip actions (..., A) to the limits."""
        return np.clip(actions, self.scale.low, self.scale.high).astype(np.float32)

    def _line(self) -> tuple[float, NDArray[np.float64] | float]:
        """Factor about the center and offset of an affine fault."""
        match self.injection.name:
            case "bias":
                return 1.0, self._bias
            case "gain":
                return self.injection.severity, 0.0
            case "inverted":
                return -1.0, 0.0
            case name:
                raise InputError(f"fault {name} is no straight line of the command")

    def _hold(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last environment step of a block, for a whole block."""
        return np.tile(block[-self.scale.axes :], self.scale.block)

    def _remembered(self, command: NDArray[np.float32], step: int) -> NDArray[np.float32]:
        """Remember a command; return the earlier one that is held or executed at this step."""
        if self.injection.name not in ("stuck", "dead_axis", "delay"):
            return command
        delays = self.injection.name == "delay"
        last_good = self.injection.onset - 1
        wanted = max(step - self.injection.steps, last_good) if delays else last_good
        if step == 0 and last_good < 0:
            self._past.setdefault(last_good, command.copy())
        if step == last_good or (delays and step > last_good):
            self._past[step] = command.copy()
        for old in [index for index in self._past if index < wanted]:
            del self._past[old]
        if step <= last_good:
            return command
        if wanted not in self._past:
            raise InputError(
                f"fault {self.injection.name} executes action {wanted} at step {step}, which was "
                f"never passed; pass every action from step {max(last_good, 0)} on"
            )
        return self._past[wanted]
