# SPDX-License-Identifier: Apache-2.0
"""What every contestant is given: drawn full-size weights, a history, a goal, candidate actions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_edge.export.families.lewm import LeWM, LeWMConfig

_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Sizes of one CEM iteration: T observed latents, S candidates, H steps, elites kept."""

    frames: int = 1
    candidates: int = 300
    horizon: int = 5
    elites: int = 30

    @property
    def key(self) -> str:
        """Short name for files and tables."""
        return f"T{self.frames}_S{self.candidates}_H{self.horizon}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One batch of candidates. Actions have mean 0 and deviation 1, so raw and z-scored agree.

    history: (T, D); past: (T - 1, A); goal: (D,); actions: (S, H, A); all float32.
    """

    model: LeWM
    setting: Setting
    history: NDArray[np.float32]
    past: NDArray[np.float32]
    goal: NDArray[np.float32]
    actions: NDArray[np.float32]

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """Named inputs of a whole-plan graph; `past` only where there is one."""
        named = {"history": self.history, "actions": self.actions, "goal": self.goal}
        return {**named, "past": self.past} if len(self.past) else named


def draw_model(seed: int, config: LeWMConfig | None = None) -> LeWM:
    """Draw a model whose six blocks all work and whose latents follow the action.

    Upstream starts every AdaLN layer at zero, which makes each block the identity; here the
    modulations depend on the action (0.05) and the gates lie around one. Batch-norm statistics
    are drawn too, so that folding them is a real operation.
    """
    generator = torch.Generator().manual_seed(seed)
    model = LeWM(config or LeWMConfig())
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif "adaLN_modulation" in name:
            tensor.normal_(0.0, 0.05 if tensor.ndim > 1 else 0.2, generator=generator)
            if tensor.ndim == 1:
                tensor.view(6, -1)[[2, 5]] += 1.0
        elif tensor.ndim > 1 and ("embed" not in name or "action_encoder" in name):
            tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight"):
            tensor.normal_(1.0, 0.2, generator=generator)
        else:
            tensor.normal_(0.0, 0.3, generator=generator)
    return model.eval().requires_grad_(False)


def draw_problem(model: LeWM, setting: Setting, seed: int) -> Problem:
    """Draw a history, candidates N(0, 1) as in CEM's first iteration, and a goal within reach.

    The goal is where one more drawn action sequence leads, so a good plan's energy is near zero.
    """
    rng = np.random.default_rng([seed, setting.frames, setting.candidates, setting.horizon])
    T, D, A = setting.frames, model.config.latent_dim, model.config.action_dim

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    history, past = normal(T, D), normal(T - 1, A)
    actions, aim = normal(setting.candidates, setting.horizon, A), normal(setting.horizon, A)
    actions[0] = 0.0  # candidate 0 is the mean
    goal = reference_latents(model, history, past, aim[None])[0, -1].astype(np.float32)
    return Problem(
        model=model, setting=setting, history=history, past=past, goal=goal, actions=actions
    )


def reference_latents(
    model: LeWM,
    history: NDArray[np.float32],
    past: NDArray[np.float32],
    actions: NDArray[np.float32],
    start: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Roll out in float64 with the plain model. start: (S, D), in place of the newest latent.

    Returns (S, H, D).
    """
    exact = copy.deepcopy(model).double()
    parts: list[Any] = []
    with torch.inference_mode():
        for begin in range(0, len(actions), _CHUNK):
            chunk = torch.from_numpy(actions[begin : begin + _CHUNK]).double()
            S = len(chunk)
            window = torch.from_numpy(history).double().expand(S, -1, -1).clone()
            if start is not None:
                window[:, -1] = torch.from_numpy(start[begin : begin + _CHUNK]).double()
            before = torch.from_numpy(past).double().expand(S, -1, -1)
            parts.append(exact.rollout(window, torch.cat((before, chunk), dim=1)).numpy())
    return np.concatenate(parts)


def reference_costs(problem: Problem) -> NDArray[np.float64]:
    """The costs (S,) in float64: what every contestant is held against."""
    latents = reference_latents(problem.model, problem.history, problem.past, problem.actions)
    return np.square(latents[:, -1] - problem.goal.astype(np.float64)).sum(axis=-1)


def cost_error(costs: NDArray[Any], exact: NDArray[np.float64]) -> float:
    """Largest relative error of a cost."""
    return float(np.max(np.abs(costs.astype(np.float64) - exact) / exact))


def elites_shared(costs: NDArray[Any], exact: NDArray[np.float64], elites: int) -> int:
    """How many of the best candidates are the best in float64 too."""
    chosen, right = (set(np.argsort(c, kind="stable")[:elites].tolist()) for c in (costs, exact))
    return len(chosen & right)
