# SPDX-License-Identifier: Apache-2.0
"""What one detector did on every episode: the common ground of all comparisons of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.evaluation.metrics import (
    mean_ranking,
    ranking,
    run_length,
    time_credit,
)
from jepa_edge.calibration.evaluation.records import OperatingPoint, Ranking
from jepa_edge.errors import InputError

_CURVE = 40
"""Most points of the curve of delay against ARL0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTraces:
    """Scores of episodes with one fault. onset: first frame that it can show in.

    episodes: each (F,) float64, -inf in frames that were not judged. cluster: (m,) int, equal
    numbers for episodes, of whatever fault or of none, that go back to one recorded run.
    """

    onset: int
    episodes: Sequence[NDArray[np.float64]]
    cluster: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """One detector's scores, which alarm above its threshold. Fields as in FaultTraces."""

    name: str
    threshold: float
    nominal: Sequence[NDArray[np.float64]]
    cluster: NDArray[np.int64]
    faults: Mapping[str, FaultTraces]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOutcomes:
    """Per episode, (m,): was there no alarm before the onset, was one after, what is it worth.

    detected and credit are 0 where an alarm came early; such episodes count neither way.
    """

    fresh: NDArray[np.bool_]
    detected: NDArray[np.bool_]
    credit: NDArray[np.float64]
    cluster: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """alarmed: (n,), nominal episodes with an alarm; cluster: (n,) as in FaultTraces."""

    name: str
    alarmed: NDArray[np.bool_]
    cluster: NDArray[np.int64]
    faults: Mapping[str, FaultOutcomes]


def worst(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest channel score per frame, (F, C) -> (F,); -inf where nothing was judged."""
    return np.asarray(np.max(np.where(np.isnan(scores), -np.inf, scores), axis=1))


def outcomes(traces: Traces) -> Outcomes:
    """Count alarms at the detector's own threshold."""
    return Outcomes(
        name=traces.name,
        alarmed=np.array([_above(trace, traces.threshold) for trace in traces.nominal]),
        cluster=traces.cluster,
        faults={
            name: _fault_outcomes(fault, traces.threshold) for name, fault in traces.faults.items()
        },
    )


def rankings(traces: Traces) -> dict[str, Ranking]:
    """Ranking metrics per fault, from the largest score at or after its onset.

    Raises InputError when no nominal episode reaches that far.
    """
    found = {}
    for name, fault in traces.faults.items():
        nominal = [trace[fault.onset :] for trace in traces.nominal if len(trace) > fault.onset]
        if not nominal:
            raise InputError(
                f"no nominal episode is longer than {fault.onset} frames, where {name} begins; "
                "record longer ones, to compare with"
            )
        found[name] = ranking(
            np.array([trace.max() for trace in nominal]),
            np.array([trace[fault.onset :].max() for trace in fault.episodes]),
        )
    return found


def ranking_over_faults(traces: Traces) -> Ranking:
    """The same, averaged over the faults."""
    return mean_ranking(list(rankings(traces).values()))


def operating_point(traces: Traces, threshold: float) -> OperatingPoint:
    """False alarms, ARL0, detection and delay of a detector at one threshold."""
    frames, alarmed = [], []
    for trace in traces.nominal:
        judged = trace[np.isfinite(trace) | (trace > 0)]
        above = np.flatnonzero(judged > threshold)
        frames.append(int(above[0]) + 1 if above.size else len(judged))
        alarmed.append(bool(above.size))
    shares: list[float] = []
    delays: list[float] = []
    for fault in traces.faults.values():
        seen = _delays(fault, threshold)
        if seen:
            shares.append(float(np.mean([delay is not None for _, delay in seen])))
            late = [left if delay is None else delay for left, delay in seen]
            delays.append(float(np.mean(late)))
    return OperatingPoint(
        threshold=threshold,
        false_alarms=float(np.mean(alarmed)),
        run_length=run_length(np.array(frames), np.array(alarmed)),
        detected=float(np.mean(shares)) if shares else 0.0,
        delay=float(np.mean(delays)) if delays else 0.0,
    )


def operating_curve(traces: Traces) -> tuple[OperatingPoint, ...]:
    """Operating points from many false alarms to none, by rising threshold."""
    peaks = np.unique([trace.max() for trace in traces.nominal])
    peaks = peaks[np.isfinite(peaks)]
    chosen = np.unique(np.linspace(0, len(peaks) - 1, min(_CURVE, len(peaks))).astype(int))
    return tuple(operating_point(traces, float(peaks[index])) for index in chosen)


def _fault_outcomes(fault: FaultTraces, threshold: float) -> FaultOutcomes:
    fresh = np.array([not _above(trace[: fault.onset], threshold) for trace in fault.episodes])
    credit = np.zeros(len(fresh))
    detected = np.zeros(len(fresh), bool)
    kept = _delays(fault, threshold)
    for row, (frames, delay) in zip(np.flatnonzero(fresh), kept, strict=True):
        detected[row] = delay is not None
        credit[row] = time_credit(delay, frames)
    return FaultOutcomes(fresh=fresh, detected=detected, credit=credit, cluster=fault.cluster)


def _delays(fault: FaultTraces, threshold: float) -> list[tuple[int, int | None]]:
    """Frames from the onset on and delay, of the episodes without an earlier alarm."""
    rows: list[tuple[int, int | None]] = []
    for trace in fault.episodes:
        if not _above(trace[: fault.onset], threshold):
            after = np.flatnonzero(trace[fault.onset :] > threshold)
            rows.append((len(trace) - fault.onset, int(after[0]) if after.size else None))
    return rows


def _above(trace: NDArray[np.float64], threshold: float) -> bool:
    return bool(np.any(trace > threshold))
