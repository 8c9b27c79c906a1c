# SPDX-License-Identifier: Apache-2.0
"""GPU core, built with JEPA_EDGE_CUDA. float32, C-contiguous, ValueError otherwise.

Failures of the device are CudaError. Status numbers are those of _core.Status.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EMULATED: bool

class CudaError(RuntimeError): ...
class FileError(ValueError): ...

class Precision(Enum):
    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT8 = 3
    FLOAT8 = 4

class DeviceInfo:
    name: str
    major: int
    minor: int
    processors: int
    memory_bytes: int
    shared_bytes: int
    driver: int
    runtime: int

def device_info(device: int = 0) -> DeviceInfo: ...
def is_supported(precision: Precision, device: DeviceInfo) -> bool: ...

class Predictor:
    """Weights on the device; any number of rollouts may share one."""

    precision: Precision
    def __init__(self, path: Path, precision: Precision) -> None: ...

class RolloutSizes:
    window: int
    tokens: int
    latent_dim: int
    action_dim: int

class Rollout:
    """Rolls candidates forward. Calls from several threads take turns, planners included."""

    sizes: RolloutSizes
    shortest_history: int
    def __init__(
        self, predictor: Predictor, candidates: int, horizon: int, samples: int = 1
    ) -> None: ...
    @staticmethod
    def from_callback(
        enqueue: Callable[[int, int, int, int, int], None],
        *,
        window: int,
        tokens: int,
        latent_dim: int,
        action_dim: int,
        candidates: int,
        horizon: int,
        samples: int = 1,
    ) -> Rollout:
        """enqueue: (history, actions, out, rows, stream), addresses on the device."""

    def rollout(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
    ) -> tuple[int, NDArray[np.float32]]: ...

class AcPredictor:
    """As Predictor, of V-JEPA 2-AC; bytes: on the device."""

    precision: Precision
    bytes: int
    def __init__(self, path: Path, precision: Precision) -> None: ...

class AcRollout(Rollout):
    """chunk: futures computed together; memory grows with it."""

    chunk: int
    workspace_bytes: int
    def __init__(
        self,
        predictor: AcPredictor,
        candidates: int,
        horizon: int,
        samples: int = 1,
        chunk: int = 16,
    ) -> None: ...

class LatentNoise:
    def __init__(
        self,
        arrays: Mapping[str, NDArray[np.float32]],
        tokens: int,
        *,
        candidates: int,
        horizon: int,
        samples: int,
    ) -> None: ...

class Objective:
    def __init__(
        self,
        *,
        candidates: int,
        samples: int,
        horizon: int,
        tokens: int,
        dim: int,
        goal_steps: int,
        risk: str,
        kappa: float,
        alpha: float,
        world_weight: float,
        spread_weight: float,
        spread_discount: float,
        trust_horizon: bool,
        radius: Sequence[float],
        world_mean: Sequence[float],
        world_whiten: Sequence[float],
        distance: str,
        energy_tokens: int,
        energy_dim: int,
    ) -> None: ...

class Settings:
    def __init__(
        self,
        *,
        method: str,
        horizon: int,
        action_dim: int,
        candidates: int,
        elites: int,
        iterations: int,
        init_std: float,
        seed: int,
        returned: str,
        action_mean: Sequence[float],
        action_std: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        noise_beta: float,
        keep_elites: int,
        momentum: float | None,
        population_decay: float,
        deterministic: bool,
        temperature: float,
    ) -> None: ...

class PlanResult:
    status: str
    evaluator_status: int
    actions: NDArray[np.float32]
    best_actions: NDArray[np.float32]
    energies: NDArray[np.float32]
    spread: NDArray[np.float32]
    best_energy: float
    iterations: int
    deadline_hit: bool
    evaluated: int
    diverged: int
    refused: int
    time_s: float
    evaluate_s: float

class Planner:
    def __init__(
        self,
        settings: Settings,
        objective: Objective,
        rollout: Rollout,
        noise: LatentNoise | None = None,
    ) -> None: ...
    def plan(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        goals: NDArray[np.float32],
        initial: NDArray[np.float32] | None = None,
        deadline_s: float | None = None,
    ) -> PlanResult: ...

class PictureFitter:
    """Camera buffers to frames: crop (top, left, height, width), scaled, of which window is taken.

    Calls from several threads take turns.
    """

    bytes: int
    def __init__(
        self,
        *,
        pixel_format: str,
        height: int,
        width: int,
        stride: int | None = None,
        bt709: bool = False,
        full_range: bool = False,
        crop: tuple[int, int, int, int],
        scaled: tuple[int, int],
        window: tuple[int, int, int, int],
        bicubic: bool = False,
        mean: tuple[float, float, float] = ...,
        std: tuple[float, float, float] = ...,
    ) -> None: ...
    def fit(self, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
    def enqueue(
        self, source: int, frame: int = 0, normalized: int = 0, stream: int = 0
    ) -> None: ...
