# SPDX-License-Identifier: Apache-2.0
"""What a build needs of a machine: its TensorRT, its GPU, and what runs a plan there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jepa_edge.backends import Backend
from jepa_edge.trt.device import find_device
from jepa_edge.trt.diagnose import MakeRunner, tensorrt_runner
from jepa_edge.trt.inspector import Inspection, inspect_plan
from jepa_edge.trt.key import BuildFlags, MachineKey
from jepa_edge.trt.library import Library, load_library
from jepa_edge.trt.store import StoredEngine

_SMALL_BYTES = 12 << 30
"""An Orin of 8 GB shares this memory with the system; those above have some to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """A machine that builds. inspect: reads a plan back. backend: runs a stored engine.
    runner: runs single layers, of inputs of these shapes, to find one that is wrong.

    free_bytes: asks how much device memory is free now. target: compute capability to compile for
    instead of the GPU's own, which only TensorRT-RTX can.
    """

    library: Library
    machine: MachineKey
    total_bytes: int
    free_bytes: Callable[[], int]
    inspect: Callable[[Path, BuildFlags], Inspection]
    backend: Callable[[StoredEngine], Backend]
    runner: Callable[[Mapping[str, tuple[int, ...]]], MakeRunner]
    target: str | None = None

    def workspace_bytes(self) -> int:
        """Return the scratch memory that a build may use here unless it is told.

        A quarter of what is free where memory is small, half elsewhere, and 64 MB at least.
        """
        share = 4 if self.total_bytes <= _SMALL_BYTES else 2
        return max(self.free_bytes() // share, 64 << 20)


def this_machine(device: int = 0) -> Workshop:
    """Return what this machine builds with.

    Raises MissingDependencyError without TensorRT, a driver or a GPU; BundleError where TensorRT is
    too old.
    """
    library = load_library("tensorrt")
    found = find_device(device)

    def backend(stored: StoredEngine) -> Backend:
        from jepa_edge.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(stored, device=device)

    return Workshop(
        library=library,
        machine=MachineKey.of(library, found),
        total_bytes=found.total_bytes,
        free_bytes=lambda: find_device(device).free_bytes,
        inspect=lambda plan, flags: inspect_plan(library, plan, flags),
        backend=backend,
        runner=tensorrt_runner,
    )
