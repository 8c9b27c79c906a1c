# SPDX-License-Identifier: Apache-2.0
"""C++ core. Shapes as in csrc/include/jepa_edge; float32, C-contiguous, ValueError otherwise."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_RANK: int

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]: ...
def standard_normal(seed: int, stream: int, count: int) -> NDArray[np.float32]: ...
def innovation_energy(
    variance: NDArray[np.float32], factor: NDArray[np.float32], residual: NDArray[np.float32]
) -> NDArray[np.float32]: ...
def sample(
    variance: NDArray[np.float32], factor: NDArray[np.float32], z: NDArray[np.float32]
) -> NDArray[np.float32]: ...
