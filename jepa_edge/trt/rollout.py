# SPDX-License-Identifier: Apache-2.0
"""A TensorRT predictor inside the CUDA planner's graph, in the place of our own kernels.

The planner (csrc/cuda/callback_rollout.hpp) keeps the window of latents; each step it asks for one
call of the predictor on its stream, which it captures once and replays for every iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jepa_edge.backends.cuda_memory import DeviceBuffer
from jepa_edge.backends.tensorrt import TensorRTGraph
from jepa_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    from jepa_edge.world_model import WorldModel

_HISTORY, _ACTIONS, _NOISE = "history", "actions", "z"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some rows of a batch. context: nothing else uses it, since the planner's graph holds it."""

    start: int
    context: Any


class TensorRTRollout:
    """Enqueues one step of a TensorRT predictor: `(history, actions, out, rows, stream)`.

    All but rows are addresses: history (rows, W, N, D), actions (rows, W, A), out (rows, N, D),
    float32 on the device, rows contiguous; stream is a cudaStream_t. A model with a latent variable
    of its own gets z = 0. Keep it as long as the planner that calls it.
    """

    def __init__(self, graph: TensorRTGraph, rows: int) -> None:
        """rows: futures at once, candidates times samples. Runs once, so that all is set up.

        Raises InputError for fewer than one row, BundleError when the engine's inputs are not a
        predictor's, or not float32, or it refuses.
        """
        if rows < 1:
            raise InputError(f"rows is {rows}, expected 1 or more")
        engine = graph.engine
        wanted = {_HISTORY, _ACTIONS}
        if not wanted <= engine.inputs.keys() <= wanted | {_NOISE}:
            raise BundleError(
                f"{engine.plan} takes {', '.join(sorted(engine.inputs))}, expected history, "
                "actions and maybe z: it is no predictor"
            )
        for tensor in (*engine.inputs.values(), engine.output):
            if tensor.kind != "FLOAT":
                raise BundleError(
                    f"{engine.plan}: {tensor.name} is {tensor.kind}, the planner's numbers are "
                    "float32; export again with float32 inputs and outputs"
                )
        self.rows = rows
        self._engine, self._cuda = engine, engine.cuda
        # The graph's own scratch may be in use by another thread while the planner runs.
        self._workspace = DeviceBuffer(self._cuda, engine.scratch_bytes)
        shapes = {name: (rows, *tensor.high[0][1:]) for name, tensor in engine.inputs.items()}
        inputs = {name: self._buffer(shape) for name, shape in shapes.items()}
        out = self._buffer((rows, *engine.output.high[0][1:]))
        self._noise = inputs.get(_NOISE)
        with graph.busy:
            for buffer in inputs.values():
                buffer.clear(self._cuda, engine.stream)
            self._parts = self._contexts(shapes)
            # TensorRT finishes its setup in the first run of a context: never in a capture.
            self(
                inputs[_HISTORY].address,
                inputs[_ACTIONS].address,
                out.address,
                rows,
                engine.stream.handle,
            )
            engine.stream.wait()

    def __call__(self, history: int, actions: int, out: int, rows: int, stream: int) -> None:
        """Enqueue one step.

        Fewer rows than it was made for run as many all the same: the buffers must be as large, as
        those of a planner are that was made for so many. Raises InputError for more, BundleError.
        """
        if rows > self.rows:
            raise InputError(f"{rows} rows were asked for, expected {self.rows} or fewer")
        engine = self._engine
        for part in self._parts:
            for name, base in ((_HISTORY, history), (_ACTIONS, actions)):
                offset = part.start * _row_bytes(engine.inputs[name].high[0])
                engine.address(part.context, name, base + offset)
            if self._noise is not None:
                engine.address(part.context, _NOISE, self._noise.address)
            offset = part.start * _row_bytes(engine.output.high[0])
            engine.address(part.context, engine.output.name, out + offset)
            engine.enqueue(part.context, stream)

    def _contexts(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[_Part, ...]:
        """Contexts for all rows, several where the largest profile takes fewer."""
        engine, parts, done = self._engine, [], 0
        while done < self.rows:
            profile, taken = engine.pick(shapes, self.rows - done)
            context = engine.context(profile, self._workspace)
            engine.shape(context, {name: (taken, *shape[1:]) for name, shape in shapes.items()})
            parts.append(_Part(start=done, context=context))
            done += taken
        return tuple(parts)

    def _buffer(self, shape: tuple[int, ...]) -> DeviceBuffer:
        return DeviceBuffer(self._cuda, int(np.prod(shape, dtype=np.int64)) * 4)


def tensorrt_rollout(model: WorldModel, rows: int) -> TensorRTRollout:
    """Return the planner's predictor of a model that runs on TensorRT.

    rows: futures at once, candidates times samples.
    Raises BundleError when the model does not run on TensorRT; InputError when it takes no actions.
    """
    model.manifest.require_action()
    graph = model.predictor_graph
    if not isinstance(graph, TensorRTGraph):
        raise BundleError(
            f"variant {model.variant} of {model.bundle.path} runs on {model.runtime}; load it with "
            "provider tensorrt"
        )
    return TensorRTRollout(graph, rows)


def _row_bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[1:], dtype=np.int64)) * 4
