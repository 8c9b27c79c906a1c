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
class Span:
    """The frames in which a fault is compared with nominal runs: as many on both sides.

    Longer episodes have more frames to alarm in, whatever they show. frames: from `onset` on.
    nominal: (n,), faulty: (m,) bool, the episodes that last so long; the others are left out.
    """

    onset: int
    frames: int
    nominal: NDArray[np.bool_]
    faulty: NDArray[np.bool_]

    @property
    def compared(self) -> slice:
        """The frames themselves."""
        return slice(self.onset, self.onset + self.frames)

    def delay(self, trace: NDArray[np.float64], threshold: float) -> int | None:
        """Frames from the onset to the first alarm among those compared; None without one."""
        after = np.flatnonzero(trace[self.compared] > threshold)
        return int(after[0]) if after.size else None

    def is_early(self, trace: NDArray[np.float64], threshold: float) -> bool:
        """Whether an alarm came before the onset: a false one, and no detection."""
        return _above(trace[: self.onset], threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOutcomes:
    """Per episode, (m,): was there no alarm before the onset, was one after, what is it worth.

    detected and credit are 0 where an alarm came early; such episodes count neither way, nor do
    those that are too short for the `Span`: fresh is false for both.
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


def common_span(onset: int, nominal: Sequence[int], faulty: Sequence[int]) -> Span:
    """Find the frames from `onset` on that nominal and faulty episodes have in common.

    nominal, faulty: frames of every episode. Those that end before the onset are left out, and
    those that have less than half as many frames after it as is usual (the lower median of both
    sides), lest one short episode decide for all.
    Raises InputError when all episodes of a side end before the onset.
    """
    sides = [np.asarray(lengths, np.int64) - onset for lengths in (nominal, faulty)]
    for name, left in zip(("nominal", "faulty"), sides, strict=True):
        if not (left > 0).any():
            raise InputError(
                f"no {name} episode is longer than {onset} frames, where the fault begins; "
                "record longer ones or choose an earlier onset"
            )
    usual = min(float(np.median(left[left > 0])) for left in sides)
    long_enough = [left >= max(1.0, usual / 2.0) for left in sides]
    return Span(
        onset=onset,
        frames=min(int(left[kept].min()) for left, kept in zip(sides, long_enough, strict=True)),
        nominal=long_enough[0],
        faulty=long_enough[1],
    )


def outcomes(traces: Traces) -> Outcomes:
    """Count alarms at the detector's own threshold."""
    return Outcomes(
        name=traces.name,
        alarmed=np.array([_above(trace, traces.threshold) for trace in traces.nominal]),
        cluster=traces.cluster,
        faults={
            name: _fault_outcomes(fault, _span(traces, fault), traces.threshold)
            for name, fault in traces.faults.items()
        },
    )


def rankings(traces: Traces) -> dict[str, Ranking]:
    """Ranking metrics per fault, from the largest score in the frames of its `Span`.

    Raises InputError when no nominal episode reaches that far.
    """
    found = {}
    for name, fault in traces.faults.items():
        span = _span(traces, fault)
        found[name] = ranking(
            _peaks(traces.nominal, span.nominal, span), _peaks(fault.episodes, span.faulty, span)
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
        span = _span(traces, fault)
        kept = [fault.episodes[row] for row in np.flatnonzero(span.faulty).tolist()]
        seen = [span.delay(t, threshold) for t in kept if not span.is_early(t, threshold)]
        if seen:
            shares.append(float(np.mean([delay is not None for delay in seen])))
            late = [span.frames if delay is None else delay for delay in seen]
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


def _fault_outcomes(fault: FaultTraces, span: Span, threshold: float) -> FaultOutcomes:
    fresh = span.faulty.copy()
    credit = np.zeros(len(fresh))
    detected = np.zeros(len(fresh), bool)
    for row in np.flatnonzero(span.faulty).tolist():
        trace = fault.episodes[row]
        fresh[row] = not span.is_early(trace, threshold)
        if fresh[row]:
            delay = span.delay(trace, threshold)
            detected[row] = delay is not None
            credit[row] = time_credit(delay, span.frames)
    return FaultOutcomes(fresh=fresh, detected=detected, credit=credit, cluster=fault.cluster)


def _span(traces: Traces, fault: FaultTraces) -> Span:
    return common_span(
        fault.onset, [len(t) for t in traces.nominal], [len(t) for t in fault.episodes]
    )


def _peaks(
    episodes: Sequence[NDArray[np.float64]], kept: NDArray[np.bool_], span: Span
) -> NDArray[np.float64]:
    return np.array([episodes[row][span.compared].max() for row in np.flatnonzero(kept).tolist()])


def _above(trace: NDArray[np.float64], threshold: float) -> bool:
    return bool(np.any(trace > threshold))
