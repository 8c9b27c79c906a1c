# SPDX-License-Identifier: Apache-2.0
"""predictor.safetensors: the float32 predictor as the C++ core reads it, rewritten as its graph is.

Tensors carry the names of `PredictorGraph`'s state: linear weights are (out, in) row-major, the
action statistics and every fold (batch norm, `1 + scale`, query scale) are in the numbers. The
metadata holds the sizes, as decimal strings.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from jepa_edge.export.families.lewm import ADALN_NORM_EPS, LeWMConfig
from jepa_edge.export.graphs import PredictorGraph

FORMAT = "lewm-predictor-1"


def write_predictor_weights(graph: PredictorGraph, config: LeWMConfig, path: Path) -> None:
    """Store a predictor's weights and sizes."""
    tensors = {
        name: tensor.detach().float().contiguous().clone()
        for name, tensor in graph.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "history": config.history,
        "latent_dim": config.latent_dim,
        "action_dim": config.action_dim,
        "dim": config.predictor_dim,
        "depth": config.predictor_depth,
        "heads": config.predictor_heads,
        "head_dim": config.predictor_dim_head,
        "mlp_dim": config.predictor_mlp_dim,
        "head_hidden_dim": config.projector_dim,
        "adaln_norm_eps": ADALN_NORM_EPS,
        "norm_eps": graph.norm.eps,
    }
    save_file(tensors, path, metadata={key: str(value) for key, value in metadata.items()})
