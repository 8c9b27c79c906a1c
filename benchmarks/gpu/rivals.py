# SPDX-License-Identifier: Apache-2.0
"""The models as PyTorch runs them on the GPU: their energies of candidates, eager and compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from planning.graphs import OriginalPlan, RewrittenPlan
from planning.problem import Problem
from torch import Tensor, nn

from gpu.torch_cem import Costs
from jepa_edge.export.families.vjepa2_ac_predictor import PredictorGraph

CHUNK = 100
"""Candidates of V-JEPA 2-AC at once: its activations take 80 MB each in float32."""


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Matrix products in a dtype, without gradients and without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        yield


def compiled(module: nn.Module) -> Any:
    """Inductor with CUDA graphs; fixed shapes."""
    return torch.compile(module, mode="max-autotune", dynamic=False)


def lewm_costs(problem: Problem, dtype: torch.dtype, *, rewritten: bool, fast: bool) -> Costs:
    """Energies of LeWorldModel's candidates. rewritten: without repeated work. fast: compiled."""
    plan = (RewrittenPlan if rewritten else OriginalPlan)(problem.model).eval().cuda()
    run = compiled(plan) if fast else plan
    inputs = {name: torch.from_numpy(value).cuda() for name, value in problem.inputs().items()}

    def costs(actions: Tensor) -> Tensor:
        with precision(dtype):
            out: Tensor = run(**{**inputs, "actions": actions}).float()
            return out.clone() if fast else out  # a CUDA graph's output is overwritten

    return costs


def ac_costs(
    graph: PredictorGraph, latent: Tensor, goal: Tensor, dtype: torch.dtype, *, fast: bool
) -> Costs:
    """Energies of V-JEPA 2-AC's candidates, one step ahead: L1 over the patches, in chunks.

    latent, goal: (P + 1, D) on the device.
    """
    run = compiled(graph) if fast else graph

    def costs(actions: Tensor) -> Tensor:
        parts = []
        for begin in range(0, len(actions), CHUNK):
            some = actions[begin : begin + CHUNK]
            history = latent.expand(len(some), 1, -1, -1)
            with precision(dtype):
                predicted = run(history.contiguous(), some.contiguous())
            parts.append((predicted[:, :-1].float() - goal[:-1]).abs().mean(dim=(1, 2)))
        return torch.cat(parts)

    return costs
