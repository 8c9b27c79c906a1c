# SPDX-License-Identifier: Apache-2.0
"""Which layer of a failed graph goes wrong first, and what to keep in a higher precision.

Polygraphy makes every layer's result an output and runs both sides: a few layers spread over the
graph first, then all between the last good one and the first bad one, so that a large graph's
activations are never held all at once and few fusions are broken up at a time.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/polygraphy
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import BundleError, JepaEdgeError, MissingDependencyError
from jepa_edge.progress import Progress, silent
from jepa_edge.trt.precision_plan import Layer, PrecisionPlan, propose

Feeds = Mapping[str, NDArray[np.generic]]
MakeRunner = Callable[[Path, Sequence[str], Path], Any]
"""Makes a Polygraphy runner, not yet active, of an ONNX file whose tensors of these names are to
come out; the folder, for files of its own, lives as long."""

LAYER_DB = 20.0
_FALL_DB = 6.0
_SHOWN = 5
_EXACT_DB = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Result of a comparison. first: the first layer below required_db, None where all are above.

    falls: where 6 dB or more are lost near it, the worst first. compared: how many layers were.
    plan: None where nothing is wrong.
    """

    required_db: float
    compared: int
    first: Layer | None
    falls: tuple[Layer, ...]
    plan: PrecisionPlan | None

    def told(self) -> str:
        """The finding in one line."""
        if self.first is None:
            return (
                f"all {self.compared} layers that were compared reach {self.required_db:.1f} dB: "
                "no layer by itself is wrong"
            )
        return f"first bad layer, below {self.required_db:.1f} dB: {self.first.told()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    name: str
    operator: str
    reads: tuple[str, ...]
    tensor: str


def diagnose(
    suspect: Path,
    feeds: Feeds,
    make_runner: MakeRunner,
    *,
    reference: Path | None = None,
    required_db: float = LAYER_DB,
    precision: str = "",
    progress: Progress = silent,
) -> Diagnosis:
    """Compare a graph layer by layer with a reference that ONNX Runtime runs on the CPU.

    suspect: ONNX file as it was built. feeds: inputs by name, several rows. make_runner: what runs
    the suspect, `onnx_runner` or from `tensorrt_runner`. reference: another ONNX file whose tensors
    have the same names, the fp32 variant's; None is the suspect itself, so that only the runner
    differs. required_db: SQNR below which a layer is bad. precision: of the suspect, for the plan.
    Raises MissingDependencyError without Polygraphy and onnx; BundleError when a side does not run
    or the graphs share no layer.
    """
    trusted = suspect if reference is None else reference
    nodes = _shared(_nodes(suspect), trusted)
    if not nodes:
        raise BundleError(
            f"{suspect} and {trusted} share no layer's name; export both variants in one go"
        )
    measured: dict[str, tuple[float, float]] = {}

    def compare(some: Sequence[_Node]) -> None:
        wanted = [node.tensor for node in some if node.tensor not in measured]
        if wanted:
            expected = _run(trusted, wanted, feeds, onnx_runner)
            actual = _run(suspect, wanted, feeds, make_runner)
            measured.update(
                {
                    name: (layer_db(expected[name], actual[name]), _largest(expected[name]))
                    for name in wanted
                    if name in expected and name in actual
                }
            )

    def is_bad(node: _Node) -> bool:
        return node.tensor in measured and measured[node.tensor][0] < required_db

    stride = math.isqrt(len(nodes)) or 1
    marks = sorted({*range(stride - 1, len(nodes), stride), len(nodes) - 1})
    progress("layers", 0, 2)
    compare([nodes[mark] for mark in marks])
    progress("layers", 1, 2)
    bad = next((mark for mark in marks if is_bad(nodes[mark])), None)
    first: _Node | None = None
    window: list[_Node] = []
    if bad is not None:
        good = max((mark for mark in marks if mark < bad), default=-1)
        window = nodes[good + 1 : bad + 1]
        read = {name for node in window for name in node.reads}
        compare([*(node for node in nodes if node.tensor in read), *window])
        first = next(node for node in window if is_bad(node))
    progress("layers", 2, 2)
    layers = [_layer(node, measured) for node in window if node.tensor in measured]
    falls = sorted(layers, key=lambda layer: -layer.fall_db)
    falls = [layer for layer in falls if layer.fall_db >= _FALL_DB][:_SHOWN]
    found = None if first is None else _layer(first, measured)
    return Diagnosis(
        required_db=required_db,
        compared=len(measured),
        first=found,
        falls=tuple(falls),
        plan=None if found is None else propose(found, falls, precision),
    )


def onnx_runner(file: Path, tensors: Sequence[str], folder: Path) -> Any:
    """Return a Polygraphy runner of an ONNX file on ONNX Runtime's CPU provider: a MakeRunner."""
    onnx, onnxrt = _part("backend.onnx"), _part("backend.onnxrt")
    model = onnx.modify_outputs(onnx.onnx_from_path(str(file)), outputs=_literally(tensors))
    marked = folder / "marked.onnx"
    onnx.save_onnx(model, str(marked), external_data_path="marked.onnx.data")
    session = onnxrt.SessionFromOnnx(str(marked), providers=["CPUExecutionProvider"])
    return onnxrt.OnnxrtRunner(session, name="onnxruntime")


def tensorrt_runner(shapes: Mapping[str, tuple[int, ...]]) -> MakeRunner:
    """Return what makes Polygraphy runners that build an ONNX file with TensorRT and run it.

    shapes: of the inputs, all that the engine will take. Strongly typed, as our engines are.
    """

    def make(file: Path, tensors: Sequence[str], _: Path) -> Any:
        trt = _part("backend.trt")
        builder, network, parser = trt.network_from_onnx_path(str(file), strongly_typed=True)
        # TensorRT folds some away; and its parser refuses an output without a type, so that they
        # are not marked in the file.
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        there = {
            layer.get_output(index).name for layer in layers for index in range(layer.num_outputs)
        }
        found = [name for name in tensors if name in there]
        marked = trt.modify_network_outputs((builder, network, parser), outputs=_literally(found))
        profile = trt.Profile()
        for name, shape in shapes.items():
            profile.add(name, min=shape, opt=shape, max=shape)
        config = trt.CreateConfig(profiles=[profile])
        return trt.TrtRunner(trt.EngineFromNetwork(marked, config), name="tensorrt")

    return make


def layer_db(reference: NDArray[Any], actual: NDArray[Any]) -> float:
    """Signal to noise of one layer's result, about the mean of all its numbers; capped at 200 dB.

    Minus infinity where a number is not finite, or the shapes differ.
    """
    if reference.shape != actual.shape:
        return -math.inf
    expected, got = reference.astype(np.float64), actual.astype(np.float64)
    if not np.isfinite(got).all():
        return _EXACT_DB if np.array_equal(expected, got, equal_nan=True) else -math.inf
    noise = float(np.mean((got - expected) ** 2))
    signal = float(np.var(expected)) or float(np.mean(expected**2))
    if noise == 0.0:
        return _EXACT_DB
    return min(10.0 * math.log10(signal / noise), _EXACT_DB) if signal > 0.0 else -math.inf


def _largest(array: NDArray[Any]) -> float:
    return float(np.abs(array.astype(np.float64)).max()) if array.size else 0.0


def _layer(node: _Node, measured: Mapping[str, tuple[float, float]]) -> Layer:
    """A node's finding; what it reads and nobody measured is weights, or an input: exact."""
    read = [measured[name][0] for name in node.reads if name in measured]
    return Layer(
        node=node.name,
        operator=node.operator,
        tensor=node.tensor,
        sqnr_db=measured[node.tensor][0],
        input_db=min(read, default=_EXACT_DB),
        largest=measured[node.tensor][1],
    )


def _nodes(file: Path) -> list[_Node]:
    """The nodes of a graph in the order of their computation, by their first outputs."""
    onnx = _part("backend.onnx")
    with _quiet():
        model = onnx.onnx_from_path(str(file))
    return [
        _Node(
            name=node.name or node.output[0],
            operator=node.op_type,
            reads=tuple(node.input),
            tensor=node.output[0],
        )
        for node in model.graph.node
        if node.op_type != "Constant"
    ]


def _shared(nodes: Sequence[_Node], reference: Path) -> list[_Node]:
    """Those whose result the reference graph has too."""
    there = {node.tensor for node in _nodes(reference)}
    return [node for node in nodes if node.tensor in there]


def _run(
    file: Path, tensors: Sequence[str], feeds: Feeds, make_runner: MakeRunner
) -> dict[str, NDArray[Any]]:
    """Results of those tensors that the runner has. Raises BundleError when it does not run."""
    comparator = _part("comparator").Comparator
    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder, _quiet():
        try:
            runner = make_runner(file, tensors, Path(folder))
            results = comparator.run([runner], data_loader=[dict(feeds)], warm_up=0)
            (_, iterations) = next(iter(results.items()))
            given = iterations[0]
            return {name: np.asarray(given[name]) for name in tensors if name in given}
        except JepaEdgeError:
            raise
        except Exception as error:  # Polygraphy and the runtimes have types of their own
            line = " ".join(str(error).split())[:300]
            raise BundleError(
                f"{file} cannot be run layer by layer: {line}; check that the bundle's golden "
                "inputs fit it"
            ) from error


def _literally(tensors: Sequence[str]) -> list[str]:
    """Names for Polygraphy, which takes them for patterns."""
    return [glob.escape(name) for name in tensors]


def _part(name: str) -> Any:
    """Import a module of Polygraphy. Raises MissingDependencyError where it or onnx is missing."""
    try:
        with _quiet():
            return importlib.import_module(f"polygraphy.{name}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the comparison by layers needs the package {error.name}; install it with "
            "`pip install 'jepa-edge[check]'`"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Polygraphy from stderr: what fails is raised."""
    logger = importlib.import_module("polygraphy.logger").G_LOGGER
    before = logger.module_severity
    logger.module_severity = logger.CRITICAL + 1
    try:
        yield
    finally:
        logger.module_severity = before
