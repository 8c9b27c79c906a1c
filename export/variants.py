# SPDX-License-Identifier: Apache-2.0
"""The graphs of a model in every precision asked for, written into the bundle's folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.export.big_export import is_big
from jepa_edge.export.big_variants import lower, write_big_variants
from jepa_edge.export.data import ExportData, Windows
from jepa_edge.export.families.base import LoadedModel, Masks, Reference
from jepa_edge.export.int8 import QuantizationReport, make_int8
from jepa_edge.export.low_bits import make_low_bits
from jepa_edge.export.modelopt import find_python
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.export.options import BY_MODELOPT, CALIBRATED, ExportOptions, Precision
from jepa_edge.export.profile import realized_precisions
from jepa_edge.export.quantize import to_fp16, to_int8_fp16
from jepa_edge.manifest import TensorSpec
from jepa_edge.progress import Progress

Files = dict[str, dict[str, str]]
"""By variant and graph, the file's name in the bundle."""
Reports = dict[str, QuantizationReport]
"""How a calibrated variant came about, by graph."""
Made = tuple[Any, QuantizationReport, list[str]]


def write_variants(
    model: LoadedModel,
    data: ExportData,
    reference: Reference,
    options: ExportOptions,
    staging: Path,
    warnings: list[str],
    progress: Progress,
) -> tuple[Files, dict[str, Reports]]:
    """Export every graph, convert it to every precision, and say how the calibrated came to be.

    Raises ExportError when torch, ONNX or a quantizer refuses, or a quantizer misses the budget.
    MissingDependencyError where Model-Optimizer is needed and not there.
    """
    if any(p in options.precisions for p in BY_MODELOPT):
        find_python()  # say so before the work is done
    if any(is_big(graph) for graph in model.graphs.values()):
        wanted = [Precision(word) for word in options.precisions]
        files = {p.value: variant_files(model.graphs, p.value) for p in wanted}
        places = {p: variant_paths(staging, files[p.value]) for p in wanted}
        write_big_variants(model.graphs, places, progress)
        return files, {}
    protos: dict[str, Any] = {}
    for done, (name, graph) in enumerate(model.graphs.items()):
        progress("exporting to ONNX", done, len(model.graphs))
        protos[name] = export_graph(graph)
    progress("exporting to ONNX", len(model.graphs), len(model.graphs))
    files = {Precision.FP32.value: _save(protos, staging, Precision.FP32.value)}
    quantization: dict[str, Reports] = {}
    if Precision.FP16 in options.precisions:
        progress("converting to FP16", 0, 1)
        half = {name: to_fp16(proto) for name, proto in protos.items()}
        files[Precision.FP16.value] = _save(half, staging, Precision.FP16.value)
        progress("converting to FP16", 1, 1)
    calibrated = [p for p in CALIBRATED if p in options.precisions]
    if calibrated and data.calibration and data.tuning:
        feeds = [
            _feeds(windows, model, reference, options.seed, progress)
            for windows in (data.calibration, data.tuning)
        ]

        def make(how: Callable[..., Made], *which: str) -> tuple[dict[str, Any], Reports]:
            graphs, reports = {}, {}
            for name, proto in protos.items():
                graphs[name], reports[name], told = how(
                    proto,
                    feeds[0][name],
                    feeds[1][name],
                    options.max_latent_error,
                    *which,
                    name=name,
                    float_layers=model.graphs[name].float_layers,
                    threads=options.threads,
                    progress=progress,
                )
                warnings.extend(told)
            return graphs, reports

        if Precision.INT8 in calibrated or Precision.INT8_FP16 in calibrated:
            graphs, reports = make(make_int8)
            both = {
                Precision.INT8: graphs,
                Precision.INT8_FP16: {k: to_int8_fp16(graph) for k, graph in graphs.items()},
            }
            for precision in both.keys() & set(calibrated):
                files[precision.value] = _save(both[precision], staging, precision.value)
                quantization[precision.value] = reports
        for precision in BY_MODELOPT:
            if precision in calibrated:
                graphs, reports = make(make_low_bits, precision.value)
                files[precision.value] = _save(graphs, staging, precision.value)
                quantization[precision.value] = reports
    sources = variant_paths(staging, files[Precision.FP32.value])
    for precision in (Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS):
        if precision in options.precisions:
            files[precision.value] = variant_files(protos, precision.value)
            lower(sources, variant_paths(staging, files[precision.value]), precision, progress)
    return {p.value: files[p.value] for p in Precision if p.value in files}, quantization


def variant_paths(staging: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """Return where a variant's graphs lie, by graph."""
    return {name: staging / file for name, file in files.items()}


def realized(paths: Mapping[str, Path]) -> dict[str, int]:
    """Count the weighted operators of a variant's graphs by the precision that they have."""
    counts: Counter[str] = Counter()
    for path in paths.values():
        counts.update(realized_precisions(structure(path)))
    return dict(counts)


def structure(path: Path) -> Any:
    """Read an ONNX file without its external weights."""
    return onnx.load(path, load_external_data=False)


def tensor_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of an ONNX file."""
    graph = structure(path).graph
    return tuple(map(_tensor_spec, graph.input)), tuple(map(_tensor_spec, graph.output))


def _tensor_spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=str(dtype), shape=shape)


def _save(graphs: Mapping[str, Any], staging: Path, variant: str) -> dict[str, str]:
    """Write a variant's graphs, and return their names in the bundle."""
    files = variant_files(graphs, variant)
    for name, graph in graphs.items():
        path = staging / files[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(graph, path)
    return files


def variant_files(graphs: Mapping[str, Any], variant: str) -> dict[str, str]:
    """Return the names, in the bundle, of a variant's graphs."""
    folder = "" if variant == Precision.FP32.value else f"variants/{variant}/"
    return {name: f"{folder}{name}.onnx" for name in graphs}


def _feeds(
    windows: Windows,
    model: LoadedModel,
    reference: Reference,
    seed: int,
    progress: Progress,
) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Inputs of every graph, by graph: newest frames; torch's latents, raw actions, drawn z."""
    encoder: dict[str, NDArray[np.generic]] = {"frames": windows.newest_frames}
    if model.state is not None and windows.newest_states is not None:
        encoder["states"] = windows.newest_states
    feeds = {"encoder": encoder}
    if model.masks is not None:
        encoder["visible"] = np.arange(model.latent.tokens)
        feeds["mask_predictor"] = _mask_feeds(windows, model.masks, reference)
    if model.action is not None:
        flat = windows.frames.reshape(-1, *windows.frames.shape[2:])
        states = None if windows.states is None else windows.states.reshape(len(flat), -1)
        latents = reference.encode(flat, states, progress=progress)
        feeds["predictor"] = {
            "history": latents.reshape(*windows.frames.shape[:2], *latents.shape[1:]),
            "actions": windows.step_actions,
        }
        if reference.z_dim:
            feeds["predictor"]["z"] = np.random.default_rng(seed).standard_normal(
                (len(windows), reference.z_dim), np.float32
            )
    return feeds


def _mask_feeds(
    windows: Windows, masks: Masks, reference: Reference
) -> dict[str, NDArray[np.generic]]:
    context = reference.encode(windows.newest_frames, windows.newest_states, masks.visible[0])
    return {"context": context, "visible": masks.visible[0], "hidden": masks.hidden[0]}
