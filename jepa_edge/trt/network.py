# SPDX-License-Identifier: Apache-2.0
"""One ONNX file to one plan, by TensorRT 10.3 to 11 and TensorRT-RTX alike."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepa_edge.errors import BundleError, InputError
from jepa_edge.progress import Progress, silent
from jepa_edge.trt.key import BuildFlags
from jepa_edge.trt.library import Library, Messages, without_source
from jepa_edge.trt.monitor import interrupts_kept, make_monitor
from jepa_edge.trt.network_types import layer_precisions
from jepa_edge.trt.profiles import Profile

logger = logging.getLogger(__name__)

_NO_GPU = re.compile(r"\s*Error Code 1: Cuda Runtime \(.*cudaError 35.*$")
"""What TensorRT-RTX adds to every complaint on a machine without a driver."""
_WEAK_FLAGS = {
    "fp16": ("FP16",),
    "int8_fp16": ("INT8", "FP16"),
    "int8": ("INT8",),
    "fp8": ("FP8", "FP16"),
    "int4": ("INT4", "FP16"),
}
"""Flags of a weakly typed network in TensorRT 10, by a variant's precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to build. onnx: the file; weights beside it are found.

    precision: the variant's, for the flags of a weakly typed network. target: a compute capability
    that TensorRT-RTX compiles for without a GPU, "8.6"; None for the GPU at hand. name: of the
    graph, as progress and errors tell it. timing_cache: of an earlier build, b"" for none.
    """

    onnx: Path
    name: str
    precision: str
    profiles: Sequence[Profile]
    flags: BuildFlags
    target: str | None = None
    timing_cache: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPlan:
    """A serialized engine. plan: a buffer. layers: of the network, before they are fused.

    precisions: how many matrix products and convolutions the network asks for in each precision.
    """

    plan: Any
    layers: int
    precisions: dict[str, int]
    strongly_typed: bool
    build_s: float
    timing_cache: bytes = b""
    warnings: tuple[str, ...] = field(default=())


def build_plan(library: Library, request: PlanRequest, progress: Progress = silent) -> BuiltPlan:
    """Parse, build and serialize one graph.

    The network is strongly typed: precisions are those of the ONNX file. Where TensorRT 10 refuses
    to build it so, it is built once more weakly typed, with precision flags, and says so.
    Raises BundleError that names the refused node, or why nothing could be built; whatever
    `progress` raises, at TensorRT's next step.
    """
    try:
        return _build(library, request, progress, strongly_typed=True)
    except BundleError as error:
        if not _may_be_weak(library, request):
            raise
        told = str(error)
        logger.warning("%s; building it weakly typed", told)
    try:
        built = _build(library, request, progress, strongly_typed=False)
    except BundleError as error:
        raise BundleError(f"{told}; nor weakly typed: {error}") from error
    warning = f"{request.name}: weakly typed, since the strongly typed build failed: {told}"
    return BuiltPlan(
        plan=built.plan,
        layers=built.layers,
        precisions=built.precisions,
        strongly_typed=False,
        build_s=built.build_s,
        timing_cache=built.timing_cache,
        warnings=(warning, *built.warnings),
    )


def _may_be_weak(library: Library, request: PlanRequest) -> bool:
    """TensorRT 11 and TensorRT-RTX know strongly typed networks only."""
    return (
        library.name == "tensorrt"
        and library.version[0] == 10
        and all(
            library.has(f"BuilderFlag.{flag}") for flag in _WEAK_FLAGS.get(request.precision, ())
        )
    )


def _build(
    library: Library, request: PlanRequest, progress: Progress, *, strongly_typed: bool
) -> BuiltPlan:
    messages = Messages(library)
    with interrupts_kept(messages):
        return _build_once(library, request, progress, messages, strongly_typed=strongly_typed)


def _build_once(
    library: Library,
    request: PlanRequest,
    progress: Progress,
    messages: Messages,
    *,
    strongly_typed: bool,
) -> BuiltPlan:
    start = time.perf_counter()
    trt = library.module
    try:
        builder = trt.Builder(messages.logger)
    except Exception as error:  # the bindings raise RuntimeError or TypeError for a null builder
        raise BundleError(
            f"{library.told()} cannot start a builder "
            f"({messages.last_error() or error}); check the GPU's driver and its free memory"
        ) from error
    network = builder.create_network(_network_flags(library, strongly_typed=strongly_typed))
    _parse(library, request, network, messages)
    config = builder.create_builder_config()
    warnings = _configure(library, request, builder, config, messages)
    if not strongly_typed:
        for flag in _WEAK_FLAGS.get(request.precision, ()):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    for profile in request.profiles:
        _add_profile(request, builder, network, config, profile)
    monitor = make_monitor(library, messages, request.name, progress)
    config.progress_monitor = monitor
    messages.clear()
    plan = builder.build_serialized_network(network, config)
    messages.reraise()
    if plan is None:
        raise BundleError(_build_error(library, request, messages))
    progress(f"building {request.name}", 100, 100)
    cache = b""
    if _keeps_timings(library):
        cache = bytes(config.get_timing_cache().serialize())
    return BuiltPlan(
        plan=plan,
        layers=network.num_layers,
        precisions=layer_precisions(library, network),
        strongly_typed=strongly_typed,
        build_s=time.perf_counter() - start,
        timing_cache=cache,
        warnings=tuple(warnings),
    )


def _network_flags(library: Library, *, strongly_typed: bool) -> int:
    kinds = library.module.NetworkDefinitionCreationFlag
    wanted = "STRONGLY_TYPED" if strongly_typed else "EXPLICIT_BATCH"
    return 1 << int(getattr(kinds, wanted)) if hasattr(kinds, wanted) else 0


def _parse(library: Library, request: PlanRequest, network: Any, messages: Messages) -> None:
    trt = library.module
    parser = trt.OnnxParser(network, messages.logger)
    # From the file, so that weights beside it are found.
    if parser.parse_from_file(str(request.onnx)):
        return
    messages.reraise()
    refused = _refused(parser)
    # Parsing stops at the first; this tells them all.
    if hasattr(parser, "supports_model_v2"):
        builder = trt.Builder(messages.logger)
        empty = builder.create_network(_network_flags(library, strongly_typed=True))
        survey = trt.OnnxParser(empty, messages.logger)
        survey.supports_model_v2(request.onnx.read_bytes(), str(request.onnx))
        refused += [line for line in _refused(survey) if line not in refused]
    first = refused[0] if refused else messages.last_error() or "no reason given"
    further = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
    raise BundleError(
        f"{library.told()} cannot parse {request.name}: {first}{further}; {_remedy(first)}"
    )


def _refused(parser: Any) -> list[str]:
    """Return the parser's complaints: node, operator, reason."""
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name() if hasattr(error, "node_name") else ""
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        reason = _NO_GPU.sub("", without_source(str(error.desc())))
        node = f"node {name or error.node()} ({operator}): " if operator or name else ""
        line = f"{node}{reason}"
        if line not in lines:
            lines.append(line)
    return lines


def _configure(
    library: Library, request: PlanRequest, builder: Any, config: Any, messages: Messages
) -> list[str]:
    """Apply the flags. Returns warnings."""
    trt, flags, warnings = library.module, request.flags, list[str]()
    if request.target is not None:
        _set_target(library, config, request.target)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, flags.workspace_bytes)
    if library.name == "tensorrt":
        config.builder_optimization_level = flags.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector needs it
    if library.has("BuilderFlag.TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is the reference: ten bits are not enough
    if flags.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if flags.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if flags.dla is not None:
        cores = getattr(builder, "num_DLA_cores", 0)
        if flags.dla >= cores:
            raise InputError(
                f"DLA core {flags.dla} was asked for, this machine has {cores} for "
                f"{library.told()}; leave --dla out"
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = flags.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if _keeps_timings(library):
        cache = config.create_timing_cache(request.timing_cache)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            warnings.append(
                "the timing cache is of another TensorRT or GPU, or damaged; it was started anew"
            )
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        messages.reraise()
    return warnings


def _keeps_timings(library: Library) -> bool:
    """TensorRT-RTX times nothing while it builds: its timing cache does nothing and warns."""
    return library.name == "tensorrt"


def _set_target(library: Library, config: Any, target: str) -> None:
    trt, name = library.module, f"SM{target.replace('.', '')}"
    if not hasattr(config, "set_compute_capability") or not hasattr(trt.ComputeCapability, name):
        kinds = getattr(trt, "ComputeCapability", None)
        known = [kind for kind in dir(kinds) if kind.startswith("SM")]
        raise InputError(
            f"{library.told()} cannot compile for {name}, it can for {', '.join(known) or 'none'}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _add_profile(
    request: PlanRequest, builder: Any, network: Any, config: Any, shapes: Profile
) -> None:
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if {tensor.name for tensor in inputs} != set(shapes):
        raise BundleError(
            f"{request.name} takes {', '.join(sorted(tensor.name for tensor in inputs))}, its "
            f"manifest says {', '.join(sorted(shapes))}; export the bundle again"
        )
    for name, shape in shapes.items():
        profile.set_shape(name, shape.low, shape.best, shape.high)
    if config.add_optimization_profile(profile) < 0:
        raise BundleError(
            f"TensorRT refuses the shapes of {request.name}: "
            + ", ".join(f"{n} {s.low} to {s.high}" for n, s in shapes.items())
            + "; export the bundle again"
        )


def _build_error(library: Library, request: PlanRequest, messages: Messages) -> str:
    cause = messages.last_error() or "no reason given"
    return f"{library.told()} cannot build {request.name}: {cause}; {_remedy(cause)}"


def _remedy(cause: str) -> str:
    """Say what can be done about what TensorRT complains of."""
    lower = cause.lower()
    if any(word in lower for word in ("memory", "alloc", "workspace")):
        return (
            "close other programs (sudo init 3 stops the desktop), add swap, or pass a smaller "
            "--workspace-gb or --candidates"
        )
    if "uint8" in lower and "first input" in lower:
        return "export again with this jepa-edge: TensorRT casts uint8 pictures, and no more"
    if any(word in lower for word in ("zero point", "zeropoint", "zero_point", "symmetric")):
        return "export again with --precision int8, which quantizes signed and symmetrically"
    if "import initializer" in lower:
        return "the file of the weights is missing or cut short: copy the bundle again"
    if "could not find any implementation" in lower:
        return "pass --optimization-level 5 or a larger --workspace-gb, or build another --variant"
    if "deserialize" in lower or "failed to parse the onnx" in lower:
        return "the file is no ONNX graph: copy the bundle again or export it again"
    return "leave this variant out with --variant, or export it again in another precision"
