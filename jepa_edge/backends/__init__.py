# SPDX-License-Identifier: Apache-2.0
"""Inference backends. Each loads one graph file and runs it; the choice is made at load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Provider = Literal["auto", "cpu", "cuda", "tensorrt-ep", "tensorrt"]
"""auto: an engine of `jepa-edge build` where one fits, else cpu. cpu, cuda, tensorrt-ep: ONNX
Runtime with that execution provider. tensorrt: such an engine, or an error."""
PROVIDERS: tuple[Provider, ...] = get_args(Provider)


class Graph(Protocol):
    """One loaded graph with a single output. inputs: names of its inputs."""

    inputs: frozenset[str]

    def __call__(self, feeds: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the graph on named inputs and return its output."""


class Backend(Protocol):
    """Loads graphs. threads: that one graph may use.

    runtime: library, version and provider, and the digest of an engine that it compiled itself.
    device_class: `jepa_edge.binding.processor_class`, or a GPU's name and compute capability.
    """

    name: str
    threads: int
    runtime: str
    device_class: str

    def load(self, path: Path) -> Graph:
        """Load a graph file. Raises BundleError when the runtime refuses it."""
