# SPDX-License-Identifier: Apache-2.0
"""The library of faults: what can break, how badly by default, and how a fault is written down."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from functools import partial

import msgspec

from jepa_edge.errors import InputError


class FaultKind(enum.Enum):
    """Where a fault sits, and with that what it takes to inject it."""

    CAMERA = "camera"
    """Changes frames: of a simulator, a recording or a live stream."""
    ACTUATOR = "actuator"
    """Changes what a commanded action does."""
    DYNAMICS = "dynamics"
    """Changes the world; only simulators can do that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One entry of the library.

    severity: the default, moderate: noticeable and not catastrophic where the fault has degrees.
    meaning: what the severity measures, with its unit. low, high: its range, ends included; equal
    where the fault has no degrees. whole: it counts steps. drawn: what the seed decides, empty
    where nothing is random. simulator_only: a recording cannot show it after the fact.
    """

    name: str
    kind: FaultKind
    description: str
    severity: float
    meaning: str
    low: float
    high: float
    whole: bool = False
    drawn: str = ""
    simulator_only: bool = False

    def check(self, severity: float) -> None:
        """Raise InputError unless a severity lies in the range, whole where steps are counted."""
        in_range = math.isfinite(severity) and self.low <= severity <= self.high
        if in_range and (not self.whole or float(severity).is_integer()):
            return
        if self.low == self.high:
            expected = f"none: the fault has no degrees (or {self.low:g})"
        else:
            expected = f"{self.low:g} to {self.high:g}" + (", whole steps" if self.whole else "")
        raise InputError(
            f"fault {self.name}: severity {severity:g}, expected {expected}; it is {self.meaning}"
        )


def _entry(
    kind: FaultKind, name: str, description: str, severity: float, meaning: str, **rest: object
) -> Fault:
    return Fault(
        name=name,
        kind=kind,
        description=description,
        severity=severity,
        meaning=meaning,
        **rest,  # type: ignore[arg-type]
    )


_camera = partial(_entry, FaultKind.CAMERA)
_actuator = partial(_entry, FaultKind.ACTUATOR)
_dynamics = partial(_entry, FaultKind.DYNAMICS, simulator_only=True)

_ONSET_DIGITS = 9  # 50 days at 200 Hz; int() refuses thousands of them

_NO_DEGREES = "1 where the fault is present"

_ENTRIES = (
    _camera(
        "occlusion",
        "a dark patch hides the center of the picture, like dirt or a cable close to the lens",
        0.45,
        "the side of the patch as a share of the frame's side",
        low=0.02,
        high=1.0,
    ),
    _camera(
        "blur",
        "the lens is out of focus: Gaussian blur",
        0.02,
        "the standard deviation of the blur as a share of the frame's shorter side",
        low=0.005,
        high=0.2,
    ),
    _camera(
        "freeze",
        "the last good frame repeats while the world goes on",
        1.0,
        _NO_DEGREES,
        low=1.0,
        high=1.0,
    ),
    _camera(
        "salt",
        "salt-and-pepper noise: pixels turn black or white, others in every frame",
        0.05,
        "the expected share of the pixels",
        low=0.001,
        high=1.0,
        drawn="the pixels",
    ),
    _camera(
        "shift",
        "the camera was knocked: the picture moves along one axis, its edge row repeats",
        0.08,
        "the distance as a share of the frame's side",
        low=0.005,
        high=0.5,
        drawn="the direction (left, right, up, down)",
    ),
    _camera(
        "exposure",
        "the exposure is wrong: all pixel values times a factor, clipped",
        0.75,
        "the factor; below 1 darker, above 1 brighter",
        low=0.05,
        high=8.0,
    ),
    _camera(
        "rotation",
        "the camera turned about its axis: the picture rotates about its center, its edge repeats",
        6.0,
        "the angle in degrees",
        low=0.2,
        high=180.0,
        drawn="the sense of rotation",
    ),
    _camera(
        "lag",
        "the image pipeline stalls and frames arrive late from then on",
        2.0,
        "the delay in model steps",
        low=1.0,
        high=50.0,
        whole=True,
    ),
    _camera(
        "ghost",
        "a faint copy of the frame of three steps ago is blended in (image retention)",
        0.3,
        "the weight of the copy",
        low=0.02,
        high=1.0,
    ),
    _actuator(
        "stuck",
        "the last healthy command stays in force whatever is commanded",
        1.0,
        _NO_DEGREES,
        low=1.0,
        high=1.0,
        simulator_only=True,
    ),
    _actuator(
        "bias",
        "a constant is added to every command, on every axis",
        0.3,
        "the constant in standard deviations of the commands",
        low=0.01,
        high=3.0,
        drawn="the sign on each axis",
    ),
    _actuator(
        "gain",
        "the actuator does too little or too much: commands are scaled about their center",
        0.7,
        "the factor; below 1 too little, above 1 too much",
        low=0.1,
        high=4.0,
    ),
    _actuator(
        "delay",
        "commands are executed late; the last one repeats while the delay builds up",
        2.0,
        "the delay in model steps",
        low=1.0,
        high=50.0,
        whole=True,
    ),
    _actuator(
        "inverted",
        "the wiring is reversed: commands are mirrored about their center",
        1.0,
        _NO_DEGREES,
        low=1.0,
        high=1.0,
    ),
    _actuator(
        "dead_axis",
        "one axis holds its last healthy command, the others obey",
        1.0,
        _NO_DEGREES,
        low=1.0,
        high=1.0,
        drawn="the axis",
        simulator_only=True,
    ),
    _dynamics(
        "friction",
        "friction is lost, so that what moves goes on moving",
        0.9,
        "the share of the nominal friction that is lost",
        low=0.05,
        high=0.99,
    ),
    _dynamics(
        "mass",
        "what the robot moves is heavier or lighter",
        3.0,
        "the factor on the nominal mass",
        low=0.1,
        high=20.0,
    ),
)

FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ENTRIES}
"""Every fault by its name, camera faults first."""


class Injection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault with a severity from a step on.

    onset: model step, 0 or more. Camera faults change frame `onset` and later ones; actuator and
    dynamics faults change what action `onset` and later ones do, first seen in frame onset + 1.
    Raises InputError when the name is unknown or a number is out of range.
    """

    name: str
    severity: float
    onset: int = 0

    def __post_init__(self) -> None:
        if self.name not in FAULTS:
            raise InputError(
                f"fault {self.name!r} is not in the library; there is {', '.join(FAULTS)}"
            )
        self.fault.check(self.severity)
        if self.onset < 0:
            raise InputError(f"fault {self.name}: onset {self.onset}, expected a step of 0 or more")

    @property
    def fault(self) -> Fault:
        """The entry of the library."""
        return FAULTS[self.name]

    @property
    def steps(self) -> int:
        """The severity of a fault that counts steps."""
        return int(self.severity)

    def __str__(self) -> str:
        """The text that parse_fault reads back."""
        return f"{self.name}:{self.severity!r}@{self.onset}"


def parse_fault(text: str) -> Injection:
    """Read "NAME[:SEVERITY][@ONSET]", e.g. "blur", "blur:0.05", "stuck@15", "lag:3@15".

    Without a severity the library's default holds, without an onset step 0.
    Raises InputError when the text is not of that form, or a value is out of range.
    """
    head, at, onset = text.partition("@")
    name, colon, severity = head.partition(":")
    try:
        if at and not (onset.isascii() and onset.isdigit() and len(onset) <= _ONSET_DIGITS):
            raise ValueError(onset)
        degree = float(severity) if colon else None
    except ValueError:
        raise InputError(
            f"fault {text!r}: expected NAME[:SEVERITY][@ONSET] with a number and a step, "
            "for example blur:0.05@15"
        ) from None
    if name not in FAULTS:
        raise InputError(f"fault {name!r} is not in the library; there is {', '.join(FAULTS)}")
    return Injection(
        name=name,
        severity=FAULTS[name].severity if degree is None else degree,
        onset=int(onset) if at else 0,
    )
