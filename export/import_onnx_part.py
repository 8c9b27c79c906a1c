# SPDX-License-Identifier: Apache-2.0
"""One foreign graph with all that it takes to answer as the run time asks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from jepa_edge.errors import ExportError
from jepa_edge.export.import_onnx_file import GraphFile, Original, Port
from jepa_edge.export.import_onnx_roles import FLOATS, OUTPUTS
from jepa_edge.export.import_onnx_steps import (
    Step,
    apply_steps,
    rename_tensor,
    tensor_names,
    wrap_input,
    wrap_output,
)
from jepa_edge.manifest import TensorSpec

UNBATCHED = ("visible", "hidden")
TRIAL = 2
"""Samples on which a graph shows what it gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An input of the graph and how it is made. spec: what the run time gives it."""

    port: Port
    spec: TensorSpec
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A foreign graph bound to the run time. inputs: by run-time name. fixed_batch: its only one.

    output_steps: from the graph's output to the run time's, whose shape `output_spec` tells.
    """

    file: GraphFile
    inputs: dict[str, Bound]
    output: Port
    output_spec: TensorSpec
    output_steps: tuple[Step, ...]
    fixed_batch: int | None

    def original(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Ask the untouched file, with numpy around it. feeds: by run-time name."""
        return apply_steps(
            self.output_steps, run_untouched(self.file, self.output, self.inputs, feeds)
        )

    @property
    def mapping(self) -> dict[str, str]:
        """Run-time name to the graph's own input or output, as text."""
        told = {name: bound.port.told() for name, bound in self.inputs.items()}
        return {**told, OUTPUTS[self.file.part]: self.output.told()}

    @property
    def changes(self) -> tuple[str, ...]:
        """What `build` alters, in words; empty where the file is kept bit for bit."""
        told = []
        for name, bound in self.inputs.items():
            if bound.steps:
                steps = ", ".join(step.told() for step in bound.steps)
                told.append(f"{name} -> {bound.port.name}: {steps}")
            elif name != bound.port.name:
                told.append(f"{bound.port.name} renamed to {name}")
        name = OUTPUTS[self.file.part]
        if self.output_steps:
            steps = ", ".join(step.told() for step in self.output_steps)
            told.append(f"{self.output.name} -> {name}: {steps}")
        elif name != self.output.name:
            told.append(f"{self.output.name} renamed to {name}")
        others = [port.name for port in self.file.outputs if port.name != self.output.name]
        if others:
            told.append(f"left out {', '.join(others)}")
        if self.fixed_batch is not None:
            told.append(f"batch of {self.fixed_batch} made dynamic")
        if self.file.inlined:
            told.append("local functions replaced by their operators")
        if self.file.external:
            told.append("weights moved to the bundle's own file")
        return tuple(told)

    def build(self) -> Any:
        """Return the graph as the run time wants it: a ModelProto."""
        model = copy.deepcopy(self.file.model)
        graph = model.graph
        del graph.value_info[:]
        if self.fixed_batch is not None:
            _free_reshapes(graph, self.fixed_batch)
        ours = [*self.inputs, OUTPUTS[self.file.part]]
        taken = tensor_names(graph)
        inner = {name: name for name in taken}
        for name in ours:
            if name in taken:
                inner[name] = f"{name}/of the model"
                rename_tensor(graph, name, inner[name])
        for bound in self.inputs.values():
            source = inner[bound.port.name]
            wrap_input(model, source, _value(bound.spec), bound.steps)
        wrap_output(model, inner[self.output.name], _value(self.output_spec), self.output_steps)
        return model


def run_untouched(
    file: GraphFile, output: Port, inputs: Mapping[str, Bound], feeds: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """Give run-time inputs to the untouched file and return what it gives, as it gives it."""
    batched = {bound.port.name: name not in UNBATCHED for name, bound in inputs.items()}
    run = Original(file, output.name, batched)
    return run({bound.port.name: apply_steps(bound.steps, feeds[n]) for n, bound in inputs.items()})


def cast_output(file: GraphFile, output: Port, raw: NDArray[Any]) -> tuple[Step, ...]:
    """Steps that make float32 of what a graph gave. Raises ExportError where it is no float."""
    if str(raw.dtype) not in FLOATS:
        raise ExportError(
            f"{file.path} gives {output.name} as {raw.dtype}, expected float32 "
            f"{OUTPUTS[file.part]}; export the latents themselves, not an index of them"
        )
    return () if raw.dtype == np.float32 else (Step(op="Cast", value="float32"),)


def bind(
    port: Port,
    name: str,
    shape: tuple[int, ...],
    dtype: str = "float32",
    steps: tuple[Step, ...] | None = None,
) -> Bound:
    """Bind an input to what the run time gives it. steps: None for a cast where one is needed."""
    if steps is None:
        steps = () if port.dtype == dtype else (Step(op="Cast", value=port.dtype),)
    return Bound(port=port, spec=TensorSpec(name=name, dtype=dtype, shape=shape), steps=steps)


def make_part(
    file: GraphFile,
    inputs: dict[str, Bound],
    output: Port,
    shape: tuple[int, ...],
    steps: tuple[Step, ...],
) -> Part:
    """Put a part together. shape: of the output, -1 for the batch and other dynamic axes."""
    fixed = [
        bound.port.fixed(0)
        for bound in inputs.values()
        if len(bound.spec.shape) > 1 and bound.port.fixed(0) is not None
    ]
    return Part(
        file=file,
        inputs=inputs,
        output=output,
        output_spec=TensorSpec(name=OUTPUTS[file.part], dtype="float32", shape=shape),
        output_steps=steps,
        fixed_batch=fixed[0] if fixed else None,
    )


def _free_reshapes(graph: Any, batch: int) -> None:
    """Let reshapes that name the batch as their first axis take any, in place.

    A guess at what the exporter wrote down; the result is compared with the file's own answers.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    for index, node in enumerate(graph.node):
        source = node.input[1] if node.op_type == "Reshape" else ""
        tensor = stored.get(source) or constants.get(source)
        if tensor is None:
            continue
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim != 1 or not shape.size or shape[0] != batch:
            continue
        shape[0] = 0 if -1 in shape else -1
        name = f"{source}/any batch {index}"
        graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name


def _value(spec: TensorSpec) -> Any:
    unbatched = len(spec.shape) == 1
    axes = [
        (spec.name if unbatched else "batch" if axis == 0 else f"{spec.name}_{axis}")
        if length == -1
        else length
        for axis, length in enumerate(spec.shape)
    ]
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, dtype, axes)
