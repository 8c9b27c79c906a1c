# SPDX-License-Identifier: Apache-2.0
"""Every precision of a big model, file by file: nothing but one layer is ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jepa_edge.errors import ExportError, InputError
from jepa_edge.export.big_export import export_external
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.half_weights import half_weights
from jepa_edge.export.options import CALIBRATED, Precision
from jepa_edge.export.weight_only import MIN_WEIGHTS, weight_only
from jepa_edge.progress import Progress, silent

_LOWER: dict[Precision, Callable[[Path, Path], dict[str, int]]] = {
    Precision.FP16: half_weights,
    Precision.INT8_WEIGHTS: lambda source, target: weight_only(source, target, 8),
    Precision.INT4_WEIGHTS: lambda source, target: weight_only(source, target, 4),
}


def write_big_variants(
    graphs: Mapping[str, GraphModule],
    places: Mapping[Precision, Mapping[str, Path]],
    progress: Progress = silent,
) -> None:
    """Export every graph with external weights, and make the other precisions from the files.

    places: by precision, fp32 among them, and graph: where to write.
    Raises InputError for int8 and what else is calibrated: those quantizers hold a model in
    memory several times over.
    ExportError when torch or ONNX refuses.
    """
    if calibrated := [p.value for p in CALIBRATED if p in places]:
        raise InputError(
            f"{calibrated[0]} with measured activation ranges is not made of models of this size; "
            "take int8w, which stores weights in int8 and needs no calibration data"
        )
    floats = places[Precision.FP32]
    for done, (name, graph) in enumerate(graphs.items()):
        progress("exporting to ONNX", done, len(graphs))
        export_external(graph, floats[name])
    progress("exporting to ONNX", len(graphs), len(graphs))
    for precision, paths in places.items():
        if precision is not Precision.FP32:
            lower(floats, paths, precision, progress)


def lower(
    sources: Mapping[str, Path],
    targets: Mapping[str, Path],
    precision: Precision,
    progress: Progress = silent,
) -> None:
    """Write FP16 or integer-weight copies of float graphs of any size, by the graphs' names.

    A graph of small layers only stays in float. Raises ExportError when all of them do.
    """
    stage = f"converting to {precision.value}"
    changed = 0
    for done, (name, target) in enumerate(targets.items()):
        progress(stage, done, len(targets))
        counts = _LOWER[precision](sources[name], target)
        changed += counts.get(precision.value, 0)
    progress(stage, len(targets), len(targets))
    if not changed:
        raise ExportError(
            f"no layer of {', '.join(targets)} is a MatMul or Gemm with {MIN_WEIGHTS} weights or "
            f"more, which {precision.value} would store in fewer bits; leave it out of --precision"
        )
