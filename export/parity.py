# SPDX-License-Identifier: Apache-2.0
"""Every variant against the torch model, on recorded frames that its quantization never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.backends import Graph
from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.export.data import ROLLOUT_STEPS, Windows
from jepa_edge.export.families.base import Masks, Reference
from jepa_edge.export.onnx_export import external_data
from jepa_edge.export.onnx_graph import UNBATCHED, batches
from jepa_edge.export.sensitivity import latent_error
from jepa_edge.export.simulate import SimulatedGraph, what_is_simulated
from jepa_edge.metrics import centered_cosine, sqnr_db
from jepa_edge.progress import Progress, silent
from jepa_edge.rollout import roll

Feeds = Mapping[str, NDArray[np.generic]]

SQNR_CEILING_DB = 200.0
"""Stands for equality, since JSON has no infinity."""

MIN_FP32_DB = 60.0
"""Float32 rounding leaves 90 dB and more; below this something else is computed than by torch."""

_BATCHES = (1, 64)
_REPEATS = {1: 60, 64: 7}
_SECONDS_PER_BATCH = 20.0
_SECONDS_PER_CALL = 5.0
_CANDIDATES = 64
_FEWEST_CANDIDATES = 8
_PLAN_BATCH = 64
_STARTS = 8
_JUDGE_SECONDS = 90.0
"""Torch's time for each of latents, rollouts and planner costs, which large models exceed."""
_FEWEST_WINDOWS = 2
_LOADED_TOGETHER = 1 << 30
"""Bytes of all variants up to which they are loaded at once and timed in turns."""
_BIG_ROW = 1 << 20


class GraphParity(msgspec.Struct, frozen=True, kw_only=True):
    """One graph of a variant, its part being "encoder", "predictor" or "mask_predictor".

    latency_*_ms: medians, one thread, on this machine; the plain one is at batch 1. *_ratio:
    against the reference variant, below 1 is smaller or faster. Batch 64 is None where it would
    take too long, both are where the graph was simulated.
    """

    part: str
    sqnr_db: float
    centered_cosine: float
    size_bytes: int
    size_ratio: float
    latency_ms: float | None
    latency_ratio: float | None
    latency_batch64_ms: float | None
    latency_batch64_ratio: float | None


class VariantParity(msgspec.Struct, frozen=True, kw_only=True):
    """A variant against torch.

    rollout_error: `latent_error` after each step on its own latents and predictions, of up to 5.
    cost_rank_correlation: Spearman, of planner costs of candidate actions, mean over starts.
    cost_rank_correlation_worst: the lowest of any start. None, or no step, where the model predicts
    nothing or is too large to be rolled out in the time there is. simulated: what of the graphs
    ONNX Runtime could not run as it is, and how it was computed instead; empty for nothing.
    """

    graphs: tuple[GraphParity, ...]
    rollout_error: tuple[float, ...] = ()
    cost_rank_correlation: float | None = None
    cost_rank_correlation_worst: float | None = None
    simulated: str = ""

    def graph(self, part: str) -> GraphParity:
        """Return one graph by name."""
        return next(graph for graph in self.graphs if graph.part == part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """Candidate actions and what torch says that they cost.

    starts, goals: indices of windows. candidates: (starts, C, T - 1 + 5, A). costs: (starts, C).
    """

    starts: NDArray[np.int64]
    goals: NDArray[np.int64]
    candidates: NDArray[np.float32]
    costs: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Inputs and torch's answers, computed once for all variants.

    windows: B of them. latents: (B, T, N, D) of their frames. predictions: (B, N, D). rollout:
    (R, 5, N, D) of the first R windows. z_dim: of the model's own latent variable. masks, context
    (B, V, D), masked (B, M, D): of the first mask pattern.
    """

    windows: Windows
    latents: NDArray[np.float32]
    predictions: NDArray[np.float32] | None = None
    rollout: NDArray[np.float32] | None = None
    plans: Plans | None = None
    masks: Masks | None = None
    context: NDArray[np.float32] | None = None
    masked: NDArray[np.float32] | None = None
    z_dim: int = 0

    def mean_z(self, count: int) -> dict[str, NDArray[np.float32]]:
        """The further feed of a predictor with a latent variable of its own: z = 0, its mean."""
        return {"z": np.zeros((count, self.z_dim), np.float32)} if self.z_dim else {}

    def feeds(self) -> dict[str, dict[str, NDArray[np.generic]]]:
        """Inputs of every graph, by graph and name: the newest frames, torch's latents."""
        windows = self.windows
        encoder: dict[str, NDArray[np.generic]] = {"frames": windows.newest_frames}
        if windows.newest_states is not None:
            encoder["states"] = windows.newest_states
        feeds = {"encoder": encoder}
        if self.predictions is not None:
            feeds["predictor"] = {
                "history": self.latents,
                "actions": windows.step_actions,
                **self.mean_z(len(self.latents)),
            }
        if self.masks is not None and self.context is not None:
            encoder["visible"] = np.arange(self.latents.shape[2])
            feeds["mask_predictor"] = {
                "context": self.context,
                "visible": self.masks.visible[0],
                "hidden": self.masks.hidden[0],
            }
        return feeds

    def expected(self) -> dict[str, NDArray[np.float32]]:
        """Torch's answers to `feeds`, by graph."""
        answers = {
            "encoder": self.latents[:, -1],
            "predictor": self.predictions,
            "mask_predictor": self.masked,
        }
        return {name: answer for name, answer in answers.items() if answer is not None}


def judge(
    windows: Windows,
    reference: Reference,
    seed: int,
    progress: Progress = silent,
    *,
    takes_actions: bool = True,
    masks: Masks | None = None,
) -> HeldOut:
    """Compute torch's latents, predictions, rollouts and planner costs on held-out windows.

    Of a large model no more windows, rollouts and candidates are taken than a few minutes allow.
    """
    rng = np.random.default_rng(seed)
    windows, latents = _encode_within(windows, reference, progress)
    if masks is not None:
        context = reference.encode(windows.newest_frames, windows.newest_states, masks.visible[0])
        masked = reference.predict_masked(context, masks.visible[0], masks.hidden[0])
        return HeldOut(
            windows=windows, latents=latents, masks=masks, context=context, masked=masked
        )
    if not takes_actions:
        return HeldOut(windows=windows, latents=latents)
    start = time.perf_counter()
    predictions = reference.predict(latents, windows.step_actions)
    row_s = (time.perf_counter() - start) / len(windows)
    rolled = min(len(windows), int(_JUDGE_SECONDS / (ROLLOUT_STEPS * row_s)))
    rollout = None
    if rolled >= 2:
        rollout = reference.rollout(latents[:rolled], windows.actions[:rolled])
    return HeldOut(
        windows=windows,
        latents=latents,
        predictions=predictions,
        rollout=rollout,
        plans=_plans(windows, latents, reference, row_s, rng),
        z_dim=reference.z_dim,
    )


def _encode_within(
    windows: Windows, reference: Reference, progress: Progress
) -> tuple[Windows, NDArray[np.float32]]:
    """Encode the windows' frames, or of the first windows only, as many as time allows."""
    steps = windows.frames.shape[1]

    def encode(part: Windows, told: Progress) -> NDArray[np.float32]:
        flat = part.frames.reshape(-1, *part.frames.shape[2:])
        states = None if part.states is None else part.states.reshape(len(flat), -1)
        latents = reference.encode(flat, states, progress=told)
        return latents.reshape(-1, steps, *latents.shape[1:])

    begun = time.perf_counter()
    first = encode(windows.head(1), silent)
    window_s = time.perf_counter() - begun
    if window_s * len(windows) > _JUDGE_SECONDS:
        windows = windows.head(max(_FEWEST_WINDOWS, int(_JUDGE_SECONDS / window_s)))
    if len(windows) == 1:
        return windows, first
    return windows, encode(windows, progress)


def _plans(
    windows: Windows,
    latents: NDArray[np.float32],
    reference: Reference,
    row_s: float,
    rng: np.random.Generator,
) -> Plans | None:
    """Draw start and goal windows and candidates; None where fewer than 8 can be judged."""
    count = min(_STARTS, len(windows))
    affordable = int(_JUDGE_SECONDS / (count * ROLLOUT_STEPS * row_s))
    if affordable < _FEWEST_CANDIDATES:
        return None
    starts = rng.permutation(len(windows))[:count]
    goals = (starts + 1 + rng.integers(max(1, len(windows) - 1), size=count)) % len(windows)
    candidates = _candidates(windows, starts, min(_CANDIDATES, affordable), rng)
    return Plans(
        starts=starts,
        goals=goals,
        candidates=candidates,
        costs=plan_costs(reference.rollout, latents, starts, goals, candidates),
    )


def compare_variants(
    files: Mapping[str, Mapping[str, Path]],
    held_out: HeldOut,
    progress: Progress = silent,
    *,
    reference: str = "fp32",
) -> dict[str, VariantParity]:
    """Measure every variant through the run-time's own backend, one thread.

    files: of each variant, its graphs by name. reference: the variant that ratios refer to; it
    comes first. Large variants are loaded and timed one after the other, small ones take turns.
    What only TensorRT runs is simulated, and not timed.
    """
    backend = OnnxRuntimeBackend(threads=1)
    notes = {name: _simulated(paths.values()) for name, paths in files.items()}
    sizes = {
        name: {part: _size(path) for part, path in paths.items()} for name, paths in files.items()
    }
    together = sum(sum(parts.values()) for parts in sizes.values()) < _LOADED_TOGETHER
    groups = [list(files)] if together else [[name] for name in files]
    latency: dict[str, dict[str, dict[int, float]]] = {name: {} for name in files}
    results: dict[str, VariantParity] = {}

    def measure(group: list[str]) -> None:
        # What is loaded here is let go before the next group is.
        graphs = {
            name: {
                part: SimulatedGraph(path) if notes[name] else backend.load(path)
                for part, path in files[name].items()
            }
            for name in group
        }
        for part, feeds in held_out.feeds().items():
            one_each = {name: graphs[name][part] for name in graphs if not notes[name]}
            timed = _time(one_each, feeds, f"timing the {part}", progress)
            for name, medians in timed.items():
                latency[name][part] = medians
        for name, loaded in graphs.items():
            progress("comparing variants with torch", len(results), len(files))
            results[name] = _compare(
                loaded,
                held_out,
                (sizes[name], sizes[reference]),
                (latency[name], latency[reference]),
                notes[name],
            )

    for group in groups:
        measure(group)
    progress("comparing variants with torch", len(files), len(files))
    return results


def _simulated(paths: Iterable[Path]) -> str:
    """Say what of a variant's graphs must be simulated here."""
    told = [what_is_simulated(onnx.load(path, load_external_data=False)) for path in paths]
    return next((note for note in told if note), "")


def _size(path: Path) -> int:
    """Bytes of a graph and its external weights, if any."""
    data = external_data(path)
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _compare(
    graphs: Mapping[str, Graph],
    held_out: HeldOut,
    sizes: tuple[Mapping[str, int], Mapping[str, int]],
    latency: tuple[Mapping[str, dict[int, float]], Mapping[str, dict[int, float]]],
    simulated: str,
) -> VariantParity:
    """sizes, latency: by graph, of the variant itself, then of the reference variant."""
    feeds = held_out.feeds()
    parities = tuple(
        _graph_parity(
            part,
            expected,
            run_batched(graphs[part], feeds[part]),
            (sizes[0][part], sizes[1][part]),
            (latency[0].get(part, {}), latency[1][part]),
        )
        for part, expected in held_out.expected().items()
    )
    if held_out.rollout is None:
        return VariantParity(graphs=parities, simulated=simulated)
    runner = _Runner(graphs, held_out)
    rolled = held_out.windows.head(len(held_out.rollout))
    latents = runner.encode(rolled)
    rollout = runner.rollout(latents, rolled.actions)
    parity = VariantParity(
        graphs=parities,
        simulated=simulated,
        rollout_error=tuple(
            latent_error(held_out.rollout[:, step], rollout[:, step])
            for step in range(ROLLOUT_STEPS)
        ),
    )
    plans = held_out.plans
    if plans is None:
        return parity
    if len(latents) < len(held_out.windows):
        latents = runner.encode(held_out.windows)
    costs = plan_costs(runner.rollout, latents, plans.starts, plans.goals, plans.candidates)
    ranks = [spearman(a, b) for a, b in zip(plans.costs, costs, strict=True)]
    return msgspec.structs.replace(
        parity,
        cost_rank_correlation=float(np.mean(ranks)),
        cost_rank_correlation_worst=float(np.min(ranks)),
    )


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
    latency_ms: tuple[dict[int, float], dict[int, float]],
) -> GraphParity:
    """sizes, latency_ms: of the variant itself, then of the reference variant."""
    own, base = latency_ms
    single, batch64 = own.get(1), own.get(64)
    return GraphParity(
        part=part,
        sqnr_db=min(sqnr_db(expected, actual), SQNR_CEILING_DB),
        centered_cosine=centered_cosine(expected, actual),
        size_bytes=sizes[0],
        size_ratio=sizes[0] / sizes[1],
        latency_ms=single,
        latency_ratio=None if single is None else single / base[1],
        latency_batch64_ms=batch64,
        latency_batch64_ratio=batch64 / base[64] if batch64 and 64 in base else None,
    )


def run_batched(graph: Graph, feeds: Feeds, batch: int = 16) -> NDArray[np.float32]:
    """Run a graph on inputs of any batch, a few rows at a time; unbatched inputs go as they are."""
    if max(values[0].size for name, values in feeds.items() if name not in UNBATCHED) > _BIG_ROW:
        batch = 1
    return np.concatenate([graph(part) for part in batches(feeds, batch)])


class _Runner:
    """The run-time's encode, predict and rollout over graphs that are not in a bundle yet."""

    def __init__(self, graphs: Mapping[str, Graph], held_out: HeldOut) -> None:
        self._encoder, self._predictor = graphs["encoder"], graphs["predictor"]
        self._held_out = held_out
        self._longest = held_out.latents.shape[1]

    def encode(self, windows: Windows) -> NDArray[np.float32]:
        shape = windows.frames.shape
        feeds: dict[str, NDArray[np.generic]] = {"frames": windows.frames.reshape(-1, *shape[2:])}
        if windows.states is not None:
            feeds["states"] = windows.states.reshape(-1, windows.states.shape[-1])
        latents = run_batched(self._encoder, feeds)
        return latents.reshape(*shape[:2], *latents.shape[1:])

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        further = self._held_out.mean_z(len(history))
        return run_batched(
            self._predictor, {"history": history, "actions": actions, **further}, _PLAN_BATCH
        )

    def rollout(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return roll(self.predict, history, actions, self._longest)


def _candidates(
    windows: Windows, starts: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Per start, its own past actions followed by `count` futures mixed from recorded blocks.

    Each future runs from one recorded window's actions to another's, so that the candidates differ
    by as much as real ones, and stay within the range that the model was trained on.
    """
    steps = windows.frames.shape[1]
    shape = (len(starts), count, 1, 1)
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
    """Median milliseconds by batch; variants take turns, so that a slow spell hits them all.

    Batch 64 is left out where it would take too long.
    """
    medians: dict[str, dict[int, float]] = {name: {} for name in graphs}
    for batch in _BATCHES if graphs else ():
        slowest = max((times.get(1, 0.0) for times in medians.values()), default=0.0)
        if batch * slowest > 1e3 * _SECONDS_PER_CALL:
            break
        # A recording with fewer windows is repeated: the time does not depend on the values.
        part = {
            name: values
            if name in UNBATCHED
            else np.ascontiguousarray(np.resize(values, (batch, *values.shape[1:])))
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
