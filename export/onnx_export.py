# SPDX-License-Identifier: Apache-2.0
"""Torch modules to ONNX: dynamo, opset 20, dynamic batch, simplified, checked."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from jepa_edge.errors import ExportError, JepaEdgeError, MissingDependencyError
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.onnx_graph import unshare_small_initializers, weighted_nodes
from jepa_edge.export.quiet import quiet

OPSET = 20

_SCOPES = "pkg.torch.onnx.name_scopes"


def export_graph(graph: GraphModule) -> Any:
    """Return a graph's ModelProto, with a dynamic batch and what else the graph leaves open."""
    return export_module(graph.module, graph.example, graph.output, dynamic_axes(graph))


def external_data(path: Path) -> Path:
    """Return where the weights of an ONNX file lie if they do not fit into it."""
    return path.with_name(path.name + ".data")


def dynamic_axes(graph: GraphModule) -> dict[str, dict[int, str]]:
    """Return which axes of which input have any length, by a name that equal lengths share."""
    axes: dict[str, dict[int, str]] = {}
    for name in graph.example:
        if name in graph.unbatched:
            axes[name] = {0: name}
            continue
        axes[name] = {0: "batch"}
        if name in graph.windowed:
            axes[name][1] = "window"
        if name == "context":  # as many tokens as indices
            axes[name][1] = "visible"
    return axes


def export_module(
    module: nn.Module,
    example: Mapping[str, Tensor],
    output: str,
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Any:
    """Export a module, simplify it, and name its weighted nodes by module.

    example: inputs by name, in the order of `forward`. axes: `dynamic_axes`; None for a batch of 2
    or more in front of every input, and nothing else.
    Returns an onnx.ModelProto. Raises ExportError when torch or ONNX refuses the module.
    """
    with quiet():
        try:
            import onnxslim
        except ImportError as error:
            raise MissingDependencyError(
                "onnxslim is needed to export; pip install 'jepa-edge[export]'"
            ) from error
        axes = {name: {0: "batch"} for name in example} if axes is None else axes
        with told(module):
            model = torch_program(module, example, output, axes, external_data=False).model_proto
            _name_layers(model)
            model = onnxslim.slim(model)
    unshare_small_initializers(model)
    del model.graph.value_info[:]
    model.producer_name = "jepa-edge"
    onnx.checker.check_model(model, full_check=True)
    return model


def torch_program(
    module: nn.Module,
    example: Mapping[str, Tensor],
    output: str,
    axes: Mapping[str, Mapping[int, str]],
    *,
    external_data: bool,
) -> Any:
    """Return torch's ONNXProgram of a module; arguments as of `export_module`."""
    dims = {name: torch.export.Dim(name) for part in axes.values() for name in part.values()}
    program = torch.onnx.export(
        module.eval(),
        tuple(example.values()),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(example),
        output_names=[output],
        dynamic_shapes=tuple(
            {axis: dims[dim] for axis, dim in axes[name].items()} for name in example
        ),
        external_data=external_data,
        verbose=False,
    )
    assert program is not None
    return program


@contextlib.contextmanager
def told(module: nn.Module) -> Iterator[None]:
    """Turn what torch and the ONNX tools raise, types of their own, into an ExportError."""
    try:
        yield
    except JepaEdgeError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"torch.onnx cannot export {type(module).__name__}: {lines[0]}; install the versions "
            "of the extra `export`, and report it if it stays"
        ) from error


def module_name(metadata: Mapping[str, str]) -> str | None:
    """Return the torch module that a node is of, from the node's metadata; None for the outermost.

    Torch notes the scopes from the outside in, the operator's own last.
    """
    path = [scope for scope in ast.literal_eval(metadata.get(_SCOPES, "[]")) if scope]
    return path[-2] if len(path) > 1 else None


def _name_layers(model: Any) -> None:
    """Name each weighted node after its torch module, and its weight likewise, in place."""
    for node in weighted_nodes(model):
        name = module_name({p.key: p.value for p in node.metadata_props})
        if name is None:
            continue
        node.name = name
        old, new = node.input[1], f"{name}.weight"
        for tensor in model.graph.initializer:
            if tensor.name == old:
                tensor.name = new
        for other in model.graph.node:
            other.input[:] = [new if name == old else name for name in other.input]
