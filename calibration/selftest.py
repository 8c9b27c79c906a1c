# SPDX-License-Identifier: Apache-2.0
"""Puts the on-device self-test into a bundle: stored episodes, and what must come out of them."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from scipy import stats

from jepa_edge.bundle import sha256_file
from jepa_edge.calibration.conformal import predictive_interval
from jepa_edge.calibration_file import Calibration
from jepa_edge.channels import first_step
from jepa_edge.encoding import frame_of, steps_of
from jepa_edge.faults import FAULTS, FaultKind
from jepa_edge.faults.library import Injection
from jepa_edge.json_text import json_bytes
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Episode, Recording, RecordingWriter
from jepa_edge.selftest import Counts, replay
from jepa_edge.selftest_file import FOLDER, Check, Plan, SelfTest, selftest_name

FALSE_REFUSALS = 0.05
"""Probability, at most, that an engine as good as the calibrated one is refused by any check."""

SELFTEST_FAULTS = ("occlusion", "freeze", "exposure", "salt", "inverted", "delay")
"""Faults that recorded streams can show: four of the camera, two of the actuators, which only a
model that takes actions can see."""


FEW_EPISODES = 24
"""A self-test on fewer episodes sees little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTest:
    """A variant's self-test before it is written. episodes: numbers within the recording."""

    recording: Recording
    episodes: tuple[int, ...]
    folder: str
    plan: Plan
    checks: tuple[Check, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the bench itself does not pass, no other machine should then; and blunt checks."""
        blunt = [check.name for check in self.checks if _is_blunt(check)]
        few: list[str] = []
        if blunt:
            few.append(
                f"the self-test accepts anything for {', '.join(blunt)}, on {len(self.episodes)} "
                "stored episodes; a machine that is wrong there would pass: store more with "
                "--selftest-episodes"
            )
        elif len(self.episodes) < FEW_EPISODES:
            few.append(
                f"the self-test holds {len(self.episodes)} episodes, fewer than {FEW_EPISODES}: "
                "only coarse faults of a machine show; store more with --selftest-episodes"
            )
        failed = tuple(
            f"the bench itself does not pass its self-test: {check.name} {check.bench} of "
            f"{check.trials}, accepted are {check.low} to {check.high}; the machines that need it "
            "will refuse to arm: look at the held-out episodes, or calibrate again"
            for check in self.checks
            if not check.low <= check.bench <= check.high
        )
        return (*failed, *few)


def prepare_selftest(
    monitor: Monitor,
    recording: Recording,
    held_out: Sequence[int],
    episodes: int,
    seed: int,
    progress: Progress = silent,
) -> StoredTest | None:
    """Choose episodes of the test split and count with them what a device must count again.

    held_out: numbers of the test split's episodes. episodes: how many to store; all of the split
    where it has fewer, and None is returned for 0.
    """
    rng = np.random.default_rng(seed)
    count = min(episodes, len(held_out))
    if count == 0:
        return None
    chosen = sorted(int(n) for n in rng.choice(np.asarray(held_out), count, replace=False))
    loaded = [_without_state(recording.load(number)) for number in chosen]
    history = monitor.model.manifest.history
    horizon, clip = monitor.calibration.horizon, monitor.model.manifest.observation.clip
    takes_actions = monitor.model.takes_actions
    shortest = min(steps_of(len(episode.frames), clip) - 1 for episode in loaded)
    onset = frame_of(max(first_step(history), shortest // 3), clip)
    faults = [
        name for name in SELFTEST_FAULTS if takes_actions or FAULTS[name].kind is FaultKind.CAMERA
    ]
    plan = Plan(
        starts=tuple(
            int(rng.integers(len(episode.frames) - history - horizon + 1)) if takes_actions else 0
            for episode in loaded
        ),
        alpha=monitor.calibration.alpha,
        faults=tuple(
            str(Injection(name=name, severity=FAULTS[name].severity, onset=onset))
            for name in faults
        ),
    )
    counts = replay(monitor, loaded, plan, progress)
    digests = "".join(sha256_file(recording.files[number]) for number in chosen)
    return StoredTest(
        recording=recording,
        episodes=tuple(chosen),
        folder=f"{FOLDER}/episodes-{hashlib.sha256(digests.encode()).hexdigest()[:12]}",
        plan=plan,
        checks=make_checks(counts, plan, monitor.calibration),
    )


def make_checks(counts: Counts, plan: Plan, calibration: Calibration) -> tuple[Check, ...]:
    """Set the interval of every count; together they refuse FALSE_REFUSALS of good engines at most.

    counts: of the bench. All intervals are one-sided, towards harm: fewer alarms than usual are
    not one, since detection has checks of its own. Alarms and coverage are exact beta-binomial,
    which holds for fresh episodes under the calibration's own guarantee, whatever the bench
    counted. Detection has no guarantee of its own: its least count is that of the exact test of
    two samples, the bench's and the device's.
    """
    trials = len(plan.starts)
    tail = FALSE_REFUSALS / (1 + len(counts.covered) + len(counts.detected))
    conformal, caution_alpha = calibration.thresholds.episodes, calibration.thresholds.caution_alpha
    quiet, _ = predictive_interval(trials, conformal, caution_alpha, 1.0 - 2.0 * tail)
    covered, _ = predictive_interval(trials, conformal, plan.alpha, 1.0 - 2.0 * tail)
    rows = [("false alarms", counts.alarms, 0, trials - quiet)]
    for step, count in enumerate(counts.covered):
        rows.append((f"coverage, horizon {step + 1}", count, covered, trials))
    for fault, count in zip(plan.faults, counts.detected, strict=True):
        rows.append((f"detects {fault}", count, least_successes(count, trials, tail), trials))
    return tuple(
        Check(name=name, trials=trials, bench=bench, low=low, high=high)
        for name, bench, low, high in rows
    )


def _is_blunt(check: Check) -> bool:
    """Whether every count passes."""
    return check.low == 0 and check.high == check.trials


def least_successes(successes: int, trials: int, tail: float) -> int:
    """Return the fewest successes of a second sample that one of equal probability would show.

    Fewer have a probability of at most `tail` given the total of both samples of `trials` each.
    Source: Fisher 1935, the exact test of two proportions.
    """
    for count in range(successes, -1, -1):
        # A second sample this poor or poorer, given that both together have successes + count.
        law = stats.hypergeom(2 * trials, successes + count, trials)
        if float(law.cdf(count)) <= tail:
            return count + 1
    return 0


def write_selftest(
    staging: Path, variant: str, stored: StoredTest | None, calibration: Path
) -> None:
    """Put a variant's self-test into a staged bundle, or take an older one out of it.

    calibration: the variant's calibration file, written already. Episodes that are there already,
    of another variant, are shared.
    """
    file = staging / selftest_name(variant)
    file.unlink(missing_ok=True)
    if stored is not None:
        folder = staging / stored.folder
        if not folder.exists():
            info = msgspec.structs.replace(stored.recording.info, state_names=())
            with RecordingWriter(folder, info) as writer:
                for number in stored.episodes:
                    writer.add(_without_state(stored.recording.load(number)))
        selftest = SelfTest(
            variant=variant,
            calibration_sha256=sha256_file(calibration),
            recording=stored.folder,
            plan=stored.plan,
            checks=stored.checks,
            false_refusals=FALSE_REFUSALS,
        )
        file.write_bytes(json_bytes(selftest))


def drop_unused_episodes(staging: Path) -> None:
    """Remove stored episodes that no variant's self-test names any more."""
    used = {
        msgspec.json.decode(file.read_bytes(), type=SelfTest).recording
        for file in (staging / FOLDER).glob("*.json")
    }
    for folder in (staging / FOLDER).glob("episodes-*"):
        if f"{FOLDER}/{folder.name}" not in used:
            shutil.rmtree(folder)


def _without_state(episode: Episode) -> Episode:
    """The self-test needs no ground truth, and a robot has no use for it."""
    return dataclasses.replace(episode, state=None)
