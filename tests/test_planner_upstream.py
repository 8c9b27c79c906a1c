# SPDX-License-Identifier: Apache-2.0
"""The core's planners against stable-worldmodel's own solvers, fed with the core's noise."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jepa_edge import _core

gym = pytest.importorskip("gymnasium")

HORIZON, DIM, CANDIDATES, ELITES = 5, 4, 200, 20

Cost = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import solver modules without their packages, which import simulators and datasets."""
    root = importlib.metadata.distribution("stable-worldmodel").locate_file("stable_worldmodel")
    before = set(sys.modules)
    for name, path in (("stable_worldmodel", root), ("stable_worldmodel.solver", f"{root}/solver")):
        package = ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)
    loguru = ModuleType("loguru")
    loguru.logger = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "loguru", loguru)
    yield lambda name: import_module(f"stable_worldmodel.solver.{name}")
    for name in set(sys.modules) - before:
        if name.startswith("stable_worldmodel."):
            del sys.modules[name]


class _Torch:
    """torch, except that randn gives the core's normals, one stream per call."""

    def __init__(self, seed: int) -> None:
        self._seed, self._calls = seed, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randn(self, *shape: Any, **_: Any) -> torch.Tensor:
        sizes = shape[0] if len(shape) == 1 else shape
        drawn = _core.standard_normal(self._seed, self._calls, math.prod(sizes))
        self._calls += 1
        return torch.from_numpy(drawn).reshape(tuple(sizes))


def _cost(actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """A bowl with ripples: (S, H, A) to (S,)."""
    goal = np.linspace(-1.0, 1.5, HORIZON * DIM).reshape(HORIZON, DIM)
    apart = actions.astype(np.float64) - goal
    ripples = 0.3 * np.sin(5.0 * actions.astype(np.float64))
    return np.asarray((apart**2 + ripples).sum(axis=(1, 2)), np.float32)


def _solve(
    upstream: Callable[[str], ModuleType], name: str, iterations: int, limit: float, **settings: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean (H, A) and standard deviation (H, A) that upstream's solver ends with."""
    module = upstream(name)
    solver_class = {"cem": "CEMSolver", "icem": "ICEMSolver", "mppi": "MPPISolver"}[name]
    model = SimpleNamespace(
        get_cost=lambda infos, actions: torch.from_numpy(_cost(actions[0].numpy()))[None]
    )
    solver = getattr(module, solver_class)(
        model, num_samples=CANDIDATES, n_steps=iterations, topk=ELITES, **settings
    )
    box = gym.spaces.Box(-limit, limit, (1, DIM), np.float32)
    solver.configure(
        action_space=box, n_envs=1, config=SimpleNamespace(horizon=HORIZON, action_block=1)
    )
    module.torch = _Torch(seed=3)  # type: ignore[attr-defined]
    outputs = solver.solve({"state": np.zeros((1, 1), np.float32)})
    return outputs["actions"][0].numpy(), outputs["var"][0][0].numpy()


def _plan(method: str, iterations: int, limit: float = math.inf, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "init_std": 1.0,
        "returned": "mean",
        "noise_beta": 2.0,
        "keep_elites": 5,
        "momentum": None,
        "population_decay": 1.0,
        "deterministic": True,
        "temperature": 0.5,
        "elites": ELITES,
    }
    bounded = () if math.isinf(limit) else (limit,) * DIM
    planner = _core.Planner(
        method=method,
        horizon=HORIZON,
        action_dim=DIM,
        candidates=CANDIDATES,
        iterations=iterations,
        seed=3,
        action_mean=(0.0,) * DIM,
        action_std=(1.0,) * DIM,
        low=tuple(-bound for bound in bounded),
        high=bounded,
        **{**defaults, **settings},
    )
    return planner.plan(_cost)


def _assert_same(found: Any, mean: NDArray[np.float32], std: NDArray[np.float32] | None) -> None:
    assert found.status == "ok"
    np.testing.assert_allclose(found.actions, mean, rtol=0, atol=2e-6)
    if std is not None:
        np.testing.assert_allclose(
            found.spread, np.sqrt((std.astype(np.float64) ** 2).mean(axis=1)), rtol=1e-5
        )


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("init_std", [1.0, 0.4])
def test_cem(upstream: Any, iterations: int, init_std: float) -> None:
    expected = _solve(upstream, "cem", iterations, 1.0, var_scale=init_std)
    _assert_same(_plan("cem", iterations, init_std=init_std), *expected)


def test_cem_to_the_end(upstream: Any) -> None:
    """Where candidates' energies differ by their float32 rounding alone, it chooses the elites."""
    mean, std = _solve(upstream, "cem", 30, 1.0)
    found = _plan("cem", 30)
    assert std.max() < 2e-4
    assert np.abs(found.actions - mean).max() < std.max()
    np.testing.assert_allclose(_cost(found.actions[None]), _cost(mean[None]), rtol=2e-6)


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("limit", [math.inf, 0.8])
def test_icem(upstream: Any, iterations: int, beta: float, limit: float) -> None:
    """With limits too: upstream's iCEM clips its candidates, as we do."""
    mean, _ = _solve(upstream, "icem", iterations, limit, noise_beta=beta, alpha=0.2)
    _assert_same(_plan("icem", iterations, limit, noise_beta=beta, momentum=0.2), mean, None)


@pytest.mark.parametrize("kept", [0, 1, ELITES])
def test_icem_with_other_numbers_of_kept_elites(upstream: Any, kept: int) -> None:
    mean, _ = _solve(upstream, "icem", 5, math.inf, n_elite_keep=kept)
    for deterministic in (True, False):
        found = _plan("icem", 5, keep_elites=kept, deterministic=deterministic)
        _assert_same(found, mean, None)


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 20.0])
def test_mppi(upstream: Any, iterations: int, temperature: float) -> None:
    mean, _ = _solve(upstream, "mppi", iterations, 1.0, temperature=temperature)
    _assert_same(_plan("mppi", iterations, temperature=temperature), mean, None)


def test_mppi_over_all_candidates(upstream: Any) -> None:
    module = upstream("mppi")
    assert module.MPPISolver
    for elites in (CANDIDATES, ELITES):
        found = _plan("mppi", 1, elites=elites, temperature=5.0)
        noise = _core.standard_normal(3, 0, CANDIDATES * HORIZON * DIM)
        drawn = noise.reshape(CANDIDATES, HORIZON, DIM).astype(np.float64)
        drawn[0] = 0.0
        cost = _cost(drawn.astype(np.float32)).astype(np.float64)
        chosen = np.argsort(cost)[:elites]
        weights = np.exp(-(cost[chosen] - cost.min()) / 5.0)
        mean = np.tensordot(weights / weights.sum(), drawn[chosen], axes=1)
        np.testing.assert_allclose(found.actions, mean, atol=2e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.15, 0.6])
def test_cem_may_keep_a_part_of_the_old_distribution(momentum: float) -> None:
    """As V-JEPA 2-AC's CEM (notebooks/utils/mpc_utils.py: 0.15), written out in float64."""
    iterations = 4
    mean, std = np.zeros((HORIZON, DIM)), np.ones((HORIZON, DIM))
    for iteration in range(iterations):
        drawn = _core.standard_normal(3, iteration, CANDIDATES * HORIZON * DIM)
        noise = drawn.reshape(CANDIDATES, HORIZON, DIM).astype(np.float64)
        noise[0] = 0.0
        candidates = mean + std * noise
        elites = candidates[np.argsort(_cost(candidates.astype(np.float32)))[:ELITES]]
        mean = momentum * mean + (1.0 - momentum) * elites.mean(axis=0)
        std = momentum * std + (1.0 - momentum) * elites.std(axis=0, ddof=1)
    found = _plan("cem", iterations, momentum=momentum)
    np.testing.assert_allclose(found.actions, mean, rtol=0, atol=2e-6)
    if momentum == 0.0:
        assert np.array_equal(found.actions, _plan("cem", iterations).actions)


def test_the_methods_have_momenta_of_their_own() -> None:
    for method, own in (("cem", 0.0), ("icem", 0.1)):
        given, default = _plan(method, 3, momentum=own), _plan(method, 3, momentum=None)
        assert np.array_equal(given.actions, default.actions)
    with pytest.raises(ValueError, match="momentum"):
        _plan("cem", 1, momentum=1.0)
