# SPDX-License-Identifier: Apache-2.0
"""Torch module to ONNX without a second copy of its weights: above 2 GB, and on small machines.

The ordinary path (`onnx_export.export_graph`) builds the whole file in memory, several times over,
and protobuf ends at 2 GB. Here the graph holds torch's own tensors until they are written, one by
one, into a file beside it. Together with tensors mapped from the checkpoint, anonymous memory does
not grow with the model at all.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepa_edge.errors import ExportError, JepaEdgeError
from jepa_edge.export.big_files import save_model, weighted
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.onnx_export import OPSET, dynamic_axes
from jepa_edge.export.quiet import quiet

BIG_BYTES = 1_500_000_000
"""Graphs with more weights take this path; protobuf's own limit is 2^31."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def weights_bytes(module: nn.Module) -> int:
    """Return how many bytes a module's parameters and buffers have, shared ones counted once."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def is_big(graph: GraphModule) -> bool:
    """Whether a graph is too big for the ordinary path, which copies its weights."""
    return weights_bytes(graph.module) >= BIG_BYTES


def export_external(graph: GraphModule, path: Path) -> None:
    """Write a graph to `path` and its weights to `external_data(path)`, and check both.

    Same opset, names and open axes as `onnx_export.export_graph`; weighted nodes are named after
    their torch modules likewise. The weights are those of torch, transposed as they are written.
    Raises ExportError when torch or ONNX refuses the module.
    """
    axes = dynamic_axes(graph)
    dims = {name: torch.export.Dim(name) for part in axes.values() for name in part.values()}
    with quiet():
        try:
            program = torch.onnx.export(
                graph.module.eval(),
                tuple(graph.example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.example),
                output_names=[graph.output],
                dynamic_shapes=tuple(
                    {axis: dims[dim] for axis, dim in axes[name].items()} for name in graph.example
                ),
                external_data=True,
                verbose=False,
            )
            assert program is not None
            model: Any = program.model
            _name_layers(model)
            common = importlib.import_module("onnx_ir.passes.common")
            # Torch leaves this machine's paths and lines of code in every node.
            common.ClearMetadataAndDocStringPass()(model)
            save_model(model, path)
        except JepaEdgeError:
            raise
        except Exception as error:  # torch and onnx_ir raise types of their own
            raise ExportError(
                f"torch.onnx cannot export {type(graph.module).__name__}: "
                f"{str(error).strip().splitlines()[0]}; install the versions of the extra "
                "`export`, and report it if it stays"
            ) from error


def _name_layers(model: Any) -> None:
    """Name each weighted node after its torch module, and its weight likewise, in place."""
    taken = set(model.graph.initializers)
    for node, _, value in weighted(model, operators=("MatMul", "Gemm", "Conv")):
        scopes = [s for s in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")) if s]
        if len(scopes) < 2:
            continue
        node.name = scopes[-2]
        new = f"{scopes[-2]}.weight"
        if new not in taken:
            taken.add(new)
            value.name = new
