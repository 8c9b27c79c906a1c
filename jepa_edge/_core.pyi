# SPDX-License-Identifier: Apache-2.0
"""C++ core. Shapes as in csrc/include/jepa_edge; float32, C-contiguous, ValueError otherwise."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

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

class FileError(ValueError): ...

class Status(Enum):
    OK = 0
    NON_FINITE_INPUT = 1
    NON_FINITE_OUTPUT = 2
    BAD_SHAPE = 3
    FAILED = 4

class Precision(Enum):
    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2

class PredictorSizes:
    window: int
    tokens: int
    latent_dim: int
    action_dim: int

class Predictor:
    """Packed weights; any number of engines may share one."""

    sizes: PredictorSizes
    precision: Precision
    isa: str
    packed_bytes: int
    def __init__(self, path: Path, precision: Precision, isa: str = "auto") -> None: ...

class Engine:
    """Rolls candidates forward. Calls from several threads take turns."""

    def __init__(
        self,
        predictor: Predictor,
        candidates: int,
        horizon: int,
        samples: int = 1,
        threads: int = 1,
    ) -> None: ...
    def rollout(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
        start: NDArray[np.float32] | None = None,
    ) -> tuple[Status, NDArray[np.float32]]: ...

def available_isas() -> list[str]: ...
def fastest_precisions(isa: str = "auto") -> list[Precision]: ...
def measure_peak(precision: Precision, isa: str = "auto") -> float: ...
def measure_product(
    precision: Precision, rows: int, inputs: int, outputs: int, isa: str = "auto"
) -> float: ...

class LatentVariable:
    horizon: int
    latent_dim: int
    rank: int
    action_dim: int
    members: int
    def __init__(self, arrays: Mapping[str, NDArray[np.float32]], isa: str = "auto") -> None: ...
    @staticmethod
    def load(path: Path, isa: str = "auto") -> LatentVariable: ...

class LatentNoise:
    """Adds L z to predictions; holds z and its scratch memory."""

    def __init__(
        self,
        variable: LatentVariable,
        tokens: int,
        *,
        candidates: int,
        horizon: int,
        samples: int,
        threads: int = 1,
    ) -> None: ...
    def draw(
        self, seed: int, samples: int, horizon: int, noise_free_first: bool = False
    ) -> None: ...
    def apply(
        self,
        step: int,
        before: NDArray[np.float32],
        actions: NDArray[np.float32],
        latents: NDArray[np.float32],
    ) -> NDArray[np.float32]: ...
    def disagreement(self) -> NDArray[np.float32]: ...
    def rollout(
        self,
        engine: Engine,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
        *,
        samples: int,
        seed: int = 0,
        noise_free_first: bool = False,
        start: NDArray[np.float32] | None = None,
    ) -> tuple[Status, NDArray[np.float32], NDArray[np.float32]]: ...

class Objective:
    """Energies of predicted latents; the terms are PlannerConfig's and RiskConfig's."""

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
    def energies(
        self, latents: NDArray[np.float32], goals: NDArray[np.float32]
    ) -> NDArray[np.float32]: ...

class EngineEvaluator:
    """Judges candidates by an engine's rollouts; it keeps the engine alive."""

    def __init__(
        self, engine: Engine, objective: Objective, latent_variable: LatentVariable | None = None
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
    """CEM, iCEM or MPPI. Calls from several threads take turns."""

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
    def plan(
        self,
        evaluate: Callable[[NDArray[np.float32]], NDArray[np.floating]],
        initial: NDArray[np.float32] | None = None,
        deadline_s: float | None = None,
    ) -> PlanResult: ...
    def plan_on_engine(
        self,
        evaluator: EngineEvaluator,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        goals: NDArray[np.float32],
        objective: (
            Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.floating]] | None
        ) = None,
        initial: NDArray[np.float32] | None = None,
        deadline_s: float | None = None,
    ) -> PlanResult: ...

def shift_plan(
    plan: NDArray[np.float32], blocks: int, fill: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...

class Resizer:
    """Scales images of three 8-bit channels with packed rows; threads take turns.

    window: (top, left, height, width) of the scaled picture that is made; None makes it all.
    Raises ValueError for sides that are not 1 to 65535 pixels, a window that leaves the picture,
    and for another input size.
    """

    def __init__(
        self,
        *,
        in_height: int,
        in_width: int,
        out_height: int,
        out_width: int,
        bicubic: bool = False,
        window: tuple[int, int, int, int] | None = None,
    ) -> None: ...
    def resize(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]: ...

class PixelFormat(Enum):
    RGB = 0
    BGR = 1
    RGBA = 2
    BGRA = 3
    MONO = 4
    NV12 = 5
    YUYV = 6
    UYVY = 7

class ColorConverter:
    """Turns camera buffers of one layout into RGB.

    Raises ValueError for sides that the format cannot have, a stride shorter than a row, and a
    buffer of fewer than `bytes` bytes.
    """

    bytes: int
    def __init__(
        self,
        *,
        format: PixelFormat,
        height: int,
        width: int,
        stride: int,
        bt709: bool = False,
        full_range: bool = False,
    ) -> None: ...
    def convert(self, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
    @staticmethod
    def row_bytes(format: PixelFormat, width: int) -> int: ...
