# SPDX-License-Identifier: Apache-2.0
"""Recorded runs as latents: encoded once by the variant that will run, split by episode."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import required_episodes
from jepa_edge.channels import LONG, episode_rollouts, first_step
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.latent_variable import Predictor
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Episode, Recording
from jepa_edge.spread import RECENT
from jepa_edge.world_model import WorldModel, encode_frames

_SHARES = {"fit": 0.35, "standardize": 0.15, "conformal": 0.35}
"""Shares of the episodes per split; the test split takes the rest."""
_MINIMUM = {"fit": 8, "standardize": 4, "test": 5}
"""Fewest episodes of each split that a fit or a report makes sense with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedEpisode:
    """latents: (T + 1, N, D) float32. actions: (T, A) float32, raw units."""

    name: str
    latents: NDArray[np.float32]
    actions: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """W rollouts of the model from recorded histories beside what came. Arrays are float32.

    history: (W, T, N, D). actions: (W, T - 1 + H, A), raw units. predicted, observed: (W, H, N, D).
    episode: (W,) int, which episode of the split each comes from.
    """

    history: NDArray[np.float32]
    actions: NDArray[np.float32]
    predicted: NDArray[np.float32]
    observed: NDArray[np.float32]
    episode: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.history)

    @property
    def horizon(self) -> int:
        """H, steps that every window was rolled."""
        return int(self.predicted.shape[1])

    def take(self, rows: NDArray[np.int64]) -> Windows:
        """Return some of the windows, by index or mask."""
        return Windows(
            history=self.history[rows],
            actions=self.actions[rows],
            predicted=self.predicted[rows],
            observed=self.observed[rows],
            episode=self.episode[rows],
        )


def data_sha256(recording: Recording) -> str:
    """Return one digest over the sha256 of every episode file, in order."""
    return hashlib.sha256("".join(recording.digests).encode()).hexdigest()


def episode_digests(recording: Recording) -> tuple[str, ...]:
    """Return the first 16 hex digits of every episode file's sha256, whatever its name."""
    return tuple(digest[:16] for digest in recording.digests)


def episode_lengths(recording: Recording) -> list[int]:
    """Return the number of actions of every episode; no frame is read.

    Raises InputError when a file is damaged.
    """
    return [_steps(file) for file in recording.files]


def _steps(file: Path) -> int:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return len(arrays["actions"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read episode {file}: {error}; record it again") from error


def encode_recording(
    model: WorldModel, recording: Recording, progress: Progress, stage: str = "encode"
) -> list[EncodedEpisode]:
    """Encode every episode with the model, in batches.

    Raises InputError when an episode is damaged, does not fit, or encodes to non-finite numbers.
    """
    episodes = []
    for index, episode in enumerate(recording):
        episodes.append(encode_episode(model, episode))
        progress(stage, index + 1, len(recording))
    return episodes


def encode_episode(model: WorldModel, episode: Episode) -> EncodedEpisode:
    """Encode one episode with the model, in batches.

    Raises InputError when it does not fit, or encodes to non-finite numbers.
    """
    latents = encode_frames(model, episode.frames)
    if not np.isfinite(latents).all():
        raise InputError(
            f"episode {episode.name} encodes to numbers that are not finite; "
            "drop it or check the exported encoder"
        )
    return EncodedEpisode(name=episode.name, latents=latents, actions=episode.actions)


def split_episodes(count: int, alpha: float, seed: int, conformal: int = 0) -> dict[str, list[int]]:
    """Split episode numbers at random into fit, standardize, conformal and test.

    conformal: size of that split; 0 stands for its share, or what alpha needs. Raises
    CalibrationError, saying how many more are needed, when there are too few.
    """
    least = conformal or required_episodes(alpha)
    if least < required_episodes(alpha):
        raise CalibrationError(
            f"alpha={alpha:g} needs {required_episodes(alpha)} conformal episodes, "
            f"{conformal} are asked for; ask for more or raise alpha"
        )
    needed = sum(_MINIMUM.values()) + least
    if count < needed:
        raise CalibrationError(
            f"alpha={alpha:g} needs {least} conformal episodes and "
            f"{needed} in all, got {count}; record {needed - count} more or raise alpha"
        )
    sizes = {name: round(share * count) for name, share in _SHARES.items()}
    sizes["conformal"] = conformal or max(sizes["conformal"], least)
    sizes["test"] = max(count - sum(sizes.values()), _MINIMUM["test"])
    surplus = sum(sizes.values()) - count
    for name in ("fit", "standardize", "conformal"):
        floor = _MINIMUM.get(name, least)
        given = min(surplus, sizes[name] - floor)
        sizes[name] -= given
        surplus -= given
    order = np.random.default_rng(seed).permutation(count)
    splits, start = {}, 0
    for name in ("fit", "standardize", "conformal", "test"):
        splits[name] = sorted(int(i) for i in order[start : start + sizes[name]])
        start += sizes[name]
    return splits


def check_lengths(recording: Recording, history: int, horizon: int) -> None:
    """Raise CalibrationError when an episode is too short to hold one window and its recent past.

    The spread's radius takes one window of every conformal episode, with the RECENT latents before
    it that it will have at run time. It reads every episode, which is quick beside encoding it.
    Raises InputError as reading does.
    """
    needed = max(RECENT + history - 1 + horizon, first_step(history) + LONG)
    for episode, file in zip(recording, recording.files, strict=True):
        if len(episode.actions) < needed:
            raise CalibrationError(
                f"{file} has {len(episode.actions)} actions, a window of history {history} and "
                f"horizon {horizon} needs {needed}, {RECENT} of them before it; drop short "
                "episodes, record longer ones or lower the horizon"
            )


def roll_episodes(
    model: Predictor,
    episodes: Sequence[EncodedEpisode],
    history: int,
    horizon: int,
    progress: Progress = silent,
) -> list[NDArray[np.float32]]:
    """Roll the model from every history of every episode; see `episode_rollouts`."""
    rolled = []
    for index, episode in enumerate(episodes):
        rolled.append(episode_rollouts(model, episode.latents, episode.actions, history, horizon))
        progress("roll out", index + 1, len(episodes))
    return rolled


def make_windows(
    model: Predictor,
    episodes: Sequence[EncodedEpisode],
    history: int,
    horizon: int,
    progress: Progress = silent,
) -> Windows:
    """Roll the model from every history that has `horizon` steps after it, and gather the windows.

    history: the model's. Episodes must hold history - 1 + horizon actions or more.
    """
    return gather_windows(
        episodes, roll_episodes(model, episodes, history, horizon, progress), history
    )


def gather_windows(
    episodes: Sequence[EncodedEpisode], rolled: Sequence[NDArray[np.float32]], history: int
) -> Windows:
    """Gather the rollouts that have an observed latent at every one of their steps."""
    pieces: list[list[NDArray[np.generic]]] = [[], [], [], [], []]
    horizon = rolled[0].shape[1]
    for index, (episode, predicted) in enumerate(zip(episodes, rolled, strict=True)):
        count = len(predicted) - horizon + 1
        starts = np.arange(count)[:, None]
        parts = (
            episode.latents[starts + np.arange(history)],
            episode.actions[starts + np.arange(history - 1 + horizon)],
            predicted[:count],
            episode.latents[starts + history + np.arange(horizon)],
            np.full(count, index),
        )
        for piece, part in zip(pieces, parts, strict=True):
            piece.append(part)
    past, actions, predictions, observed, owner = (np.concatenate(piece) for piece in pieces)
    return Windows(
        history=past, actions=actions, predicted=predictions, observed=observed, episode=owner
    )
