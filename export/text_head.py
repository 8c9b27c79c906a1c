# SPDX-License-Identifier: Apache-2.0
"""Our own head from latents to text embeddings: attentive pooling, then an MLP.

Train it where you like; weights are a safetensors file with the parameter names of `TextPredictor`
and, in its metadata, the number of attention heads as "heads".
Source: the pooling is the attentive probe of V-JEPA (https://arxiv.org/abs/2404.08471).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.loading import fill, shape_of

_HEAD_DIM = 64
_CAUSE = (
    "pass the weights of one jepa_edge.export.text_head.TextPredictor, or a head as an ONNX file"
)


class TextPredictor(nn.Module):
    """A latent's tokens, pooled by one learned query, to a text embedding."""

    def __init__(self, *, dim: int, heads: int, hidden_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm = nn.LayerNorm(dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, embedding_dim)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, latents: Tensor) -> Tensor:
        """latents: float32 (B, N, D). Returns (B, E), not yet of unit length."""
        head_dim = latents.shape[-1] // self.heads
        k, v = (
            part.unflatten(-1, (self.heads, head_dim)).transpose(1, 2)
            for part in self.kv(self.norm(latents)).chunk(2, dim=-1)
        )
        q = self.query.reshape(1, self.heads, 1, head_dim) * head_dim**-0.5
        weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        pooled = self.proj((weights @ v).transpose(1, 2).flatten(-2).squeeze(1))
        out: Tensor = self.fc2(F.gelu(self.fc1(self.mlp_norm(pooled))))
        return out


def load_text_predictor(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str
) -> TextPredictor:
    """Build a head from its weights. metadata: "heads"; without it, channels / 64.

    Raises CheckpointError when tensors are missing, left over or do not fit together.
    """
    dim = shape_of(tensors, "query", 3, where, _CAUSE)[-1]
    hidden_dim, embedding_dim = (
        shape_of(tensors, name, 2, where, _CAUSE)[0] for name in ("fc1.weight", "fc2.weight")
    )
    said = metadata.get("heads", str(max(1, dim // _HEAD_DIM)))
    heads = int(said) if said.isdecimal() else 0
    if not heads or dim % heads:
        raise CheckpointError(
            f"{where}: heads is {said!r}, expected a divisor of its {dim} channels; "
            "correct the file's metadata"
        )
    with torch.device("meta"):
        model = TextPredictor(
            dim=dim,
            heads=heads,
            hidden_dim=hidden_dim,
            embedding_dim=embedding_dim,
        )
    return fill(model, tensors, where, cause=_CAUSE)
