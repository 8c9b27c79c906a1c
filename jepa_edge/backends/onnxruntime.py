# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: on the CPU, which every machine has, or through its CUDA and TensorRT providers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from jepa_edge.binding import gpu_class, processor_class
from jepa_edge.errors import BundleError, InputError, MissingDependencyError

logger = logging.getLogger(__name__)

OrtProvider = Literal["cpu", "cuda", "tensorrt"]
_PROVIDERS: dict[OrtProvider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_CACHE = "onnxruntime-tensorrt"


class OnnxRuntimeGraph:
    """One ONNX file in an inference session."""

    def __init__(
        self, path: Path, threads: int, providers: list[tuple[str, dict[str, str]]]
    ) -> None:
        """providers: with their options, the wanted one first.

        Raises BundleError when ONNX Runtime refuses the file, or would run it elsewhere.
        """
        self._path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A spinning pool starves the camera and control threads that share the robot's cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime raises its own types, none with a common base
            line = str(error).splitlines()[0]
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {line}"
            ) from error
        wanted, got = providers[0][0], self._session.get_providers()
        if wanted not in got:
            raise BundleError(
                f"ONNX Runtime {ort.__version__} would run {path} with {', '.join(got)} instead of "
                f"{wanted}: it cannot start that here; install the CUDA, cuDNN and TensorRT "
                "versions that this onnxruntime-gpu was built for, or take --provider cpu"
            )
        self._session.disable_fallback()  # a GPU that fails later must not become a slow CPU
        self._output = self._session.get_outputs()[0].name
        self.inputs = frozenset(spec.name for spec in self._session.get_inputs())

    def __call__(self, feeds: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        try:
            output: NDArray[np.float32] = self._session.run([self._output], dict(feeds))[0]
        except Exception as error:  # as above
            line = str(error).splitlines()[0]
            raise BundleError(f"{self._path} does not fit its manifest: {line}") from error
        return output


class OnnxRuntimeBackend:
    """Loads ONNX files. threads: intra-operator threads per graph."""

    def __init__(
        self,
        threads: int = 1,
        *,
        provider: OrtProvider = "cpu",
        device: int = 0,
        precision: str = "fp32",
    ) -> None:
        """provider: what computes; "tensorrt" compiles each graph when it is loaded, and keeps the
        result in the state directory. device: number of the GPU. precision: of the variant, which
        TensorRT must be told.

        Raises MissingDependencyError where this onnxruntime lacks the provider, or there is no GPU.
        """
        if provider not in get_args(OrtProvider):
            raise InputError(
                f"provider is {provider!r}, expected one of {', '.join(get_args(OrtProvider))}"
            )
        self.name = f"onnxruntime-{provider}"
        self.threads = threads
        wanted = _PROVIDERS[provider]
        self.runtime = f"onnxruntime {ort.__version__} {wanted}"
        cpu: tuple[str, dict[str, str]] = (_PROVIDERS["cpu"], {})
        if provider == "cpu":
            self.device_class = processor_class()
            self._providers = [cpu]
            return
        _check_available(wanted)
        self.device_class = gpu_class(device)
        cuda = (_PROVIDERS["cuda"], {"device_id": str(device), "use_tf32": "0"})
        self._providers = [cuda, cpu]
        if provider == "tensorrt":
            self._providers.insert(0, (wanted, _tensorrt_options(device, precision)))

    def load(self, path: Path) -> OnnxRuntimeGraph:
        """Load an ONNX file. Raises BundleError when ONNX Runtime refuses it."""
        return OnnxRuntimeGraph(path, self.threads, self._providers)


def _check_available(wanted: str) -> None:
    available: list[str] = ort.get_available_providers()
    if wanted not in available:
        raise MissingDependencyError(
            f"this onnxruntime {ort.__version__} has {', '.join(available)}, not {wanted}; "
            "`pip uninstall onnxruntime` and `pip install onnxruntime-gpu` (on a Jetson: NVIDIA's "
            "wheel for its JetPack), or take --provider cpu"
        )


def _tensorrt_options(device: int, precision: str) -> dict[str, str]:
    """Options of the TensorRT provider. Raises InputError where there is no state directory."""
    from jepa_edge.arming import state_directory

    cache = state_directory() / _CACHE
    cache.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "device_id": device,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": cache,
        "trt_fp16_enable": "fp16" in precision,
        "trt_int8_enable": "int8" in precision,
    }
    return {name: str(value) for name, value in options.items()}
