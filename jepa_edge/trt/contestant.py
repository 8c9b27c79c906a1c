# SPDX-License-Identifier: Apache-2.0
"""One variant in the race: its plans built, read back, loaded, and held against golden outputs."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, JepaEdgeError, MissingDependencyError
from jepa_edge.golden import Golden
from jepa_edge.json_text import json_bytes
from jepa_edge.masked import read_patterns
from jepa_edge.progress import Progress
from jepa_edge.trt.diagnose import diagnose
from jepa_edge.trt.golden_check import GoldenCheck, check_golden
from jepa_edge.trt.inspector import UNKNOWN
from jepa_edge.trt.key import BuildFlags, EngineKey
from jepa_edge.trt.network import BuiltPlan, PlanRequest, build_plan
from jepa_edge.trt.profiles import make_profiles
from jepa_edge.trt.store import EngineRecord, PlanRecord, StoredEngine, graph_digests, write_record
from jepa_edge.trt.workshop import Workshop
from jepa_edge.version import __version__
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)

LAYERS_SUFFIX = ".layers.json"
_NARROW = ("int8", "fp8", "fp4", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A variant and how it did. stored: None where it could not be built.

    outcome: in words. sqnr_db: of the golden outputs and the rollout.
    """

    variant: str
    passed: bool
    outcome: str
    stored: StoredEngine | None = None
    sqnr_db: dict[str, float] = field(default_factory=dict)

    @property
    def device_bytes(self) -> int:
        """What it takes on the device, about: its plans and its activations."""
        return 0 if self.stored is None else self.stored.record.device_memory_bytes


def make_contestant(
    bundle: Bundle,
    variant: str,
    staging: Path,
    workshop: Workshop,
    flags: BuildFlags,
    golden: Golden,
    reference: NDArray[np.float32] | None,
    timing_cache: bytes,
    progress: Progress,
) -> tuple[Contestant, bytes]:
    """Build and check one variant in `staging`/VARIANT; return it and the grown timing cache.

    A variant that TensorRT refuses, or that misses the golden outputs, is returned with the reason.
    """
    folder = staging / variant
    folder.mkdir()
    cache = timing_cache
    try:
        stored, cache = _build(bundle, variant, folder, workshop, flags, cache, progress)
        model = WorldModel(bundle, variant, workshop.backend(stored))
        check = check_golden(model, golden, reference)
        del model  # before the next is built: a Jetson's memory is one
    except BundleError as error:
        return Contestant(variant=variant, passed=False, outcome=str(error)), cache
    record = msgspec.structs.replace(stored.record, golden_db=_finite(check.sqnr_db))
    write_record(folder, record)
    outcome = f"golden outputs pass: {check.told()}"
    if not check.passed:
        why = _diagnosis(bundle, variant, workshop, golden, check, progress)
        outcome = f"golden outputs fail: {check.told()}{why}"
    contestant = Contestant(
        variant=variant,
        passed=check.passed,
        outcome=outcome,
        stored=StoredEngine(bundle=bundle, variant=variant, folder=folder, record=record),
        sqnr_db=_finite(check.sqnr_db),
    )
    return contestant, cache


def _build(
    bundle: Bundle,
    variant: str,
    folder: Path,
    workshop: Workshop,
    flags: BuildFlags,
    timing_cache: bytes,
    progress: Progress,
) -> tuple[StoredEngine, bytes]:
    spec = bundle.manifest.variants[variant]
    profiles = make_profiles(bundle, variant, flags.candidates)
    plans: dict[str, PlanRecord] = {}
    typed: dict[str, bool] = {}
    warnings: list[str] = []
    build_s = 0.0
    for name, graph in spec.graphs.items():
        request = PlanRequest(
            onnx=bundle.file(graph.file),
            name=f"{variant} {name}",
            precision=spec.precision,
            profiles=profiles[graph.file],
            flags=flags,
            target=workshop.target,
            timing_cache=timing_cache,
        )
        built = build_plan(workshop.library, request, progress)
        path = folder / f"{name}.plan"
        path.write_bytes(memoryview(built.plan))
        inspection = workshop.inspect(path, flags)
        (folder / f"{name}{LAYERS_SUFFIX}").write_bytes(json_bytes(inspection.layers))
        plans[graph.file] = PlanRecord(
            file=path.name,
            sha256=hashlib.sha256(memoryview(built.plan)).hexdigest(),
            bytes=built.plan.nbytes,
            layers=inspection.precisions,
            memory_bytes=inspection.memory_bytes,
        )
        typed[graph.file] = built.strongly_typed
        timing_cache = built.timing_cache or timing_cache
        warnings += [
            *built.warnings,
            *_unrealized(f"{variant} {name}", built, inspection.precisions),
        ]
        build_s += built.build_s
    record = EngineRecord(
        key=EngineKey(
            machine=workshop.machine,
            graphs=graph_digests(bundle.manifest, variant),
            flags=flags,
            profiles=profiles,
            strongly_typed=typed,
        ),
        variant=variant,
        precision=spec.precision,
        plans=plans,
        golden_db={},
        latencies=(),
        device_memory_bytes=sum(plan.bytes + plan.memory_bytes for plan in plans.values()),
        build_s=build_s,
        reason="",
        race=(),
        warnings=tuple(dict.fromkeys(warnings)),
        jepa_edge=__version__,
        created_utc="",
    )
    write_record(folder, record)
    stored = StoredEngine(bundle=bundle, variant=variant, folder=folder, record=record)
    return stored, timing_cache


def _unrealized(name: str, built: BuiltPlan, layers: dict[str, int]) -> list[str]:
    """Warn where a precision was asked for and no layer runs in it."""
    asked = [kind for kind in _NARROW if built.precisions.get(kind)]
    return [
        f"{name}: {built.precisions[kind]} products are to run in {kind}, no layer of the engine "
        "does: TensorRT found other kernels faster, or has none"
        for kind in asked
        if kind not in layers and UNKNOWN not in layers
    ]


def _diagnosis(
    bundle: Bundle,
    variant: str,
    workshop: Workshop,
    golden: Golden,
    check: GoldenCheck,
    progress: Progress,
) -> str:
    """Say which layer is the first that is wrong, and what to try; "" where nothing can be said."""
    spec = bundle.manifest.variants[variant]
    told = []
    for name in check.failed_graphs:
        feeds = golden_feeds(bundle, golden, name)
        shapes = {key: array.shape for key, array in feeds.items()}
        try:
            found = diagnose(
                bundle.file(spec.graphs[name].file),
                feeds,
                workshop.runner(shapes),
                precision=spec.precision,
                progress=progress,
            )
        except MissingDependencyError as error:
            return f"; no per-layer comparison: {error}"
        except JepaEdgeError as error:
            told.append(f"; {name}: no per-layer comparison: {error}")
            continue
        advice = "" if found.plan is None else f"; try: {' '.join(found.plan.advice)}"
        told.append(f"; {name}: {found.told()}{advice}")
    return "".join(told)


def golden_feeds(bundle: Bundle, golden: Golden, name: str) -> dict[str, NDArray[Any]]:
    """Return the golden inputs of a graph by the names of its inputs."""
    manifest = bundle.manifest
    spec = manifest.variants[next(iter(manifest.variants))].graphs[name]
    known: dict[str, NDArray[Any] | None] = {
        "frames": golden.frames,
        "states": golden.states,
        "history": golden.history,
        "actions": golden.actions,
        "context": golden.context,
        "visible": np.arange(manifest.latent.tokens, dtype=np.int64),
    }
    if manifest.masks is not None and name == "mask_predictor":
        patterns = read_patterns(bundle.file(manifest.masks.file), manifest.latent.tokens)
        known["visible"], known["hidden"] = (part[0] for part in patterns)
    noise = manifest.noise
    if not isinstance(noise, msgspec.UnsetType):
        known["z"] = np.zeros((len(golden.frames), noise.dim), np.float32)
    feeds = {tensor.name: known.get(tensor.name) for tensor in spec.inputs}
    return {key: array for key, array in feeds.items() if array is not None}


def _finite(values: dict[str, float]) -> dict[str, float]:
    """JSON knows no infinity: a result that was not finite counts as -999 dB."""
    return {key: max(value, -999.0) for key, value in values.items()}
