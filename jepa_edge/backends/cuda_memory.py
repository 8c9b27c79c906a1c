# SPDX-License-Identifier: Apache-2.0
"""Memory, a stream and graphs of a GPU, through cuda-python: no torch.

Source: https://nvidia.github.io/cuda-python, the runtime API of CUDA 12.6 and later.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import BundleError, MissingDependencyError

logger = logging.getLogger(__name__)

_NO_DEVICE = ("cudaErrorNoDevice", "cudaErrorInvalidDevice")
_NO_DRIVER = (
    "cudaErrorInsufficientDriver",
    "cudaErrorStubLibrary",
    "cudaErrorSystemDriverMismatch",
)
_NO_MEMORY = "cudaErrorMemoryAllocation"


class CudaRuntime:
    """The CUDA runtime on one GPU, whose number is device."""

    def __init__(self, device: int = 0) -> None:
        """Raises MissingDependencyError without cuda-python, a driver, or that GPU."""
        self.api = _bindings()
        self.device = device
        count = int(self("cudaGetDeviceCount"))
        if not 0 <= device < count:
            raise MissingDependencyError(
                f"GPU {device} was asked for, this machine has {count}, counted from 0; "
                "choose another, or check CUDA_VISIBLE_DEVICES"
            )
        self.select()

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call the runtime and return what it gives besides its status; None where that is all.

        Raises MissingDependencyError where there is no driver or GPU, BundleError for the rest.
        """
        status, *results = getattr(self.api, function)(*arguments)
        if int(status) != 0:
            _refuse(self.api, status, function, arguments)
        if not results:
            return None
        return results[0] if len(results) == 1 else tuple(results)

    def select(self) -> None:
        """Make this GPU the calling thread's."""
        self("cudaSetDevice", self.device)


@functools.cache
def _bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "the package cuda-python is not installed, which a GPU's memory is reached through; "
            "install it with `pip install 'jepa-edge[tensorrt]'` (JetPack 6: "
            "`pip install 'cuda-python>=12.6,<13'`)"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"cuda-python cannot be loaded ({error}); its major number must be that of the CUDA "
            "of this machine: `pip install 'cuda-python>=12.6,<13'` on JetPack 6, "
            "`'cuda-python>=13,<14'` on JetPack 7"
        ) from error


def _refuse(api: Any, status: Any, function: str, arguments: tuple[Any, ...]) -> None:
    name = getattr(status, "name", str(status))
    _, text = api.cudaGetErrorString(status)
    told = text.decode() if isinstance(text, bytes) else str(text)
    if name in _NO_DRIVER:
        raise MissingDependencyError(
            f"the CUDA runtime finds no usable NVIDIA driver ({told}); run this on a machine with "
            "an NVIDIA GPU (in a container: with --runtime nvidia), or install the major number "
            "of cuda-python that the driver's CUDA has"
        )
    if name in _NO_DEVICE:
        raise MissingDependencyError(
            f"the CUDA runtime finds no NVIDIA GPU ({told}); check that the process may use "
            "/dev/nvidia* or /dev/nvhost*, and CUDA_VISIBLE_DEVICES"
        )
    if name == _NO_MEMORY:
        sized = function.startswith("cudaMalloc")
        wanted = f" of {int(arguments[0]) / 1e6:.1f} MB" if sized else ""
        raise BundleError(
            f"the GPU has no memory left for {function}{wanted}; end what else uses it, take a "
            "smaller variant, or build with fewer --candidates"
        )
    raise BundleError(
        f"CUDA refused {function}: {told} ({name}); nothing that was computed after it counts: "
        "start the program again, and if it stays, build the engines again with `jepa-edge build`"
    )


class DeviceBuffer:
    """Memory of the GPU that frees itself. address: of its first byte, aligned for TensorRT."""

    def __init__(self, cuda: CudaRuntime, size: int) -> None:
        """size: in bytes, at least one is taken. Raises BundleError when there is none left."""
        cuda.select()
        self.size = size
        self.address = int(cuda("cudaMalloc", max(size, 1)))
        self._finalizer = weakref.finalize(self, _quietly, cuda, "cudaFree", self.address)

    def clear(self, cuda: CudaRuntime, stream: Stream) -> None:
        """Set every byte to zero."""
        cuda("cudaMemsetAsync", self.address, 0, max(self.size, 1), stream.handle)


class PinnedBuffer:
    """Page-locked memory of the host, which copies go through without one more copy."""

    def __init__(self, cuda: CudaRuntime, size: int) -> None:
        """size: in bytes, at least one is taken. Raises BundleError when there is none left."""
        cuda.select()
        self.size = size
        self.address = int(cuda("cudaMallocHost", max(size, 1)))
        self._finalizer = weakref.finalize(self, _quietly, cuda, "cudaFreeHost", self.address)

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return a view of the first bytes, valid as long as the buffer."""
        count = int(np.prod(shape, dtype=np.int64))
        if count * dtype.itemsize > self.size:
            raise BundleError(
                f"{dtype} {shape} needs {count * dtype.itemsize} bytes, reserved are {self.size}; "
                "build the engine for larger batches"
            )
        raw = (ctypes.c_uint8 * max(self.size, 1)).from_address(self.address)
        return np.frombuffer(memoryview(raw), dtype, count).reshape(shape)


class Stream:
    """A stream that does not wait for the default one."""

    def __init__(self, cuda: CudaRuntime) -> None:
        cuda.select()
        self._cuda = cuda
        flag = cuda.api.cudaStreamNonBlocking
        self.handle = int(cuda("cudaStreamCreateWithFlags", flag))
        self._finalizer = weakref.finalize(self, _quietly, cuda, "cudaStreamDestroy", self.handle)

    def wait(self) -> None:
        """Block until all that was enqueued is done. Raises BundleError when some of it failed."""
        self._cuda("cudaStreamSynchronize", self.handle)

    def upload(self, target: int, source: int, size: int) -> None:
        """Enqueue a copy of `size` bytes from pinned memory to the device."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def download(self, target: int, source: int, size: int) -> None:
        """Enqueue a copy of `size` bytes from the device to pinned memory."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def capture(self, enqueue: Callable[[], None]) -> CapturedGraph:
        """Record what `enqueue` puts on this stream, without running it.

        Raises what `enqueue` raises, and BundleError when it did something that a graph cannot
        hold, such as waiting; the stream can be used again afterwards.
        """
        cuda = self._cuda
        # Thread-local: what other threads do with the GPU meanwhile does not break the capture.
        mode = cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda("cudaStreamBeginCapture", self.handle, mode)
        try:
            enqueue()
        except BaseException:
            status, graph = cuda.api.cudaStreamEndCapture(self.handle)
            if int(status) == 0:
                _quietly(cuda, "cudaGraphDestroy", graph)
            raise
        graph = cuda("cudaStreamEndCapture", self.handle)
        try:
            return CapturedGraph(cuda, cuda("cudaGraphInstantiate", graph, 0))
        finally:
            _quietly(cuda, "cudaGraphDestroy", graph)


class CapturedGraph:
    """Work that is launched as a whole; it frees itself."""

    def __init__(self, cuda: CudaRuntime, executable: Any) -> None:
        self._cuda, self._executable = cuda, executable
        self._finalizer = weakref.finalize(self, _quietly, cuda, "cudaGraphExecDestroy", executable)

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it."""
        self._cuda("cudaGraphLaunch", self._executable, stream.handle)


def _quietly(cuda: CudaRuntime, function: str, handle: Any) -> None:
    """Free something. What fails here, at the end of a process, harms nobody; it is logged."""
    (status,) = getattr(cuda.api, function)(handle)
    if int(status) != 0:
        logger.debug("%s: %s", function, status)
