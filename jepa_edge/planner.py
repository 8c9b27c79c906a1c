# SPDX-License-Identifier: Apache-2.0
"""Planning in latent space with the cross-entropy method."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.errors import InputError
from jepa_edge.world_model import WorldModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerConfig:
    """Settings of the search; the defaults are LeWorldModel's for PushT, with fewer iterations.

    horizon: action blocks. goal_steps: how many of the last predicted latents are held against the
    goal; 1 is upstream's energy, more make a plan get there early and stay. candidates, elites,
    iterations: of the cross-entropy method. init_std: first standard deviation, in units of the
    training actions' own. clip: hold candidates within the manifest's action limits (upstream
    does not).
    """

    horizon: int = 5
    goal_steps: int = 1
    candidates: int = 300
    elites: int = 30
    iterations: int = 10
    init_std: float = 1.0
    clip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.goal_steps <= self.horizon:
            raise InputError(
                f"goal_steps is {self.goal_steps}, expected 1 to the horizon, {self.horizon}"
            )
        if not (self.horizon >= 1 and 2 <= self.elites <= self.candidates and self.iterations >= 1):
            raise InputError(
                f"horizon {self.horizon}, candidates {self.candidates}, elites {self.elites}, "
                f"iterations {self.iterations}: expected horizon and iterations of at least 1 and "
                "2 <= elites <= candidates"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A planned action sequence.

    actions: (H, A) float32, raw units. energies: (iterations,) float32, mean energy of the elites.
    time_s: seconds that the search took.
    """

    actions: NDArray[np.float32]
    energies: NDArray[np.float32]
    time_s: float


def goal_energy(
    predicted: NDArray[np.float32], goal: NDArray[np.float32], steps: int = 1
) -> NDArray[np.float32]:
    """Squared distance of the last predicted latents to the goal, averaged over `steps`: (S,).

    predicted: (S, H, N, D). goal: (N, D).
    """
    squared = np.sum((predicted[:, -steps:] - goal) ** 2, axis=(2, 3))
    return np.asarray(squared.mean(axis=1), np.float32)


class Planner:
    """Cross-entropy method as stable-worldmodel runs it (`solver/cem.py`, 0.1.1).

    Candidate 0 is the mean; mean and standard deviation are refitted to the elites; candidates are
    drawn in z-scored actions. Random numbers are a function of seed, iteration and index alone.
    """

    def __init__(self, model: WorldModel, config: PlannerConfig | None = None) -> None:
        self.model = model
        self.config = config or PlannerConfig()
        spec = model.manifest.action
        self._mean = np.asarray(spec.mean, np.float32)
        self._std = np.asarray(spec.std, np.float32)
        bounded = self.config.clip and bool(spec.low) and bool(spec.high)
        self._low = np.asarray(spec.low, np.float32) if bounded else None
        self._high = np.asarray(spec.high, np.float32) if bounded else None

    def plan(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        goal: NDArray[np.float32],
        *,
        initial: NDArray[np.float32] | None = None,
    ) -> Plan:
        """Search the action sequence whose rollout ends nearest to the goal.

        history: (T, N, D) float32, oldest first. past_actions: (T - 1, A) float32, raw units,
        between the history's latents. goal: (N, D) float32. initial: (H, A) raw actions to start
        from, e.g. the previous plan shifted by one; None starts from the mean training action.
        Raises InputError on other shapes.
        """
        start = time.perf_counter()
        config = self.config
        shape = (config.horizon, self.model.manifest.action.dim)
        manifest = self.model.manifest
        latent = (manifest.latent.tokens, manifest.latent.dim)
        for name, array, expected in (
            ("history", history, (manifest.history, *latent)),
            ("past_actions", past_actions, (manifest.history - 1, manifest.action.dim)),
            ("goal", goal, latent),
            ("initial", initial, shape),
        ):
            if array is not None and (array.shape != expected or not np.isfinite(array).all()):
                raise InputError(
                    f"{name} has shape {array.shape}, expected {expected} finite numbers"
                )
        mean = np.zeros(shape, np.float32) if initial is None else self._standardize(initial)
        std = np.full(shape, config.init_std, np.float32)
        energies = np.empty(config.iterations, np.float32)
        histories = np.repeat(history[None], config.candidates, axis=0)
        past = np.repeat(past_actions[None], config.candidates, axis=0)
        for iteration in range(config.iterations):
            noise = _core.standard_normal(config.seed, iteration, config.candidates * mean.size)
            candidates = mean + std * noise.reshape(config.candidates, *shape)
            candidates[0] = mean
            actions = self._raw(candidates)
            predicted = self.model.rollout(histories, np.concatenate([past, actions], axis=1))
            energy = goal_energy(predicted, goal, config.goal_steps)
            # A diverged candidate must never count as an elite.
            energy = np.where(np.isfinite(energy), energy, np.inf)
            if np.isfinite(energy).sum() < config.elites:
                raise InputError(
                    f"only {int(np.isfinite(energy).sum())} of {config.candidates} candidates "
                    f"gave a finite energy, expected {config.elites} elites; lower init_std or "
                    "set action limits"
                )
            elite = np.argpartition(energy, config.elites - 1)[: config.elites]
            elite = np.sort(elite)
            chosen = self._standardize(actions[elite])
            mean, std = chosen.mean(axis=0), chosen.std(axis=0, ddof=1)
            energies[iteration] = energy[elite].mean()
        return Plan(
            actions=self._raw(mean[None])[0],
            energies=energies,
            time_s=time.perf_counter() - start,
        )

    def _raw(self, standardized: NDArray[np.float32]) -> NDArray[np.float32]:
        raw = self._mean + self._std * standardized
        if self._low is not None:
            raw = np.clip(raw, self._low, self._high)
        return np.asarray(raw, np.float32)

    def _standardize(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray((raw - self._mean) / self._std, np.float32)
