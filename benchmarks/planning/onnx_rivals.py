# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the step graph in a loop, the original and the rewritten plan, float32 and int8."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from planning.contestant import Contestant, Entry
from planning.graphs import OriginalPlan, RewrittenPlan, WindowStep
from planning.onnx_files import OnnxFiles
from planning.problem import Problem

PLANS = {"original": OriginalPlan, "rewritten": RewrittenPlan}


class _Plan:
    """One graph from candidates to costs."""

    def __init__(self, problem: Problem, threads: int, path: Path) -> None:
        self.session, self.inputs = open_session(path, threads), problem.inputs()

    def costs(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = self.session.run(None, {**self.inputs, "actions": actions})[0]
        return out


class _Steps:
    """The deployed step graph, called once per step with the window of each candidate."""

    def __init__(self, problem: Problem, threads: int, paths: dict[int, Path]) -> None:
        self.problem, self.window = problem, problem.model.config.history
        self.sessions = {n: open_session(path, threads) for n, path in paths.items()}

    def costs(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        problem, S = self.problem, len(actions)
        T, H = problem.setting.frames, actions.shape[1]
        latents = np.empty((S, T + H, problem.history.shape[1]), np.float32)
        latents[:, :T] = problem.history
        past = np.broadcast_to(problem.past, (S, *problem.past.shape))
        actions = np.concatenate((past, actions), axis=1)
        for end in range(T, T + H):
            first = max(0, end - self.window)
            feeds = {"window": latents[:, first:end], "actions": actions[:, first:end]}
            feeds = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
            latents[:, end] = self.sessions[end - first].run(None, feeds)[0]
        out: NDArray[np.float32] = np.square(latents[:, -1] - problem.goal).sum(axis=-1)
        return out


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Open a session with every optimization and this many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def plan_file(problem: Problem, files: OnnxFiles, kind: str, *, int8: bool = False) -> Path:
    """Return the file of a whole-plan graph, `original` or `rewritten`."""
    export = files.int8 if int8 else files.float32
    name = f"{kind}_{problem.setting.key}"
    return export(name, lambda: PLANS[kind](problem.model), problem.inputs())


def _plan(kind: str, int8: bool, problem: Problem, threads: int, files: OnnxFiles) -> Contestant:
    return _Plan(problem, threads, plan_file(problem, files, kind, int8=int8))


def _steps(int8: bool, problem: Problem, threads: int, files: OnnxFiles) -> Contestant:
    config, setting = problem.model.config, problem.setting
    export = files.int8 if int8 else files.float32
    paths = {}
    for n in range(1, config.history + 1):
        if setting.frames <= n <= setting.frames + setting.horizon - 1 or n == config.history:
            shapes = {"window": config.latent_dim, "actions": config.action_dim}
            inputs = {
                name: np.zeros((setting.candidates, n, width), np.float32)
                for name, width in shapes.items()
            }
            name = f"step_T{n}_S{setting.candidates}"
            paths[n] = export(name, lambda: WindowStep(problem.model), inputs)
    return _Steps(problem, threads, paths)


ENTRIES = tuple(
    Entry(
        name=f"ONNX Runtime, {name}{', int8' if int8 else ''}",
        precision="int8" if int8 else "float32",
        build=partial(build, int8),
    )
    for name, build in (
        ("step graph", _steps),
        ("original", lambda int8, *rest: _plan("original", int8, *rest)),
        ("rewritten", lambda int8, *rest: _plan("rewritten", int8, *rest)),
    )
    for int8 in (False, True)
)
