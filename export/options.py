# SPDX-License-Identifier: Apache-2.0
"""What an export is asked for, and what it reports."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jepa_edge.errors import InputError
from jepa_edge.export.engine_parity import EngineParity
from jepa_edge.export.gates import Gates
from jepa_edge.export.int8 import QuantizationReport
from jepa_edge.export.parity import VariantParity


class Precision(str, enum.Enum):
    """A variant of a bundle, named after the precision of its weighted layers."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_FP16 = "int8_fp16"
    INT8_WEIGHTS = "int8w"
    INT4_WEIGHTS = "int4w"
    FP8 = "fp8"
    INT4 = "int4"
    NVFP4 = "nvfp4"


BY_MODELOPT = (Precision.FP8, Precision.INT4, Precision.NVFP4)
"""Made by NVIDIA Model-Optimizer, for TensorRT; the layers left over are in float16."""
CALIBRATED = (Precision.INT8, Precision.INT8_FP16, *BY_MODELOPT)
"""Set their scales on recorded frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Settings of an export.

    calibration_data: a recording (directory) that fits the model: parity and golden outputs come
        from real frames of episodes that are held out. None: they come from drawn pictures, which
        tell whether the graphs are right, not how accurate a precision is on real frames; int8,
        int8_fp16, fp8, int4 and nvfp4, which set their scales on frames, need a recording.
    precisions: variants to make; fp32 is always among them, as the reference.
    keep_fp32: False leaves fp32 out of the bundle in the end, where another precision is in it.
    gpu_predictor: True stores the predictor for the GPU core too where that alone computes it:
        1.2 GB of V-JEPA 2-AC's. One that the CPU core computes is always stored.
    family: name of the checkpoint's family; None finds it by the tensors' names.
    max_latent_error: budget of every variant, for encoder and predictor each, on held-out windows:
        sqrt(mean squared error / variance of the latents), centered. 0.1 is an SQNR of 20 dB, and
        asks for a centered cosine of 1 - 0.1^2 = 0.99.
    max_rollout_error, min_rank_correlation: budget of every variant along a rollout of up to five
        steps, and of its planner costs; None for what `jepa_edge.export.gates.Gates` derives from
        max_latent_error: 0.3 and 0.857 at 0.1.
    calibration_frames, tuning_frames, held_out_frames: windows for activation ranges, for the
        choice of float layers, and for parity.
    spec: a JSON or TOML file that overrides what the checkpoint says of observations and actions.
    threads: for the sensitivity runs; latencies are always of one thread.
    command: the command line, kept as provenance.
    Raises InputError when a value is out of range.
    """

    calibration_data: Path | None = None
    precisions: tuple[Precision | str, ...] = (Precision.FP32, Precision.INT8)
    keep_fp32: bool = True
    gpu_predictor: bool = False
    family: str | None = None
    max_latent_error: float = 0.1
    max_rollout_error: float | None = None
    min_rank_correlation: float | None = None
    calibration_frames: int = 256
    tuning_frames: int = 64
    held_out_frames: int = 128
    seed: int = 0
    spec: Path | None = None
    threads: int = 1
    command: str = ""

    def __post_init__(self) -> None:
        known = [precision.value for precision in Precision]
        for word in self.precisions:
            if word not in known:
                raise InputError(f"precision is {word!r}, expected some of {', '.join(known)}")
        wanted = {Precision(word) for word in self.precisions} | {Precision.FP32}
        object.__setattr__(self, "precisions", tuple(p for p in Precision if p in wanted))
        calibrated = [p.value for p in CALIBRATED if p in wanted]
        if calibrated and self.calibration_data is None:
            raise InputError(
                f"{calibrated[0]} sets its scales on recorded frames, but no calibration data were "
                "given; pass --calibration-data, or take int8w, which needs none"
            )
        if not self.keep_fp32 and wanted == {Precision.FP32}:
            raise InputError("fp32 is the only precision, and not to be kept; ask for another too")
        _ = self.gates  # checks its limits
        for name, low in (
            ("calibration_frames", 8),
            ("tuning_frames", 8),
            ("held_out_frames", 8),
            ("threads", 1),
        ):
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, expected {low} or more")

    @property
    def gates(self) -> Gates:
        """The budget of every variant."""
        return Gates(
            max_latent_error=self.max_latent_error,
            max_rollout_error=self.max_rollout_error,
            min_rank_correlation=self.min_rank_correlation,
        )


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """The windows that were used. sha256: of the calibration frames and actions, as bytes.

    recording, sha256: empty where pictures were drawn.
    """

    recording: str
    sha256: str
    calibration_windows: int
    tuning_windows: int
    held_out_windows: int
    calibration_episodes: tuple[str, ...]
    tuning_episodes: tuple[str, ...]
    held_out_episodes: tuple[str, ...]


class VariantReport(VariantParity, frozen=True, kw_only=True):
    """One variant. realized: weighted operators by precision, counted in the finished graphs.

    quantization: by graph; empty unless its scales were set on recorded frames.
    """

    precision: str
    realized: dict[str, int]
    quantization: dict[str, QuantizationReport]


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that an export measured; it is also the bundle's reports/export.json.

    newest_tubelet_error: relative RMS error of encoding the newest tubelet of a clip alone, of a
    model that sees clips. max_rollout_error, min_rank_correlation: the other limits of the budget.
    """

    bundle: str
    family: str
    max_latent_error: float
    max_rollout_error: float
    min_rank_correlation: float
    variants: tuple[VariantReport, ...]
    engine: tuple[EngineParity, ...]
    newest_tubelet_error: float | None = None
    data: DataReport
    warnings: tuple[str, ...]
    seconds: float
