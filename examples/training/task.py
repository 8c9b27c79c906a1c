# SPDX-License-Identifier: Apache-2.0
"""What an example says about itself: its robot, its recordings, its model, its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jepa_edge.export.families.lewm import LeWMConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One recording to make: how many episodes, how long, from which seed."""

    episodes: int
    steps: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything about a training run that is no model size.

    batch: windows of frames. cooldown: last share of the steps, over which the learning rate falls
    to zero; before it the rate is constant, so runs of different lengths begin alike.
    """

    steps: int = 3600
    batch: int = 24
    learning_rate: float = 7e-4
    warmup_steps: int = 200
    cooldown: float = 0.3
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    sigreg_weight: float = 0.15
    inverse_dynamics_weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One example.

    name: the simulator's. block: environment steps per action. splits: recordings named train,
    val and probe; seeds share no randomness, so no split sees another's episodes.
    inverse_frames, inverse_hidden: shape of the inverse-dynamics head, as for InverseDynamics.
    """

    name: str
    block: int
    model: LeWMConfig
    splits: Mapping[str, Split]
    recipe: Recipe
    inverse_frames: int
    inverse_hidden: int
