# SPDX-License-Identifier: Apache-2.0
"""What the examples minimize: multi-step latent prediction, SIGReg, inverse dynamics."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.export.families.lewm import LeWM


def prediction_loss(model: LeWM, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return (one-step loss, multi-step loss), mean squared errors against the encoder's latents.

    latents: (B, L, D), encoded frames; the gradient flows into predictions and targets alike.
    actions: (B, L - 1, A), z-scored.
    One step: the first window, every entry predicting its successor. Multi-step: from the first
    window on, each prediction is fed back in until frame L - 1.
    """
    history = model.config.history
    embeddings = model.encode_actions(actions)
    first = model.predict(latents[:, :history], embeddings[:, :history])
    one_step = F.mse_loss(first, latents[:, 1 : history + 1])
    known = [*latents[:, :history].unbind(1), first[:, -1]]
    for end in range(history + 1, latents.shape[1]):
        window = torch.stack(known[end - history : end], dim=1)
        known.append(model.predict(window, embeddings[:, end - history : end])[:, -1])
    multi_step = F.mse_loss(torch.stack(known[history:], dim=1), latents[:, history:])
    return one_step, multi_step


class SIGReg(nn.Module):
    """Sketched isotropic Gaussian regularization: keeps the latents from collapsing.

    Every random 1-D projection of the latents should look like N(0, 1). The Epps-Pulley statistic
    measures that: the squared distance between the projections' empirical characteristic function
    and exp(-t^2 / 2), integrated under a Gaussian window and scaled by the sample size.
    Source: Balestriero & LeCun 2025, LeJEPA (https://arxiv.org/abs/2511.08544).
    """

    def __init__(self, *, projections: int = 512, knots: int = 17, t_max: float = 3.0) -> None:
        super().__init__()
        self.projections = projections
        t = torch.linspace(0.0, t_max, knots)
        target = torch.exp(-0.5 * t.square())
        # The integrand is even in t: integrate over [0, t_max] and double.
        weights = torch.full_like(t, 2.0 * t_max / (knots - 1))
        weights[0] = weights[-1] = t_max / (knots - 1)
        self.register_buffer("t", t)
        self.register_buffer("target", target)
        self.register_buffer("weights", weights * target)

    def forward(self, latents: Tensor) -> Tensor:
        """latents: (rows, D). Returns the mean statistic over fresh random directions."""
        directions = F.normalize(torch.randn(latents.shape[1], self.projections), dim=0)
        phases = (latents @ directions)[..., None] * self.t
        real = phases.cos().mean(dim=0) - self.target
        imaginary = phases.sin().mean(dim=0)
        statistic = ((real.square() + imaginary.square()) * self.weights).sum(dim=-1)
        return latents.shape[0] * statistic.mean()


class InverseDynamics(nn.Module):
    """Guess the action from the latents around it; it makes the encoder see what actions move.

    Used in training only; its weights are not shipped.
    """

    def __init__(self, *, latent_dim: int, action_dim: int, frames: int, hidden: int) -> None:
        """frames: latents that the head sees, the last one being the action's outcome.

        hidden: width of its hidden layer, 0 for a linear head.
        """
        super().__init__()
        self.frames = frames
        width = frames * latent_dim
        self.net: nn.Module = (
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, action_dim))
            if hidden
            else nn.Linear(width, action_dim)
        )

    def loss(self, latents: Tensor, actions: Tensor) -> Tensor:
        """latents: (B, L, D). actions: (B, L - 1, A), z-scored. Returns the mean squared error."""
        windows = latents.unfold(1, self.frames, 1).transpose(2, 3).flatten(2)
        return F.mse_loss(self.net(windows), actions[:, self.frames - 2 :])
