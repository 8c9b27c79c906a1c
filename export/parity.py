# SPDX-License-Identifier: Apache-2.0
"""Every variant against the torch model, on recorded frames that its quantization never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.backends import Graph
from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.export.data import ROLLOUT_STEPS, Windows
from jepa_edge.export.reference import Reference
from jepa_edge.export.sensitivity import latent_error
from jepa_edge.metrics import centered_cosine, sqnr_db
from jepa_edge.progress import Progress, silent
from jepa_edge.rollout import roll

SQNR_CEILING_DB = 200.0
"""Stands for equality, since JSON has no infinity."""

MIN_FP32_DB = 60.0
"""Float32 rounding leaves 90 dB and more; below this something else is computed than by torch."""

_BATCHES = (1, 64)
_REPEATS = {1: 60, 64: 7}
_SECONDS_PER_BATCH = 20.0
_CANDIDATES = 64
_STARTS = 8


class GraphParity(msgspec.Struct, frozen=True, kw_only=True):
    """One graph of a variant, its part being "encoder" or "predictor".

    latency_*_ms: medians, one thread, on this machine; the plain one is at batch 1. *_ratio:
    against fp32, below 1 is smaller or faster.
    """

    part: str
    sqnr_db: float
    centered_cosine: float
    size_bytes: int
    size_ratio: float
    latency_ms: float
    latency_ratio: float
    latency_batch64_ms: float
    latency_batch64_ratio: float


class VariantParity(msgspec.Struct, frozen=True, kw_only=True):
    """A variant against torch.

    rollout_error: `latent_error` after 1 to 5 steps on its own latents and predictions.
    cost_rank_correlation: Spearman, of planner costs of candidate actions, mean over starts.
    cost_rank_correlation_worst: the lowest of any start.
    """

    encoder: GraphParity
    predictor: GraphParity
    rollout_error: tuple[float, ...]
    cost_rank_correlation: float
    cost_rank_correlation_worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Inputs and torch's answers, computed once for all variants.

    windows: B of them. latents: (B, T, 1, D) of their frames. predictions: (B, 1, D). rollout:
    (B, 5, 1, D). plans: indices of start windows, of goal windows, and candidate actions
    (starts, 64, T - 1 + 5, A). costs: (starts, 64). z_dim: of the model's own latent variable.
    """

    windows: Windows
    latents: NDArray[np.float32]
    predictions: NDArray[np.float32]
    rollout: NDArray[np.float32]
    starts: NDArray[np.int64]
    goals: NDArray[np.int64]
    candidates: NDArray[np.float32]
    costs: NDArray[np.float64]
    z_dim: int = 0

    def mean_z(self, count: int) -> dict[str, NDArray[np.float32]]:
        """The further feed of a predictor with a latent variable of its own: z = 0, its mean."""
        return {"z": np.zeros((count, self.z_dim), np.float32)} if self.z_dim else {}


def judge(
    windows: Windows, reference: Reference, seed: int, progress: Progress = silent
) -> HeldOut:
    """Compute torch's latents, predictions, rollouts and planner costs on held-out windows."""
    rng = np.random.default_rng(seed)
    latents = reference.encode(windows.frames, progress)
    count = min(_STARTS, len(windows))
    starts = rng.permutation(len(windows))[:count]
    goals = (starts + 1 + rng.integers(max(1, len(windows) - 1), size=count)) % len(windows)
    candidates = _candidates(windows, starts, rng)
    return HeldOut(
        windows=windows,
        latents=latents,
        predictions=reference.predict(latents, windows.step_actions),
        rollout=reference.rollout(latents, windows.actions),
        starts=starts,
        goals=goals,
        candidates=candidates,
        costs=plan_costs(reference.rollout, latents, starts, goals, candidates),
        z_dim=reference.model.config.z_dim,
    )


def compare_variants(
    files: Mapping[str, tuple[Path, Path]],
    held_out: HeldOut,
    progress: Progress = silent,
    *,
    reference: str = "fp32",
) -> dict[str, VariantParity]:
    """Measure every variant through the run-time's own backend, one thread.

    files: encoder and predictor of each variant. reference: the variant that ratios refer to.
    """
    backend = OnnxRuntimeBackend(threads=1)
    graphs = {
        name: (backend.load(encoder), backend.load(predictor))
        for name, (encoder, predictor) in files.items()
    }
    encoder_ms = _time(
        {name: pair[0] for name, pair in graphs.items()},
        {"frames": held_out.windows.newest_frames},
        "timing encoders",
        progress,
    )
    predictor_ms = _time(
        {name: pair[1] for name, pair in graphs.items()},
        {
            "history": held_out.latents,
            "actions": held_out.windows.step_actions,
            **held_out.mean_z(len(held_out.latents)),
        },
        "timing predictors",
        progress,
    )
    results = {}
    for done, (name, (encoder, predictor)) in enumerate(graphs.items()):
        progress("comparing variants with torch", done, len(graphs))
        runner = _Runner(encoder, predictor, held_out)
        windows = held_out.windows
        latents = runner.encode(windows.frames)
        rollout = runner.rollout(latents, windows.actions)
        costs = plan_costs(
            runner.rollout, latents, held_out.starts, held_out.goals, held_out.candidates
        )
        sizes = [
            (own.stat().st_size, base.stat().st_size)
            for own, base in zip(files[name], files[reference], strict=True)
        ]
        ranks = [spearman(a, b) for a, b in zip(held_out.costs, costs, strict=True)]
        results[name] = VariantParity(
            encoder=_graph_parity(
                "encoder",
                held_out.latents[:, -1],
                latents[:, -1],
                sizes[0],
                encoder_ms,
                (name, reference),
            ),
            predictor=_graph_parity(
                "predictor",
                held_out.predictions,
                runner.predict(held_out.latents, windows.step_actions),
                sizes[1],
                predictor_ms,
                (name, reference),
            ),
            rollout_error=tuple(
                latent_error(held_out.rollout[:, step], rollout[:, step])
                for step in range(ROLLOUT_STEPS)
            ),
            cost_rank_correlation=float(np.mean(ranks)),
            cost_rank_correlation_worst=float(np.min(ranks)),
        )
    progress("comparing variants with torch", len(graphs), len(graphs))
    return results


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the rank correlation of two series of the same length, ties sharing their mean rank.

    1 where both are constant, 0 where one is.
    """
    x, y = (_ranks(values) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    if norm == 0.0:
        return 1.0 if not x.any() and not y.any() else 0.0
    return float(x @ y) / norm


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = (ends - (counts - 1) / 2.0)[inverse]
    return mean_ranks


def _graph_parity(
    part: str,
    expected: NDArray[np.float32],
    actual: NDArray[np.float32],
    sizes: tuple[int, int],
    latency_ms: Mapping[str, dict[int, float]],
    names: tuple[str, str],
) -> GraphParity:
    """sizes, names: of the variant itself, then of the reference variant."""
    own, base = (latency_ms[name] for name in names)
    return GraphParity(
        part=part,
        sqnr_db=min(sqnr_db(expected, actual), SQNR_CEILING_DB),
        centered_cosine=centered_cosine(expected, actual),
        size_bytes=sizes[0],
        size_ratio=sizes[0] / sizes[1],
        latency_ms=own[1],
        latency_ratio=own[1] / base[1],
        latency_batch64_ms=own[64],
        latency_batch64_ratio=own[64] / base[64],
    )


class _Runner:
    """The run-time's encode, predict and rollout over two graphs that are not in a bundle yet."""

    def __init__(self, encoder: Graph, predictor: Graph, held_out: HeldOut) -> None:
        self._encoder, self._predictor, self._held_out = encoder, predictor, held_out

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        flat = frames.reshape(-1, *frames.shape[-3:])
        parts = [self._encoder({"frames": flat[i : i + 16]}) for i in range(0, len(flat), 16)]
        latents = np.concatenate(parts)
        return latents.reshape(*frames.shape[:-3], *latents.shape[1:])

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        further = self._held_out.mean_z(len(history))
        return self._predictor({"history": history, "actions": actions, **further})

    def rollout(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return roll(self.predict, history, actions)


def _candidates(
    windows: Windows, starts: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Per start, its own past actions followed by 64 futures mixed from recorded blocks.

    Each future runs from one recorded window's actions to another's, so that the candidates differ
    by as much as real ones, and stay within the range that the model was trained on.
    """
    steps = windows.frames.shape[1]
    shape = (len(starts), _CANDIDATES, 1, 1)
    recorded = windows.actions[:, steps - 1 :]
    one, other = (recorded[rng.integers(len(windows), size=shape[:2])] for _ in range(2))
    share = rng.random(shape).astype(np.float32)
    future = one * share + other * (1.0 - share)
    past = np.broadcast_to(
        windows.actions[starts, None, : steps - 1],
        (*shape[:2], steps - 1, recorded.shape[-1]),
    )
    return np.concatenate([past, future], axis=2).astype(np.float32)


def plan_costs(
    rollout: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]],
    latents: NDArray[np.float32],
    starts: NDArray[np.int64],
    goals: NDArray[np.int64],
    candidates: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Squared distance of each candidate's last latent to the goal's: (starts, candidates)."""
    costs = []
    for start, goal, actions in zip(starts, goals, candidates, strict=True):
        history = np.repeat(latents[start][None], len(actions), axis=0)
        last = rollout(history, actions)[:, -1]
        costs.append(np.sum((last - latents[goal, -1]) ** 2, axis=(1, 2), dtype=np.float64))
    return np.stack(costs)


def _time(
    graphs: Mapping[str, Graph],
    feeds: Mapping[str, NDArray[np.generic]],
    stage: str,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Median milliseconds by batch; variants take turns, so that a slow spell hits them all."""
    medians: dict[str, dict[int, float]] = {name: {} for name in graphs}
    for batch in _BATCHES:
        # A recording with fewer windows is repeated: the time does not depend on the values.
        part = {
            name: np.ascontiguousarray(np.resize(values, (batch, *values.shape[1:])))
            for name, values in feeds.items()
        }
        for graph in graphs.values():
            graph(part)
        times: dict[str, list[float]] = {name: [] for name in graphs}
        begun = time.perf_counter()
        for done in range(_REPEATS[batch]):
            progress(f"{stage} at batch {batch}", done, _REPEATS[batch])
            for name, graph in graphs.items():
                start = time.perf_counter()
                graph(part)
                times[name].append(1e3 * (time.perf_counter() - start))
            if time.perf_counter() - begun > _SECONDS_PER_BATCH and done >= 2:
                break
        progress(f"{stage} at batch {batch}", _REPEATS[batch], _REPEATS[batch])
        for name, values in times.items():
            medians[name][batch] = float(np.median(values))
    return medians
