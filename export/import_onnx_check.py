# SPDX-License-Identifier: Apache-2.0
"""An imported graph held to the untouched file, in batches, before it may go into a bundle."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.bundle import sha256_file
from jepa_edge.errors import ExportError
from jepa_edge.export.import_onnx_file import first_line, open_session
from jepa_edge.export.import_onnx_part import UNBATCHED, Part
from jepa_edge.export.import_onnx_report import PartReport
from jepa_edge.export.parity import MIN_FP32_DB, SQNR_CEILING_DB
from jepa_edge.manifest import GraphSpec
from jepa_edge.metrics import centered_cosine, sqnr_db

_REPEATS = 15
_SINGLE_FILE_BYTES = 1_800_000_000
"""Protobuf holds 2 GB; larger graphs keep their weights in a file beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one graph is asked, by run-time name, and what the untouched file answers."""

    part: Part
    feeds: dict[str, NDArray[Any]]
    expected: NDArray[np.float32]


def write_graph(asked: Asked, staging: Path) -> tuple[PartReport, GraphSpec]:
    """Put a graph into the bundle and hold it to the untouched file."""
    part, name = asked.part, asked.part.file.part
    path, data = staging / f"{name}.onnx", None
    if not part.changes:
        shutil.copyfile(part.file.path, path)
    else:
        model = part.build()
        if model.ByteSize() > _SINGLE_FILE_BYTES:
            data = f"{name}.onnx.data"
            onnx.save(model, str(path), save_as_external_data=True, location=data)
        else:
            onnx.save(model, str(path))
    _check_numbers(asked)
    try:
        graph = open_session(path)
        actual = graph.run(None, asked.feeds)[0]
    except Exception as error:  # onnxruntime raises its own types, none with a common base
        raise ExportError(_not_batched(part, first_line(error))) from error
    ratio = min(sqnr_db(asked.expected, actual), SQNR_CEILING_DB)
    if ratio < MIN_FP32_DB:
        raise ExportError(_not_batched(part, f"in a batch it gives other numbers, {ratio:.1f} dB"))
    size = path.stat().st_size + (0 if data is None else (staging / data).stat().st_size)
    single = {n: a if n in UNBATCHED else a[:1] for n, a in asked.feeds.items()}
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        graph.run(None, single)
        times.append(1e3 * (time.perf_counter() - start))
    cosine, latency = centered_cosine(asked.expected, actual), float(np.median(times))
    report = PartReport(
        part=name,
        source=str(part.file.path),
        sha256=sha256_file(part.file.path),
        mapping=part.mapping,
        changes=part.changes,
        sqnr_db=ratio,
        centered_cosine=cosine,
        size_bytes=size,
        latency_ms=latency,
    )
    spec = GraphSpec(
        file=path.name,
        data=data,
        inputs=tuple(bound.spec for bound in part.inputs.values()),
        outputs=(part.output_spec,),
        size_bytes=size,
        sqnr_db=ratio,
        centered_cosine=cosine,
        latency_ms=latency,
    )
    return report, spec


def _check_numbers(asked: Asked) -> None:
    """Raise ExportError where the untouched file's answers cannot be a latent."""
    path, expected = asked.part.file.path, asked.expected
    if not np.isfinite(expected).all():
        raise ExportError(
            f"{path} gives numbers that are not finite; check mean and std in the spec, and run it "
            "on one of your own pictures"
        )
    if float(np.ptp(expected, axis=0).max()) <= 1e-6 * float(np.abs(expected).max() + 1e-30):
        raise ExportError(
            f"{path} gives the same answer for {len(expected)} different inputs; check how pixels "
            "are scaled (mean and std in the spec), or pass --calibration-data with real frames"
        )


def _not_batched(part: Part, why: str) -> str:
    path = part.file.path
    if part.fixed_batch is not None:
        return (
            f"{path} was exported for a batch of {part.fixed_batch}, and cannot take another "
            f"({why}); export it with a dynamic first axis: dynamic_shapes or dynamic_axes of "
            "torch.onnx.export"
        )
    return (
        f"{path} does not treat the samples of a batch on their own ({why}); export it in "
        "evaluation mode (model.eval()), with a dynamic first axis and no batch size written into "
        "a reshape"
    )
