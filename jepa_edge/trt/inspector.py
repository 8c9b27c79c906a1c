# SPDX-License-Identifier: Apache-2.0
"""What became of a network: the precision in which each layer of an engine really runs.

Precision can silently not be realized (TensorRT#4833), so it is read back from the engine. Source:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from jepa_edge.errors import BundleError
from jepa_edge.trt.key import BuildFlags, StrictRecord
from jepa_edge.trt.library import Library, Messages

UNKNOWN = "unknown"
"""Where TensorRT tells only the names of layers."""

# As the inspector spells types, narrowest first: the narrowest operand is what a layer runs in.
_TYPES = (
    ("fp4", r"fp4|e2m1"),
    ("int4", r"int4"),
    ("fp8", r"fp8|e4m3"),
    ("int8", r"(?<!u)int8"),
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"half|fp16|float16"),
    ("fp32", r"float|fp32"),
    ("integer", r"int|bool"),
)


class _Tensor(msgspec.Struct):
    kind: str = msgspec.field(name="Format/Datatype", default="")


class _Layer(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")
    type: str = msgspec.field(name="LayerType", default="")
    inputs: list[_Tensor] = msgspec.field(name="Inputs", default_factory=list)
    outputs: list[_Tensor] = msgspec.field(name="Outputs", default_factory=list)
    tactic: str = msgspec.field(name="TacticName", default="")


class _Engine(msgspec.Struct):
    layers: list[_Layer | str] = msgspec.field(name="Layers", default_factory=list)


class RealizedLayer(StrictRecord, frozen=True, kw_only=True):
    """One layer of an engine, after fusion. kind: TensorRT's word. tactic: the kernel's name."""

    name: str
    kind: str
    precision: str
    tactic: str


class Inspection(StrictRecord, frozen=True, kw_only=True):
    """An engine's layers, and what its activations take on the device."""

    layers: tuple[RealizedLayer, ...]
    memory_bytes: Annotated[int, Meta(ge=0)]

    @property
    def precisions(self) -> dict[str, int]:
        """How many layers run in each precision, the most frequent first."""
        return dict(Counter(layer.precision for layer in self.layers).most_common())


def inspect_plan(library: Library, plan: Path, flags: BuildFlags) -> Inspection:
    """Load a plan on this machine's GPU and read it back.

    Raises BundleError when TensorRT refuses the plan.
    """
    trt, messages = library.module, Messages(library)
    runtime = trt.Runtime(messages.logger)
    if flags.dla is not None:
        runtime.DLA_core = flags.dla
    if flags.version_compatible:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    messages.reraise()
    if engine is None:
        raise BundleError(
            f"{library.told()} cannot load the plan it has just built, {plan.name}: "
            f"{messages.last_error() or 'no reason given'}; close other programs and build again"
        )
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    # 10.3 has both names, TensorRT 11 the first alone.
    v2 = hasattr(engine, "device_memory_size_v2")
    memory = engine.device_memory_size_v2 if v2 else engine.device_memory_size
    return Inspection(layers=parse_layers(told), memory_bytes=int(memory))


def parse_layers(told: str) -> tuple[RealizedLayer, ...]:
    """Return the layers of the inspector's JSON. Raises BundleError when it is no such thing."""
    try:
        engine = msgspec.json.decode(told.encode(), type=_Engine)
    except msgspec.DecodeError as error:
        raise BundleError(
            f"TensorRT's engine inspector told no layers ({error}); report it with its version"
        ) from error
    return tuple(
        RealizedLayer(name=layer, kind="", precision=UNKNOWN, tactic="")
        if isinstance(layer, str)
        else RealizedLayer(
            name=layer.name, kind=layer.type, precision=_precision(layer), tactic=layer.tactic
        )
        for layer in engine.layers
    )


def _precision(layer: _Layer) -> str:
    told = [tensor.kind.lower() for tensor in layer.inputs or layer.outputs]
    for name, pattern in _TYPES:
        if any(re.search(pattern, kind) for kind in told):
            return name
    return UNKNOWN
