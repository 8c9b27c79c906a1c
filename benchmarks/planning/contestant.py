# SPDX-License-Identifier: Apache-2.0
"""What takes part in the benchmark: a name, a precision class, and how to build it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from planning.onnx_files import OnnxFiles
from planning.problem import Problem

EAGER = "stable-worldmodel, PyTorch eager"
"""The contestant that all ratios refer to."""


class Contestant(Protocol):
    """A planner's inner function, ready to run."""

    def costs(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates (S, H, A): squared distance of each one's last latent to the goal."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contestant before it is built.

    precision: float32, bfloat16 or int8, the class in which it is compared. ours: not a rival.
    build: from the problem, the number of threads and the exported files.
    """

    name: str
    precision: str
    build: Callable[[Problem, int, OnnxFiles], Contestant]
    ours: bool = False
