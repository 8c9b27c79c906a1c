# SPDX-License-Identifier: Apache-2.0
"""One robot, variant and seed: calibrate, evaluate beside the rivals, test coverage and spread."""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from jepa_edge.calibration import CalibrateOptions, SpreadReport, calibrate_bundle, compare_spreads
from jepa_edge.calibration.cache import LatentCache
from jepa_edge.calibration.coverage import measure_coverage, measure_group_coverage
from jepa_edge.calibration.dataset import EncodedEpisode, Windows, make_windows
from jepa_edge.calibration.evaluation import EvaluateOptions
from jepa_edge.calibration.evaluation.driver import evaluate_detectors
from jepa_edge.calibration.evaluation.outcomes import Outcomes
from jepa_edge.calibration.evaluation.records import EvaluationReport
from jepa_edge.calibration.fit_spread import lengthen
from jepa_edge.calibration.mondrian import window_sizes
from jepa_edge.calibration.records import Coverage, GroupCoverage
from jepa_edge.calibration.spread import HeadsOnly, pick_windows
from jepa_edge.calibration.thresholds import window_energies
from jepa_edge.export.dropout import DropoutSampler
from jepa_edge.futures import make_sampler
from jepa_edge.latent_variable import Sampler
from jepa_edge.monitor import Monitor
from jepa_edge.progress import silent
from jepa_edge.recording import Recording
from jepa_edge.world_model import WorldModel
from safety import protocol
from safety.record import HEALTHY, fault_folder

_SPREAD_EPISODES = 80
_SPREAD_WINDOWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is calibrated and evaluated."""

    robot: str
    variant: str
    seed: int

    def result(self, root: Path) -> Path:
        """Where the result lies."""
        return root / "results" / f"{self.robot}_{self.variant}_{self.seed}.pickle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """own, rivals: outcomes on the same episodes. inert: simulated faults without any effect."""

    job: Job
    report: EvaluationReport
    own: Outcomes
    rivals: Mapping[str, Outcomes]
    inert: tuple[str, ...]
    coverage: tuple[Coverage, ...]
    group_coverage: tuple[GroupCoverage, ...]
    spreads: tuple[SpreadReport, ...]
    seconds: Mapping[str, float]


def run_job(root: Path, job: Job) -> None:
    """Calibrate, evaluate, store the result; nothing is drawn anew that another job shares."""
    started = time.monotonic()
    base = root / job.robot / f"seed{job.seed}"
    latents = LatentCache(directory=root / "cache")
    bundle = root / "bundles" / f"{job.robot}_{job.variant}_{job.seed}.jepa"
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / job.robot / f"{job.robot}.jepa", bundle)
    calibrate_bundle(
        bundle,
        base / "calibration",
        CalibrateOptions(
            variant=job.variant,
            alpha=protocol.ALPHA,
            conformal=protocol.CONFORMAL_EPISODES,
            seed=job.seed,
            selftest_episodes=0,
            cache=latents.directory,
        ),
    )
    calibrated = time.monotonic()
    model = WorldModel.load(bundle, job.variant)
    monitor = Monitor.load(model)
    nominal = Recording(base / "nominal")
    inert = inert_faults(root / job.robot)
    faults = [f"{fault}@{protocol.ONSET}" for fault in protocol.HELD_OUT_INJECTED] + [
        f"{fault_folder(fault)}={base / fault_folder(fault)}@{protocol.ONSET + 1}"
        for fault in protocol.HELD_OUT_SIMULATED
        if fault not in inert
    ]
    evaluated = evaluate_detectors(
        model,
        monitor,
        nominal,
        faults,
        EvaluateOptions(
            fault_episodes=protocol.FAULT_EPISODES,
            calibration_data=base / "calibration",
            cache=latents.directory,
            seed=job.seed,
            workers=1,
            command="benchmarks/safety/study.py",
        ),
    )
    tested = time.monotonic()
    episodes = latents.encoded(model, nominal)
    windows = _windows(model, episodes)
    energies = window_energies(monitor.latent_variable, windows)
    radius = monitor.calibration.radius(protocol.COVERAGE_ALPHA)
    coverage = measure_coverage(
        energies,
        windows.episode,
        [radius],
        conformal_episodes=protocol.CONFORMAL_EPISODES,
        seed=job.seed,
    )
    groups = monitor.calibration.groups
    if groups is None:
        raise RuntimeError(f"{job}: the calibration has no radii per action group")
    group_coverage = measure_group_coverage(
        energies,
        windows.episode,
        window_sizes(windows, model.manifest.action),
        groups,
        job.seed,
    )
    covered = time.monotonic()
    result = Result(
        job=job,
        report=evaluated.report,
        own=_paired(evaluated.own),
        rivals={name: _paired(rival) for name, rival in evaluated.rivals.items()},
        inert=inert,
        coverage=coverage,
        group_coverage=tuple(
            row
            for row in group_coverage
            if abs(row.coverage.alpha - protocol.COVERAGE_ALPHA) < 1e-12
        ),
        spreads=_spreads(job, base, model, monitor, latents, episodes),
        seconds={
            "calibrate": calibrated - started,
            "evaluate": tested - calibrated,
            "coverage": covered - tested,
            "spread": time.monotonic() - covered,
        },
    )
    path = job.result(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(result))


def _windows(model: WorldModel, episodes: list[EncodedEpisode]) -> Windows:
    return make_windows(model, episodes, model.manifest.history, 5)


@cache
def inert_faults(robot: Path) -> tuple[str, ...]:
    """Simulated faults with which the true states of all seeds are those without, to the number."""
    return tuple(
        fault
        for fault in protocol.HELD_OUT_SIMULATED
        if all(_is_inert(robot / f"seed{seed}", fault) for seed in protocol.SEEDS)
    )


def _is_inert(base: Path, fault: str) -> bool:
    broken, healthy = Recording(base / fault_folder(fault)), Recording(base / HEALTHY)
    for one, other in zip(broken, healthy, strict=True):
        if one.state is None or other.state is None:
            raise RuntimeError(f"{broken.path}: {one.name} has no true state to compare")
        if not np.array_equal(one.state, other.state):
            return False
    return True


def _paired(outcomes: Outcomes) -> Outcomes:
    """Let the runs of all simulated faults be resampled together: they share their seeds."""
    faults = {
        name: fault
        if fault.cluster.max() < protocol.NOMINAL_EPISODES
        else replace(fault, cluster=protocol.NOMINAL_EPISODES + np.arange(len(fault.cluster)))
        for name, fault in outcomes.faults.items()
    }
    return replace(outcomes, faults=faults)


def _spreads(
    job: Job,
    base: Path,
    model: WorldModel,
    monitor: Monitor,
    latents: LatentCache,
    nominal: list[EncodedEpisode],
) -> tuple[SpreadReport, ...]:
    """Spread against error of three samplers on the same rollouts, nominal and shifted."""
    conditions = {"nominal": nominal[:_SPREAD_EPISODES]}
    for fault in protocol.SHIFTED:
        conditions[fault] = latents.encoded(model, Recording(base / fault_folder(fault)))
    windows = {}
    for name, episodes in conditions.items():
        found = lengthen(_windows(model, episodes))
        if name != "nominal":
            found = _after(found)
        windows[name] = pick_windows(found, _SPREAD_WINDOWS, job.seed)
    sampler = make_sampler(model, monitor.latent_variable)
    samplers: dict[str, Sampler] = {"latent variable": sampler, "heads": HeadsOnly(sampler)}
    if job.variant == "fp32":  # the checkpoint in torch, in float32
        samplers["MC-dropout"] = DropoutSampler.load(protocol.ROBOTS[job.robot])
    return compare_spreads(samplers, windows, seed=job.seed, progress=silent)


def _after(windows: Windows) -> Windows:
    """The windows whose newest observed latent comes after the fault's onset."""
    # Windows of an episode come in order; the first has `history` latents and RECENT older ones.
    first = windows.history.shape[1] - 1
    index = np.concatenate(
        [np.arange(np.sum(windows.episode == name)) for name in np.unique(windows.episode)]
    )
    return windows.take(np.flatnonzero(index + first > protocol.ONSET))
