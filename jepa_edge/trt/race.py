# SPDX-License-Identifier: Apache-2.0
"""Which variant a machine keeps: the fastest that reproduces the golden outputs, and why."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jepa_edge.errors import BundleError
from jepa_edge.golden import Golden
from jepa_edge.manifest import Manifest
from jepa_edge.progress import Progress, silent
from jepa_edge.trt.store import Candidate, Latency
from jepa_edge.world_model import WorldModel

ORDER = ("int8_fp16", "fp8", "nvfp4", "fp16", "int8", "int4", "fp32")
"""Precisions that are raced, the likeliest winner first."""

SMALL_WEIGHTS = ("int8w", "int4w")
"""Weights in few bits, computed in float32: they save memory, and are raced where nothing else is
there, or by name."""

_NEEDS = {"fp8": (8, 9), "nvfp4": (10, 0)}
"""Compute capability from which a chip has a precision; Orin (8.7) has neither."""

WARM_UP = 3
FEWEST, MOST = 10, 200
BUDGET_S = 3.0
"""Of one call: timed so often, within so many seconds, but ten times in any case."""

Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds of every repetition of one graph at one batch."""

    graph: str
    batch: int
    times_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """What the race compares."""
        return float(np.median(self.times_ms))

    def latency(self) -> Latency:
        """As it is recorded."""
        p50, p99 = np.percentile(self.times_ms, (50, 99))
        return Latency(graph=self.graph, batch=self.batch, p50_ms=float(p50), p99_ms=float(p99))


def raced_variants(
    manifest: Manifest, compute_capability: str, wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the variants to build, in the order of the race.

    wanted: names from the manifest; none for all in `ORDER` that the chip can do, else those of
    `SMALL_WEIGHTS`.
    Raises BundleError where the bundle has none of them, or not one that was named.
    """
    variants = manifest.variants
    missing = [name for name in wanted if name not in variants]
    if missing:
        raise BundleError(
            f"the bundle has no variant {missing[0]!r}, it has {', '.join(variants)}; export with "
            f"--precision {missing[0]}"
        )
    chip = tuple(int(part) for part in compute_capability.split("."))
    order = (*ORDER, *SMALL_WEIGHTS)

    def rank(name: str) -> int:
        precision = variants[name].precision
        return order.index(precision) if precision in order else len(order)

    def able(name: str) -> bool:
        return chip >= _NEEDS.get(variants[name].precision, (0, 0))

    def among(precisions: Sequence[str]) -> list[str]:
        return [n for n, spec in variants.items() if able(n) and spec.precision in precisions]

    chosen = list(wanted) or among(ORDER) or among(SMALL_WEIGHTS)
    if not chosen:
        raise BundleError(
            f"the bundle has the variants {', '.join(variants)}, none of which TensorRT runs on "
            f"compute capability {compute_capability}; export with --precision fp16"
        )
    for name in wanted:
        if not able(name):
            raise BundleError(
                f"variant {name!r} needs compute capability "
                f"{'.'.join(map(str, _NEEDS[variants[name].precision]))} or newer, this GPU has "
                f"{compute_capability}; build another variant"
            )
    return tuple(sorted(dict.fromkeys(chosen), key=rank))


def timed_calls(model: WorldModel, golden: Golden, candidates: int) -> dict[tuple[str, int], Call]:
    """Return what is timed of a model, by graph and batch: at 1, and the predictor for a plan too.

    The golden inputs are repeated to fill the batch; their copies to and from the GPU count.
    """
    states = None if golden.states is None else golden.states[:1]
    calls: dict[tuple[str, int], Call] = {
        ("encoder", 1): lambda: model.encode(golden.frames[:1], states)
    }
    history, actions = golden.history, golden.actions
    if history is not None and actions is not None:
        for batch in dict.fromkeys((1, candidates)):
            rows = np.arange(batch) % len(history)
            some, taken = history[rows], actions[rows]
            calls["predictor", batch] = functools.partial(model.predict, some, taken)
    return calls


def time_interleaved(
    calls: Mapping[str, Mapping[tuple[str, int], Call]], progress: Progress = silent
) -> dict[str, tuple[Timing, ...]]:
    """Time the calls of all contestants in turns, so that a clock that drifts favours none.

    Returns by contestant. A contestant's calls must be of the same graphs and batches as all
    others'.
    """
    names = list(calls)
    measured: dict[str, list[Timing]] = {name: [] for name in names}
    cases = list(calls[names[0]]) if names else []
    for done, case in enumerate(cases):
        progress("timing the variants", done, len(cases))
        spent: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            for _ in range(WARM_UP):
                calls[name][case]()
        begun = time.perf_counter()
        while _goes_on(len(spent[names[0]]), time.perf_counter() - begun, len(names)):
            for name in names:
                start = time.perf_counter()
                calls[name][case]()
                spent[name].append(1e3 * (time.perf_counter() - start))
        for name in names:
            graph, batch = case
            measured[name].append(Timing(graph=graph, batch=batch, times_ms=tuple(spent[name])))
    progress("timing the variants", len(cases), len(cases))
    return {name: tuple(times) for name, times in measured.items()}


def _goes_on(rounds: int, spent_s: float, contestants: int) -> bool:
    return rounds < FEWEST or (rounds < MOST and spent_s < BUDGET_S * contestants)


def choose(candidates: Sequence[Candidate], where: str) -> tuple[str, str]:
    """Return the variant to keep, and why.

    candidates: in the order of the race, which decides between equals.
    Raises BundleError when none passed.
    """
    timed = [(c.total_ms, c) for c in candidates if c.passed and c.total_ms is not None]
    if not timed:
        told = "; ".join(f"{c.variant}: {c.outcome}" for c in candidates)
        raise BundleError(f"no engine of {where} can be kept: {told}")
    total_ms, best = min(timed, key=lambda pair: pair[0])
    others = [f"{c.variant} {ms:.2f} ms" for ms, c in timed if c is not best]
    failed = [c.variant for c in candidates if not c.passed or c.total_ms is None]
    reason = f"{best.variant} takes {total_ms:.2f} ms and passes the golden outputs"
    if others:
        reason += f"; slower: {', '.join(others)}"
    if failed:
        reason += f"; out of the race: {', '.join(failed)}"
    if not others and not failed:
        reason += "; no other variant was built"
    return best.variant, reason
