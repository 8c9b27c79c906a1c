# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: the backend that every machine has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from jepa_edge.binding import processor_class
from jepa_edge.errors import BundleError

_PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeGraph:
    """One ONNX file in an inference session."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A spinning pool starves the camera and control threads that share the robot's cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[_PROVIDER])
        except Exception as error:  # onnxruntime raises its own types, none with a common base
            line = str(error).splitlines()[0]
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {line}"
            ) from error
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
    """Loads graphs for the CPU. threads: intra-operator threads per graph."""

    name = "onnxruntime-cpu"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.runtime = f"onnxruntime {ort.__version__} {_PROVIDER}"
        self.device_class = processor_class()

    def load(self, path: Path) -> OnnxRuntimeGraph:
        """Load an ONNX file. Raises BundleError when ONNX Runtime refuses it."""
        return OnnxRuntimeGraph(path, self.threads)
