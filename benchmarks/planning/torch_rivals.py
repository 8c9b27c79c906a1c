# SPDX-License-Identifier: Apache-2.0
"""PyTorch: stable-worldmodel's own path, compiled, and the rewritten model compiled."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from planning.contestant import EAGER, Entry
from planning.graphs import RewrittenPlan
from planning.onnx_files import OnnxFiles
from planning.problem import Problem
from planning.upstream import build_upstream

# Compile in this process: a pool of compilers would take the cores that are being measured.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


class _Upstream:
    """`LeWM.get_cost` of stable-worldmodel 0.1.1, called as its CEMSolver calls it.

    The embeddings of the observation and the goal are in `info`, where the solver's second and
    later iterations find them, so that no encoder is timed.
    """

    def __init__(self, problem: Problem, *, compiled: bool = False, bfloat16: bool = False) -> None:
        self.model, self.bfloat16 = build_upstream(problem.model), bfloat16
        if compiled:
            self.model.predictor = _compiled(self.model.predictor)
        S, T = problem.setting.candidates, problem.setting.frames
        history, goal, past = map(torch.from_numpy, (problem.history, problem.goal, problem.past))
        self.past = past.expand(1, S, -1, -1)
        self.info = {
            "pixels": torch.zeros(1, S, T, 1),  # only its length is read
            "goal": torch.zeros(1),
            "emb": history.expand(1, S, -1, -1),
            "goal_emb": goal.expand(1, S, 1, -1),
        }

    def costs(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        with _inference(self.bfloat16):
            candidates = torch.from_numpy(actions)[None]
            if self.past.shape[2]:
                candidates = torch.cat((self.past, candidates), dim=2)
            return _to_numpy(self.model.get_cost(dict(self.info), candidates)[0])


class _Rewritten:
    """The whole rewritten plan as one compiled function."""

    def __init__(self, problem: Problem, *, bfloat16: bool = False) -> None:
        self.plan, self.bfloat16 = _compiled(RewrittenPlan(problem.model).eval()), bfloat16
        self.inputs = {k: torch.from_numpy(v) for k, v in problem.inputs().items()}

    def costs(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        with _inference(self.bfloat16):
            return _to_numpy(self.plan(**{**self.inputs, "actions": torch.from_numpy(actions)}))


def _compiled(module: nn.Module) -> Any:
    """Compile for fixed shapes with frozen weights, which packs them for oneDNN.

    `max_autotune` with the C++ GEMM templates was tried: after minutes of tuning the same speed.
    """
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(module, dynamic=False)


def _inference(bfloat16: bool) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(torch.no_grad())  # freezing does not know inference_mode
    if bfloat16:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    return stack


def _to_numpy(costs: Tensor) -> NDArray[np.float32]:
    out: NDArray[np.float32] = costs.float().numpy()
    return out


def _eager(problem: Problem, threads: int, files: OnnxFiles) -> _Upstream:
    return _Upstream(problem)


def _step(problem: Problem, threads: int, files: OnnxFiles) -> _Upstream:
    return _Upstream(problem, compiled=True)


def _step_bfloat16(problem: Problem, threads: int, files: OnnxFiles) -> _Upstream:
    return _Upstream(problem, compiled=True, bfloat16=True)


def _plan(problem: Problem, threads: int, files: OnnxFiles) -> _Rewritten:
    return _Rewritten(problem)


def _plan_bfloat16(problem: Problem, threads: int, files: OnnxFiles) -> _Rewritten:
    return _Rewritten(problem, bfloat16=True)


ENTRIES = (
    Entry(name=EAGER, precision="float32", build=_eager),
    Entry(name="torch.compile, original", precision="float32", build=_step),
    Entry(name="torch.compile, original, bf16", precision="bfloat16", build=_step_bfloat16),
    Entry(name="torch.compile, rewritten", precision="float32", build=_plan),
    Entry(name="torch.compile, rewritten, bf16", precision="bfloat16", build=_plan_bfloat16),
)
