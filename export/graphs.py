# SPDX-License-Identifier: Apache-2.0
"""The two torch modules that become ONNX files: LeWorldModel rewritten for speed, exactly.

Every rewrite is algebra on the weights, so the graphs agree with `LeWM` to float rounding:
batch norms and the pixel normalization move into the linear layer beside them, linear layers
without a nonlinearity between them merge, the AdaLN modulations of all blocks become one linear
layer with `1 + scale` in its bias, and the last block computes only the token that is read. The
causal mask is a finite constant, since -inf times zero is NaN in a quantized or FP16 graph.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.errors import ExportError
from jepa_edge.export.families.lewm import ActionEmbedder, ConditionalBlock, LeWM, Mlp
from jepa_edge.export.families.pixels import PIXEL_SCALE, frozen_linear, patch_linear
from jepa_edge.export.families.vit import ViTLayer

MASKED = -1e4
"""Added to masked attention logits: exp underflows to zero, and FP16 still holds the number."""


class EncoderGraph(nn.Module):
    """Frames to latents. mean, std: per channel, of pixels scaled to [0, 1]."""

    def __init__(self, model: LeWM, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        model = copy.deepcopy(model)  # `center_encoder` edits the layers
        vit, config = model.encoder, model.config
        self.size, self.patch = config.image_size, config.patch_size
        conv = vit.embeddings.patch_embeddings.projection
        self.patch_embed = patch_linear(conv, mean, std)
        position = vit.embeddings.position_embeddings.detach()[0]
        self.cls_token = nn.Parameter(
            vit.embeddings.cls_token.detach()[0] + position[:1], requires_grad=False
        )
        self.position = nn.Parameter(position[1:].clone(), requires_grad=False)
        layers = cast("list[ViTLayer]", list(vit.layers))
        self.blocks = nn.ModuleList(
            EncoderBlock(layer, first_token_only=layer is layers[-1]) for layer in layers
        )
        self.norm = vit.layernorm
        self.head = FoldedMlp(model.projector)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: uint8 (B, H, W, 3). Returns float32 (B, 1, D)."""
        grid, patch = self.size // self.patch, self.patch
        x = frames.to(torch.float32) * (1.0 / PIXEL_SCALE) - 1.0
        x = x.reshape(-1, grid, patch, grid, patch, 3).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, grid * grid, patch * patch * 3)
        x = self.patch_embed(x) + self.position
        cls = self.cls_token.expand(x.shape[0], 1, -1)
        x = torch.cat((cls, x), dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class EncoderBlock(nn.Module):
    """A ViT block with one projection for query, key and value.

    first_token_only: compute the class token alone, which is all that is read after the last block.
    """

    def __init__(self, layer: ViTLayer, *, first_token_only: bool) -> None:
        super().__init__()
        attention = layer.attention
        self.heads, self.first_token_only = attention.heads, first_token_only
        scale = (attention.q_proj.out_features // self.heads) ** -0.5
        query = _scaled(attention.q_proj, scale)
        parts = (attention.k_proj, attention.v_proj)
        self.qkv = _stack((query, *parts)) if not first_token_only else None
        self.q = query if first_token_only else None
        self.kv = _stack(parts) if first_token_only else None
        self.out = attention.o_proj
        self.norm1, self.norm2 = layer.layernorm_before, layer.layernorm_after
        self.fc1, self.fc2 = layer.mlp.fc1, layer.mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, tokens, dim). Returns the same shape, or (B, 1, dim) for the first token only."""
        normed = self.norm1(x)
        if self.qkv is not None:
            q, k, v = self.qkv(normed).chunk(3, dim=-1)
        else:
            assert self.q is not None
            assert self.kv is not None
            q = self.q(normed[:, :1])
            k, v = self.kv(normed).chunk(2, dim=-1)
            x = x[:, :1]
        x = x + self.out(_attend(q, k, v, self.heads))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


class PredictorGraph(nn.Module):
    """History and actions to the next latent. mean, std: of raw action blocks, length A."""

    causal_mask: Tensor
    action_mean: Tensor
    action_inv_std: Tensor

    def __init__(self, model: LeWM, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        model = copy.deepcopy(model)
        config = model.config
        if len(mean) != config.action_dim or len(std) != config.action_dim:
            raise ExportError(
                f"action statistics have {len(mean)} means and {len(std)} deviations, expected "
                f"{config.action_dim} each: one per number of an action block"
            )
        self.history_shape = (config.history, 1, config.latent_dim)
        self.register_buffer("action_mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("action_inv_std", 1.0 / torch.tensor(std, dtype=torch.float32))
        transformer = model.predictor.transformer
        self.action_in, self.condition = _action_linears(
            model.action_encoder, transformer.cond_proj
        )
        self.position = nn.Parameter(
            model.predictor.pos_embedding.detach()[0].clone(), requires_grad=False
        )
        self.input_proj = transformer.input_proj
        self.z_dim = config.z_dim
        self.noise = _noise_linear(model.latent_noise, transformer.cond_proj)
        layers = cast("list[ConditionalBlock]", list(transformer.layers))
        self.modulation = _modulation(layers)
        self.blocks = nn.ModuleList(
            PredictorBlock(block, last_token_only=block is layers[-1]) for block in layers
        )
        self.norm = transformer.norm
        # Where the widths differ, the projection out feeds the head's first layer directly.
        self.head = FoldedMlp(model.pred_proj, before=transformer.output_proj)
        steps = config.history
        mask = torch.full((steps, steps), MASKED).triu(diagonal=1)
        self.register_buffer("causal_mask", mask)

    def forward(self, history: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """history: float32 (B, T, 1, D); actions: float32 (B, T, A), raw. Returns (B, 1, D).

        z: float32 (B, z_dim), an input of a model that has a latent variable of its own.
        """
        scored = (actions - self.action_mean) * self.action_inv_std
        condition = self.condition(F.silu(self.action_in(scored)))
        if self.noise is not None and z is not None:
            newest = condition[:, -1:] + self.noise(z).unsqueeze(1)
            condition = torch.cat((condition[:, :-1], newest), dim=1)
        modulation = self.modulation(F.silu(condition)).chunk(len(self.blocks), dim=-1)
        x = self.input_proj(history.squeeze(2) + self.position)
        for block, part in zip(self.blocks, modulation, strict=True):
            x = block(x, part, self.causal_mask)
        out: Tensor = self.head(self.norm(x))
        return out


class PredictorBlock(nn.Module):
    """An AdaLN-zero block that is given its modulation, with `1 + scale` already added.

    last_token_only: compute the newest step alone, which is all that is read after the last block.
    """

    def __init__(self, block: ConditionalBlock, *, last_token_only: bool) -> None:
        super().__init__()
        attention = block.attn
        self.heads, self.last_token_only = attention.heads, last_token_only
        inner = attention.to_qkv.out_features // 3
        q, k, v = attention.to_qkv.weight.detach().chunk(3)
        q = q * (inner // self.heads) ** -0.5
        self.qkv = frozen_linear(torch.cat((q, k, v)), None) if not last_token_only else None
        self.q = frozen_linear(q, None) if last_token_only else None
        self.kv = frozen_linear(torch.cat((k, v)), None) if last_token_only else None
        self.out = attention.to_out[0] if isinstance(attention.to_out, nn.Sequential) else None
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention_norm = attention.norm
        self.mlp_norm, self.fc1, self.fc2 = block.mlp.net[0], block.mlp.net[1], block.mlp.net[4]

    def forward(self, x: Tensor, modulation: Tensor, mask: Tensor) -> Tensor:
        """x: (B, T, dim); modulation: (B, T, 6 dim); mask: (T, T). Returns x's shape or T = 1."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(
            6, dim=-1
        )
        normed = self.attention_norm(self.norm1(x) * scale_attn + shift_attn)
        if self.qkv is not None:
            q, k, v = self.qkv(normed).chunk(3, dim=-1)
            mixed = _attend(q, k, v, self.heads, mask)
        else:
            assert self.q is not None
            assert self.kv is not None
            k, v = self.kv(normed).chunk(2, dim=-1)
            mixed = _attend(self.q(normed[:, -1:]), k, v, self.heads)  # the newest step sees all
            x, gate_attn = x[:, -1:], gate_attn[:, -1:]
            shift_mlp, scale_mlp = shift_mlp[:, -1:], scale_mlp[:, -1:]
            gate_mlp = gate_mlp[:, -1:]
        x = x + gate_attn * (self.out(mixed) if self.out is not None else mixed)
        hidden = self.mlp_norm(self.norm2(x) * scale_mlp + shift_mlp)
        out: Tensor = x + gate_mlp * self.fc2(F.gelu(self.fc1(hidden)))
        return out


class FoldedMlp(nn.Module):
    """Linear, GELU, linear: an `Mlp` whose batch norm, and the layer before it, are folded in."""

    def __init__(self, mlp: Mlp, before: nn.Module | None = None) -> None:
        super().__init__()
        first, norm, _, second = mlp.net
        assert isinstance(first, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        assert isinstance(second, nn.Linear)
        if norm.running_mean is None or norm.running_var is None:
            raise ExportError(
                "the checkpoint's batch norm keeps no running statistics, expected them for "
                "inference; train with track_running_stats=True"
            )
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        shift = -norm.running_mean.double() * scale
        if norm.affine:
            scale = scale * norm.weight.detach().double()
            shift = -norm.running_mean.double() * scale + norm.bias.detach().double()
        weight = first.weight.detach().double() * scale[:, None]
        bias = _bias(first).double() * scale + shift
        merged = frozen_linear(weight, bias)
        self.fc1 = _compose(before, merged) if isinstance(before, nn.Linear) else merged
        self.fc2 = second

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., input_dim). Returns (..., output_dim)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention from (B, tokens, dim) projections, the query already divided by sqrt(head dim)."""
    head_dim = q.shape[-1] // heads
    q = q.reshape(-1, q.shape[1], heads, head_dim).transpose(1, 2)
    k = k.reshape(-1, k.shape[1], heads, head_dim).permute(0, 2, 3, 1)
    v = v.reshape(-1, v.shape[1], heads, head_dim).transpose(1, 2)
    logits = q @ k
    if mask is not None:
        logits = logits + mask
    mixed = logits.softmax(dim=-1) @ v
    return mixed.transpose(1, 2).reshape(-1, q.shape[2], heads * head_dim)


def _bias(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        return torch.zeros(linear.out_features)
    return linear.bias.detach()


def _scaled(linear: nn.Linear, factor: float) -> nn.Linear:
    return frozen_linear(linear.weight.detach() * factor, _bias(linear) * factor)


def _stack(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One linear layer whose outputs are those of the given ones, one after the other."""
    return frozen_linear(
        torch.cat([linear.weight.detach() for linear in linears]),
        torch.cat([_bias(linear) for linear in linears]),
    )


def _compose(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """One linear layer for `second(first(x))`, multiplied out in float64."""
    outer = second.weight.detach().double()
    return frozen_linear(
        outer @ first.weight.detach().double(),
        outer @ _bias(first).double() + _bias(second).double(),
    )


def _action_linears(embedder: ActionEmbedder, cond_proj: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """Return the action embedder as the two linear layers that its one nonlinearity separates."""
    pointwise, hidden, out = embedder.patch_embed, embedder.embed[0], embedder.embed[2]
    assert isinstance(hidden, nn.Linear)
    assert isinstance(out, nn.Linear)
    first = frozen_linear(pointwise.weight.detach().squeeze(-1), pointwise.bias)
    last = _compose(out, cond_proj) if isinstance(cond_proj, nn.Linear) else out
    return _compose(first, hidden), last


def _noise_linear(noise: nn.Linear | None, cond_proj: nn.Module) -> nn.Linear | None:
    """Return how z moves the newest step's condition; None for a model without z."""
    if noise is None or not isinstance(cond_proj, nn.Linear):
        return noise
    weight = cond_proj.weight.detach().double() @ noise.weight.detach().double()
    return frozen_linear(weight, None)


def _modulation(blocks: Sequence[ConditionalBlock]) -> nn.Linear:
    """Stack the AdaLN layers of all blocks, and add the 1 of `1 + scale` to their biases."""
    linears = []
    for block in blocks:
        linear = block.adaLN_modulation[1]
        assert isinstance(linear, nn.Linear)
        bias = _bias(linear).clone().reshape(6, -1)
        bias[[1, 4]] += 1.0  # shift, scale, gate of the attention, then of the MLP
        linears.append(frozen_linear(linear.weight, bias.flatten()))
    return _stack(linears)
