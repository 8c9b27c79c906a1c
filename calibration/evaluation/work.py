# SPDX-License-Identifier: Apache-2.0
"""Encoding and scoring of many episodes on a few threads: the inference runtime, zlib and most of
numpy let go of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.dataset import EncodedEpisode, encode_episode, hold
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress
from jepa_edge.recording import Episode
from jepa_edge.world_model import WorldModel

In = TypeVar("In")
Out = TypeVar("Out")


def map_threads(
    function: Callable[[In], Out],
    items: Sequence[In],
    workers: int,
    progress: Progress,
    stage: str,
) -> list[Out]:
    """Apply a function to all items, in order; the first error stops the rest and is raised."""
    results = []
    pool = ThreadPoolExecutor(workers)
    try:
        for done, result in enumerate(pool.map(function, items), start=1):
            results.append(result)
            progress(stage, done, len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def encode_episodes(
    model: WorldModel,
    load: Callable[[int], Episode],
    count: int,
    workers: int,
    progress: Progress,
    stage: str,
) -> list[EncodedEpisode]:
    """Encode episodes 0 to count - 1 that `load` reads.

    Raises InputError when one is damaged, does not fit, or encodes to non-finite numbers.
    """

    def encode(index: int) -> EncodedEpisode:
        return hold(encode_episode(model, load(index)))

    return map_threads(encode, range(count), workers, progress, stage)


def score_episodes(
    monitor: Monitor,
    episodes: Sequence[EncodedEpisode],
    workers: int,
    progress: Progress,
    stage: str,
) -> list[NDArray[np.float64]]:
    """Channel scores (T + 1, C) of every episode."""
    return map_threads(
        lambda episode: monitor.episode(episode.latents, episode.actions, episode.masked),
        episodes,
        workers,
        progress,
        stage,
    )
