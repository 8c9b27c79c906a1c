# SPDX-License-Identifier: Apache-2.0
"""What became of a network: the precision in which each layer of an engine really runs.

Precision can silently not be realized (TensorRT#4833), so it is read back from the engine. Source:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from jepa_edge.errors import BundleError
from jepa_edge.trt.key import BuildFlags, StrictRecord
from jepa_edge.trt.library import Library, Messages

logger = logging.getLogger(__name__)

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
# As the names of kernels spell them: sm80_xmma_gemm_i8i8_i8i32_f32.
_KERNELS = (
    ("fp4", r"e2m1|fp4"),
    ("fp8", r"e4m3|fp8"),
    ("int8", r"i8i8|i8f32|i8i32|imma|int8"),
    ("bf16", r"bf16"),
    ("fp16", r"f16f16|f16f32|hmma|h884|h1688|h16816|fp16"),
    ("fp32", r"f32f32|sgemm|ffma|fp32"),
)


class _Tensor(msgspec.Struct):
    """TensorRT 10 tells layout and type in one field, TensorRT 11 in two."""

    both: str = msgspec.field(name="Format/Datatype", default="")
    datatype: str = msgspec.field(name="Datatype", default="")
    layout: str = msgspec.field(name="Format", default="")

    @property
    def kind(self) -> str:
        """The type in TensorRT's words, with the layout where they are one."""
        return self.datatype or self.both or self.layout


class _Layer(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")
    type: str = msgspec.field(name="LayerType", default="")
    inputs: list[_Tensor] = msgspec.field(name="Inputs", default_factory=list)
    constants: list[_Tensor] = msgspec.field(name="Constants", default_factory=list)
    outputs: list[_Tensor] = msgspec.field(name="Outputs", default_factory=list)
    tactic: str = msgspec.field(name="TacticName", default="")
    weights: object = msgspec.field(name="Weights", default=None)


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
    try:
        runtime = trt.Runtime(messages.logger)
    except Exception as error:  # TypeError for a null runtime
        raise BundleError(
            f"{library.told()} cannot start ({messages.last_error() or error}); check the GPU's "
            "driver and its free memory"
        ) from error
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
    try:
        layers = parse_layers(told)
    except BundleError as error:  # the engine is none the worse for it
        logger.warning("%s: its precisions stay unknown: %s", plan, error)
        layers = (RealizedLayer(name="", kind="", precision=UNKNOWN, tactic=""),)
    return Inspection(layers=layers, memory_bytes=int(memory))


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
    """The narrowest type that a layer reads; "N/A due to dynamic shapes" is told of some."""
    tensors = [*layer.inputs, *layer.constants] or layer.outputs
    found = _narrowest([tensor.kind for tensor in tensors], _TYPES)
    if found == UNKNOWN and isinstance(layer.weights, dict):
        found = _narrowest([str(layer.weights.get("Type", ""))], _TYPES)
    return _narrowest([layer.tactic], _KERNELS) if found == UNKNOWN else found


def _narrowest(told: list[str], patterns: tuple[tuple[str, str], ...]) -> str:
    for name, pattern in patterns:
        if any(re.search(pattern, words.lower()) for words in told):
            return name
    return UNKNOWN
