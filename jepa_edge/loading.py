# SPDX-License-Identifier: Apache-2.0
"""Which of several variants a machine runs: the fastest that reproduces the golden outputs."""

from __future__ import annotations

import logging

from jepa_edge.backends import Backend
from jepa_edge.backends.choice import Stage
from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError
from jepa_edge.golden import Golden
from jepa_edge.world_model import GoldenReplay, WorldModel

logger = logging.getLogger(__name__)


def fastest(
    bundle: Bundle, stage: Stage, golden: Golden, replays: list[GoldenReplay]
) -> WorldModel | None:
    """Load every variant of a stage and return the fastest that passes its golden replay.

    replays: what was measured is added. Raises BundleError as loading does, unless the stage is
    optional: then what fails is told in a warning.
    """
    best: tuple[float, WorldModel, GoldenReplay] | None = None
    for name, backend in stage.backends.items():  # one at a time, beside the best: gigabytes
        loaded = _replayed(bundle, name, backend, golden, stage.optional)
        if loaded is None:
            continue
        model, replay = loaded
        replays.append(replay)
        time_ms = sum(replay.time_ms.values())
        if replay.passed and (best is None or time_ms < best[0]):
            best = (time_ms, model, replay)
        elif stage.optional and not replay.passed:
            logger.warning(
                "%s with %s does not reproduce the golden outputs and is not used; build it "
                "again with `jepa-edge build %s`",
                replay.told(),
                backend.runtime,
                bundle.path,
            )
    if best is None:
        return None
    _, model, chosen = best
    names = ", ".join(stage.backends)
    told = f"fastest of {names}" if len(stage.backends) > 1 else "as asked"
    model.reason = ", ".join(filter(None, (stage.why, told)))
    logger.info(
        "variant %s on %s: %s, golden outputs pass (%s)",
        chosen.variant,
        model.runtime,
        ", ".join(f"{name} {time_ms:.2f} ms" for name, time_ms in chosen.time_ms.items()),
        model.reason,
    )
    return model


def _replayed(
    bundle: Bundle, name: str, backend: Backend, golden: Golden, optional: bool
) -> tuple[WorldModel, GoldenReplay] | None:
    try:
        model = WorldModel(bundle, name, backend)
        return model, model.replay_golden(golden)
    except BundleError as error:
        if not optional:
            raise
        logger.warning("variant %s is not run with %s: %s", name, backend.runtime, error)
        return None
