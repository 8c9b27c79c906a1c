# SPDX-License-Identifier: Apache-2.0
"""LeWorldModel: a ViT encoder, an action embedder and an AdaLN-zero predictor, in our own torch.

Parameter names are the released checkpoints' (with transformers 5 encoder keys), so a state dict
made by `stable-worldmodel` loads strictly. The module is plain torch, and exports with dynamo.
Source: Maes et al. 2026 (https://arxiv.org/abs/2603.19312); layout of stable-worldmodel 0.1.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.errors import InputError
from jepa_edge.export.families.vit import ViT

ADALN_NORM_EPS = 1e-6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeWMConfig:
    """Every size of a LeWorldModel. The defaults are the released PushT model's: 18,042,672 values.

    image_size, patch_size: pixels; the image is square and the patch divides it.
    latent_dim: D, channels of the one latent token. encoder_* describe the ViT before it.
    projector_dim: hidden width of the two MLPs that end the encoder and the predictor.
    predictor_dim: width inside the predictor; where it differs from latent_dim, linear layers
        lead in and out.
    history: the most latents that the predictor sees at once.
    action_dim: A, one action block flattened (environment steps per block times action size).
    action_smoothed_dim, action_mlp_scale: widths inside the action embedder.
    dropout: of the predictor's attention and MLPs; embedding_dropout: of its input.
    z_dim: size of the model's own latent variable, 0 in every released model: z ~ N(0, I) enters
        beside the newest action, so that futures scatter; z = 0 is the mean prediction.
    Raises InputError when a size is not positive or two sizes contradict each other.
    """

    image_size: int = 224
    patch_size: int = 14
    encoder_dim: int = 192
    encoder_depth: int = 12
    encoder_heads: int = 3
    encoder_mlp_dim: int = 768
    latent_dim: int = 192
    projector_dim: int = 2048
    predictor_dim: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_dim_head: int = 64
    predictor_mlp_dim: int = 2048
    history: int = 3
    action_dim: int = 10
    action_smoothed_dim: int = 10
    action_mlp_scale: int = 4
    dropout: float = 0.1
    embedding_dropout: float = 0.0
    z_dim: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float":
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not number or not 0.0 <= value < 1.0:
                    raise InputError(
                        f"LeWM config: {field.name} is {value!r}, expected a number in [0, 1); "
                        "correct it in the model configuration"
                    )
            elif (
                not isinstance(value, int)
                or isinstance(value, bool)
                or value < (0 if field.name == "z_dim" else 1)
            ):
                raise InputError(
                    f"LeWM config: {field.name} is {value!r}, expected a positive integer; "
                    "correct it in the model configuration"
                )
        if self.image_size % self.patch_size:
            raise InputError(
                f"LeWM config: patch_size {self.patch_size} does not divide image_size "
                f"{self.image_size}; border pixels would be lost, choose a divisor"
            )
        if self.encoder_dim % self.encoder_heads:
            raise InputError(
                f"LeWM config: encoder_heads {self.encoder_heads} does not divide encoder_dim "
                f"{self.encoder_dim}; choose a divisor"
            )

    def to_dict(self) -> dict[str, int | float]:
        """Return every field by name, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LeWMConfig:
        """Build a config from field names and values; fields left out take their defaults.

        Raises InputError for an unknown key or a value that does not fit.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"LeWM config: unknown key {unknown[0]!r}; known keys are "
                f"{', '.join(sorted(known))}"
            )
        return cls(**values)


class Mlp(nn.Module):
    """Linear, BatchNorm1d, GELU, linear: the head of the encoder and that of the predictor."""

    def __init__(self, *, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, output_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, input_dim). Returns (rows, output_dim)."""
        out: Tensor = self.net(x)
        return out


class ActionEmbedder(nn.Module):
    """Embed each action block on its own: a pointwise convolution, then a two-layer MLP."""

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        smoothed, D = config.action_smoothed_dim, config.latent_dim
        # Kept as Conv1d for its (out, in, 1) weight; kernel 1 makes it a linear layer.
        self.patch_embed = nn.Conv1d(config.action_dim, smoothed, kernel_size=1)
        self.embed = nn.Sequential(
            nn.Linear(smoothed, config.action_mlp_scale * D),
            nn.SiLU(),
            nn.Linear(config.action_mlp_scale * D, D),
        )

    def forward(self, actions: Tensor) -> Tensor:
        """actions: float (B, T, A), z-scored. Returns (B, T, D)."""
        weight = self.patch_embed.weight.squeeze(-1)
        out: Tensor = self.embed(F.linear(actions, weight, self.patch_embed.bias))
        return out


class CausalAttention(nn.Module):
    """Multi-head attention in which step t sees steps 0 to t, behind its own layer norm."""

    def __init__(self, *, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        # Upstream leaves the output projection out of a single full-width head.
        self.to_out: nn.Module = (
            nn.Identity()
            if heads == 1 and dim_head == dim
            else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, dim). Returns the same shape."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(-2))
        return out


class FeedForward(nn.Module):
    """Layer norm, then two linear layers around a GELU, with dropout after each."""

    def __init__(self, *, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim). Returns the same shape."""
        out: Tensor = self.net(x)
        return out


class ConditionalBlock(nn.Module):
    """Transformer block whose shift, scale and gate come from the action (AdaLN-zero).

    Source: Peebles & Xie 2023 (https://arxiv.org/abs/2212.09748).
    """

    def __init__(
        self, *, dim: int, heads: int, dim_head: int, mlp_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attn = CausalAttention(dim=dim, heads=heads, dim_head=dim_head, dropout=dropout)
        self.mlp = FeedForward(dim=dim, hidden_dim=mlp_dim, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=ADALN_NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=ADALN_NORM_EPS)
        modulation = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(modulation.weight)  # every block starts as the identity
        nn.init.zeros_(modulation.bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), modulation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x, condition: (B, T, dim). Returns the same shape."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(
            condition
        ).chunk(6, dim=-1)
        x = x + gate_attn * self.attn(self.norm1(x) * (1 + scale_attn) + shift_attn)
        out: Tensor = x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)
        return out


class ConditionalTransformer(nn.Module):
    """The stack of conditional blocks, with linear layers in and out where widths differ."""

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        D, dim = config.latent_dim, config.predictor_dim
        self.input_proj: nn.Module = nn.Linear(D, dim) if dim != D else nn.Identity()
        self.cond_proj: nn.Module = nn.Linear(D, dim) if dim != D else nn.Identity()
        self.layers = nn.ModuleList(
            ConditionalBlock(
                dim=dim,
                heads=config.predictor_heads,
                dim_head=config.predictor_dim_head,
                mlp_dim=config.predictor_mlp_dim,
                dropout=config.dropout,
            )
            for _ in range(config.predictor_depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.output_proj: nn.Module = nn.Linear(dim, D) if dim != D else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x, condition: (B, T, D). Returns (B, T, D)."""
        x = self.input_proj(x)
        condition = self.cond_proj(condition)
        for block in self.layers:
            x = block(x, condition)
        out: Tensor = self.output_proj(self.norm(x))
        return out


class Predictor(nn.Module):
    """Latents and action embeddings to the latents one step later, before the final MLP."""

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, config.history, config.latent_dim))
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.transformer = ConditionalTransformer(config)

    def forward(self, latents: Tensor, action_embeddings: Tensor) -> Tensor:
        """latents, action_embeddings: (B, T, D) with T <= history. Returns (B, T, D)."""
        x = self.dropout(latents + self.pos_embedding[:, : latents.shape[1]])
        out: Tensor = self.transformer(x, action_embeddings)
        return out


class LeWM(nn.Module):
    """LeWorldModel: images and actions in, one latent token per model step out.

    Call `eval()` before inference: dropout and batch statistics are live in training mode.
    """

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        self.config = config
        D = config.latent_dim
        self.encoder = ViT(
            image_size=config.image_size,
            patch_size=config.patch_size,
            dim=config.encoder_dim,
            depth=config.encoder_depth,
            heads=config.encoder_heads,
            mlp_dim=config.encoder_mlp_dim,
        )
        self.predictor = Predictor(config)
        self.action_encoder = ActionEmbedder(config)
        self.projector = Mlp(
            input_dim=config.encoder_dim, hidden_dim=config.projector_dim, output_dim=D
        )
        self.pred_proj = Mlp(input_dim=D, hidden_dim=config.projector_dim, output_dim=D)
        self.latent_noise = nn.Linear(config.z_dim, D, bias=False) if config.z_dim else None

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latent of each image.

        pixels: float (B, 3, H, W), RGB, normalized by mean and standard deviation per channel;
            H = W = image_size. Returns (B, D).
        Raises InputError when the image has another size.
        """
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise InputError(
                f"LeWM.encode: pixels have shape {tuple(pixels.shape)}, expected "
                f"(B, 3, {size}, {size}); resize the frames to the model's image_size"
            )
        latent: Tensor = self.projector(self.encoder(pixels)[:, 0])
        return latent

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Embed actions. actions: float (B, T, A), z-scored. Returns (B, T, D)."""
        embeddings: Tensor = self.action_encoder(actions)
        return embeddings

    def predict(self, latents: Tensor, action_embeddings: Tensor) -> Tensor:
        """Predict the latent that follows each step of a window.

        latents: (B, T, D), oldest first, T <= history. action_embeddings: (B, T, D), step t being
            the action taken at latent t. Returns (B, T, D): entry t is the latent after step t.
        Raises InputError when the window is longer than the history.
        """
        window = latents.shape[1]
        if window > self.config.history:
            raise InputError(
                f"LeWM.predict: {window} latents, expected at most history = "
                f"{self.config.history}; pass the newest ones only"
            )
        hidden = self.predictor(latents, action_embeddings)
        predicted: Tensor = self.pred_proj(hidden.flatten(0, 1))
        return predicted.reshape(-1, window, self.config.latent_dim)

    def rollout(self, history: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """Predict H steps ahead, feeding each prediction back in.

        history: (B, T, D), observed latents, oldest first, T >= 1. actions: (B, T - 1 + H, A),
            z-scored; action t is taken at step t, so the first T - 1 lie in the past. z: (B, H,
            z_dim), of a model that has its own latent variable; None for its mean, 0. What z did
            to a step is in its latent afterwards, so that only the newest step sees it.
        Returns (B, H, D). The window grows to `config.history` latents and then slides.
        Raises InputError when there is no action to predict from, or z does not fit the model.
        """
        T = history.shape[1]
        horizon = actions.shape[1] - T + 1
        if T < 1 or horizon < 1:
            raise InputError(
                f"LeWM.rollout: {T} latents and {actions.shape[1]} actions, expected at least one "
                "latent and one action for the newest of them; pass T - 1 + H actions"
            )
        embeddings = self.encode_actions(actions)
        noise: Tensor | None = None
        if z is not None:
            if self.latent_noise is None or z.shape[1:] != (horizon, self.config.z_dim):
                raise InputError(
                    f"LeWM.rollout: z has shape {tuple(z.shape)}, expected (B, {horizon}, "
                    f"{self.config.z_dim}); a model with z_dim 0 takes none"
                )
            noise = self.latent_noise(z)
        latents = list(history.unbind(dim=1))
        for end in range(T, T + horizon):
            start = max(0, end - self.config.history)
            window = torch.stack(latents[start:end], dim=1)
            taken = embeddings[:, start:end]
            if noise is not None:
                newest = taken[:, -1:] + noise[:, end - T : end - T + 1]
                taken = torch.cat((taken[:, :-1], newest), dim=1)
            latents.append(self.predict(window, taken)[:, -1])
        return torch.stack(latents[T:], dim=1)

    def cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Return the planner's cost: squared distance of the last predicted latent to the goal.

        predicted: (..., H, D). goal: (..., D), broadcast against it; no gradient flows into it.
        Returns (...), the sum over D of squared errors.
        """
        return (predicted[..., -1, :] - goal.detach()).square().sum(dim=-1)
