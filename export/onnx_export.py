# SPDX-License-Identifier: Apache-2.0
"""Torch modules to ONNX: dynamo, opset 20, dynamic batch, simplified, checked."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from jepa_edge.errors import ExportError, MissingDependencyError
from jepa_edge.export.graphs import EncoderGraph, PredictorGraph
from jepa_edge.export.onnx_graph import unshare_small_initializers, weighted_nodes
from jepa_edge.export.quiet import quiet

OPSET = 20
_SCOPES = "pkg.torch.onnx.name_scopes"


def export_encoder(graph: EncoderGraph) -> Any:
    """Return the encoder's ModelProto: frames uint8 (B, H, W, 3) -> latents float32 (B, N, D)."""
    frames = torch.zeros(2, graph.size, graph.size, 3, dtype=torch.uint8)
    return export_module(graph, {"frames": frames}, "latents")


def export_predictor(graph: PredictorGraph) -> Any:
    """Return the predictor's ModelProto.

    history float32 (B, T, N, D), actions float32 (B, T, A) in raw units -> prediction (B, N, D).
    A model with a latent variable of its own takes z float32 (B, Z) too.
    """
    history = torch.zeros(2, *graph.history_shape)
    actions = torch.zeros(2, graph.history_shape[0], graph.action_mean.shape[0])
    example = {"history": history, "actions": actions}
    if graph.z_dim:
        example["z"] = torch.zeros(2, graph.z_dim)
    return export_module(graph, example, "prediction")


def export_module(module: nn.Module, example: Mapping[str, Tensor], output: str) -> Any:
    """Export a module with a dynamic batch, simplify it, and name its weighted nodes by module.

    example: inputs by name, in the order of `forward`, batch first (of 2 or more).
    Returns an onnx.ModelProto. Raises ExportError when torch or ONNX refuses the module.
    """
    with quiet():
        try:
            import onnxslim
        except ImportError as error:
            raise MissingDependencyError(
                "onnxslim is needed to export; pip install 'jepa-edge[export]'"
            ) from error
        batch = torch.export.Dim("batch")
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=[output],
                dynamic_shapes=tuple({0: batch} for _ in example),
                external_data=False,
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
            _name_layers(model)
            model = onnxslim.slim(model)
        except Exception as error:  # torch and onnxslim raise types of their own
            raise ExportError(
                f"torch.onnx cannot export {type(module).__name__}: "
                f"{str(error).strip().splitlines()[0]}; install the versions of the extra "
                "`export`, and report it if it stays"
            ) from error
    unshare_small_initializers(model)
    del model.graph.value_info[:]
    model.producer_name = "jepa-edge"
    onnx.checker.check_model(model, full_check=True)
    return model


def _name_layers(model: Any) -> None:
    """Name each weighted node after its torch module, and its weight likewise, in place."""
    for node in weighted_nodes(model):
        scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "[]")
        path = [scope for scope in ast.literal_eval(scopes) if scope]
        if len(path) < 2:
            continue
        node.name = path[-2]
        old, new = node.input[1], f"{path[-2]}.weight"
        for tensor in model.graph.initializer:
            if tensor.name == old:
                tensor.name = new
        for other in model.graph.node:
            other.input[:] = [new if name == old else name for name in other.input]
