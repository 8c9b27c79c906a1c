# SPDX-License-Identifier: Apache-2.0
"""A build without the device: every graph is parsed and compiled on this CPU, nothing is run.

TensorRT-RTX shares TensorRT's ONNX parser and type rules, and compiles without a GPU. It cannot
compile for a Jetson, choose TensorRT's kernels, or load what it built here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, MissingDependencyError
from jepa_edge.progress import Progress, silent
from jepa_edge.trt.key import BuildFlags, StrictRecord
from jepa_edge.trt.library import Library, load_library
from jepa_edge.trt.network import PlanRequest, build_plan
from jepa_edge.trt.profiles import make_profiles

SHOWS = (
    "it shows that TensorRT's parser takes every node and that every graph compiles with the "
    "profiles of this bundle; it does not show that a Jetson's TensorRT builds them, nor their "
    "accuracy or speed there: `jepa-edge build` on the Jetson does"
)
_TARGETS = {"fp8": "8.9", "nvfp4": "12.0"}
_TARGET = "8.6"
"""The compute capability that TensorRT-RTX can compile for which is nearest to Orin's 8.7."""
_WORKSPACE = 1 << 30


class DryRow(StrictRecord, frozen=True, kw_only=True):
    """One graph. layers: of the network. precisions: of its matrix products and convolutions.

    plan_bytes: for the target. refused: why it could not be built, "" where it could.
    """

    graph: str
    variant: str
    file: str
    target: str
    layers: int = 0
    precisions: dict[str, int] = msgspec.field(default_factory=dict)
    plan_bytes: int = 0
    seconds: float = 0.0
    refused: str = ""


class DryRun(StrictRecord, frozen=True, kw_only=True):
    """What a dry run found. library: name and version."""

    bundle: str
    library: str
    rows: tuple[DryRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every graph was built."""
        return not any(row.refused for row in self.rows)


def dry_run(
    bundle: Bundle,
    variants: Sequence[str] = (),
    *,
    candidates: int,
    library: Library | None = None,
    keep_plans: Path | None = None,
    progress: Progress = silent,
) -> DryRun:
    """Parse and compile every graph of every variant; what is refused is told in its row.

    variants: names from the manifest; none for all. library: None for TensorRT-RTX, or TensorRT
    where only that is installed, with its GPU. keep_plans: an existing folder that gets the plans
    as VARIANT-GRAPH.plan; they are of no use to a Jetson.
    Raises MissingDependencyError without a library, BundleError for a variant that is not there.
    """
    manifest = bundle.manifest
    missing = [name for name in variants if name not in manifest.variants]
    if missing:
        raise BundleError(
            f"{bundle.path} has no variant {missing[0]!r}, it has {', '.join(manifest.variants)}"
        )
    wanted = variants or tuple(manifest.variants)
    library = _library() if library is None else library
    flags = BuildFlags(workspace_bytes=_WORKSPACE, candidates=candidates)
    rows = []
    for variant in wanted:
        spec = manifest.variants[variant]
        profiles = make_profiles(bundle, variant, candidates)
        target = _TARGETS.get(spec.precision, _TARGET) if library.name == "tensorrt_rtx" else None
        for name, graph in spec.graphs.items():
            request = PlanRequest(
                onnx=bundle.file(graph.file),
                name=f"{variant} {name}",
                precision=spec.precision,
                profiles=profiles[graph.file],
                flags=flags,
                target=target,
            )
            row = DryRow(
                graph=name, variant=variant, file=graph.file, target=target or "this machine's GPU"
            )
            rows.append(_row(library, request, row, keep_plans, progress))
    return DryRun(bundle=str(bundle.path), library=library.told(), rows=tuple(rows))


def _row(
    library: Library, request: PlanRequest, row: DryRow, keep_plans: Path | None, progress: Progress
) -> DryRow:
    start = time.perf_counter()
    try:
        built = build_plan(library, request, progress)
    except BundleError as error:
        spent_s = time.perf_counter() - start
        return msgspec.structs.replace(row, seconds=spent_s, refused=str(error))
    if keep_plans is not None:
        (keep_plans / f"{row.variant}-{row.graph}.plan").write_bytes(memoryview(built.plan))
    return msgspec.structs.replace(
        row,
        layers=built.layers,
        precisions=built.precisions,
        plan_bytes=built.plan.nbytes,
        seconds=built.build_s,
    )


def _library() -> Library:
    try:
        return load_library("tensorrt_rtx")
    except MissingDependencyError as error:
        try:
            return load_library("tensorrt")
        except MissingDependencyError:
            raise error from None
