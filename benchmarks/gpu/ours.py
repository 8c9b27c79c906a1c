# SPDX-License-Identifier: Apache-2.0
"""The GPU core on drawn weights: rollouts for its accuracy, whole plans for its time."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu.torch_cem import Search

PRECISIONS = ("float32", "float16", "bfloat16", "int8", "float8")


def module() -> Any:
    """The extension module, entered by `gpu.modules`."""
    from jepa_edge import _cuda

    return _cuda


def usable() -> list[str]:
    """Precisions that this GPU's matrix units have."""
    cuda = module()
    info = cuda.device_info(0)
    return [
        name
        for name in PRECISIONS
        if cuda.is_supported(getattr(cuda.Precision, name.upper()), info)
    ]


def lewm_rollout(path: Path, precision: str, candidates: int, horizon: int) -> Any:
    """LeWorldModel's predictor on the device."""
    cuda = module()
    predictor = cuda.Predictor(path, getattr(cuda.Precision, precision.upper()))
    return cuda.Rollout(predictor, candidates, horizon)


def ac_rollout(path: Path, precision: str, candidates: int, chunk: int) -> Any:
    """V-JEPA 2-AC's predictor on the device, one step ahead. chunk: futures at once."""
    return module().AcRollout(_ac_predictor(path, precision), candidates, 1, 1, chunk)


@lru_cache
def _ac_predictor(path: Path, precision: str) -> Any:
    """Weights of 1.2 GB in float32, which take seconds to round."""
    cuda = module()
    return cuda.AcPredictor(path, getattr(cuda.Precision, precision.upper()))


class Plan:
    """One search, ready to run on a history and a goal."""

    def __init__(
        self,
        rollout: Any,
        sizes: Search,
        history: NDArray[np.float32],
        past: NDArray[np.float32],
        goal: NDArray[np.float32],
        *,
        distance: str = "l2",
        energy_tokens: int = 0,
        seed: int = 0,
    ) -> None:
        """history (T, N, D), past (T - 1, A), goal (N, D). energy_tokens: 0 for all."""
        cuda = module()
        tokens, dim = goal.shape
        ones, zeros = (1.0,) * sizes.action_dim, (0.0,) * sizes.action_dim
        settings = cuda.Settings(
            method="icem" if sizes.keep else "cem",
            horizon=sizes.horizon,
            action_dim=sizes.action_dim,
            candidates=sizes.candidates,
            elites=sizes.elites,
            iterations=sizes.iterations,
            init_std=1.0,
            seed=seed,
            returned="mean",
            action_mean=zeros,
            action_std=ones,
            low=(),
            high=(),
            noise_beta=sizes.noise_beta,
            keep_elites=sizes.keep,
            momentum=sizes.momentum,
            population_decay=1.0,
            deterministic=True,
            temperature=0.5,
        )
        objective = cuda.Objective(
            candidates=sizes.candidates,
            samples=1,
            horizon=sizes.horizon,
            tokens=tokens,
            dim=dim,
            goal_steps=1,
            risk="mean",
            kappa=1.0,
            alpha=0.1,
            world_weight=0.0,
            spread_weight=0.0,
            spread_discount=1.0,
            trust_horizon=False,
            radius=(),
            world_mean=(),
            world_whiten=(),
            distance=distance,
            energy_tokens=energy_tokens or tokens,
            energy_dim=dim,
        )
        self._planner = cuda.Planner(settings, objective, rollout)
        self._inputs = (history, past, goal[None])

    def __call__(self) -> Any:
        """Run the search: a PlanResult. Raises RuntimeError unless it found a plan."""
        result = self._planner.plan(*self._inputs)
        if result.status != "ok":
            raise RuntimeError(f"the search ended with {result.status}")
        return result
