# SPDX-License-Identifier: Apache-2.0
"""The monitor's call: one state, full history, S samples of the newest latent, one step ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_edge.export.families.lewm import LeWM
from planning.graphs import RewrittenStep, WindowStep
from planning.onnx_files import OnnxFiles
from planning.onnx_rivals import open_session
from planning.openvino_rivals import compile_file
from planning.ours import PRECISIONS, load_engine
from planning.problem import reference_latents
from planning.rounds import race
from planning.upstream import build_upstream

SAMPLES = (1, 16, 32, 64)
MAX_FLOAT32_ERROR = 1e-4
Call = Callable[[], NDArray[np.float32]]


class _Samples:
    """Inputs of one call and the contestants' ways to make it; each returns latents (S, D)."""

    def __init__(self, model: LeWM, samples: int, seed: int, files: OnnxFiles) -> None:
        rng = np.random.default_rng([seed, samples])
        T, D, A = model.config.history, model.config.latent_dim, model.config.action_dim
        self.model, self.files, self.samples = model, files, samples
        self.history = rng.standard_normal((T, D)).astype(np.float32)
        noise = rng.standard_normal((samples, D)).astype(np.float32)
        self.start = self.history[-1] + np.float32(0.1) * noise
        self.past = rng.standard_normal((T - 1, A)).astype(np.float32)
        action = rng.standard_normal((1, 1, A)).astype(np.float32)
        self.actions = np.repeat(action, samples, axis=0)
        before = np.broadcast_to(self.history[:-1], (samples, T - 1, D))
        self.plain = {
            "window": np.concatenate((before, self.start[:, None]), axis=1),
            "actions": np.concatenate(
                (np.broadcast_to(self.past, (samples, T - 1, A)), self.actions), axis=1
            ),
        }
        self.shared = {
            "history": self.history,
            "start": self.start,
            "actions": self.actions,
            "past": self.past,
        }

    def exact(self) -> NDArray[np.float64]:
        return reference_latents(self.model, self.history, self.past, self.actions, self.start)[
            :, 0
        ]

    def eager(self) -> Call:
        upstream = build_upstream(self.model)

        @torch.inference_mode()
        def call() -> NDArray[np.float32]:
            window, actions = map(torch.from_numpy, self.plain.values())
            predicted = upstream.predict(window, upstream.action_encoder(actions))[:, -1]
            out: NDArray[np.float32] = predicted.numpy()
            return out

        return call

    def onnx(self, kind: str, *, int8: bool) -> Call:
        export = self.files.int8 if int8 else self.files.float32
        session = open_session(export(*self._graph(kind)), 1)
        inputs = self._graph(kind)[2]

        def call() -> NDArray[np.float32]:
            out: NDArray[np.float32] = session.run(None, inputs)[0]
            return out

        return call

    def openvino(self, kind: str, precision: str) -> Call:
        name, module, inputs = self._graph(kind)
        compiled = compile_file(self.files.float32(name, module, inputs), 1, precision)
        return lambda: compiled(inputs)

    def ours(self, precision: str) -> Call:
        engine = load_engine(self.model, precision, 1, self.files)
        history, start = self.history[:, None], self.start[:, None]

        def call() -> NDArray[np.float32]:
            out: NDArray[np.float32] = engine.rollout(history, self.past, self.actions, start=start)
            return out[:, 0, 0]

        return call

    def _graph(self, kind: str) -> Any:
        if kind == "step graph":
            return f"monitor_S{self.samples}", lambda: WindowStep(self.model), self.plain
        name = f"monitor_rewritten_S{self.samples}"
        return name, lambda: RewrittenStep(self.model), self.shared


def run_single_step(
    model: LeWM, repeats: int, files: OnnxFiles, *, seed: int, quick: bool
) -> dict[str, Any]:
    """Return p50 and p99 of every contestant at each number of samples, one thread."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for count in SAMPLES[2:3] if quick else SAMPLES:
        samples = _Samples(model, count, seed, files)
        exact = samples.exact()
        calls: dict[str, Call] = {}
        errors: dict[str, float] = {}
        for name, (precision, build) in _contestants(samples).items():
            try:
                call = build()
                error = float(np.abs(call() - exact).max() / exact.std())
                if precision == "float32" and error > MAX_FLOAT32_ERROR:
                    raise ValueError(f"error {error:.1e} of the latents' spread")
            except Exception as reason:  # whatever a runtime raises, the others still run
                text = (str(reason).strip().splitlines() or [""])[0]
                failed.append(
                    {"name": name, "samples": count, "reason": f"{type(reason).__name__}: {text}"}
                )
                continue
            calls[name], errors[name] = call, error
        for name, times in race(calls, repeats, settle_s=0.001).items():
            p50, p99 = (float(np.quantile(times.wall_ms, q)) for q in (0.5, 0.99))
            rows.append(
                {
                    "name": name,
                    "samples": count,
                    "p50_ms": p50,
                    "p99_ms": p99,
                    "p99_over_p50": p99 / p50,
                    "cpu_p50_ms": float(np.median(times.cpu_ms)),
                    "max_error_in_spreads": errors[name],
                }
            )
    return {"threads": 1, "repeats": repeats, "rows": rows, "failed": failed}


def _contestants(samples: _Samples) -> dict[str, tuple[str, Callable[[], Call]]]:
    """Precision and builder by name."""
    found: dict[str, tuple[str, Callable[[], Call]]] = {
        "stable-worldmodel, PyTorch eager": ("float32", samples.eager)
    }
    for kind in ("step graph", "rewritten"):
        found |= {
            f"ONNX Runtime, {kind}": ("float32", lambda k=kind: samples.onnx(k, int8=False)),
            f"ONNX Runtime, {kind}, int8": ("int8", lambda k=kind: samples.onnx(k, int8=True)),
            f"OpenVINO, {kind}": ("float32", lambda k=kind: samples.openvino(k, "float32")),
            f"OpenVINO, {kind}, bf16": ("bfloat16", lambda k=kind: samples.openvino(k, "bfloat16")),
        }
    for precision in PRECISIONS:
        found[f"jepa-edge, {precision}"] = (precision, lambda p=precision: samples.ours(p))
    return found
