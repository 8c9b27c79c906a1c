# SPDX-License-Identifier: Apache-2.0
"""Where faulty episodes come from: injected into the nominal recording, recorded, or simulated."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from jepa_edge import faults, sim
from jepa_edge.bundle import sha256_file
from jepa_edge.errors import InputError
from jepa_edge.faults import FAULTS, FaultKind, Injection, parse_fault
from jepa_edge.manifest import Manifest
from jepa_edge.progress import Progress
from jepa_edge.recording import Recording
from jepa_edge.sim import make_simulator, record

ALL = "all"
_SIM = "sim:"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRequest:
    """One fault to be evaluated.

    name: unique in an evaluation. onset: first frame that it can show in. injection: from the
    library, or None for a recorded fault. path: of a recording with the fault. simulator: that
    shall make one, e.g. "reacher". With neither, the fault is injected into nominal episodes.
    """

    name: str
    onset: int
    injection: Injection | None = None
    path: Path | None = None
    simulator: str | None = None

    @property
    def injected(self) -> bool:
        """Whether the fault is put into nominal episodes."""
        return self.path is None and self.simulator is None

    @property
    def kind(self) -> str:
        """camera, actuator, dynamics, or recorded."""
        return "recorded" if self.injection is None else self.injection.fault.kind.value

    @property
    def description(self) -> str:
        """What breaks, in words."""
        if self.injection is None:
            return "recorded by the user"
        return self.injection.fault.description

    @property
    def origin(self) -> str:
        """Where the episodes come from, in words."""
        if self.path is not None:
            return f"recorded: {self.path}"
        if self.simulator is not None:
            return f"simulated: {self.simulator}"
        return "injected into the nominal recording"


def parse_faults(
    texts: Sequence[str], onset: int, takes_actions: bool = True
) -> tuple[list[FaultRequest], dict[str, str]]:
    """Read what the user asked for; also return faults left out, with the reason.

    texts: comma lists of "all" (every fault that a recording can show), "NAME[:SEVERITY][@ONSET]"
    of the library, "NAME=DIR[@ONSET]" for recorded runs, "sim:ROBOT" for all faults simulated, and
    "sim:ROBOT/NAME[:SEVERITY][@ONSET]" for one. onset: of those that name none. takes_actions:
    whether the model does; without, "all" leaves out faults that only change commands.
    Raises InputError when one cannot be read, two have one name, or one needs actions.
    """
    requests: list[FaultRequest] = []
    skipped: dict[str, str] = {}
    for text in [part.strip() for whole in texts for part in whole.split(",")]:
        if text == ALL:
            why_not = {name: _why_not(name, takes_actions) for name in FAULTS}
            requests += [_library(name, onset) for name, why in why_not.items() if not why]
            skipped |= {name: why for name, why in why_not.items() if why}
        elif text.startswith(_SIM):
            robot, slash, fault = text[len(_SIM) :].partition("/")
            if not takes_actions:
                raise InputError(
                    f"fault {text!r}: simulators record at the model's action block, and this "
                    "model takes no actions; record runs yourself and pass NAME=DIR"
                )
            names = [fault] if slash else list(FAULTS)
            requests += [replace(_library(name, onset), simulator=robot) for name in names]
        elif "=" in text:
            requests.append(_recorded(text, onset))
        else:
            request = _library(text, onset)
            if not takes_actions and request.kind == FaultKind.ACTUATOR.value:
                raise InputError(
                    f"fault {request.name} changes commands, and the model takes none; choose a "
                    "fault of the camera, or pass recorded runs (NAME=DIR)"
                )
            requests.append(request)
    return _with_names(requests), {
        name: why for name, why in skipped.items() if name not in {r.name for r in requests}
    }


def simulate(
    request: FaultRequest,
    manifest: Manifest,
    out: Path,
    episodes: int,
    steps: int,
    seed: int,
    workers: int,
    progress: Progress,
) -> Recording:
    """Record episodes with a fault in the request's simulator, unless `out` holds them already."""
    if not out.exists():
        record(
            request.simulator or "",
            out,
            episodes,
            steps,
            seed,
            injection=request.injection,
            size=manifest.observation.height,
            block=manifest.require_action().block,
            workers=workers,
            on_progress=lambda done: progress(f"simulate {request.name}", done, episodes),
        )
    return Recording(out)


def check_simulator(name: str, manifest: Manifest) -> None:
    """Raise InputError unless there is a simulator of that name whose runs fit the model."""
    observation, action = manifest.observation, manifest.require_action()
    robot = make_simulator(name, size=observation.height, block=action.block)
    if robot.action_dim != action.dim or not math.isclose(
        robot.rate_hz, observation.rate_hz, rel_tol=0.01
    ):
        raise InputError(
            f"simulator {name} has {robot.action_dim} numbers per action block at "
            f"{robot.rate_hz:g} Hz, the model takes {action.dim} at {observation.rate_hz:g} Hz; "
            "evaluate it on the robot that it was trained on"
        )
    if observation.height != observation.width:
        raise InputError(
            f"simulator {name} draws square frames, the model takes {observation.height} x "
            f"{observation.width}; record its runs yourself"
        )


@cache
def library_digest() -> str:
    """Digest of the code that breaks and simulates robots: what a recording of it depends on."""
    folders = [Path(package.__file__ or "").parent for package in (faults, sim)]
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    return hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()[:12]


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """A directory for simulated runs that nobody wants to keep."""
    return tempfile.TemporaryDirectory(prefix="jepa-edge-evaluate-")


def _why_not(name: str, takes_actions: bool) -> str:
    """Why a fault cannot be put into a recording; empty if it can."""
    fault = FAULTS[name]
    if fault.simulator_only:
        simulator = "use a simulator (sim:ROBOT) or " if takes_actions else ""
        return f"a recording cannot show it after the fact; {simulator}record runs with it"
    if not takes_actions and fault.kind is FaultKind.ACTUATOR:
        return "it changes commands, and the model takes none"
    return ""


def _library(text: str, onset: int) -> FaultRequest:
    """A fault of the library; what an action does is first seen one frame later."""
    injection = parse_fault(text if "@" in text else f"{text}@{onset}")
    default = injection.severity == injection.fault.severity
    late = 0 if injection.fault.kind is FaultKind.CAMERA else 1
    return FaultRequest(
        name=injection.name if default else f"{injection.name}:{injection.severity:g}",
        onset=injection.onset + late,
        injection=injection,
    )


def _recorded(text: str, onset: int) -> FaultRequest:
    name, _, rest = text.partition("=")
    folder, at, step = rest.rpartition("@")
    if not at:
        folder, step = rest, str(onset)
    if not name or not folder or not (step.isascii() and step.isdigit()):
        raise InputError(
            f"fault {text!r}: expected NAME=DIR[@ONSET], the onset being the first frame that "
            "shows the fault, for example gripper=runs/gripper@15"
        )
    return FaultRequest(name=name, onset=int(step), path=Path(folder))


def _with_names(requests: list[FaultRequest]) -> list[FaultRequest]:
    """Tell requests of one name apart by their onset; refuse those that still are the same."""
    names = [request.name for request in requests]
    named = [
        replace(request, name=f"{request.name}@{request.onset}")
        if names.count(request.name) > 1
        else request
        for request in requests
    ]
    final = [request.name for request in named]
    twice = sorted({name for name in final if final.count(name) > 1})
    if twice:
        raise InputError(
            f"fault {', '.join(twice)} is asked for more than once; name each fault once per onset"
        )
    return named
