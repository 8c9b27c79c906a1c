# SPDX-License-Identifier: Apache-2.0
"""A whole CEM or iCEM search in PyTorch on the GPU: eager, and compiled with CUDA graphs.

The search is stable-worldmodel's CEMSolver in torch operators on the device: draw, clip, roll out,
topk, mean and standard deviation; the first candidate is the mean. iCEM draws with coloured noise
and keeps elites. Nothing goes to the host before the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Costs = Callable[[Tensor], Tensor]
"""Candidates (S, H, A) on the device to energies (S,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Sizes of a search, as `PlannerConfig` names them. keep: elites carried on; 0 is CEM."""

    candidates: int
    iterations: int
    horizon: int
    action_dim: int
    elites: int = 30
    keep: int = 0
    noise_beta: float = 2.0
    momentum: float = 0.0


def search(costs: Costs, sizes: Search, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the mean (H, A) after the last iteration and the last elites' mean energy."""
    device = generator.device
    mean = torch.zeros(sizes.horizon, sizes.action_dim, device=device)
    std = torch.ones_like(mean)
    kept = torch.empty(0, sizes.horizon, sizes.action_dim, device=device)
    energy = torch.zeros((), device=device)
    for _ in range(sizes.iterations):
        shape = (sizes.candidates, sizes.horizon, sizes.action_dim)
        noise = torch.randn(shape, generator=generator, device=device)
        if sizes.keep:
            noise = _colored(noise, sizes.noise_beta)
        candidates = mean + std * noise
        candidates[len(kept)] = mean
        candidates[: len(kept)] = kept
        energies = costs(candidates)
        best = torch.topk(energies, sizes.elites, largest=False)
        elites = candidates[best.indices]
        kept = elites[: sizes.keep]
        old = sizes.momentum
        mean = old * mean + (1 - old) * elites.mean(dim=0)
        std = old * std + (1 - old) * elites.std(dim=0)
        energy = best.values.mean()
    return mean, energy


def _colored(noise: Tensor, beta: float) -> Tensor:
    """Noise (S, H, A) with the power spectrum f^-beta over time, of unit deviation."""
    length = noise.shape[1]
    frequency = torch.arange(length // 2 + 1, device=noise.device, dtype=noise.dtype) / length
    frequency[0] = frequency[min(1, length // 2)]
    spectrum = torch.fft.rfft(noise, dim=1) * frequency[None, :, None] ** (-beta / 2)
    colored = torch.fft.irfft(spectrum, n=length, dim=1)
    return colored / colored.std(dim=1, keepdim=True).clamp(min=1e-8)
