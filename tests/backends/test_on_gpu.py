# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: CUDA's memory and graphs, and TensorRT against ONNX Runtime.

Skipped where there is no driver, or no TensorRT.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from jepa_edge.backends.choice import machine_here
from jepa_edge.backends.cuda_memory import CudaRuntime, DeviceBuffer, PinnedBuffer, Stream
from jepa_edge.backends.tensorrt import TensorRTGraph
from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, MissingDependencyError
from jepa_edge.golden import Golden
from jepa_edge.trt.build import BuildOptions, build_engines
from jepa_edge.trt.golden_check import check_golden
from jepa_edge.trt.rollout import tensorrt_rollout
from jepa_edge.trt.workshop import this_machine
from jepa_edge.world_model import WorldModel

CANDIDATES = 16


@pytest.fixture(scope="module")
def cuda() -> CudaRuntime:
    """The first GPU."""
    try:
        return CudaRuntime()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture
def engine_bundle(linear_bundle: Path) -> Path:
    """A bundle with an engine that was built here."""
    try:
        machine_here()
    except (BundleError, MissingDependencyError) as error:
        pytest.skip(str(error))
    build_engines(Bundle.open(linear_bundle), BuildOptions(candidates=CANDIDATES), this_machine())
    return linear_bundle


def test_a_captured_copy_is_replayed(cuda: CudaRuntime) -> None:
    stream, size = Stream(cuda), 4 * 1000
    source, target = PinnedBuffer(cuda, size), PinnedBuffer(cuda, size)
    device = DeviceBuffer(cuda, size)
    given = source.array(np.dtype(np.float32), (1000,))
    back = target.array(np.dtype(np.float32), (1000,))

    def copies() -> None:
        stream.upload(device.address, source.address, size)
        stream.download(target.address, device.address, size)

    given[...] = np.arange(1000)
    copies()
    stream.wait()
    np.testing.assert_array_equal(back, np.arange(1000))
    graph = stream.capture(copies)
    for number in range(3):
        given[...] = number
        graph.launch(stream)
        stream.wait()
        np.testing.assert_array_equal(back, np.full(1000, number))
    device.clear(cuda, stream)
    stream.download(target.address, device.address, size)
    stream.wait()
    assert not back.any()


def test_a_capture_that_fails_leaves_the_stream_usable(cuda: CudaRuntime) -> None:
    stream = Stream(cuda)

    def fail() -> None:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        stream.capture(fail)
    with pytest.raises(BundleError):
        stream.capture(stream.wait)  # waiting cannot be captured
    stream.wait()


def test_too_much_memory_is_told(cuda: CudaRuntime) -> None:
    with pytest.raises(BundleError, match="no memory left for cudaMalloc of"):
        DeviceBuffer(cuda, 1 << 50)


def test_engines_are_onnx_runtimes_equals(engine_bundle: Path) -> None:
    model = WorldModel.load(engine_bundle)
    assert model.backend == "tensorrt"
    exact = WorldModel.load(engine_bundle, provider="cpu")
    golden = Golden.read(model.bundle)
    assert check_golden(model, golden).passed
    rng = np.random.default_rng(3)
    for batch in (1, 1, 1, 2, 7, 16, 17, 100):  # a graph from the second on; parts beyond 16
        frames = rng.integers(0, 256, (batch, 8, 8, 3), dtype=np.uint8)
        np.testing.assert_allclose(model.encode(frames), exact.encode(frames), atol=1e-3)
        history = rng.normal(size=(batch, 3, 1, 6)).astype(np.float32)
        actions = rng.uniform(0, 512, (batch, 3, 4)).astype(np.float32)
        expected = exact.predict(history, actions)
        np.testing.assert_allclose(model.predict(history, actions), expected, atol=1e-3)
    graph = cast(TensorRTGraph, model.predictor_graph)
    assert graph.captured >= 1


def test_threads_take_turns(engine_bundle: Path) -> None:
    model = WorldModel.load(engine_bundle, provider="tensorrt")
    rng = np.random.default_rng(4)
    inputs = [rng.normal(size=(1 + n % 5, 3, 1, 6)).astype(np.float32) for n in range(64)]
    actions = [np.full((len(history), 3, 4), 256.0, np.float32) for history in inputs]
    alone = [model.predict(*pair) for pair in zip(inputs, actions, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(model.predict, inputs, actions))
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_planners_predictor_is_captured(engine_bundle: Path, cuda: CudaRuntime) -> None:
    model = WorldModel.load(engine_bundle, provider="tensorrt")
    rows = 2 * CANDIDATES + 3  # beyond the engine's largest profile
    rollout = tensorrt_rollout(model, rows)
    rng = np.random.default_rng(5)
    arrays = {
        "history": rng.normal(size=(rows, 3, 1, 6)).astype(np.float32),
        "actions": rng.uniform(0, 512, (rows, 3, 4)).astype(np.float32),
        "out": np.zeros((rows, 1, 6), np.float32),
    }
    stream = Stream(cuda)
    device = {name: DeviceBuffer(cuda, array.nbytes) for name, array in arrays.items()}
    host = {name: PinnedBuffer(cuda, array.nbytes) for name, array in arrays.items()}
    for name, array in arrays.items():
        host[name].array(array.dtype, array.shape)[...] = array
        stream.upload(device[name].address, host[name].address, array.nbytes)
    addresses = [device[name].address for name in arrays]
    graph = stream.capture(lambda: rollout(*addresses, rows, stream.handle))
    graph.launch(stream)
    stream.download(host["out"].address, device["out"].address, arrays["out"].nbytes)
    stream.wait()
    expected = model.predict(arrays["history"], arrays["actions"])
    got = host["out"].array(np.dtype(np.float32), (rows, 1, 6))
    np.testing.assert_allclose(got, expected, atol=1e-3)
