# SPDX-License-Identifier: Apache-2.0
"""A bundle's engines for this machine: every candidate built and checked, the fastest kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from jepa_edge.atomic import staged_directory
from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, InputError
from jepa_edge.golden import Golden
from jepa_edge.manifest import calibration_name
from jepa_edge.progress import Progress, silent
from jepa_edge.trt.contestant import Contestant, make_contestant
from jepa_edge.trt.golden_check import reference_rollout
from jepa_edge.trt.key import BuildFlags, StrictRecord
from jepa_edge.trt.race import (
    Timing,
    choose,
    raced_variants,
    time_interleaved,
    timed_calls,
)
from jepa_edge.trt.store import (
    TIMING_CACHE,
    Candidate,
    EngineRecord,
    EngineStore,
    StoredEngine,
    default_root,
    write_record,
)
from jepa_edge.trt.workshop import Workshop
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)

_SPARE = 1.2
"""Buffers and graphs come on top of what plans and activations are known to take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build. variants: names from the manifest, none for all that the chip can do.

    out: folder of engines, None for NAME.engines beside the bundle. workspace_gb: scratch memory of
    a layer, None for a share of what is free. dla: core number; what it cannot do runs on the GPU.
    candidates: largest batch of the predictor, the planner's. force: build although the engines
    there fit. Raises InputError for numbers outside their range.
    """

    variants: tuple[str, ...] = ()
    out: Path | None = None
    workspace_gb: float | None = None
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    optimization_level: int = 3
    candidates: int = 300
    force: bool = False

    def __post_init__(self) -> None:
        if self.workspace_gb is not None and not 0.001 <= self.workspace_gb <= 1024.0:
            raise InputError(f"workspace_gb is {self.workspace_gb}, expected 0.001 to 1024")
        if not 0 <= self.optimization_level <= 5:
            raise InputError(f"optimization_level is {self.optimization_level}, expected 0 to 5")
        if self.candidates < 1:
            raise InputError(f"candidates is {self.candidates}, expected 1 or more")
        if self.dla is not None and self.dla < 0:
            raise InputError(f"dla is {self.dla}, expected the number of a core, 0 or more")

    def flags(self, workshop: Workshop) -> BuildFlags:
        """Return what is asked of TensorRT."""
        given = self.workspace_gb
        return BuildFlags(
            workspace_bytes=workshop.workspace_bytes() if given is None else int(given * 2**30),
            dla=self.dla,
            version_compatible=self.version_compatible,
            hardware_compatible=self.hardware_compatible,
            optimization_level=self.optimization_level,
            candidates=self.candidates,
        )


class BuildReport(StrictRecord, frozen=True, kw_only=True):
    """What a build gave. built: False where the engines there fitted. notes: what to do next."""

    folder: str
    built: bool
    record: EngineRecord
    notes: tuple[str, ...]


def build_engines(
    bundle: Bundle,
    options: BuildOptions,
    workshop: Workshop,
    progress: Progress = silent,
) -> BuildReport:
    """Build every candidate variant, check it on the golden outputs, keep the fastest that passes.

    The folder of this machine's engines is replaced as a whole at the end; on any error the old one
    stays. Raises BundleError when no candidate can be kept, with every reason; InputError for a DLA
    core that is not there, or an `out` inside the bundle.
    """
    _check_outside(bundle, options.out)
    store = EngineStore(bundle, options.out)
    machine, manifest = workshop.machine, bundle.manifest
    variants = raced_variants(manifest, machine.compute_capability, options.variants)
    flags = options.flags(workshop)
    old = None if options.force else _kept(store, options, workshop, flags, variants)
    if old is not None:
        return _report(bundle, options, old.folder, old.record, built=False)
    golden = Golden.read(bundle)
    reference = reference_rollout(bundle, golden)
    target = store.folder(machine)
    cache = _read(target / TIMING_CACHE)
    contestants = []
    with staged_directory(target) as staging:
        for done, variant in enumerate(variants):
            progress("variants", done, len(variants))
            contestant, cache = make_contestant(
                bundle, variant, staging, workshop, flags, golden, reference, cache, progress
            )
            contestants.append(contestant)
            logger.info("%s: %s", variant, contestant.outcome)
        progress("variants", len(variants), len(variants))
        timings, failures = _race(bundle, workshop, contestants, golden, flags.candidates, progress)
        candidates = tuple(
            _candidate(one, timings.get(one.variant), failures.get(one.variant, ""))
            for one in contestants
        )
        kept, reason = choose(candidates, str(bundle.path))
        for one in contestants:
            if one.variant != kept:
                shutil.rmtree(staging / one.variant, ignore_errors=True)
        stored = next(one.stored for one in contestants if one.variant == kept)
        assert stored is not None
        record = msgspec.structs.replace(
            stored.record,
            latencies=tuple(timing.latency() for timing in timings[kept]),
            reason=reason,
            race=candidates,
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        write_record(staging / kept, record)
        if cache:
            (staging / TIMING_CACHE).write_bytes(cache)
    return _report(bundle, options, target / kept, record, built=True)


def _check_outside(bundle: Bundle, out: Path | None) -> None:
    """Raise InputError where engines would be put into the bundle, or where no folder can be."""
    if out is None:
        return
    if out.resolve().is_relative_to(bundle.path.resolve()):
        raise InputError(
            f"--out is {out}, inside the bundle; a bundle holds only what was signed with it: "
            "choose a folder elsewhere, or leave it out"
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, which is no folder; choose another")


def _kept(
    store: EngineStore,
    options: BuildOptions,
    workshop: Workshop,
    flags: BuildFlags,
    variants: Sequence[str],
) -> StoredEngine | None:
    """Return the engine of an earlier build that this one would only repeat."""
    for name in store.bundle.manifest.variants:
        stored = store.find(name, workshop.machine)
        if stored is None:
            continue
        before = stored.record.key.flags
        if options.workspace_gb is None:  # a share of what is free: never twice the same
            before = msgspec.structs.replace(before, workspace_bytes=flags.workspace_bytes)
        if before == flags and {c.variant for c in stored.record.race} == set(variants):
            try:
                for file in stored.record.plans:
                    stored.plan(file)
            except BundleError as error:
                logger.warning("%s: building it now", error)
                continue
            return stored
    return None


def _race(
    bundle: Bundle,
    workshop: Workshop,
    contestants: Sequence[Contestant],
    golden: Golden,
    candidates: int,
    progress: Progress,
) -> tuple[dict[str, tuple[Timing, ...]], dict[str, str]]:
    """Time those that passed: together, or one after another where memory does not hold them.

    Returns times, and why some have none, by variant.
    """
    passed = [one for one in contestants if one.passed]
    need = sum(one.device_bytes for one in passed)
    if need * _SPARE < workshop.free_bytes():
        try:
            return _timed(bundle, workshop, passed, golden, candidates, progress), {}
        except BundleError as error:
            if len(passed) == 1:
                raise
            logger.warning("not all variants load together (%s): timed one by one", error)
    timings: dict[str, tuple[Timing, ...]] = {}
    failures: dict[str, str] = {}

    def time_alone(one: Contestant) -> None:
        try:
            timings.update(_timed(bundle, workshop, [one], golden, candidates, progress))
        except BundleError as error:
            failures[one.variant] = f"passed the golden outputs, but could not be timed: {error}"

    for one in passed:
        time_alone(one)
    return timings, failures


def _timed(
    bundle: Bundle,
    workshop: Workshop,
    group: Sequence[Contestant],
    golden: Golden,
    candidates: int,
    progress: Progress,
) -> dict[str, tuple[Timing, ...]]:
    """Load some engines, time them in turns, and let them go again."""
    calls = {
        one.variant: timed_calls(
            WorldModel(bundle, one.variant, workshop.backend(one.stored)), golden, candidates
        )
        for one in group
        if one.stored is not None
    }
    return time_interleaved(calls, progress)


def _candidate(one: Contestant, timings: tuple[Timing, ...] | None, failure: str) -> Candidate:
    return Candidate(
        variant=one.variant,
        passed=one.passed,
        total_ms=None if timings is None else sum(timing.median_ms for timing in timings),
        sqnr_db=one.sqnr_db,
        outcome=failure or one.outcome,
    )


def _report(
    bundle: Bundle, options: BuildOptions, folder: Path, record: EngineRecord, *, built: bool
) -> BuildReport:
    name, notes = record.variant, []
    root = options.out
    elsewhere = "" if root in (None, default_root(bundle.path)) else f" --engines {root}"
    if elsewhere:
        notes.append(f"pass{elsewhere} wherever this bundle is loaded")
    if calibration_name(name) in bundle.manifest.files:
        notes.append(
            "its calibration was made on another runtime: flags say UNKNOWN, not_armed, until "
            f"`jepa-edge selftest {bundle.path} --variant {name}{elsewhere}` passed here"
        )
    else:
        files, variants = bundle.manifest.files, bundle.manifest.variants
        calibrated = [other for other in variants if calibration_name(other) in files]
        if calibrated:
            notes.append(
                f"variant {name} was kept and is not calibrated, {', '.join(calibrated)} is: a "
                "calibrated run does not use this engine; `jepa-edge build "
                f"{bundle.path} --variant {','.join(calibrated)}"
                f"{'' if root is None else f' --out {root}'}`, or calibrate {name}"
            )
    return BuildReport(folder=str(folder), built=built, record=record, notes=tuple(notes))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except OSError:
        return b""
