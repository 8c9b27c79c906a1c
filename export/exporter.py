# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle: export, quantize, compare with torch, and put it in place in one step."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from jepa_edge.bundle import seal, staged_bundle
from jepa_edge.errors import ExportError
from jepa_edge.export.checkpoint import load_model, open_checkpoint
from jepa_edge.export.data import ExportData, drawn_windows, split_recording
from jepa_edge.export.engine_parity import EngineParity, compare_engine
from jepa_edge.export.families.base import Checkpoint, LoadedModel, Masks
from jepa_edge.export.gates import Gates
from jepa_edge.export.onnx_export import external_data
from jepa_edge.export.options import (
    DataReport,
    ExportOptions,
    ExportReport,
    Precision,
    VariantReport,
)
from jepa_edge.export.page import write_export_page
from jepa_edge.export.parity import MIN_FP32_DB, HeldOut, compare_variants, judge
from jepa_edge.export.provenance import provenance
from jepa_edge.export.reference import TorchReference
from jepa_edge.export.shards import weights_sha256
from jepa_edge.export.variants import realized, tensor_specs, variant_paths, write_variants
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import (
    REFERENCE_VARIANT,
    EnginePrecision,
    EngineSpec,
    GraphSpec,
    Manifest,
    MaskSpec,
    Provenance,
    VariantSpec,
)
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits

REPORT_JSON = "reports/export.json"
REPORT_HTML = "reports/export.html"
PREDICTOR_WEIGHTS = "predictor.safetensors"
MASKS = "masks.safetensors"

_GOLDEN_WINDOWS = 16
_FEW_GOLDEN_WINDOWS = 2
_LARGE_WINDOW = 1 << 18
"""Numbers in a window of latents from which few golden ones are stored."""
_DRAWN_WINDOWS = 16
_TOOLS = ("jepa-edge", "torch", "onnx", "onnxruntime", "onnxscript", "onnxslim", "nncf")


def export_bundle(
    checkpoint: Path, out: Path, options: ExportOptions, progress: Progress = silent
) -> ExportReport:
    """Export a checkpoint into a bundle, and measure every variant against torch.

    checkpoint: whatever one of the families reads (docs/families.md). out: NAME.jepa; a bundle that
    is there already is replaced as a whole when everything succeeded, and left as it was otherwise.
    Its calibrations go with it: they are bound to the graphs that they were fitted on.
    Raises CheckpointError, InputError or ExportError: unreadable checkpoint, a recording that does
    not fit, a budget that cannot be met. BundleError when out is something else than a bundle.
    """
    begun = time.perf_counter()
    with staged_bundle(out) as staging:
        recording = (
            None if options.calibration_data is None else Recording(options.calibration_data)
        )
        progress("loading the checkpoint", 0, 1)
        opened = open_checkpoint(checkpoint, options.spec)
        model = load_model(opened, options.family)
        progress("loading the checkpoint", 1, 1)
        on_gpu_alone = options.gpu_predictor and model.write_engine is None
        if on_gpu_alone and model.write_gpu_engine is None:
            raise ExportError(
                f"the GPU core does not compute the predictor of family {model.family}; leave "
                "--gpu-predictor out"
            )
        data = _data(recording, model, options, progress)
        reference = model.reference or TorchReference(model)
        held_out = judge(
            data.held_out,
            reference,
            options.seed,
            progress,
            takes_actions=model.action is not None,
            masks=model.masks,
        )
        tubelet_error = None
        if model.newest_tubelet_error is not None:
            tubelet_error = model.newest_tubelet_error(held_out.windows.newest_frames[:8])
        if model.prepare is not None and data.calibration is not None:
            model.prepare(data.calibration.newest_frames)
        warnings = _foreseen_warnings(out, model, data, len(held_out.windows))
        files, quantization = write_variants(
            model, data, reference, options, staging, warnings, progress
        )
        paths = {name: variant_paths(staging, parts) for name, parts in files.items()}
        if on_gpu_alone and model.write_gpu_engine is not None:
            model.write_gpu_engine(staging / PREDICTOR_WEIGHTS)
        # Torch has answered: let its weights go before ONNX Runtime loads its own.
        del reference
        opened = dataclasses.replace(opened, tensors={})
        model = dataclasses.replace(
            model,
            graphs={},
            reference=None,
            prepare=None,
            write_gpu_engine=None,
            newest_tubelet_error=None,
        )
        gc.collect()
        parity = compare_variants(paths, held_out, progress)
        reports = {
            name: VariantReport(
                **msgspec.structs.asdict(parity[name]),
                precision=name,
                realized=realized(paths[name]),
                quantization=quantization.get(name, {}),
            )
            for name in files
        }
        _check_budget(reports, options.gates)
        warnings += _measured_warnings(reports)

        _golden(held_out).write(_place(staging, GOLDEN_NAME))
        engine: tuple[EngineParity, ...] = ()
        if model.write_engine is not None:
            model.write_engine(staging / PREDICTOR_WEIGHTS)
            engine = compare_engine(staging / PREDICTOR_WEIGHTS, held_out, options.gates, progress)
            warnings += _engine_warnings(engine)
        report = ExportReport(
            bundle=str(out),
            family=model.family,
            max_latent_error=options.max_latent_error,
            max_rollout_error=options.gates.rollout_limit,
            min_rank_correlation=options.gates.rank_limit,
            variants=tuple(reports.values()),
            engine=engine,
            newest_tubelet_error=tubelet_error,
            data=_data_report(recording, data, len(held_out.windows)),
            warnings=tuple(warnings),
            seconds=round(time.perf_counter() - begun, 1),
        )
        progress("writing the report", 0, 1)
        Path(_place(staging, REPORT_JSON)).write_bytes(json_bytes(report))
        write_export_page(report, Path(_place(staging, REPORT_HTML)))
        variants = {name: _variant_spec(reports[name], paths[name], files[name]) for name in files}
        if not options.keep_fp32:
            _remove(paths[REFERENCE_VARIANT])
            del variants[REFERENCE_VARIANT]
        seal(
            staging,
            Manifest(
                family=model.family,
                observation=model.observation,
                action=model.action,
                state=model.state,
                latent=model.latent,
                history=model.history,
                min_history=model.min_history,
                noise=model.noise,
                masks=None if model.masks is None else _write_masks(model.masks, staging),
                variants=variants,
                engine=_engine_spec(engine, on_gpu_alone),
                provenance=_provenance(opened, model, options),
                files={},
            ),
        )
        progress("writing the report", 1, 1)
    return report


def _data(
    recording: Recording | None, model: LoadedModel, options: ExportOptions, progress: Progress
) -> ExportData:
    """Windows of the recording, or drawn ones where there is none."""
    if recording is None:
        held_out = drawn_windows(model, _DRAWN_WINDOWS, options.seed)
        return ExportData(calibration=None, tuning=None, held_out=held_out)
    check_fits(recording, model.observation, model.action, model.state)
    return split_recording(
        recording,
        model.history,
        calibration=options.calibration_frames,
        tuning=options.tuning_frames,
        held_out=options.held_out_frames,
        seed=options.seed,
        clip=model.observation.clip,
        progress=progress,
    )


def _write_masks(masks: Masks, staging: Path) -> MaskSpec:
    arrays = {"visible": masks.visible, "hidden": masks.hidden}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, staging / MASKS)
    return MaskSpec(file=MASKS, target_norm=masks.target_norm, distance=masks.distance)


def _remove(paths: Mapping[str, Path]) -> None:
    for path in paths.values():
        path.unlink()
        external_data(path).unlink(missing_ok=True)


def _variant_spec(
    report: VariantReport, paths: Mapping[str, Path], files: Mapping[str, str]
) -> VariantSpec:
    graphs = {}
    for part, path in paths.items():
        inputs, outputs = tensor_specs(path)
        parity = report.graph(part)
        graphs[part] = GraphSpec(
            file=files[part],
            data=external_data(Path(files[part])).as_posix()
            if external_data(path).is_file()
            else None,
            inputs=inputs,
            outputs=outputs,
            size_bytes=parity.size_bytes,
            sqnr_db=parity.sqnr_db,
            centered_cosine=parity.centered_cosine,
            latency_ms=parity.latency_ms,
        )
    return VariantSpec(precision=report.precision, realized=report.realized, **graphs)


def _engine_spec(engine: tuple[EngineParity, ...], on_gpu_alone: bool) -> EngineSpec | None:
    if not engine and not on_gpu_alone:
        return None
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
        processors=("cuda",) if on_gpu_alone else msgspec.UNSET,
    )


def _check_budget(reports: dict[str, VariantReport], gates: Gates) -> None:
    """Raise ExportError, with the gates that failed, where a variant misses the budget."""
    for name, report in reports.items():
        for graph in report.graphs:
            if name == Precision.FP32.value and graph.sqnr_db < MIN_FP32_DB:
                raise ExportError(
                    f"the exported {graph.part} does not compute what torch does: "
                    f"{graph.sqnr_db:.1f} dB, expected {MIN_FP32_DB:g} dB or more in fp32; "
                    "install the versions of the extra `export`, and report it if it stays"
                )
        if failures := gates.failures(report):
            raise ExportError(
                f"the variant {name} misses the budget on held-out frames: {'; '.join(failures)}; "
                "record more varied calibration data, raise --max-latent-error (the limits of "
                f"rollouts and costs follow it, or have their own options), or leave {name} out of "
                "--precision"
            )


def _foreseen_warnings(out: Path, model: LoadedModel, data: ExportData, judged: int) -> list[str]:
    warnings = list(model.notes)
    if model.assumed:
        warnings.append(
            f"the checkpoint does not say {', '.join(model.assumed)}; the released models' "
            "defaults stand in: pass --spec with the real values"
        )
    if data.calibration is None:
        warnings.append(
            "no recording was given: every figure of accuracy here is for drawn pictures, and says "
            "that the graphs are right, not how a precision does on what the robot sees; pass "
            "--calibration-data"
        )
    if judged < len(data.held_out):
        warnings.append(
            f"judged on {judged} of {len(data.held_out)} held-out windows: torch takes long for a "
            "model of this size"
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
        if report.simulated:
            warnings.append(
                f"{name} is for TensorRT: ONNX Runtime's CPU does not run it, so that its accuracy "
                f"is simulated ({report.simulated}) and its speed unknown until `jepa-edge build`"
            )
        for graph in report.graphs:
            ratios: dict[int, float | None] = {
                1: graph.latency_ratio,
                64: graph.latency_batch64_ratio,
            }
            slower = [f"{r:.2f} x at batch {batch}" for batch, r in ratios.items() if r and r > 1.0]
            if slower:
                warnings.append(
                    f"the {name} {graph.part} is slower than fp32 on this CPU "
                    f"({', '.join(slower)}); variant `auto` picks the fastest at run time"
                )
    return warnings


def _engine_warnings(engine: tuple[EngineParity, ...]) -> list[str]:
    return [
        f"the rollout engine misses the budget in {parity.precision} "
        f"({'; '.join(parity.missed)}); planners of this bundle will not use it"
        for parity in engine
        if not parity.fits
    ]


def _golden(held_out: HeldOut) -> Golden:
    count = min(len(held_out.windows), _GOLDEN_WINDOWS)
    if held_out.latents[0].size > _LARGE_WINDOW:
        count = min(count, _FEW_GOLDEN_WINDOWS)
    rows = slice(count)
    windows = held_out.windows.head(count)
    acting = held_out.predictions is not None
    return Golden(
        frames=windows.newest_frames,
        latents=np.ascontiguousarray(held_out.latents[rows, -1]),
        states=windows.newest_states,
        history=held_out.latents[rows] if acting else None,
        actions=windows.step_actions if acting else None,
        predictions=None if held_out.predictions is None else held_out.predictions[rows],
        context=None if held_out.context is None else held_out.context[rows],
        masked=None if held_out.masked is None else held_out.masked[rows],
    )


def _place(staging: Path, name: str) -> str:
    path = staging / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def _data_report(recording: Recording | None, data: ExportData, judged: int) -> DataReport:
    calibration, tuning = data.calibration, data.tuning
    if recording is None or calibration is None or tuning is None:
        return DataReport(
            recording="",
            sha256="",
            calibration_windows=0,
            tuning_windows=0,
            held_out_windows=judged,
            calibration_episodes=(),
            tuning_episodes=(),
            held_out_episodes=data.held_out.episodes,
        )
    digest = hashlib.sha256()
    for array in (calibration.frames, calibration.actions):
        digest.update(array.tobytes())
    return DataReport(
        recording=str(recording.path),
        sha256=digest.hexdigest(),
        calibration_windows=len(calibration),
        tuning_windows=len(tuning),
        held_out_windows=judged,
        calibration_episodes=calibration.episodes,
        tuning_episodes=tuning.episodes,
        held_out_episodes=data.held_out.episodes,
    )


def _provenance(checkpoint: Checkpoint, model: LoadedModel, options: ExportOptions) -> Provenance:
    return provenance(
        str(checkpoint.path),
        [checkpoint.sha256, *(weights_sha256(path) for path in model.also_read)],
        command=options.command,
        tools=_TOOLS,
    )
