# SPDX-License-Identifier: Apache-2.0
"""Somebody else's ONNX file: read, refused where a robot could not run it, and run untouched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from jepa_edge.errors import ExportError, printable
from jepa_edge.export.import_onnx_steps import all_nodes

MIN_OPSET, MAX_OPSET = 11, 22
"""Below, the operators mean other things; above, runtimes that robots have do not know them."""
MAX_IR = 10
_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of a graph. shape: a number, a name for a dynamic axis, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def told(self) -> str:
        """Name, dtype and shape as they are shown to the user."""
        shape = "of unknown shape" if self.shape is None else f"({_axes(self.shape)})"
        return f"{printable(self.name)} {self.dtype} {shape}"

    @property
    def rank(self) -> int | None:
        """Number of axes, None where the graph does not say."""
        return None if self.shape is None else len(self.shape)

    def fixed(self, axis: int) -> int | None:
        """Length of an axis, None where it is dynamic or unknown."""
        if self.shape is None or axis >= len(self.shape):
            return None
        length = self.shape[axis]
        return length if isinstance(length, int) else None


def _axes(shape: tuple[int | str, ...]) -> str:
    return ", ".join(printable(str(axis)) for axis in shape) + ("," if len(shape) == 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """An ONNX file. part: "encoder", "predictor", "mask_predictor". model: with its weights.

    inlined: whether local functions were replaced by their operators. external: whether weights
    lay in files beside it.
    """

    part: str
    path: Path
    model: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    inlined: bool = False
    external: bool = False

    def told(self) -> str:
        """All inputs and outputs in one line."""
        inputs = "; ".join(port.told() for port in self.inputs)
        outputs = "; ".join(port.told() for port in self.outputs)
        return f"{self.path} takes {inputs} and gives {outputs}"


def read_graph(path: Path, part: str) -> GraphFile:
    """Read and check an ONNX file, with the weights that lie beside it.

    Raises ExportError: missing, no ONNX, opset or IR version out of range, an operator outside of
    the ONNX standard, weights missing.
    """
    if not path.is_file():
        raise ExportError(f"{path} does not exist; pass the {part}'s ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises types of its own
        raise ExportError(
            f"{path} is no ONNX file ({first_line(error)}); expected what torch.onnx.export "
            "writes; a checkpoint goes to `jepa-edge export`"
        ) from error
    if not model.graph.node:
        raise ExportError(f"{path} holds no operators; expected the {part} as an ONNX file")
    _check_versions(model, path)
    inlined = bool(model.functions)
    if inlined:
        model = onnx.inliner.inline_local_functions(model)
    _check_operators(model, path)
    external = _external_files(model, path)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # onnx raises types of its own
        raise ExportError(
            f"{path} is no valid ONNX model ({first_line(error)}); export it again"
        ) from error
    if external:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    weights = {tensor.name for tensor in model.graph.initializer}
    return GraphFile(
        part=part,
        path=path,
        model=model,
        inputs=tuple(_port(v) for v in model.graph.input if v.name not in weights),
        outputs=tuple(_port(v) for v in model.graph.output),
        inlined=inlined,
        external=external,
    )


def _check_versions(model: Any, path: Path) -> None:
    versions = [o.version for o in model.opset_import if o.domain in _STANDARD]
    opset = max(versions, default=0)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(
            f"{path} is of opset {opset}, expected {MIN_OPSET} to {MAX_OPSET}; export it with "
            "opset_version=20, or convert it with onnx.version_converter"
        )
    if model.ir_version > MAX_IR:
        raise ExportError(
            f"{path} is of IR version {model.ir_version}, expected {MAX_IR} or less, which every "
            f"ONNX Runtime from 1.20 on reads; set model.ir_version = {MAX_IR} and save it again"
        )


def _check_operators(model: Any, path: Path) -> None:
    foreign = sorted(
        {
            f"{node.domain}::{node.op_type}"
            for node in all_nodes(model.graph)
            if node.domain not in _STANDARD
        }
    )
    if foreign:
        raise ExportError(
            f"{path} uses {', '.join(printable(name) for name in foreign[:4])}, which "
            f"{'is' if len(foreign) == 1 else 'are'} not in the ONNX standard; no library is "
            "loaded for it: export the model without runtime-specific optimization, from standard "
            "operators only"
        )


def _external_files(model: Any, path: Path) -> bool:
    """Whether weights lie in other files. Raises ExportError where one is missing or elsewhere."""
    found = False
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        found = True
        name = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name:
            raise ExportError(
                f"{path} keeps weights in {printable(name)!r}, outside of its folder; save it with "
                "its weights beside it"
            )
        if not (path.parent / name).is_file():
            raise ExportError(
                f"{path} keeps its weights in {printable(name)!r}, which is not beside it; copy "
                "that file to the same folder, under the same name"
            )
    return found


def _port(value: Any) -> Port:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        return Port(name=value.name, dtype="no tensor", shape=None)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        return Port(name=value.name, dtype=dtype, shape=None)
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in tensor.shape.dim
    )
    return Port(name=value.name, dtype=dtype, shape=shape)


class Original:
    """The untouched file in ONNX Runtime: the reference. One sample at a time, or its own batch."""

    def __init__(self, file: GraphFile, output: str, batched: Mapping[str, bool]) -> None:
        """batched: by input name, whether it has a batch axis. Raises ExportError if refused."""
        self._file, self._output, self._batched = file, output, batched
        fixed = [port.fixed(0) for port in file.inputs if batched.get(port.name) and port.fixed(0)]
        self.fixed_batch = fixed[0] if fixed else None
        try:
            self._session = open_session(file.path)
        except Exception as error:  # onnxruntime raises its own types, none with a common base
            raise ExportError(
                f"ONNX Runtime {ort.__version__} cannot load {file.path}: {first_line(error)}; "
                "export it again with opset_version=20"
            ) from error

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run on inputs by the file's own names; those with a batch have the same number of rows.

        Raises ExportError when the file cannot compute them.
        """
        size = self.fixed_batch or 1
        count = next(len(feeds[name]) for name in feeds if self._batched[name])
        parts = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            part = {n: a[rows] if self._batched[n] else a for n, a in feeds.items()}
            try:
                output = self._session.run([self._output], part)[0]
            except Exception as error:  # as above
                shapes = ", ".join(f"{n} {a.dtype} {a.shape}" for n, a in part.items())
                raise ExportError(
                    f"{self._file.path} cannot compute {printable(shapes)}: {first_line(error)}; "
                    "check the shapes that the spec names against those the model was exported with"
                ) from error
            if output.ndim == 0 or len(output) != size:
                raise ExportError(
                    f"{self._file.path} gives {self._output} of shape {output.shape} for a batch "
                    f"of {size}, expected the batch as the first axis; export it with one"
                )
            parts.append(output)
        return np.concatenate(parts)[:count]


def open_session(path: Path) -> Any:
    """Open a file in ONNX Runtime, one thread, and keep its own complaints off the terminal."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def first_line(error: Exception) -> str:
    """What a library complains of, short enough for a message of ours."""
    lines = str(error).strip().splitlines()
    return printable(lines[0][:300]) if lines else type(error).__name__
