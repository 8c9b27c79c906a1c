# SPDX-License-Identifier: Apache-2.0
"""Camera faults on a stream of frames."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.faults import pictures
from jepa_edge.faults.library import FaultKind, Injection

GHOST_STEPS = 3
"""Age of the frame that a ghost shows, model steps."""

_DIRECTIONS = ((0, -1), (0, 1), (-1, 0), (1, 0))


class CameraFilter:
    """Passes frames on as a faulty camera would deliver them.

    Call it with one frame after the other, each with its step. Frames before the onset come back
    unchanged. A fault that shows older frames never reaches further back than the last good one,
    frame onset - 1: it repeats until newer ones are old enough.
    """

    def __init__(self, injection: Injection, seed: int = 0) -> None:
        """seed: decides what the fault draws at random.

        Raises InputError unless the fault is one of the camera and the seed is 0 or more.
        """
        if injection.fault.kind is not FaultKind.CAMERA:
            raise InputError(
                f"fault {injection.name} is one of the {injection.fault.kind.value}, not of the "
                "camera; it does not change frames"
            )
        if seed < 0:
            raise InputError(f"fault {injection.name}: seed {seed}, expected 0 or more")
        self.injection = injection
        self._seed = seed
        self._past: dict[int, NDArray[np.uint8]] = {}
        self._distort = self._choose(np.random.default_rng(seed))
        ages = {"freeze": math.inf, "lag": injection.severity, "ghost": GHOST_STEPS}
        self._age: float | None = ages.get(injection.name)

    @property
    def needs_past(self) -> bool:
        """Whether the filter must be given every frame from onset - 1 on."""
        return self._age is not None

    def __call__(self, frame: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
        """Return what the camera delivers at a step.

        frame: (H, W, 3) uint8, what a healthy camera would show. step: its number, 0 or more.
        Raises InputError when the frame is of another type or shape, or an earlier frame that the
        fault shows was never passed.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise InputError(
                f"fault {self.injection.name}: frame is {frame.dtype} with shape {frame.shape}, "
                "expected uint8 (height, width, 3)"
            )
        if self._age is not None:
            return self._from_past(frame, step, self._age)
        return frame if step < self.injection.onset else self._distort(frame, step)

    def _from_past(self, frame: NDArray[np.uint8], step: int, age: float) -> NDArray[np.uint8]:
        """Remember a frame and return the one that the fault shows."""
        last_good = self.injection.onset - 1
        wanted = int(max(step - age, last_good))
        if step == 0 and last_good < 0:
            self._past[last_good] = frame.copy()  # there is no earlier one
        if step >= last_good and (step == last_good or math.isfinite(age)):
            self._past[step] = frame.copy()
        for old in [index for index in self._past if index < wanted]:
            del self._past[old]
        if step <= last_good:
            return frame
        if wanted not in self._past:
            raise InputError(
                f"fault {self.injection.name} shows frame {wanted} at step {step}, which was never "
                f"passed; pass every frame from step {max(last_good, 0)} on"
            )
        if self.injection.name == "ghost":
            return pictures.blend(frame, self._past[wanted], self.injection.severity)
        return np.array(self._past[wanted], np.uint8)

    def _choose(
        self, rng: np.random.Generator
    ) -> Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]:
        """Return what a memoryless fault does to the frame of a step."""
        severity = self.injection.severity
        direction = _DIRECTIONS[rng.integers(len(_DIRECTIONS))]
        sense = rng.choice((-1.0, 1.0))
        effects: dict[str, Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]] = {
            "occlusion": lambda frame, _: pictures.occlude(frame, severity),
            "blur": lambda frame, _: pictures.blur(frame, severity),
            "salt": lambda frame, step: pictures.salt(
                frame, severity, np.random.default_rng([self._seed, step])
            ),
            "shift": lambda frame, _: pictures.shift(frame, severity, direction),
            "exposure": lambda frame, _: pictures.expose(frame, severity),
            "rotation": lambda frame, _: pictures.rotate(frame, float(sense) * severity),
        }
        return effects.get(self.injection.name, lambda frame, _: frame)
