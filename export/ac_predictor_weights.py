# SPDX-License-Identifier: Apache-2.0
"""predictor.safetensors of V-JEPA 2-AC: its float32 predictor as the GPU core reads it.

Tensors carry upstream's names and shapes, linear weights (out, in) row-major, without the unused
`extrinsics_encoder`. The metadata holds the sizes and constants as decimal strings; the tables of
rotations follow from `grid`, the size of a head and `rope_theta`.

Float32, as checkpoints are: 1.2 GB for the released predictor. Half of it could only be saved by
rounding to bfloat16, and then float16, int8 and float8 engines would be made from rounded weights.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from jepa_edge.export.families.vjepa2_ac_predictor import (
    LONGEST,
    NORM_EPS,
    TARGET_EPS,
    PredictorGraph,
)
from jepa_edge.export.families.vjepa2_model import ROPE_THETA

FORMAT = "vjepa2-ac-predictor-1"
_UNUSED = "extrinsics_encoder."


def write_ac_predictor(graph: PredictorGraph, path: Path, *, history: int) -> None:
    """Store a predictor's weights and sizes.

    history: the longest window, in frames, 1 to 8. Raises ValueError for another one.
    """
    if not 1 <= history <= LONGEST:
        raise ValueError(f"history is {history}, expected 1 to {LONGEST} frames")
    predictor = graph.predictor
    config = predictor.config
    tensors = {
        name: tensor.detach().float().contiguous()
        for name, tensor in predictor.state_dict().items()
        if not name.startswith(_UNUSED)
    }
    metadata = {
        "format": FORMAT,
        "history": history,
        "latent_dim": config.latent_dim,
        "grid": config.grid,
        "dim": config.dim,
        "depth": config.depth,
        "heads": config.heads,
        "mlp_dim": config.mlp_dim,
        "norm_eps": NORM_EPS,
        "target_eps": TARGET_EPS,
        "rope_theta": ROPE_THETA,
    }
    save_file(tensors, path, metadata={key: str(value) for key, value in metadata.items()})
