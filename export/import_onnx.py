# SPDX-License-Identifier: Apache-2.0
"""A bundle from somebody else's ONNX files: matched, bridged, measured against themselves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle, seal, sha256_file, staged_bundle
from jepa_edge.errors import InputError
from jepa_edge.export.data import Windows, drawn_windows, split_recording
from jepa_edge.export.families.base import LoadedModel
from jepa_edge.export.import_onnx_check import Asked, write_graph
from jepa_edge.export.import_onnx_file import read_graph
from jepa_edge.export.import_onnx_fit import (
    FittedEncoder,
    fit_encoder,
    fit_mask_predictor,
)
from jepa_edge.export.import_onnx_masks import mask_tokens, read_masks
from jepa_edge.export.import_onnx_part import Part
from jepa_edge.export.import_onnx_predictor import FittedPredictor, fit_predictor
from jepa_edge.export.import_onnx_report import ImportReport
from jepa_edge.export.import_onnx_spec import ImportSpec, read_spec
from jepa_edge.export.profile import realized_precisions
from jepa_edge.export.provenance import provenance
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import (
    REFERENCE_VARIANT,
    Manifest,
    MaskSpec,
    NoiseSpec,
    Provenance,
    VariantSpec,
)
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits
from jepa_edge.world_model import WorldModel

REPORT_JSON = "reports/import.json"
MASKS_FILE = "masks.safetensors"

_GOLDEN_WINDOWS = 8
_TOOLS = ("jepa-edge", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What is imported.

    encoder, predictor, mask_predictor: ONNX files. spec: TOML, see docs/import_onnx.md. masks:
    safetensors with `visible` and `hidden`, needed with a mask predictor and only then.
    calibration_data: a recording for the golden inputs; without it pictures are drawn.
    command: the command line, kept as provenance.
    Raises InputError when masks and mask predictor do not come together.
    """

    encoder: Path
    spec: Path
    predictor: Path | None = None
    mask_predictor: Path | None = None
    masks: Path | None = None
    calibration_data: Path | None = None
    seed: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        if (self.masks is None) is not (self.mask_predictor is None):
            raise InputError(
                f"got mask predictor {self.mask_predictor} and masks {self.masks}, expected both "
                "or none: the masks say which tokens it sees and which it predicts"
            )


def import_onnx(out: Path, options: ImportOptions, progress: Progress = silent) -> ImportReport:
    """Make a bundle of the variant fp32 from ONNX files.

    A file that the run time can use as it is goes into the bundle bit for bit. Else what differs is
    put around it, and told. out: NAME.jepa; a bundle there is replaced when everything succeeded.
    Raises ExportError or InputError: what the graph has, what is expected, how to fix it.
    """
    begun = time.perf_counter()
    spec = read_spec(options.spec)
    spec.check_used(
        options.spec,
        predictor=options.predictor is not None,
        masks=options.mask_predictor is not None,
    )
    masks = None if options.masks is None else read_masks(options.masks)
    progress("reading the graphs", 0, 1)
    encoder = fit_encoder(
        read_graph(options.encoder, "encoder"),
        spec,
        options.spec,
        None if masks is None else masks["visible"][0],
        0 if masks is None else mask_tokens(masks, spec),
    )
    predictor, mask_predictor = _fit_others(options, spec, encoder, masks)
    model = _loaded(spec, encoder, predictor)
    progress("reading the graphs", 1, 1)
    with staged_bundle(out) as staging:
        windows, golden_from = _windows(options, model, progress)
        golden, asked = _reference(windows, encoder.part, predictor, mask_predictor, masks)
        reports, graphs = [], {}
        for done, one in enumerate(asked):
            progress("checking the graphs", done, len(asked))
            report, graphs[one.part.file.part] = write_graph(one, staging)
            reports.append(report)
        progress("checking the graphs", len(asked), len(asked))
        if masks is not None and options.masks is not None:
            shutil.copyfile(options.masks, staging / MASKS_FILE)
        (staging / "golden").mkdir()
        golden.write(str(staging / GOLDEN_NAME))
        result = ImportReport(
            bundle=str(out),
            family=model.family,
            parts=tuple(reports),
            golden_from=golden_from,
            warnings=_warnings(out, options, predictor),
            seconds=round(time.perf_counter() - begun, 1),
        )
        (staging / "reports").mkdir()
        (staging / REPORT_JSON).write_bytes(json_bytes(result))
        counts: dict[str, int] = {}
        for one in asked:
            for precision, count in realized_precisions(one.part.file.model).items():
                counts[precision] = counts.get(precision, 0) + count
        manifest = seal(
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
                masks=None
                if masks is None
                else MaskSpec(
                    file=MASKS_FILE,
                    target_norm=spec.masks.target_norm,
                    distance=spec.masks.distance,
                ),
                variants={
                    REFERENCE_VARIANT: VariantSpec(
                        precision=REFERENCE_VARIANT, realized=counts, **graphs
                    )
                },
                provenance=_provenance(options),
                files={},
            ),
        )
        # Replays the golden inputs before anything is replaced.
        WorldModel.load(Bundle(path=staging, manifest=manifest), REFERENCE_VARIANT)
    return result


def _fit_others(
    options: ImportOptions,
    spec: ImportSpec,
    encoder: FittedEncoder,
    masks: Mapping[str, NDArray[np.int64]] | None,
) -> tuple[FittedPredictor | None, Part | None]:
    predictor = mask_predictor = None
    if options.predictor is not None:
        file = read_graph(options.predictor, "predictor")
        predictor = fit_predictor(file, spec, options.spec, encoder.latent)
    if options.mask_predictor is not None and masks is not None:
        mask_predictor = fit_mask_predictor(
            read_graph(options.mask_predictor, "mask_predictor"),
            spec,
            encoder.latent,
            masks["visible"].shape[1],
            masks["hidden"].shape[1],
        )
    return predictor, mask_predictor


def _loaded(
    spec: ImportSpec, encoder: FittedEncoder, predictor: FittedPredictor | None
) -> LoadedModel:
    noise = predictor.noise_dim if predictor is not None else 0
    return LoadedModel(
        family=spec.model.family,
        observation=encoder.observation,
        action=None if predictor is None else predictor.action,
        state=encoder.state,
        latent=encoder.latent,
        history=1 if predictor is None else predictor.history,
        min_history=spec.model.min_history,
        noise=NoiseSpec(dim=noise) if noise else msgspec.UNSET,
        graphs={},
    )


def _windows(options: ImportOptions, model: LoadedModel, progress: Progress) -> tuple[Windows, str]:
    """Golden windows, and where they come from."""
    if options.calibration_data is None:
        return drawn_windows(model, _GOLDEN_WINDOWS, options.seed), "drawn pictures and actions"
    recording = Recording(options.calibration_data)
    check_fits(recording, model.observation, model.action, model.state)
    data = split_recording(
        recording,
        model.history,
        calibration=_GOLDEN_WINDOWS,
        tuning=_GOLDEN_WINDOWS,
        held_out=_GOLDEN_WINDOWS,
        seed=options.seed,
        clip=model.observation.clip,
        progress=progress,
    )
    return data.held_out, str(options.calibration_data)


def _reference(
    windows: Windows,
    encoder: Part,
    predictor: FittedPredictor | None,
    mask_predictor: Part | None,
    masks: Mapping[str, NDArray[np.int64]] | None,
) -> tuple[Golden, list[Asked]]:
    """Ask the untouched files, and gather the golden data."""
    feeds: dict[str, NDArray[Any]] = {"frames": windows.newest_frames}
    older: dict[str, NDArray[Any]] = {
        "frames": windows.frames.reshape(-1, *windows.frames.shape[2:])
    }
    states = windows.newest_states
    if "states" in encoder.inputs:
        assert states is not None
        assert windows.states is not None
        feeds["states"], older["states"] = states, windows.states.reshape(-1, states.shape[1])
    if masks is not None:
        everything = np.arange(encoder.output_spec.shape[1], dtype=np.int64)
        feeds["visible"] = older["visible"] = everything
    past = encoder.original(older).reshape(
        *windows.frames.shape[:2], *encoder.output_spec.shape[1:]
    )
    latents = np.ascontiguousarray(past[:, -1])
    asked = [Asked(part=encoder, feeds=feeds, expected=latents)]
    golden: dict[str, NDArray[Any]] = {}
    if predictor is not None:
        given: dict[str, NDArray[Any]] = {"history": past, "actions": windows.step_actions}
        if predictor.noise_dim:
            given["z"] = np.zeros((len(past), predictor.noise_dim), np.float32)
        predictions = predictor.part.original(given)
        asked.append(Asked(part=predictor.part, feeds=given, expected=predictions))
        golden = {"history": past, "actions": given["actions"], "predictions": predictions}
    if mask_predictor is not None and masks is not None:
        visible, hidden = masks["visible"][0], masks["hidden"][0]
        context = encoder.original({**feeds, "visible": visible})
        given = {"context": context, "visible": visible, "hidden": hidden}
        masked = mask_predictor.original(given)
        asked.append(Asked(part=mask_predictor, feeds=given, expected=masked))
        golden |= {"context": context, "masked": masked}
    return Golden(frames=windows.newest_frames, latents=latents, states=states, **golden), asked


def _warnings(
    out: Path, options: ImportOptions, predictor: FittedPredictor | None
) -> tuple[str, ...]:
    told = []
    if options.calibration_data is None:
        told.append(
            "the golden inputs are drawn pictures, which tell whether a runtime computes what the "
            "file does, and nothing about real frames: pass --calibration-data once you have some"
        )
    if predictor is None and options.mask_predictor is None:
        told.append("there is no predictor, so that the bundle encodes and predicts nothing")
    return tuple(told)


def _provenance(options: ImportOptions) -> Provenance:
    files = [
        path
        for path in (options.encoder, options.predictor, options.mask_predictor)
        if path is not None
    ]
    return provenance(
        ", ".join(str(path) for path in files),
        [sha256_file(path) for path in files],
        command=options.command,
        tools=_TOOLS,
    )
