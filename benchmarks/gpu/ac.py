# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2-AC's predictor at true size, drawn weights: accuracy, then plans beside PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from random_checkpoint import draw, native_shapes

from gpu import ours
from gpu.race import Run, race
from gpu.rivals import ac_costs, precision
from gpu.torch_cem import Search, search
from jepa_edge.export.ac_predictor_weights import write_ac_predictor
from jepa_edge.export.families.vjepa2_ac_predictor import (
    Predictor,
    PredictorConfig,
    PredictorGraph,
    normed,
    with_pose,
)

SEARCH = Search(candidates=800, iterations=10, horizon=1, action_dim=7, elites=10, momentum=0.15)
NAME = "V-JEPA 2-AC CEM 800 x 10 x 1"
TARGETS_S = {"bfloat16": 4.0, "float8": 2.5}
PUBLISHED_S = 16.0
RACED = {"float16", "bfloat16", "int8", "float8"}
"""Not float32: half a minute a plan, ours and PyTorch's alike. Its accuracy is told."""
CHUNKS = (16, 50, 100, 200)
_MODEL = "vjepa2-ac-vitg"


def make_graph(seed: int) -> PredictorGraph:
    """The predictor with weights drawn as upstream draws them before training."""
    prefix = "module."
    predictor = Predictor(PredictorConfig())
    shapes = native_shapes(_MODEL)["predictor"]
    drawn = {
        name.removeprefix(prefix): draw(f"predictor.{name}", shape, torch.float32, seed)
        for name, shape in shapes.items()
    }
    predictor.load_state_dict(drawn, strict=True)
    return PredictorGraph(predictor.make_tables()).eval().requires_grad_(False)


def draw_latent(config: PredictorConfig, seed: int) -> torch.Tensor:
    """Normed patches and a pose, (P + 1, D)."""
    generator = torch.Generator().manual_seed(seed)
    patches = normed(torch.randn(1, config.patches, config.latent_dim, generator=generator))
    pose = 0.3 * torch.randn(1, 7, generator=generator)
    return with_pose(patches, pose)[0]


def run(path: Path, seed: int, rounds: int, peaks: dict[str, float | None]) -> dict[str, Any]:
    """Accuracy and times. path: where the weights may be written (1.2 GB)."""
    graph = make_graph(seed)
    config = graph.predictor.config
    write_ac_predictor(graph, path, history=1)
    latent, goal = (draw_latent(config, seed + number) for number in (1, 2))
    graph = graph.cuda()
    chunks = _best_chunks(path, latent, goal)
    runs = {**_ours(path, latent, goal, chunks), **_torch(graph, latent, goal)}
    rows = race(runs, rounds, warmups=2)
    flops = _flops(config) * SEARCH.candidates * SEARCH.iterations
    for row in rows:
        row.pop("plan")
        reached = peaks.get(row["name"].removeprefix("jepa-edge, "))
        if reached:
            row["share_of_measured_peak"] = flops / (row["median_ms"] * 1e-3) / (reached * 1e12)
    return {
        "search": NAME,
        "target_s": TARGETS_S,
        "published_s": PUBLISHED_S,
        "rounds": rounds,
        "tflop": flops / 1e12,
        "chunk": chunks,
        "accuracy": _accuracy(path, latent, seed),
        "rows": rows,
    }


def _accuracy(path: Path, latent: torch.Tensor, seed: int) -> list[dict[str, Any]]:
    """One step of 8 candidates against torch in float64 on the CPU."""
    rng = np.random.default_rng(5)
    actions = (0.05 * rng.standard_normal((8, 1, 7))).astype(np.float32)
    exact_graph = make_graph(seed).double()
    history = latent[None, None].double().expand(8, -1, -1, -1)
    with torch.no_grad():
        exact = exact_graph(history, torch.from_numpy(actions).double()).numpy()
    rows = []
    for name in ours.usable():
        rollout = ours.ac_rollout(path, name, 8, 8)
        _, latents = rollout.rollout(latent[None].numpy(), np.empty((0, 7), np.float32), actions)
        apart = latents[:, 0].astype(np.float64) - exact
        spread = exact[:, :-1] - exact[:, :-1].mean(axis=(0, 1))
        rows.append(
            {
                "precision": name,
                "relative": float(np.linalg.norm(apart) / np.linalg.norm(exact)),
                "sqnr_db": float(
                    20 * np.log10(np.linalg.norm(spread) / np.linalg.norm(apart[:, :-1]))
                ),
            }
        )
    return rows


def _plan(
    path: Path, name: str, chunk: int, latent: Any, goal: Any, sizes: Search = SEARCH
) -> ours.Plan:
    rollout = ours.ac_rollout(path, name, SEARCH.candidates, chunk)
    return ours.Plan(
        rollout,
        sizes,
        latent[None].numpy(),
        np.empty((0, 7), np.float32),
        goal.numpy(),
        distance="l1",
        energy_tokens=len(goal) - 1,
    )


def _best_chunks(path: Path, latent: Any, goal: Any) -> dict[str, int]:
    """The fastest chunk of each precision, by one iteration each after a warm-up."""
    once = dataclasses.replace(SEARCH, iterations=1)
    best = {}
    for name in (name for name in ours.usable() if name in RACED):
        taken = {}
        for chunk in CHUNKS:
            plan = _plan(path, name, chunk, latent, goal, once)
            plan()
            taken[chunk] = plan().time_s
            del plan
        best[name] = min(taken, key=taken.__getitem__)
    return best


def _ours(path: Path, latent: Any, goal: Any, chunks: dict[str, int]) -> dict[str, Run]:
    plans = {name: _plan(path, name, chunk, latent, goal) for name, chunk in chunks.items()}
    return {f"jepa-edge, {name}": lambda plan=plan: plan().actions for name, plan in plans.items()}


def _torch(graph: PredictorGraph, latent: torch.Tensor, goal: torch.Tensor) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for fast in (False, True):
        costs = ac_costs(graph, latent.cuda(), goal.cuda(), torch.bfloat16, fast=fast)

        def run(costs: Any = costs) -> NDArray[np.float32]:
            with precision(torch.bfloat16):
                mean, _ = search(costs, SEARCH, torch.Generator("cuda").manual_seed(0))
                out: NDArray[np.float32] = mean.float().cpu().numpy()
                return out

        how = "torch.compile, CUDA graphs" if fast else "eager"
        runs[f"PyTorch {how}, bfloat16"] = run
    return runs


def _flops(config: PredictorConfig) -> float:
    """Operations of one prediction from one frame: products and attention, two per multiply-add."""
    tokens, dim, patches = config.patches + 2, config.dim, config.patches
    layer = 2 * tokens * dim * (4 * dim + 2 * config.mlp_dim) + 4 * tokens * tokens * dim
    # The last layer: all keys and values, but only the patches go on.
    spared = 2 * (tokens - patches) * dim * (2 * dim + 2 * config.mlp_dim)
    ends = 2 * patches * 2 * dim * config.latent_dim
    return config.depth * layer - spared + ends
