# SPDX-License-Identifier: Apache-2.0
"""What an engine belongs to: a library, a GPU, a system, the graphs, and how it was built."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jepa_edge.manifest import Sha256
from jepa_edge.trt.device import Device
from jepa_edge.trt.library import Library

Shape = tuple[int, ...]
_AMPERE = (8, 0)


class StrictRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the records here: immutable, by keyword, unknown keys refused."""


class MachineKey(StrictRecord, frozen=True, kw_only=True):
    """The machine's half of a key.

    version: of the library, all of its numbers. compute_capability: "8.7". device: the GPU's name,
    with the board's where it says it. l4t: of JetPack, "36.4.3", "" elsewhere. driver: the CUDA
    version that the driver offers.
    """

    library: Literal["tensorrt", "tensorrt_rtx"]
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.+_-]{1,64}\Z")]
    compute_capability: Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}\Z")]
    device: Annotated[str, Meta(max_length=400)]
    l4t: Annotated[str, Meta(pattern=r"^[0-9.]{0,32}\Z")] = ""
    driver: Annotated[str, Meta(pattern=r"^[0-9.]{0,32}\Z")] = ""

    @classmethod
    def of(cls, library: Library, device: Device) -> MachineKey:
        """Return the key of a machine."""
        return cls(
            library=library.name,
            version=library.text,
            compute_capability=device.compute_capability,
            device=device.name,
            l4t=device.l4t,
            driver=device.driver,
        )

    @property
    def folder(self) -> str:
        """A folder's name that no other machine key has."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]
        name = re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")[:40]
        capability = self.compute_capability.replace(".", "")
        return f"{self.library}-{self.version}-sm{capability}-{name}-{digest}"


class BuildFlags(StrictRecord, frozen=True, kw_only=True):
    """How an engine was asked for.

    workspace_bytes: memory that TensorRT may use for a layer's scratch. dla: core number, None for
    the GPU alone. optimization_level: 0 to 5. candidates: largest batch of the predictor.
    """

    workspace_bytes: Annotated[int, Meta(gt=0)]
    dla: Annotated[int, Meta(ge=0)] | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    optimization_level: Annotated[int, Meta(ge=0, le=5)] = 3
    candidates: Annotated[int, Meta(gt=0)] = 300


class InputProfile(StrictRecord, frozen=True, kw_only=True):
    """Shapes that one input may have: the smallest, the one that is tuned for, the largest."""

    low: Shape
    best: Shape
    high: Shape


class EngineKey(StrictRecord, frozen=True, kw_only=True):
    """All that a plan depends on. graphs: sha256 by file of the bundle, of weights beside them too.

    profiles: by graph file, then one by one, then by input. strongly_typed: by graph file; False
    where TensorRT 10 refused the typed network and built it with precision flags.
    """

    machine: MachineKey
    graphs: dict[str, Sha256]
    flags: BuildFlags
    profiles: dict[str, tuple[dict[str, InputProfile], ...]]
    strongly_typed: dict[str, bool]

    def differences(self, machine: MachineKey) -> list[str]:
        """What keeps an engine from this machine, one line each; none where it fits.

        A version-compatible engine runs on a later version of the same major number, a
        hardware-compatible one on any GPU from Ampere on.
        """
        built, found = self.machine, machine
        lines = []
        if built.library != found.library:
            lines.append(f"built with {built.library}, this machine has {found.library}")
        elif built.version != found.version and not (
            self.flags.version_compatible and _later(built.version, found.version)
        ):
            lines.append(f"built with {built.library} {built.version}, this is {found.version}")
        moves = self.flags.hardware_compatible and _numbers(found.compute_capability) >= _AMPERE
        if built.compute_capability != found.compute_capability and not moves:
            lines.append(
                f"built for compute capability {built.compute_capability}, this GPU has "
                f"{found.compute_capability}"
            )
        elif not _same_device(built.device, found.device) and not moves:
            lines.append(f"built on {built.device!r}, this is {found.device!r}")
        # A container may not show the release; driver and library tell enough then.
        known = bool(built.l4t and found.l4t)
        if known and built.l4t != found.l4t and not self.flags.version_compatible:
            lines.append(f"built on L4T {built.l4t}, this is {found.l4t}")
        if built.driver != found.driver and not self.flags.version_compatible:
            lines.append(f"built with driver CUDA {built.driver}, this is {found.driver}")
        return lines


def _same_device(built: str, found: str) -> bool:
    """Whether two names are of one GPU: a container may not show the board that is told behind."""
    return built == found or built.startswith(f"{found} (") or found.startswith(f"{built} (")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _later(built: str, found: str) -> bool:
    """Whether `found` is a version of the same major number, not before `built`."""
    old, new = _numbers(built), _numbers(found)
    return old[:1] == new[:1] and new >= old
