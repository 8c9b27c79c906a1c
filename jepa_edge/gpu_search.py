# SPDX-License-Identifier: Apache-2.0
"""A planner's search on the GPU, where it is asked for and can be had."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from jepa_edge import cuda
from jepa_edge.engine import CudaPrecision
from jepa_edge.errors import InputError, JepaEdgeError
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.planner_config import PlannerConfig
from jepa_edge.world_model import WorldModel

if TYPE_CHECKING:
    from jepa_edge import _cuda

logger = logging.getLogger(__name__)


class SearchArguments(TypedDict):
    """What a search is made with, on either device."""

    method: str
    horizon: int
    action_dim: int
    candidates: int
    elites: int
    iterations: int
    init_std: float
    seed: int
    returned: str
    action_mean: Sequence[float]
    action_std: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    noise_beta: float
    keep_elites: int
    momentum: float | None
    population_decay: float
    deterministic: bool
    temperature: float


class ObjectiveArguments(TypedDict):
    """What an objective is made with, on either device."""

    candidates: int
    samples: int
    horizon: int
    tokens: int
    dim: int
    goal_steps: int
    risk: str
    kappa: float
    alpha: float
    world_weight: float
    spread_weight: float
    spread_discount: float
    trust_horizon: bool
    radius: Sequence[float]
    world_mean: Sequence[float]
    world_whiten: Sequence[float]
    distance: str
    energy_tokens: int
    energy_dim: int


class GpuSearch:
    """Rollouts and search on the GPU, all of its memory taken."""

    def __init__(
        self,
        rollout: _cuda.Rollout,
        precision: CudaPrecision | None,
        search: SearchArguments,
        judged: ObjectiveArguments,
        latent_variable: LatentVariable | None,
    ) -> None:
        """precision: of the rollout, None for TensorRT's.

        Raises InputError where the GPU has no memory for it.
        """
        self.precision = precision
        self.shortest_history = rollout.shortest_history
        self._module = module = cuda.load()
        try:
            noise = None
            if judged["samples"] > 1 and latent_variable is not None:
                noise = module.LatentNoise(
                    latent_variable.to_arrays(),
                    judged["tokens"],
                    candidates=judged["candidates"],
                    horizon=judged["horizon"],
                    samples=judged["samples"],
                )
            self._planner: _cuda.Planner = module.Planner(
                module.Settings(**search), module.Objective(**judged), rollout, noise
            )
        except module.CudaError as error:
            raise InputError(
                f"the GPU refused the search ({error}); ask for fewer candidates or samples"
            ) from error

    @classmethod
    def choose(
        cls,
        model: WorldModel,
        config: PlannerConfig,
        search: SearchArguments,
        judged: ObjectiveArguments,
        latent_variable: LatentVariable | None,
    ) -> GpuSearch | None:
        """Return the search, or None for one on the CPU; with "auto" the log says why.

        Raises what `jepa_edge.cuda.rollout_for` raises, and InputError for a bundle without a
        predictor for the GPU, where the device is "cuda".
        """
        if config.device == "cpu":
            return None
        try:
            found = cuda.rollout_for(
                model,
                config.candidates,
                config.horizon,
                config.risk.samples,
                precision=config.precision,
            )
            if found is None:
                raise InputError(
                    f"{model.bundle.path} holds no predictor for the GPU core and does not run on "
                    "TensorRT: export it again, run `jepa-edge build` on it, or plan with "
                    "device='cpu'"
                )
            return cls(*found, search, judged, latent_variable)
        except JepaEdgeError as error:
            if config.device == "cuda":
                raise
            logger.info("planning on the CPU: %s", error)
            return None

    def plan(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        goals: NDArray[np.float32],
        initial: NDArray[np.float32] | None,
        deadline_s: float | None,
    ) -> _cuda.PlanResult:
        """Search; arguments as of `Planner.plan`, checked. Raises InputError when the GPU fails."""
        try:
            return self._planner.plan(history, past_actions, goals, initial, deadline_s)
        except self._module.CudaError as error:
            raise InputError(
                f"the GPU failed while planning ({error}); make a new planner, or plan with "
                "device='cpu'"
            ) from error
