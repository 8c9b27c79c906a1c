# SPDX-License-Identifier: Apache-2.0
"""The C++ core's engine against the torch model, in each of its precisions."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.engine import PRECISIONS, Precision, RolloutEngine
from jepa_edge.errors import ExportError
from jepa_edge.export.data import ROLLOUT_STEPS
from jepa_edge.export.gates import Gates
from jepa_edge.export.parity import (
    MIN_FP32_DB,
    SQNR_CEILING_DB,
    HeldOut,
    plan_costs,
    spearman,
)
from jepa_edge.export.sensitivity import latent_error
from jepa_edge.metrics import centered_cosine, sqnr_db
from jepa_edge.progress import Progress, silent


class EngineParity(msgspec.Struct, frozen=True, kw_only=True):
    """The engine in one precision against torch, on held-out windows.

    sqnr_db, centered_cosine: of one prediction. rollout_error: `latent_error` after 1 to 5 steps on
    torch's latents. cost_rank_correlation: Spearman, of planner costs of candidate actions, mean
    over starts; _worst: the lowest of any start. missed: what of the budget is not met. fits:
    whether all of it is, so that the bundle offers this precision.
    """

    precision: Precision
    sqnr_db: float
    centered_cosine: float
    rollout_error: tuple[float, ...]
    cost_rank_correlation: float
    cost_rank_correlation_worst: float
    missed: tuple[str, ...] = ()
    fits: bool


def compare_engine(
    weights: Path, held_out: HeldOut, gates: Gates, progress: Progress = silent
) -> tuple[EngineParity, ...]:
    """Measure `predictor.safetensors` in every precision of the engine.

    gates: the budget, as for the variants.
    Raises ExportError when float32 does not compute what torch does.
    """
    predictions, rolled, plans = held_out.predictions, held_out.rollout, held_out.plans
    if predictions is None or rolled is None or plans is None:
        raise ExportError(
            "torch took too long for rollouts of held-out windows on this machine, which the "
            "engine is held to; export where nothing else runs"
        )
    results = []
    for done, precision in enumerate(PRECISIONS):
        progress("comparing the rollout engine with torch", done, len(PRECISIONS))
        engine = RolloutEngine.load(weights, precision=precision)
        windows = held_out.windows
        rollout = _rollout(engine, held_out.latents, windows.actions)
        predicted = rollout[:, 0]
        costs = plan_costs(
            functools.partial(_rollout, engine),
            held_out.latents,
            plans.starts,
            plans.goals,
            plans.candidates,
        )
        ranks = [spearman(a, b) for a, b in zip(plans.costs, costs, strict=True)]
        db = min(sqnr_db(predictions, predicted), SQNR_CEILING_DB)
        cosine = centered_cosine(predictions, predicted)
        if precision == "float32" and db < MIN_FP32_DB:
            raise ExportError(
                f"the rollout engine does not compute what torch does: {db:.1f} dB, expected "
                f"{MIN_FP32_DB:g} dB or more in float32; report it with the checkpoint's config"
            )
        rollout_error = tuple(
            latent_error(rolled[:, step], rollout[: len(rolled), step])
            for step in range(ROLLOUT_STEPS)
        )
        rank = float(np.mean(ranks))
        missed = gates.graph_failures("predictor", db, cosine)
        missed += gates.rollout_failures(rollout_error, rank)
        results.append(
            EngineParity(
                precision=precision,
                sqnr_db=db,
                centered_cosine=cosine,
                rollout_error=rollout_error,
                cost_rank_correlation=rank,
                cost_rank_correlation_worst=float(np.min(ranks)),
                missed=tuple(missed),
                fits=not missed,
            )
        )
    progress("comparing the rollout engine with torch", len(PRECISIONS), len(PRECISIONS))
    return tuple(results)


def _rollout(
    engine: RolloutEngine, history: NDArray[np.float32], actions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """As `jepa_edge.rollout.roll`: history (B, T, N, D), actions (B, T - 1 + H, A)."""
    past = history.shape[1] - 1
    return engine.rollout(history, actions[:, :past], actions[:, past:])
