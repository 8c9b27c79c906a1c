# SPDX-License-Identifier: Apache-2.0
"""TensorRT: engines that `jepa-edge build` made on this machine, without torch."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.backends import Graph
from jepa_edge.backends.cuda_memory import (
    CapturedGraph,
    CudaRuntime,
    DeviceBuffer,
    PinnedBuffer,
    Stream,
)
from jepa_edge.backends.tensorrt_engine import (
    LoadedEngine,
    Shape,
    batch_of,
    to_float32,
    to_memory,
)
from jepa_edge.binding import gpu_class
from jepa_edge.errors import BundleError
from jepa_edge.trt.library import Library, load_library

if TYPE_CHECKING:
    from jepa_edge.trt.store import StoredEngine

logger = logging.getLogger(__name__)

_CAPTURE_AT = 2
"""A shape that comes so often gets a graph of its own."""
_MOST_CAPTURED = 8

_Key = tuple[int, tuple[Shape, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A context with shapes and addresses, and the bytes that go in and out of it.

    A captured graph may be launched only while nothing else uses its context.
    """

    context: Any
    sizes: dict[str, int]
    output: Shape
    graph: CapturedGraph | None = None


class TensorRTGraph:
    """One plan with all its memory: device and pinned buffers for the largest shapes, one stream.

    Calls from several threads take turns. A shape that comes again is replayed as a CUDA graph,
    copies included. inputs: names. busy: held while its stream is in use.
    """

    def __init__(
        self,
        plan: Path,
        read: Callable[[], bytes],
        library: Library,
        cuda: CudaRuntime,
        *,
        fix: str,
        dla: int | None = None,
        host_code: bool = False,
    ) -> None:
        """Arguments and errors: see `LoadedEngine`."""
        self._cuda = cuda
        self._stream = Stream(cuda)
        self.engine = LoadedEngine(
            plan, read, library, cuda, self._stream, fix=fix, dla=dla, host_code=host_code
        )
        self.inputs = frozenset(self.engine.inputs)
        self._tensors = {**self.engine.inputs, self.engine.output.name: self.engine.output}
        sizes = {name: tensor.max_bytes for name, tensor in self._tensors.items()}
        self._device = {name: DeviceBuffer(cuda, size) for name, size in sizes.items()}
        self._pinned = {name: PinnedBuffer(cuda, size) for name, size in sizes.items()}
        self.busy = threading.Lock()
        self._plain: dict[int, Any] = {}
        self._seen: Counter[_Key] = Counter()
        self._captured: OrderedDict[_Key, _Ready] = OrderedDict()
        self._capturable = True

    @property
    def captured(self) -> int:
        """How many shapes are replayed as CUDA graphs by now."""
        return len(self._captured)

    def __call__(self, feeds: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run on named inputs. A batch beyond the largest profile is run in parts.

        Raises BundleError when the inputs do not fit the engine, or the GPU fails.
        """
        inputs = self.engine.inputs
        if feeds.keys() != inputs.keys():
            raise BundleError(
                f"{self.engine.plan} takes {', '.join(sorted(inputs))}, got "
                f"{', '.join(sorted(feeds))}"
            )
        arrays = {name: to_memory(feeds[name], tensor) for name, tensor in inputs.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        batch = batch_of(shapes, inputs)
        parts: list[NDArray[np.float32]] = []
        with self.busy:
            self._cuda.select()
            done = 0
            while done < batch:
                profile, rows = self.engine.pick(shapes, batch - done)
                some = {
                    name: array[done : done + rows] if inputs[name].batched else array
                    for name, array in arrays.items()
                }
                parts.append(self._run(profile, some))
                done += rows
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, profile: int, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        for name, array in arrays.items():
            self._pinned[name].array(array.dtype, array.shape)[...] = array
        key: _Key = (profile, tuple(array.shape for array in arrays.values()))
        ready = self._captured.get(key)
        if ready is not None and ready.graph is not None:
            self._captured.move_to_end(key)
            ready.graph.launch(self._stream)
        else:
            ready = self._prepare(self._plain_context(profile), arrays)
            self._enqueue(ready)
        self._stream.wait()
        output = self.engine.output
        result = to_float32(self._pinned[output.name].array(output.dtype, ready.output), output)
        if ready.graph is None:
            self._seen[key] += 1
            if self._capturable and self._seen[key] >= _CAPTURE_AT:
                self._capture(key, arrays)
        return result

    def _plain_context(self, profile: int) -> Any:
        if profile not in self._plain:
            self._plain[profile] = self.engine.context(profile)
        return self._plain[profile]

    def _prepare(self, context: Any, arrays: Mapping[str, NDArray[Any]]) -> _Ready:
        engine = self.engine
        output = engine.shape(context, {name: array.shape for name, array in arrays.items()})
        for name, buffer in self._device.items():
            engine.address(context, name, buffer.address)
        sizes = {name: array.nbytes for name, array in arrays.items()}
        return _Ready(context=context, sizes=sizes, output=output)

    def _enqueue(self, ready: _Ready) -> None:
        """Copy in, run, copy out, all on the stream."""
        for name, size in ready.sizes.items():
            self._stream.upload(self._device[name].address, self._pinned[name].address, size)
        self.engine.enqueue(ready.context, self._stream.handle)
        output = self.engine.output
        size = int(np.prod(ready.output, dtype=np.int64)) * output.dtype.itemsize
        self._stream.download(
            self._pinned[output.name].address, self._device[output.name].address, size
        )

    def _capture(self, key: _Key, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Give a shape a context and a CUDA graph of its own; where that fails, none has one."""
        try:
            # A graph is bound to its context's state: another shape needs another context.
            ready = self._prepare(self.engine.context(key[0]), arrays)
            self._enqueue(ready)  # TensorRT finishes its setup in the first run of a context
            self._stream.wait()
            graph = self._stream.capture(lambda: self._enqueue(ready))
        except BundleError as error:
            self._capturable = False
            logger.info("%s runs without CUDA graphs: %s", self.engine.plan, error)
            return
        self._captured[key] = _Ready(
            context=ready.context, sizes=ready.sizes, output=ready.output, graph=graph
        )
        if len(self._captured) > _MOST_CAPTURED:
            oldest = next((old for old in self._captured if _rows(old) > 1), None)
            if oldest is not None:
                del self._captured[oldest]
                self._seen[oldest] = 0


def _rows(key: _Key) -> int:
    return max(shape[0] for shape in key[1] if len(shape) > 1)


class TensorRTBackend:
    """Loads the plans that stand for a variant's graphs. threads: of what runs on the CPU still."""

    name = "tensorrt"

    def __init__(self, stored: StoredEngine, *, threads: int = 1, device: int = 0) -> None:
        """stored: from `jepa_edge.trt.store.EngineStore`, which checked that it fits this machine.

        Raises MissingDependencyError without TensorRT, cuda-python, a driver or that GPU, and
        BundleError when TensorRT is too old.
        """
        self._library = load_library(stored.record.key.machine.library)
        self._cuda = CudaRuntime(device)
        self._stored = stored
        self.threads = threads
        self.runtime = f"{self._library.name} {self._library.text} {stored.digest[:12]}"
        self.device_class = gpu_class(device)

    def load(self, path: Path) -> Graph:
        """Load the plan that stands for an ONNX file of the bundle.

        A graph that is no part of the variant, a text head, is run by ONNX Runtime on the CPU.
        Raises BundleError when the plan is damaged, altered, or refused by TensorRT.
        """
        from jepa_edge.trt.store import rebuild

        stored = self._stored
        own = {stored.bundle.file(file).resolve() for file in stored.record.plans}
        if path.resolve() not in own:
            from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend

            logger.info("%s has no engine: ONNX Runtime runs it on the CPU", path)
            return OnnxRuntimeBackend(self.threads).load(path)
        flags = stored.record.key.flags
        return TensorRTGraph(
            stored.path(path),
            lambda: stored.plan(path),
            self._library,
            self._cuda,
            fix=rebuild(stored.bundle, stored.variant),
            dla=flags.dla,
            host_code=flags.version_compatible,
        )
