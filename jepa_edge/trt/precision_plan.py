# SPDX-License-Identifier: Apache-2.0
"""What to keep in a higher precision where layers go wrong, and what to run until then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FP16_LARGEST = 65504.0
_SENSITIVE = {
    "LayerNormalization",
    "InstanceNormalization",
    "BatchNormalization",
    "ReduceMean",
    "Pow",
    "Softmax",
    "Exp",
    "Div",
    "Sqrt",
}
"""Operators whose sums and squares leave the range of 16-bit floats first."""
_WEIGHTED = {"MatMul", "Gemm", "Conv"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A node whose result both sides gave. sqnr_db: of it; input_db: the worst of what it reads.

    largest: the largest magnitude that the reference has there.
    """

    node: str
    operator: str
    tensor: str
    sqnr_db: float
    input_db: float
    largest: float

    @property
    def fall_db(self) -> float:
        """How much worse its result is than what it read."""
        return self.input_db - self.sqnr_db

    def told(self) -> str:
        """The layer in words."""
        return (
            f"{self.operator} {self.node!r}: {self.sqnr_db:.1f} dB, its inputs {self.input_db:.1f} "
            f"dB, largest value {self.largest:.3g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionPlan:
    """What to try. keep: nodes to hold in `precision`. advice: one sentence each, with commands."""

    keep: tuple[str, ...]
    precision: str
    advice: tuple[str, ...]


def propose(first: Layer, falls: Sequence[Layer], precision: str) -> PrecisionPlan:
    """Say which layers to keep in a higher precision, and what to run instead until then.

    first, falls: of a Diagnosis. precision: of the graph that failed, "int8_fp16" or such.
    """
    culprits = {layer.node: layer for layer in (first, *falls)}
    overflowing = [c for c in culprits.values() if c.largest > FP16_LARGEST]
    advice = []
    if "int8" in precision or "fp8" in precision or "4" in precision:
        better = "fp16"
        advice.append("export again with a smaller --max-latent-error: more layers stay in float")
        if any(c.operator in _WEIGHTED for c in culprits.values()):
            advice.append(
                "give --calibration-data that is like what the robot sees: the scales of a "
                "quantized layer come from it"
            )
    else:
        better = "fp32"
    if overflowing:
        better = "fp32"
        told = ", ".join(f"{c.node} ({c.largest:.3g})" for c in overflowing)
        advice.append(f"beyond {FP16_LARGEST:.0f}, the largest fp16 number: {told}")
    elif precision != "fp32" and any(c.operator in _SENSITIVE for c in culprits.values()):
        better = "fp32"
        advice.append("its sums and squares lose in 16 bits: hold norms and softmax in fp32")
    if better == precision:
        advice.append(
            "the graph itself is wrong, or the runtime: compare with another version of it, and "
            "report it with this diagnosis"
        )
    else:
        advice.append(f"until then, `jepa-edge build NAME.jepa --variant {better}`")
    return PrecisionPlan(keep=tuple(culprits), precision=better, advice=tuple(advice))
