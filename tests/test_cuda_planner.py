# SPDX-License-Identifier: Apache-2.0
"""Planning on the GPU from Python, in the emulation of CUDA, against the CPU core."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_edge import _core, cuda
from jepa_edge.channels import Whitener
from jepa_edge.engine import CUDA_PRECISIONS, RolloutEngine
from jepa_edge.errors import BundleError, InputError, MissingDependencyError
from jepa_edge.golden import Golden
from jepa_edge.manifest import EnginePrecision, EngineSpec, LatentSpec
from jepa_edge.planner import NoTrustedPlanError, Planner, PlannerConfig, RiskConfig

from .cuda_module import use_emulated
from .reference_predictor import Problem, Sizes, draw, draw_problem, write
from .test_planner_engine import _variable

# Small: the emulation is slow.
SIZES = Sizes(window=2, dim=16, depth=1, heads=1, head_dim=8, mlp_dim=16, head_hidden_dim=16)
H, S = 2, 14
CONFIG = PlannerConfig(horizon=H, candidates=S, elites=5, iterations=2)

MakeModel = Callable[..., Any]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Any:
    """jepa_edge with its GPU core built in."""
    module = use_emulated(monkeypatch)
    assert module.EMULATED
    return module


@pytest.fixture(scope="module")
def problem() -> Problem:
    return draw_problem(draw(SIZES)[0], SIZES, candidates=1, horizon=H, frames=SIZES.window)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors, metadata = draw(SIZES)
    return write(tmp_path_factory.mktemp("engine") / "predictor.safetensors", tensors, metadata)


@pytest.fixture
def make_model(path: Path, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> MakeModel:
    """What a planner asks of a WorldModel, on either device, with golden outputs of its own."""
    tensors, _ = draw(SIZES)
    spec = SimpleNamespace(
        dim=SIZES.action_dim,
        mean=tensors["action_mean"].tolist(),
        std=(1.0 / tensors["action_inv_std"]).tolist(),
        low=(),
        high=(),
    )
    core = RolloutEngine.load(path)
    histories = np.stack([problem.history, 0.5 * problem.history]).astype(np.float32)
    actions = np.concatenate([problem.past_actions, problem.actions[0, :1]])
    both = np.stack([actions, actions + 1]).astype(np.float32)
    predicted = core.rollout(histories, both[:, :-1], both[:, -1:])[:, 0]

    def make(damage: float = 0.0, processors: Any = ("cpu", "cuda")) -> Any:
        wrong = predicted + np.float32(damage)
        golden = Golden(
            frames=np.zeros((2, 1, 1, 3), np.uint8),
            latents=predicted,
            history=histories,
            actions=both,
            predictions=wrong,
        )
        monkeypatch.setattr(Golden, "read", classmethod(lambda cls, bundle: golden))
        accepted: Any = {
            "float32": EnginePrecision(
                sqnr_db=110.0, centered_cosine=1.0, cost_rank_correlation=1.0
            ),
            "int8": EnginePrecision(
                sqnr_db=28.0, centered_cosine=0.999, cost_rank_correlation=0.999
            ),
        }
        return SimpleNamespace(
            manifest=SimpleNamespace(
                require_action=lambda: spec,
                latent=LatentSpec(tokens=SIZES.tokens, dim=SIZES.latent_dim),
                history=SIZES.window,
                min_history=None,
                engine=EngineSpec(file=path.name, precisions=accepted, processors=processors),
                variants={},
            ),
            bundle=SimpleNamespace(path=path.parent, file=lambda name: path.parent / name),
            backend="onnxruntime-cpu",
            engine=lambda candidates, horizon, samples=1, precision=None: core,
        )

    return make


def _both(model: Any, config: PlannerConfig, problem: Problem, **options: Any) -> tuple[Any, Any]:
    found = []
    for device in ("cpu", "cuda"):
        planner = Planner(model, replace(config, device=device, precision="float32"), **options)
        assert planner.device == device
        found.append(planner.plan(problem.history, problem.past_actions, problem.goal))
    return found[0], found[1]


def _assert_same(cpu: Any, gpu: Any) -> None:
    scale = float(np.abs(cpu.actions).max())
    np.testing.assert_allclose(gpu.actions, cpu.actions, atol=1e-5 * scale)
    np.testing.assert_allclose(gpu.best_actions, cpu.best_actions, atol=1e-5 * scale)
    np.testing.assert_allclose(gpu.energies, cpu.energies, rtol=1e-4)
    np.testing.assert_allclose(gpu.spread, cpu.spread, rtol=1e-4)
    assert gpu.iterations == cpu.iterations
    assert gpu.diagnostics.evaluated == cpu.diagnostics.evaluated


@pytest.mark.parametrize("method", ["cem", "icem", "mppi"])
def test_the_plan_is_the_cores(
    built: Any, make_model: MakeModel, problem: Problem, method: Any
) -> None:
    config = replace(CONFIG, method=method, goal_steps=2, population_decay=1.2)
    cpu, gpu = _both(make_model(), config, problem)
    _assert_same(cpu, gpu)
    assert gpu.energies[-1] < gpu.energies[0]


def test_risk_spread_and_the_worlds_term(
    built: Any, make_model: MakeModel, problem: Problem
) -> None:
    D = SIZES.latent_dim
    risk = RiskConfig(samples=3, measure="cvar", alpha=0.5, world_weight=0.5, spread_weight=2.0)
    options: dict[str, Any] = {
        "recorded": Whitener(mean=np.zeros(D, np.float32), whiten=np.eye(D, dtype=np.float32)),
        "radius": np.full(H, 0.05, np.float32),
        "latent_variable": _variable(),
    }
    _assert_same(*_both(make_model(), replace(CONFIG, risk=risk), problem, **options))
    trusting = replace(CONFIG, risk=RiskConfig(samples=3, trust_horizon=True), device="cuda")
    options["radius"] = np.zeros(H, np.float32)
    planner = Planner(make_model(), trusting, **options)
    with pytest.raises(NoTrustedPlanError, match="stop and ask"):
        planner.plan(problem.history, problem.past_actions, problem.goal)


def test_several_goals_an_initial_plan_and_a_deadline(
    built: Any, make_model: MakeModel, problem: Problem
) -> None:
    model = make_model()
    goals = np.stack([problem.goal + np.float32(i) for i in range(3)])
    found = []
    for device in ("cpu", "cuda"):
        planner = Planner(model, replace(CONFIG, device=device, precision="float32"))
        given = problem.history, problem.past_actions, goals
        first = planner.plan(*given)
        found.append(planner.plan(*given, initial=first.actions))
        cut = planner.plan(*given, deadline_s=1e-6)
        assert cut.deadline_hit
        assert cut.iterations == 1
    _assert_same(*found)


def test_a_shorter_history(built: Any, make_model: MakeModel, problem: Problem) -> None:
    planners = [Planner(make_model(), replace(CONFIG, device=d)) for d in ("cpu", "cuda")]
    given = problem.history[-1:], problem.past_actions[:0], problem.goal
    assert planners[1].precision == "float16"
    best = [planner.plan(*given).best_energy for planner in planners]
    np.testing.assert_allclose(best[1], best[0], rtol=0.05)


@pytest.mark.parametrize("precision", CUDA_PRECISIONS)
def test_rollouts_in_every_precision(
    built: Any, path: Path, problem: Problem, precision: Any
) -> None:
    actions = (
        np.repeat(problem.actions[:1], 5, axis=0) + np.arange(5, dtype=np.float32)[:, None, None]
    )
    expected = RolloutEngine.load(path).rollout(problem.history, problem.past_actions, actions)
    engine = cuda.CudaRolloutEngine.load(path, precision=precision)
    got = engine.rollout(problem.history, problem.past_actions, actions)
    bits = {"float32": 18, "float16": 9, "bfloat16": 6, "int8": 4, "float8": 2}[precision]
    error = np.sqrt(((got - expected) ** 2).mean() / (expected**2).mean())
    assert error < 2.0**-bits
    if precision != "float32":
        assert error > 1e-6
    energies = engine.goal_energies(problem.history, problem.past_actions, actions, problem.goal)
    np.testing.assert_allclose(energies, ((got[:, -1] - problem.goal) ** 2).sum((1, 2)), rtol=1e-5)


def test_histories_and_starts_of_their_own(built: Any, path: Path, problem: Problem) -> None:
    rng = np.random.default_rng(3)
    actions = np.repeat(problem.actions[:1], 3, axis=0).astype(np.float32)
    start = rng.normal(size=(3, SIZES.tokens, SIZES.latent_dim)).astype(np.float32)
    history = np.stack([problem.history + np.float32(i) for i in range(3)])
    past = np.stack([problem.past_actions] * 3)
    core, gpu = RolloutEngine.load(path), cuda.CudaRolloutEngine.load(path)
    for given in (
        (problem.history, problem.past_actions, actions, start),
        (history, past, actions, None),
        (history, past, actions, start),
    ):
        np.testing.assert_allclose(gpu.rollout(*given), core.rollout(*given), atol=1e-4)


def test_bad_inputs_are_named(built: Any, path: Path, problem: Problem) -> None:
    engine = cuda.CudaRolloutEngine.load(path)
    given = problem.history, problem.past_actions
    with pytest.raises(InputError, match="actions have shape"):
        engine.rollout(*given, problem.actions[0])
    with pytest.raises(InputError, match="actions: NaN"):
        engine.rollout(*given, np.full_like(problem.actions, np.nan))
    with pytest.raises(InputError, match="goal has shape"):
        engine.goal_energies(*given, problem.actions, problem.goal[0])
    with pytest.raises(InputError, match="float64"):
        cuda.CudaRolloutEngine.load(path, precision="float64")  # type: ignore[arg-type]


def test_a_damaged_file_is_refused(built: Any, path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "predictor.safetensors"
    cut.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BundleError):
        cuda.CudaRolloutEngine.load(cut)
    with pytest.raises(BundleError):
        cuda.CudaRolloutEngine.load(tmp_path / "missing")
    header = json.dumps({"__metadata__": {"format": "vjepa2-ac-predictor-1"}}).encode()
    cut.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BundleError):
        cuda.CudaRolloutEngine.load(cut)


def test_golden_outputs_decide(
    built: Any, make_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = make_model(damage=0.5)
    for precision in (None, "float32"):
        with pytest.raises(BundleError, match="does not reproduce the golden outputs"):
            Planner(wrong, replace(CONFIG, device="cuda", precision=precision))
    with caplog.at_level(logging.INFO):
        planner = Planner(wrong, replace(CONFIG, device="auto"))
    assert planner.device == "cpu"
    assert "planning on the CPU" in caplog.text
    assert Planner(make_model(), replace(CONFIG, device="auto")).device == "cuda"


def test_a_bundle_without_a_predictor_for_the_gpu(built: Any, make_model: MakeModel) -> None:
    model = make_model(processors=("cpu",))
    with pytest.raises(InputError, match="no predictor for the GPU"):
        Planner(model, replace(CONFIG, device="cuda"))
    assert Planner(model, replace(CONFIG, device="auto")).device == "cpu"


def test_an_objective_in_python_needs_the_cpu(
    built: Any, make_model: MakeModel, problem: Problem
) -> None:
    planner = Planner(make_model(), replace(CONFIG, device="cuda"))
    with pytest.raises(InputError, match="device='cpu'"):
        planner.plan(
            problem.history, problem.past_actions, None, objective=lambda z, a: np.zeros(len(a))
        )


def test_a_predictor_enqueued_by_python(built: Any, problem: Problem) -> None:
    """Raising, since nothing in Python can compute in the emulation's memory."""
    calls: list[tuple[int, ...]] = []

    def enqueue(history: int, actions: int, out: int, rows: int, stream: int) -> None:
        calls.append((history, actions, out, rows, stream))
        raise RuntimeError("no engine")

    sizes = {"tokens": SIZES.tokens, "latent_dim": SIZES.latent_dim}
    rollout = built.Rollout.from_callback(
        enqueue, window=2, **sizes, action_dim=SIZES.action_dim, candidates=5, horizon=2
    )
    assert rollout.shortest_history == 2
    seen = problem.history[-2:], problem.past_actions[-1:], problem.actions[:1, :2]
    given = [np.ascontiguousarray(array, np.float32) for array in seen]
    with pytest.raises(RuntimeError, match="no engine"):
        rollout.rollout(*given)
    assert len(calls) == 1
    assert calls[0][3] == 1
    assert all(calls[0])
    status, _ = rollout.rollout(given[0][:1], given[1][:0], given[2])
    assert _core.Status(status) == _core.Status.BAD_SHAPE


def test_the_device(built: Any) -> None:
    info = cuda.device_info()
    assert info.name
    assert float(info.capability) >= 8.0
    assert info.memory_bytes > 0
    with pytest.raises(MissingDependencyError, match="no GPU can be used"):
        cuda.device_info(99)


def test_where_the_core_was_not_built(make_model: MakeModel) -> None:
    if importlib.util.find_spec("jepa_edge._cuda") is not None:
        pytest.skip("this jepa_edge was built with JEPA_EDGE_CUDA")
    with pytest.raises(MissingDependencyError, match="JEPA_EDGE_CUDA=ON"):
        cuda.device_info()
    with pytest.raises(MissingDependencyError, match="JEPA_EDGE_CUDA=ON"):
        Planner(make_model(), replace(CONFIG, device="cuda"))
    assert Planner(make_model(), replace(CONFIG, device="auto")).device == "cpu"


def test_precisions_belong_to_their_device() -> None:
    assert PlannerConfig(device="cuda", precision="float8").precision == "float8"
    for device in ("cpu", "auto"):
        with pytest.raises(InputError, match="precision is 'float16'"):
            PlannerConfig(device=device, precision="float16")
    with pytest.raises(InputError, match="device is 'gpu'"):
        PlannerConfig(device="gpu")  # type: ignore[arg-type]
