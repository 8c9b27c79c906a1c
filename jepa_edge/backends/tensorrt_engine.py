# SPDX-License-Identifier: Apache-2.0
"""A plan in memory: its tensors, the shapes that it takes, and contexts to run it in.

Only what TensorRT 10.3 and 11 both have is used. Source:
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.backends.cuda_memory import CudaRuntime, DeviceBuffer, Stream
from jepa_edge.errors import BundleError
from jepa_edge.trt.library import Library, Messages

Shape = tuple[int, ...]

BFLOAT16 = "BF16"
_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    BFLOAT16: np.uint16,  # its bits: numpy has no such type
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output. kind: TensorRT's name of its type. low, high: shapes, by profile.

    Of an output low is empty and high what the largest inputs give.
    """

    name: str
    kind: str
    low: tuple[Shape, ...]
    high: tuple[Shape, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """How it lies in memory."""
        return np.dtype(_DTYPES[self.kind])

    @property
    def batched(self) -> bool:
        """Whether its first axis is the batch: all but lists of token indices."""
        return len(self.high[0]) > 1

    @property
    def max_bytes(self) -> int:
        """What it takes at most, in any profile."""
        return max(math.prod(shape) for shape in self.high) * self.dtype.itemsize


class LoadedEngine:
    """One deserialized plan on one GPU. inputs, output: its tensors. workspace: shared scratch.

    Contexts share the scratch memory: only one may run at a time, on one stream.
    """

    def __init__(
        self,
        plan: Path,
        read: Callable[[], bytes],
        library: Library,
        cuda: CudaRuntime,
        stream: Stream,
        *,
        fix: str,
        dla: int | None = None,
        host_code: bool = False,
    ) -> None:
        """plan: where it lies, for messages. read: gives its bytes, verified.

        fix: what to do about a plan that does not work, for messages. dla: core it was built
        for. host_code: whether it carries code of its own, as version-compatible plans do.

        Raises BundleError when TensorRT refuses the plan, or it has no single output.
        """
        self.plan, self.library, self.cuda, self.stream = plan, library, cuda, stream
        self._fix = fix
        self._messages = Messages(library)
        trt = library.module
        cuda.select()
        try:
            self._runtime = trt.Runtime(self._messages.logger)
        except Exception as error:  # TypeError for a null runtime
            raise self.refused(f"start ({error})") from error
        if dla is not None:
            self._runtime.DLA_core = dla
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(read())
        self._messages.reraise()
        if self._engine is None:
            raise self.refused("load it")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self.profiles = int(self._engine.num_optimization_profiles)
        self.inputs = {
            name: self._input(name) for name, m in modes.items() if m == trt.TensorIOMode.INPUT
        }
        outputs = [name for name, m in modes.items() if m == trt.TensorIOMode.OUTPUT]
        if len(outputs) != 1:
            raise BundleError(
                f"{plan} has the outputs {', '.join(outputs) or 'none'}, expected one; {fix}"
            )
        self.scratch_bytes = _scratch_bytes(self._engine)
        self.workspace = DeviceBuffer(cuda, self.scratch_bytes)
        self.output = self._output(outputs[0])

    def refused(self, what: str) -> BundleError:
        """Return the error that says that TensorRT did not do something, and its own words."""
        told = self._messages.last_error() or "it does not say why"
        self._messages.clear()
        return BundleError(f"{self.library.told()} cannot {what}: {self.plan}: {told}; {self._fix}")

    def pick(self, shapes: Mapping[str, Shape], batch: int) -> tuple[int, int]:
        """Return the profile to run and how many rows of the batch it takes.

        shapes: of the inputs, whole. Raises BundleError when no profile takes these shapes.
        """
        picked = pick_profile(self.inputs, shapes, batch)
        if picked is None:
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise BundleError(f"{self.plan} takes {self._told()}, got {told}; {self._fix}")
        return picked

    def context(self, profile: int, workspace: DeviceBuffer | None = None) -> Any:
        """Return a new execution context of a profile.

        workspace: scratch_bytes of its own for what runs beside the others; None for the shared.
        Raises BundleError when TensorRT refuses.
        """
        scratch = self.workspace if workspace is None else workspace
        strategy = self.library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self.cuda.select()
        made = self._engine.create_execution_context(strategy)
        if made is None:
            raise self.refused("make an execution context")
        try:  # the bindings raise where the C++ function returns false
            taken = made.set_optimization_profile_async(profile, self.stream.handle)
        except RuntimeError as error:
            raise self.refused(f"take profile {profile}") from error
        if not taken:
            raise self.refused(f"take profile {profile}")
        self.stream.wait()
        if hasattr(made, "set_device_memory"):
            made.set_device_memory(scratch.address, scratch.size)
        else:  # early 10.x
            made.device_memory = scratch.address
        return made

    def shape(self, context: Any, shapes: Mapping[str, Shape]) -> Shape:
        """Tell a context the inputs' shapes, and return the output's. Raises BundleError."""
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self.refused(f"take {name} {shape}")
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise self.refused(f"take the shapes {dict(shapes)}") from error
        if missing:
            raise self.refused(f"tell its shapes from {', '.join(missing)}")
        output = tuple(int(size) for size in context.get_tensor_shape(self.output.name))
        if min(output, default=1) < 0:
            raise self.refused(f"tell the shape of {self.output.name}, which depends on the data")
        return output

    def address(self, context: Any, name: str, address: int) -> None:
        """Tell a context where a tensor lies on the device. Raises BundleError."""
        if not context.set_tensor_address(name, address):
            raise self.refused(f"take the address of {name}")

    def enqueue(self, context: Any, stream: int) -> None:
        """Enqueue one run on a stream's handle; it may be captured. Raises BundleError."""
        if not context.execute_async_v3(stream):
            raise self.refused("run")

    def _input(self, name: str) -> Tensor:
        """What an input may be. Raises BundleError for a type we cannot feed."""
        self._check_on_device(name)
        low, high = [], []
        for profile in range(self.profiles):
            least, _, most = self._engine.get_tensor_profile_shape(name, profile)
            low.append(tuple(int(size) for size in least))
            high.append(tuple(int(size) for size in most))
        return Tensor(name=name, kind=self._kind(name), low=tuple(low), high=tuple(high))

    def _output(self, name: str) -> Tensor:
        self._check_on_device(name)
        self.output = Tensor(name=name, kind=self._kind(name), low=(), high=())
        largest = [
            self.shape(
                self.context(profile),
                {name: tensor.high[profile] for name, tensor in self.inputs.items()},
            )
            for profile in range(self.profiles)
        ]
        return Tensor(name=name, kind=self.output.kind, low=(), high=tuple(largest))

    def _kind(self, name: str) -> str:
        kind = str(self._engine.get_tensor_dtype(name).name)
        if kind not in _DTYPES:
            raise BundleError(
                f"{self.plan}: {name} is {kind}, expected one of {', '.join(_DTYPES)}; "
                "export the bundle again with inputs and outputs of such a type"
            )
        return kind

    def _check_on_device(self, name: str) -> None:
        here = self._engine.get_tensor_location(name)
        if here != self.library.module.TensorLocation.DEVICE:
            raise BundleError(
                f"{self.plan}: {name} holds a shape, not data, and no graph of a bundle takes one; "
                "export the bundle again"
            )

    def _told(self) -> str:
        """The shapes that the profiles take, in words."""
        parts = []
        for profile in range(self.profiles):
            spans = [
                f"{name} {tensor.low[profile]} to {tensor.high[profile]}"
                for name, tensor in self.inputs.items()
            ]
            parts.append(", ".join(spans))
        return " or ".join(parts)


def pick_profile(
    inputs: Mapping[str, Tensor], shapes: Mapping[str, Shape], batch: int
) -> tuple[int, int] | None:
    """Return a profile for a batch and how many of its rows that takes, None where none fits.

    Of the profiles that take the most rows the one with the least room: it was tuned for fewer.
    """
    best: tuple[int, int] | None = None
    least_room = 0
    for profile in range(len(next(iter(inputs.values())).low)):
        rows = _rows(inputs, profile, shapes, batch)
        if rows is None:
            continue
        taken, room = rows
        if best is None or (taken, -room) > (best[1], -least_room):
            best, least_room = (profile, taken), room
    return best


def _rows(
    inputs: Mapping[str, Tensor], profile: int, shapes: Mapping[str, Shape], batch: int
) -> tuple[int, int] | None:
    """How many rows a profile takes of a batch, and could; None where it does not fit."""
    fewest, taken, room = 1, batch, 0
    for name, tensor in inputs.items():
        shape, low, high = shapes[name], tensor.low[profile], tensor.high[profile]
        if len(shape) != len(low):
            return None
        fixed = slice(1 if tensor.batched else 0, None)
        spans = zip(low[fixed], shape[fixed], high[fixed], strict=True)
        if any(not least <= size <= most for least, size, most in spans):
            return None
        if tensor.batched:
            fewest, taken = max(fewest, low[0]), min(taken, high[0])
            room = high[0] if room == 0 else min(room, high[0])
    return (taken, room) if fewest <= taken else None


def _scratch_bytes(engine: Any) -> int:
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)  # early 10.x


def to_memory(array: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """Return an array as an input's type. Raises BundleError where that would not hold it."""
    if tensor.kind == BFLOAT16:
        return bfloat16_bits(np.asarray(array, np.float32))
    if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
        raise BundleError(
            f"{tensor.name} is {array.dtype}, the engine takes {tensor.dtype}; export the bundle "
            "again"
        )
    return np.asarray(array, tensor.dtype)


def to_float32(array: NDArray[Any], tensor: Tensor) -> NDArray[np.float32]:
    """Return a copy of an output as float32."""
    if tensor.kind == BFLOAT16:
        return np.asarray((array.astype(np.uint32) << np.uint32(16)).view(np.float32))
    return array.astype(np.float32)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16, to nearest even, and return the bits. NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.asarray(np.where(np.isnan(values), quiet, rounded), np.uint16)


def batch_of(shapes: Mapping[str, Shape], inputs: Mapping[str, Tensor]) -> int:
    """Return the rows that all batched inputs have. Raises BundleError where they differ, or 0."""
    rows: Sequence[int] = sorted({shapes[name][0] for name, t in inputs.items() if t.batched})
    if len(rows) > 1 or 0 in rows:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise BundleError(f"the inputs are {told}; expected one batch size, 1 or more")
    return rows[0] if rows else 1
