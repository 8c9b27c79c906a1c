# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's providers: this machine's has the CPU's alone, which is a real lack of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeGraph
from jepa_edge.binding import processor_class
from jepa_edge.errors import BundleError, InputError, MissingDependencyError

CUDA = "CUDAExecutionProvider"
WITHOUT_CUDA = pytest.mark.skipif(
    CUDA in ort.get_available_providers(), reason="this onnxruntime has CUDA"
)


def test_the_cpu_is_told_as_it_was_before_there_were_others(linear_bundle: Path) -> None:
    backend = OnnxRuntimeBackend(2)
    assert backend.name == "onnxruntime-cpu"
    assert backend.threads == 2
    assert backend.runtime == f"onnxruntime {ort.__version__} CPUExecutionProvider"
    assert backend.device_class == processor_class()
    graph = backend.load(linear_bundle / "encoder.onnx")
    assert graph.inputs == {"frames"}
    assert graph({"frames": np.zeros((2, 8, 8, 3), np.uint8)}).shape == (2, 1, 6)


@WITHOUT_CUDA
@pytest.mark.parametrize(
    ("provider", "named"), [("cuda", CUDA), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_a_missing_provider_is_told_with_what_to_install(provider: Any, named: str) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        OnnxRuntimeBackend(provider=provider)
    told = str(caught.value)
    assert f"not {named}" in told
    assert "CPUExecutionProvider" in told  # what there is
    assert "pip install onnxruntime-gpu" in told
    assert "--provider cpu" in told


@WITHOUT_CUDA
def test_a_silent_fall_back_to_the_cpu_is_an_error(linear_bundle: Path) -> None:
    """ONNX Runtime goes on with the CPU when a provider does not start; it only warns."""
    providers: list[tuple[str, dict[str, str]]] = [(CUDA, {}), ("CPUExecutionProvider", {})]
    with (
        pytest.warns(UserWarning, match="not in available"),
        pytest.raises(BundleError, match=f"CPUExecutionProvider instead of {CUDA}"),
    ):
        OnnxRuntimeGraph(linear_bundle / "encoder.onnx", 1, providers)


def test_an_unknown_provider_is_refused() -> None:
    unknown: Any = "openvino"
    with pytest.raises(InputError, match="expected one of cpu, cuda, tensorrt"):
        OnnxRuntimeBackend(provider=unknown)


def test_a_damaged_graph_is_told(linear_bundle: Path) -> None:
    damaged = linear_bundle / "encoder.onnx"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(BundleError, match="cannot load"):
        OnnxRuntimeBackend().load(damaged)
