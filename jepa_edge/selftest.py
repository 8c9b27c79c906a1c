# SPDX-License-Identifier: Apache-2.0
"""The on-device self-test: stored nominal episodes and faults, replayed with the engine at hand.

The bench counts with the same code what this machine must count again (calibration/selftest.py).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.arming import ArmingRecord, remove_record, write_record
from jepa_edge.binding import Binding, current_binding, machine_mismatches
from jepa_edge.encoding import EncodedEpisode, encode_episode, step_seeing
from jepa_edge.faults import FaultKind, inject_recorded, parse_fault
from jepa_edge.latent_variable import Transitions
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Episode, check_fits
from jepa_edge.rollout import roll
from jepa_edge.selftest_file import Check, Plan, read_selftest
from jepa_edge.version import __version__


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """A check, and what was counted here."""

    check: Check
    here: int

    @property
    def passed(self) -> bool:
        """Whether the count lies in its interval."""
        return self.check.low <= self.here <= self.check.high


class SelfTestReport(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a self-test. differences: runtime and device against the calibration's, in words.

    record: where the machine remembers that it passed; empty when it did not.
    """

    passed: bool
    variant: str
    binding: Binding
    differences: tuple[str, ...]
    results: tuple[CheckResult, ...]
    seconds: float
    record: str

    @property
    def failures(self) -> list[str]:
        """What left its interval, in words."""
        return [
            f"{r.check.name}: {r.here} of {r.check.trials}, accepted are {r.check.low} to "
            f"{r.check.high} (bench {r.check.bench})"
            for r in self.results
            if not r.passed
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many of the episodes alarmed, were covered per horizon, and were detected per fault.

    covered: empty in a model that takes no actions.
    """

    alarms: int
    covered: tuple[int, ...]
    detected: tuple[int, ...]

    def in_order(self) -> list[int]:
        """All counts in the order of a self-test's checks."""
        return [self.alarms, *self.covered, *self.detected]


def run_selftest(
    monitor: Monitor, *, state: Path | None = None, progress: Progress = silent
) -> SelfTestReport:
    """Replay the bundle's self-test, and arm this machine for it, or disarm it.

    Only when every count lies in its interval a record is written; else an older one is removed.
    state: the state directory; None for the user's. The thresholds stay as they are.
    Raises CalibrationError when the bundle has no self-test for the variant.
    """
    model = monitor.model
    binding = current_binding(model)
    remove_record(model, binding, state)  # first: a test that breaks off arms nothing
    selftest, recording = read_selftest(model.bundle, model.variant)
    spec = model.manifest
    check_fits(recording, spec.observation, spec.action, spec.state)
    started = datetime.datetime.now(datetime.timezone.utc)
    counts = replay(monitor, recording, selftest.plan, progress).in_order()
    results = tuple(
        CheckResult(check=check, here=here)
        for check, here in zip(selftest.checks, counts, strict=True)
    )
    passed = all(result.passed for result in results)
    now = datetime.datetime.now(datetime.timezone.utc)
    record = ""
    if passed:
        written = write_record(
            ArmingRecord(
                manifest_sha256=model.manifest.sha256,
                variant=model.variant,
                binding=binding,
                jepa_edge=__version__,
                passed_utc=now.isoformat(timespec="seconds"),
                checks=len(results),
            ),
            model,
            state,
        )
        record = str(written)
    return SelfTestReport(
        passed=passed,
        variant=model.variant,
        binding=binding,
        differences=tuple(machine_mismatches(monitor.calibration.binding, binding)),
        results=results,
        seconds=round((now - started).total_seconds(), 3),
        record=record,
    )


def replay(
    monitor: Monitor, episodes: Iterable[Episode], plan: Plan, progress: Progress = silent
) -> Counts:
    """Run episodes, as they are and with each fault, through the monitor, and count.

    An alarm is a score above the caution threshold; with a fault it counts from the onset on.
    """
    injections = [parse_fault(text) for text in plan.faults]
    manifest = monitor.model.manifest
    caution = monitor.calibration.thresholds.caution
    alarms = 0
    detected = [0] * len(injections)
    latents, actions = [], []
    for number, episode in enumerate(episodes):
        encoded = encode_episode(monitor.model, episode)
        alarms += alarmed(_scored(monitor, encoded), caution)
        latents.append(encoded.latents)
        actions.append(encoded.actions)
        for index, injection in enumerate(injections):
            faulty = inject_recorded(episode, injection, manifest.action, number)
            if injection.fault.kind is FaultKind.CAMERA:
                seen = encode_episode(monitor.model, faulty)
            else:  # an actuator fault changes commands only
                shown = encoded.latents[: len(faulty.frames)]
                seen = replace(encoded, latents=shown, actions=faulty.actions)
            first = step_seeing(injection.onset, manifest.observation.clip)
            detected[index] += alarmed(_scored(monitor, seen)[first:], caution)
        progress("self-test", number + 1, len(plan.starts))
    if not monitor.model.takes_actions:
        return Counts(alarms=alarms, covered=(), detected=tuple(detected))
    energies = window_energies(monitor, latents, actions, plan.starts)
    limits = np.array(monitor.calibration.radius(plan.alpha).energies)
    return Counts(
        alarms=alarms,
        covered=tuple(int(count) for count in np.sum(energies <= limits, axis=0)),
        detected=tuple(detected),
    )


def _scored(monitor: Monitor, episode: EncodedEpisode) -> NDArray[np.float64]:
    return monitor.episode(episode.latents, episode.actions, episode.masked)


def alarmed(scores: NDArray[np.float64], caution: float) -> bool:
    """Whether any score (T, C) exceeds the threshold; NaN, during warm-up, does not."""
    return bool(np.any(scores > caution))


def window_energies(
    monitor: Monitor,
    latents: Sequence[NDArray[np.float32]],
    actions: Sequence[NDArray[np.float32]],
    starts: Sequence[int],
) -> NDArray[np.float64]:
    """Innovation energy of one window per episode at every calibrated horizon: (episodes, H).

    starts: first latent of each window's history. An energy that is not a number is infinite.
    """
    history = monitor.model.manifest.history
    horizon = monitor.calibration.horizon
    rows = list(zip(latents, actions, starts, strict=True))
    past = np.stack([z[s : s + history] for z, _, s in rows])
    taken = np.stack([a[s : s + history - 1 + horizon] for _, a, s in rows])
    observed = np.stack([z[s + history : s + history + horizon] for z, _, s in rows])
    predicted = roll(monitor.model.predict, past, taken)
    energies = []
    for step in range(horizon):
        transitions = Transitions(
            previous=past[:, -1] if step == 0 else predicted[:, step - 1],
            predicted=predicted[:, step],
            action=taken[:, history - 1 + step],
            step=np.full(len(rows), step + 1, np.int64),
        )
        energies.append(monitor.latent_variable.energy(transitions, observed[:, step]))
    return np.nan_to_num(np.stack(energies, axis=1).astype(np.float64), nan=np.inf)
