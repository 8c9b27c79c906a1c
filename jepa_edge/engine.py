# SPDX-License-Identifier: Apache-2.0
"""The latent rollout engine: the C++ core's predictor, many futures at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.errors import BundleError, InputError

Precision = Literal["float32", "bfloat16", "int8"]
"""How the matrix products hold their operands; what lies between them is float32."""

CudaPrecision = Literal["float32", "float16", "bfloat16", "int8", "float8"]
"""The same of the GPU core (jepa_edge.cuda); float8 is e4m3."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # in the core's order
CUDA_PRECISIONS: tuple[CudaPrecision, ...] = get_args(CudaPrecision)


class RolloutEngine:
    """Rolls candidates forward in latent space, on one predictor's packed weights.

    Results do not depend on the number of threads, nor on which candidates share a call. Calls from
    several Python threads take turns; `sibling` gives a thread an engine of its own.
    """

    def __init__(
        self,
        predictor: _core.Predictor,
        *,
        threads: int = 1,
        candidates: int = 1,
        horizon: int = 1,
        samples: int = 1,
    ) -> None:
        """threads: of one call. candidates, horizon, samples: memory to reserve; it grows."""
        if threads < 1:
            raise InputError(f"threads is {threads}, expected 1 or more")
        self.predictor = predictor
        self.threads = threads
        self._lock = threading.Lock()
        self._reserved = (candidates, horizon, samples)
        self._core = _core.Engine(predictor, *self._reserved, threads)

    @classmethod
    def load(
        cls, path: Path, *, precision: Precision = "float32", threads: int = 1, isa: str = "auto"
    ) -> RolloutEngine:
        """Read `predictor.safetensors` and pack it for this processor.

        isa: an instruction set out of `instruction_sets()`, "auto" for the best.
        Raises BundleError when the file is not a predictor's, InputError for an unknown precision
        or instruction set.
        """
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        if isa != "auto" and isa not in instruction_sets():
            raise InputError(
                f"instruction set is {isa!r}, this machine has {', '.join(instruction_sets())}"
            )
        try:
            predictor = _core.Predictor(path, getattr(_core.Precision, precision.upper()), isa)
        except _core.FileError as error:
            raise BundleError(str(error)) from None
        return cls(predictor, threads=threads)

    def sibling(self) -> RolloutEngine:
        """Return another engine on the same weights, for another thread."""
        return RolloutEngine(self.predictor, threads=self.threads)

    def core(self, candidates: int, horizon: int, samples: int = 1) -> _core.Engine:
        """Return the core's engine with room for this many candidates, steps and samples."""
        with self._lock:
            needed = (candidates, horizon, samples)
            if any(need > have for need, have in zip(needed, self._reserved, strict=True)):
                both = zip(needed, self._reserved, strict=True)
                candidates, horizon, samples = (max(pair) for pair in both)
                self._reserved = (candidates, horizon, samples)
                self._core = _core.Engine(self.predictor, *self._reserved, self.threads)
            return self._core

    @property
    def precision(self) -> Precision:
        """The precision of the products."""
        return PRECISIONS[self.predictor.precision.value]

    def rollout(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
        start: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Roll S candidates forward: latents (S, H, N, D) float32.

        history: (T, N, D) float32, oldest first, 1 <= T <= window, shared by all candidates; or
        (S, T, N, D), one for each. past_actions: (T - 1, A) or (S, T - 1, A), raw units, between
        the history's latents. actions: (S, H, A), raw units. start: (S, N, D), replaces the newest
        latent per candidate (samples of the present). A diverged future holds non-finite numbers.
        Raises InputError for another shape, or when an input is not finite.
        """
        check_shapes(self.predictor.sizes, history, past_actions, actions, start)
        own = history.ndim == 4
        core = self.core(len(actions), actions.shape[1])
        history = np.ascontiguousarray(history if own else history[None], np.float32)
        past_actions = np.ascontiguousarray(past_actions if own else past_actions[None], np.float32)
        actions = np.ascontiguousarray(actions, np.float32)
        if start is not None:
            start = np.ascontiguousarray(start, np.float32)
        status, latents = core.rollout(history, past_actions, actions, start)
        raise_refused(
            status, history=history, past_actions=past_actions, actions=actions, start=start
        )
        return np.asarray(latents)

    def goal_energies(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
        goal: NDArray[np.float32],
        goal_steps: int = 1,
    ) -> NDArray[np.float32]:
        """Squared distance of the last predicted latents to the goal: (S,) float32.

        As `rollout`, then summed over (N, D) and averaged over the last `goal_steps` steps.
        goal: (N, D) float32. Raises InputError as `rollout` does, and for the goal.
        """
        check_goal(self.predictor.sizes, actions, goal, goal_steps)
        return distances(self.rollout(history, past_actions, actions), goal, goal_steps)


class RolloutSizes(Protocol):
    """Sizes of a predictor, on whichever device."""

    @property
    def window(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def latent_dim(self) -> int: ...
    @property
    def action_dim(self) -> int: ...


def check_shapes(
    sizes: RolloutSizes,
    history: NDArray[np.float32],
    past_actions: NDArray[np.float32],
    actions: NDArray[np.float32],
    start: NDArray[np.float32] | None = None,
) -> None:
    """Raise InputError unless the shapes are those of `RolloutEngine.rollout`."""
    latent = (sizes.tokens, sizes.latent_dim)
    if actions.ndim != 3 or min(actions.shape) < 1 or actions.shape[2] != sizes.action_dim:
        raise InputError(f"actions have shape {actions.shape}, expected (S, H, {sizes.action_dim})")
    own = (len(actions),) if history.ndim == 4 else ()
    T = history.shape[len(own)] if history.ndim >= 3 else 0
    if not 1 <= T <= sizes.window or history.shape != (*own, T, *latent):
        raise InputError(
            f"history has shape {history.shape}, expected (T, {latent[0]}, {latent[1]}) or "
            f"({len(actions)}, T, {latent[0]}, {latent[1]}) with T from 1 to {sizes.window}"
        )
    for name, array, shape in (
        ("past_actions", past_actions, (*own, T - 1, sizes.action_dim)),
        ("start", start, (len(actions), *latent)),
    ):
        if array is not None and array.shape != shape:
            raise InputError(f"{name} has shape {array.shape}, expected {shape}")


def raise_refused(status: _core.Status, **arrays: NDArray[np.float32] | None) -> None:
    """Raise InputError for a rollout that was refused, with what is not finite in its inputs."""
    if status == _core.Status.NON_FINITE_INPUT:
        bad = [name for name, array in arrays.items() if array is not None and not finite(array)]
        raise InputError(f"{', '.join(bad)}: NaN or infinity, expected finite numbers")
    if status not in (_core.Status.OK, _core.Status.NON_FINITE_OUTPUT):
        raise InputError(f"the core refused the rollout: {status.name}")


def check_goal(
    sizes: RolloutSizes, actions: NDArray[np.float32], goal: NDArray[np.float32], goal_steps: int
) -> None:
    """Raise InputError unless goal and goal_steps are those of `RolloutEngine.goal_energies`."""
    if goal.shape != (sizes.tokens, sizes.latent_dim) or not finite(goal):
        raise InputError(
            f"goal has shape {goal.shape}, expected {(sizes.tokens, sizes.latent_dim)} "
            "finite numbers"
        )
    if actions.ndim == 3 and not 1 <= goal_steps <= actions.shape[1]:
        raise InputError(
            f"goal_steps is {goal_steps}, expected 1 to the horizon, {actions.shape[1]}"
        )


def distances(
    latents: NDArray[np.float32], goal: NDArray[np.float32], goal_steps: int
) -> NDArray[np.float32]:
    """Squared distance of the last latents (S, H, N, D) to the goal, mean over steps: (S,)."""
    squared = np.sum((latents[:, -goal_steps:] - goal) ** 2, axis=(2, 3))
    return np.asarray(squared.mean(axis=1), np.float32)


def fastest_precisions() -> list[Precision]:
    """Return the precisions that this machine computes faster than the next, fastest first.

    A static property of its instruction set, so that the same machine always chooses the same.
    """
    return [PRECISIONS[precision.value] for precision in _core.fastest_precisions()]


def instruction_sets() -> list[str]:
    """Return what `isa` may be on this machine, best first."""
    return list(_core.available_isas())


def finite(array: NDArray[np.float32]) -> bool:
    """Whether all numbers are finite."""
    return bool(np.isfinite(array).all())
