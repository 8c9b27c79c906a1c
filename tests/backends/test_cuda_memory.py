# SPDX-License-Identifier: Apache-2.0
"""CUDA's memory: what can be known without a GPU, which is how it is told, and that the calls are
there. What needs a GPU is run by benchmarks/gpu.sh."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from jepa_edge.backends import cuda_memory
from jepa_edge.backends.cuda_memory import CudaRuntime
from jepa_edge.errors import MissingDependencyError


def test_every_call_of_the_runtime_exists() -> None:
    api = pytest.importorskip("cuda.bindings.runtime")
    source = inspect.getsource(cuda_memory)
    names = set(re.findall(r'"(cuda[A-Z]\w+)"', source)) | set(
        re.findall(r"api\.(cuda\w+)", source)
    )
    errors = {name for name in names if name.startswith("cudaError")}
    assert {"cudaMalloc", "cudaStreamBeginCapture", "cudaGraphLaunch"} <= names
    for name in names - errors:
        assert hasattr(api, name), name
    for name in errors:
        assert hasattr(api.cudaError_t, name), name
    assert hasattr(api.cudaMemcpyKind, "cudaMemcpyHostToDevice")
    assert hasattr(api.cudaMemcpyKind, "cudaMemcpyDeviceToHost")
    assert hasattr(api.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")


def test_every_call_takes_our_arguments_and_gives_what_we_unpack() -> None:
    """Without a driver each call refuses with a status; a wrong argument would be a TypeError."""
    api = pytest.importorskip("cuda.bindings.runtime")
    if int(api.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a GPU: test_on_gpu.py makes the calls in earnest")
    address, stream = 1 << 20, 1 << 21
    to_device = api.cudaMemcpyKind.cudaMemcpyHostToDevice
    capture = api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    for function, arguments, results in (
        ("cudaSetDevice", (0,), 0),
        ("cudaMalloc", (4,), 1),
        ("cudaMallocHost", (4,), 1),
        ("cudaFree", (address,), 0),
        ("cudaFreeHost", (address,), 0),
        ("cudaMemsetAsync", (address, 0, 4, stream), 0),
        ("cudaMemcpyAsync", (address, address, 4, to_device, stream), 0),
        ("cudaStreamCreateWithFlags", (api.cudaStreamNonBlocking,), 1),
        ("cudaStreamSynchronize", (stream,), 0),
        ("cudaStreamDestroy", (stream,), 0),
        ("cudaStreamBeginCapture", (stream, capture), 0),
        ("cudaStreamEndCapture", (stream,), 1),
        ("cudaGraphInstantiate", (api.cudaGraph_t(address), 0), 1),
        ("cudaGraphLaunch", (api.cudaGraphExec_t(address), stream), 0),
        ("cudaGraphDestroy", (api.cudaGraph_t(address),), 0),
        ("cudaGraphExecDestroy", (api.cudaGraphExec_t(address),), 0),
    ):
        status, *given = getattr(api, function)(*arguments)
        assert status.name == "cudaErrorInsufficientDriver", function
        assert len(given) == results, function
    assert int(api.cudaStream_t(stream)) == stream  # a handle is passed on as an integer


def test_without_a_driver_it_says_so() -> None:
    api = pytest.importorskip("cuda.bindings.runtime")
    status, _ = api.cudaGetDeviceCount()
    if int(status) == 0:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingDependencyError, match=r"NVIDIA (driver|GPU)") as caught:
        CudaRuntime()
    assert "run this on a machine with an NVIDIA GPU" in str(caught.value) or "CUDA_VISIBLE" in str(
        caught.value
    )


def test_without_cuda_python_it_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['cuda.bindings.runtime'] = None\n"  # as if it were not installed
        "from jepa_edge.backends.cuda_memory import CudaRuntime\n"
        "from jepa_edge.errors import MissingDependencyError\n"
        "try:\n"
        "    CudaRuntime()\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'jepa-edge[tensorrt]'" in done.stdout


def test_importing_it_imports_no_cuda() -> None:
    code = (
        "import sys, jepa_edge.backends.tensorrt, jepa_edge.backends.choice\n"
        "there = {'cuda', 'tensorrt', 'tensorrt_rtx', 'polygraphy', 'onnx'} & sys.modules.keys()\n"
        "print(sorted(there))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
