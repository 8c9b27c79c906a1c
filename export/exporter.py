# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle: export, quantize, compare with torch, and put it in place in one step."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from jepa_edge.bundle import seal, staged_bundle
from jepa_edge.errors import ExportError
from jepa_edge.export.centering import center_encoder
from jepa_edge.export.checkpoint import FAMILY, CheckpointExtras, load_checkpoint
from jepa_edge.export.data import ExportData, Windows, split_recording
from jepa_edge.export.engine_parity import EngineParity, compare_engine
from jepa_edge.export.graphs import EncoderGraph, PredictorGraph
from jepa_edge.export.int8 import QuantizationReport, make_int8
from jepa_edge.export.onnx_export import export_encoder, export_predictor
from jepa_edge.export.options import (
    DataReport,
    ExportOptions,
    ExportReport,
    Precision,
    VariantReport,
)
from jepa_edge.export.page import write_export_page
from jepa_edge.export.parity import MIN_FP32_DB, GraphParity, HeldOut, compare_variants, judge
from jepa_edge.export.predictor_weights import write_predictor_weights
from jepa_edge.export.profile import realized_precisions
from jepa_edge.export.quantize import to_fp16
from jepa_edge.export.reference import Reference
from jepa_edge.export.sensitivity import min_cosine
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import (
    EnginePrecision,
    EngineSpec,
    GraphSpec,
    LatentSpec,
    Manifest,
    NoiseSpec,
    Provenance,
    TensorSpec,
    VariantSpec,
)
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits

REPORT_JSON = "reports/export.json"
REPORT_HTML = "reports/export.html"
PREDICTOR_WEIGHTS = "predictor.safetensors"

_GOLDEN_WINDOWS = 16
_TOOLS = ("jepa-edge", "torch", "onnx", "onnxruntime", "onnxscript", "onnxslim", "nncf")

_Graphs = dict[str, Any]  # "encoder" and "predictor" to ModelProto


def export_bundle(
    checkpoint: Path, out: Path, options: ExportOptions, progress: Progress = silent
) -> ExportReport:
    """Export a checkpoint into a bundle, and measure every variant against torch.

    checkpoint: whatever `load_checkpoint` reads. out: NAME.jepa; a bundle that is there already is
    replaced as a whole when everything succeeded, and left as it was otherwise. Its calibrations
    go with it: they are bound to the graphs that they were fitted on.
    Raises CheckpointError, InputError or ExportError: unreadable checkpoint, a recording that does
    not fit, a budget that cannot be met. BundleError when out is something else than a bundle.
    """
    begun = time.perf_counter()
    with staged_bundle(out) as staging:
        recording = Recording(options.calibration_data)
        progress("loading the checkpoint", 0, 1)
        model, config, extras = load_checkpoint(checkpoint, config=options.spec)
        progress("loading the checkpoint", 1, 1)
        check_fits(recording, extras.observation, extras.action)
        data = split_recording(
            recording,
            config.history,
            calibration=options.calibration_frames,
            tuning=options.tuning_frames,
            held_out=options.held_out_frames,
            seed=options.seed,
            progress=progress,
        )
        reference = Reference(model=model, observation=extras.observation, action=extras.action)
        held_out = judge(data.held_out, reference, options.seed, progress)

        progress("exporting to ONNX", 0, 2)
        encoder = EncoderGraph(model, extras.observation.mean, extras.observation.std)
        center_encoder(encoder, data.calibration.newest_frames)
        predictor = PredictorGraph(model, extras.action.mean, extras.action.std)
        fp32: _Graphs = {"encoder": export_encoder(encoder)}
        progress("exporting to ONNX", 1, 2)
        fp32["predictor"] = export_predictor(predictor)
        progress("exporting to ONNX", 2, 2)

        warnings = _foreseen_warnings(out, extras)
        variants, quantization = _make_variants(fp32, data, reference, options, warnings, progress)
        files = {name: _save(graphs, staging, name) for name, graphs in variants.items()}
        parity = compare_variants(
            {
                name: (staging / paths["encoder"], staging / paths["predictor"])
                for name, paths in files.items()
            },
            held_out,
            progress,
        )
        reports = {}
        for name, graphs in variants.items():
            counts: Counter[str] = Counter()
            for graph in graphs.values():
                counts.update(realized_precisions(graph))
            reports[name] = VariantReport(
                **msgspec.structs.asdict(parity[name]),
                precision=name,
                realized=dict(counts),
                quantization=quantization if name == Precision.INT8.value else {},
            )
        _check_budget(reports, options.max_latent_error)
        warnings += _measured_warnings(reports)

        _golden(held_out).write(_place(staging, GOLDEN_NAME))
        engine: tuple[EngineParity, ...] = ()
        if not config.z_dim:  # the core does not compute a model's own z; its graph does
            write_predictor_weights(predictor, config, staging / PREDICTOR_WEIGHTS)
            engine = compare_engine(
                staging / PREDICTOR_WEIGHTS, held_out, options.max_latent_error, progress
            )
            warnings += _engine_warnings(engine, options.max_latent_error)
        report = ExportReport(
            bundle=str(out),
            family=FAMILY,
            max_latent_error=options.max_latent_error,
            variants=tuple(reports.values()),
            engine=engine,
            data=_data_report(recording, data),
            warnings=tuple(warnings),
            seconds=round(time.perf_counter() - begun, 1),
        )
        progress("writing the report", 0, 1)
        Path(_place(staging, REPORT_JSON)).write_bytes(json_bytes(report))
        write_export_page(report, Path(_place(staging, REPORT_HTML)))
        seal(
            staging,
            Manifest(
                family=FAMILY,
                observation=extras.observation,
                action=extras.action,
                latent=LatentSpec(tokens=1, dim=config.latent_dim),
                history=config.history,
                noise=NoiseSpec(dim=config.z_dim) if config.z_dim else msgspec.UNSET,
                variants={
                    name: VariantSpec(
                        precision=name,
                        realized=reports[name].realized,
                        encoder=_graph_spec(
                            graphs["encoder"], files[name]["encoder"], reports[name].encoder
                        ),
                        predictor=_graph_spec(
                            graphs["predictor"],
                            files[name]["predictor"],
                            reports[name].predictor,
                        ),
                    )
                    for name, graphs in variants.items()
                },
                engine=_engine_spec(engine) if engine else None,
                provenance=_provenance(checkpoint, extras, options),
                files={},
            ),
        )
        progress("writing the report", 1, 1)
    return report


def _engine_spec(engine: tuple[EngineParity, ...]) -> EngineSpec:
    return EngineSpec(
        file=PREDICTOR_WEIGHTS,
        precisions={
            parity.precision: EnginePrecision(
                sqnr_db=parity.sqnr_db,
                centered_cosine=parity.centered_cosine,
                cost_rank_correlation=parity.cost_rank_correlation,
            )
            for parity in engine
            if parity.fits
        },
    )


def _make_variants(
    fp32: _Graphs,
    data: ExportData,
    reference: Reference,
    options: ExportOptions,
    warnings: list[str],
    progress: Progress,
) -> tuple[dict[str, _Graphs], dict[str, QuantizationReport]]:
    """Return the graphs of every precision, and how those in int8 came about."""
    variants: dict[str, _Graphs] = {Precision.FP32.value: fp32}
    quantization: dict[str, QuantizationReport] = {}
    if Precision.FP16 in options.precisions:
        progress("converting to FP16", 0, 1)
        variants[Precision.FP16.value] = {name: to_fp16(graph) for name, graph in fp32.items()}
        progress("converting to FP16", 1, 1)
    if Precision.INT8 in options.precisions:
        feeds = [
            _feeds(windows, reference, options.seed, progress)
            for windows in (data.calibration, data.tuning)
        ]
        graphs: _Graphs = {}
        for name, graph in fp32.items():
            graphs[name], quantization[name], told = make_int8(
                graph,
                feeds[0][name],
                feeds[1][name],
                options.max_latent_error,
                name=name,
                threads=options.threads,
                progress=progress,
            )
            warnings += told
        variants[Precision.INT8.value] = graphs
    return variants, quantization


def _feeds(
    windows: Windows, reference: Reference, seed: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Inputs of both graphs, by graph: newest frames; torch's latents, the raw actions, drawn z."""
    predictor = {
        "history": reference.encode(windows.frames, progress),
        "actions": windows.step_actions,
    }
    z_dim = reference.model.config.z_dim
    if z_dim:
        z = np.random.default_rng(seed).standard_normal((len(windows), z_dim), np.float32)
        predictor["z"] = z
    return {"encoder": {"frames": windows.newest_frames}, "predictor": predictor}


def _check_budget(reports: dict[str, VariantReport], max_error: float) -> None:
    """Raise ExportError where a variant misses the budget on held-out windows."""
    for name, report in reports.items():
        for part in ("encoder", "predictor"):
            graph: GraphParity = getattr(report, part)
            error, cosine = 10.0 ** (-graph.sqnr_db / 20.0), graph.centered_cosine
            if name == Precision.FP32.value and graph.sqnr_db < MIN_FP32_DB:
                raise ExportError(
                    f"the exported {part} does not compute what torch does: "
                    f"{graph.sqnr_db:.1f} dB, expected {MIN_FP32_DB:g} dB or more in fp32; "
                    "install the versions of the extra `export`, and report it if it stays"
                )
            if error > max_error or cosine < min_cosine(max_error):
                raise ExportError(
                    f"the {name} {part} misses the budget on held-out frames: latent error "
                    f"{error:.3g} ({graph.sqnr_db:.1f} dB) and centered cosine {cosine:.4f}, "
                    f"expected at most {max_error:g} and at least {min_cosine(max_error):.4f}; "
                    "record more varied calibration data, raise --max-latent-error, or leave "
                    f"{name} out of --precision"
                )


def _foreseen_warnings(out: Path, extras: CheckpointExtras) -> list[str]:
    warnings = []
    if extras.assumed:
        warnings.append(
            f"the checkpoint does not say {', '.join(extras.assumed)}; the released models' "
            "defaults stand in: pass --spec with the real values"
        )
    if any((out / "calibration").glob("*.json")):
        warnings.append(
            f"the calibrations of the bundle that was at {out} are gone: thresholds belong to the "
            "very graphs they were fitted on; run `jepa-edge calibrate` again"
        )
    return warnings


def _measured_warnings(reports: dict[str, VariantReport]) -> list[str]:
    """Say where a smaller precision is the slower one; on CPUs without half arithmetic fp16 is."""
    warnings = []
    for name, report in reports.items():
        if name == Precision.FP32.value:
            continue
        for part in ("encoder", "predictor"):
            graph: GraphParity = getattr(report, part)
            ratios = {1: graph.latency_ratio, 64: graph.latency_batch64_ratio}
            slower = [f"{r:.2f} x at batch {batch}" for batch, r in ratios.items() if r > 1.0]
            if slower:
                warnings.append(
                    f"the {name} {part} is slower than fp32 on this CPU ({', '.join(slower)}); "
                    "variant `auto` picks the fastest at run time"
                )
    return warnings


def _engine_warnings(engine: tuple[EngineParity, ...], max_error: float) -> list[str]:
    return [
        f"the rollout engine misses the budget in {parity.precision} (latent error "
        f"{10.0 ** (-parity.sqnr_db / 20.0):.3g}, centered cosine {parity.centered_cosine:.4f}, "
        f"expected at most {max_error:g} and at least {min_cosine(max_error):.4f}); planners of "
        "this bundle will not use it"
        for parity in engine
        if not parity.fits
    ]


def _golden(held_out: HeldOut) -> Golden:
    windows = held_out.windows.head(_GOLDEN_WINDOWS)
    count = len(windows)
    return Golden(
        frames=windows.newest_frames,
        latents=held_out.latents[:count, -1],
        history=held_out.latents[:count],
        actions=windows.step_actions,
        predictions=held_out.predictions[:count],
    )


def _place(staging: Path, name: str) -> str:
    path = staging / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def _save(graphs: _Graphs, staging: Path, variant: str) -> dict[str, str]:
    """Write a variant's graphs, and return their names in the bundle."""
    folder = "" if variant == Precision.FP32.value else f"variants/{variant}/"
    files = {name: f"{folder}{name}.onnx" for name in graphs}
    for name, graph in graphs.items():
        onnx.save(graph, _place(staging, files[name]))
    return files


def _graph_spec(model: Any, file: str, parity: GraphParity) -> GraphSpec:
    return GraphSpec(
        file=file,
        inputs=tuple(_tensor_spec(value) for value in model.graph.input),
        outputs=tuple(_tensor_spec(value) for value in model.graph.output),
        size_bytes=parity.size_bytes,
        sqnr_db=parity.sqnr_db,
        centered_cosine=parity.centered_cosine,
        latency_ms=parity.latency_ms,
    )


def _tensor_spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=str(dtype), shape=shape)


def _data_report(recording: Recording, data: ExportData) -> DataReport:
    digest = hashlib.sha256()
    for array in (data.calibration.frames, data.calibration.actions):
        digest.update(array.tobytes())
    return DataReport(
        recording=str(recording.path),
        sha256=digest.hexdigest(),
        calibration_windows=len(data.calibration),
        tuning_windows=len(data.tuning),
        held_out_windows=len(data.held_out),
        calibration_episodes=data.calibration.episodes,
        tuning_episodes=data.tuning.episodes,
        held_out_episodes=data.held_out.episodes,
    )


def _provenance(checkpoint: Path, extras: CheckpointExtras, options: ExportOptions) -> Provenance:
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name}
    tools = {tool: installed[tool] for tool in _TOOLS if tool in installed}
    return Provenance(
        checkpoint=str(checkpoint),
        checkpoint_sha256=extras.sha256,
        created_utc=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=options.command,
        tools=tools,
    )
