# SPDX-License-Identifier: Apache-2.0
"""Vision transformer as LeWorldModel uses it: class token, learned 2-D positions, pre-norm blocks.

Parameter names are those of transformers 5 `ViTModel` without its pooling layer, so that a state
dict moves between the two unchanged.
Source: Dosovitskiy et al. 2021 (https://arxiv.org/abs/2010.11929).
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-12
"""transformers' default for ViT, and so the released weights' value."""

INIT_STD = 0.02


class ViTPatchEmbeddings(nn.Module):
    """Cut an image into square patches and project each to `dim` channels."""

    def __init__(self, *, patch_size: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float (B, 3, H, W). Returns (B, patches, dim), row-major over the patch grid."""
        patches: Tensor = self.projection(pixels)
        return patches.flatten(2).transpose(1, 2)


class ViTEmbeddings(nn.Module):
    """Patch tokens behind a class token, with learned absolute positions."""

    def __init__(self, *, image_size: int, patch_size: int, dim: int) -> None:
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position_embeddings = nn.Parameter(torch.zeros(1, patches + 1, dim))
        self.patch_embeddings = ViTPatchEmbeddings(patch_size=patch_size, dim=dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float (B, 3, H, W). Returns (B, 1 + patches, dim)."""
        patches = self.patch_embeddings(pixels)
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat((cls, patches), dim=1) + self.position_embeddings


class ViTAttention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, tokens, dim). Returns the same shape."""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class ViTMlp(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim). Returns the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class ViTLayer(nn.Module):
    """One pre-norm block: attention, then MLP, each with a residual."""

    def __init__(self, *, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention = ViTAttention(dim=dim, heads=heads)
        self.layernorm_before = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.layernorm_after = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = ViTMlp(dim=dim, hidden_dim=mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, tokens, dim). Returns the same shape."""
        x = x + self.attention(self.layernorm_before(x))
        out: Tensor = x + self.mlp(self.layernorm_after(x))
        return out


class ViT(nn.Module):
    """Image to tokens; token 0 is the class token. No dropout, as in the released configuration."""

    def __init__(
        self, *, image_size: int, patch_size: int, dim: int, depth: int, heads: int, mlp_dim: int
    ) -> None:
        super().__init__()
        self.embeddings = ViTEmbeddings(image_size=image_size, patch_size=patch_size, dim=dim)
        self.layers = nn.ModuleList(
            ViTLayer(dim=dim, heads=heads, mlp_dim=mlp_dim) for _ in range(depth)
        )
        self.layernorm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Draw the usual ViT start: truncated normals of standard deviation 0.02, zero biases."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.embeddings.cls_token, std=INIT_STD)
        nn.init.trunc_normal_(self.embeddings.position_embeddings, std=INIT_STD)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float (B, 3, H, W), normalized. Returns (B, 1 + patches, dim) after the norm."""
        x = self.embeddings(pixels)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.layernorm(x)
        return out
