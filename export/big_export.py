# SPDX-License-Identifier: Apache-2.0
"""Torch module to ONNX without a second copy of its weights: above 2 GB, and on small machines.

The ordinary path (`onnx_export.export_graph`) builds the whole file in memory, several times over,
and protobuf ends at 2 GB. Here the graph holds torch's own tensors until they are written, one by
one, into a file beside it. Together with tensors mapped from the checkpoint, anonymous memory does
not grow with the model at all.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from jepa_edge.export.big_files import save_model, weighted
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.onnx_export import dynamic_axes, module_name, told, torch_program
from jepa_edge.export.quiet import quiet

BIG_BYTES = 1_500_000_000
"""Graphs with more weights take this path; protobuf's own limit is 2^31."""


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
    with quiet(), told(graph.module):
        program = torch_program(
            graph.module, graph.example, graph.output, dynamic_axes(graph), external_data=True
        )
        model: Any = program.model
        _name_layers(model)
        common = importlib.import_module("onnx_ir.passes.common")
        # Torch leaves this machine's paths and lines of code in every node.
        common.ClearMetadataAndDocStringPass()(model)
        save_model(model, path)


def _name_layers(model: Any) -> None:
    """Name each weighted node after its torch module, and its weight likewise, in place."""
    taken = set(model.graph.initializers)
    for node, _, value in weighted(model, operators=("MatMul", "Gemm", "Conv")):
        name = module_name(node.metadata_props)
        if name is None:
            continue
        node.name = name
        new = f"{name}.weight"
        if new not in taken:
            taken.add(new)
            value.name = new
