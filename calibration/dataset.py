# SPDX-License-Identifier: Apache-2.0
"""Recorded runs as latents: encoded once by the variant that will run, split by episode."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import required_episodes
from jepa_edge.calibration.spool import SPLIT_BYTES, empty, held
from jepa_edge.channels import LONG, episode_rollouts, first_step
from jepa_edge.encoding import EncodedEpisode as EncodedEpisode
from jepa_edge.encoding import encode_episode as encode_episode
from jepa_edge.encoding import steps_of
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.latent_variable import Predictor
from jepa_edge.manifest import Manifest
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording
from jepa_edge.spread import RECENT
from jepa_edge.world_model import WorldModel

Compared = tuple[int | None, int | None]
"""Tokens and channels that energies compare; None for all."""

_PART_NUMBERS = 1 << 25
"""Numbers of latents that are looked at together, 128 MB of float32."""

_SHARES = {"fit": 0.35, "standardize": 0.15, "conformal": 0.35}
"""Shares of the episodes per split; the test split takes the rest."""
_MINIMUM = {"fit": 8, "standardize": 4, "test": 5}
"""Fewest episodes of each split that a fit or a report makes sense with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """W rollouts of the model from recorded histories beside what came. Arrays are float32.

    history: (W, T, N, D), whole latents. actions: (W, T - 1 + H, A), raw units. predicted,
    observed: (W, H, N, D) of the part that energies compare. episode: (W,) int, which episode of
    the split each comes from.
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

    def parts(self) -> Iterator[slice]:
        """Row ranges that together are all windows: few of patch latents, else all at once."""
        size = max(1, _PART_NUMBERS // max(1, self.predicted[:1].size))
        return (slice(start, start + size) for start in range(0, max(1, len(self)), size))

    def most(self, count: int) -> int:
        """Return `count`, or how many windows fit into memory together with their rollouts."""
        each = self.history[:1].size + 2 * self.predicted[:1].size
        return max(4, min(count, _PART_NUMBERS // max(1, each)))

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
    """Return the number of actions of every episode, one less than its frames; none is read.

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
        episodes.append(hold(encode_episode(model, episode)))
        progress(stage, index + 1, len(recording))
    return episodes


def hold(episode: EncodedEpisode) -> EncodedEpisode:
    """Return an episode whose latents and masked energies lie on disk if they are many."""
    masked = None if episode.masked is None else held(episode.masked)
    return replace(episode, latents=held(episode.latents), masked=masked)


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


def check_lengths(recording: Recording, spec: Manifest, horizon: int) -> None:
    """Raise CalibrationError when an episode is too short to hold one window and its recent past.

    Without actions there are no windows: a few judged steps will do. The spread's radius takes one
    window of every conformal episode, with the RECENT latents before it that it will have at run
    time. It reads every episode, which is quick beside encoding it.
    Raises InputError as reading does.
    """
    history, clip = spec.history, spec.observation.clip
    judged = first_step(history) + LONG
    if spec.action is None:
        for length, file in zip(episode_lengths(recording), recording.files, strict=True):
            steps = steps_of(length + 1, clip)
            if steps <= judged:
                raise CalibrationError(
                    f"{file} has {length + 1} frames, {steps} steps of the model, expected "
                    f"{judged + 1} steps or more; drop short episodes or record longer ones"
                )
        return
    needed = max(RECENT + history - 1 + horizon, judged)
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
    compared: Compared = (None, None),
) -> list[NDArray[np.float32]]:
    """Roll the model from every history of every episode; see `episode_rollouts`."""
    rolled = []
    for index, episode in enumerate(episodes):
        latents, actions = episode.latents, episode.actions
        rolled.append(held(episode_rollouts(model, latents, actions, history, horizon, compared)))
        progress("roll out", index + 1, len(episodes))
    return rolled


def make_windows(
    model: Predictor,
    episodes: Sequence[EncodedEpisode],
    history: int,
    horizon: int,
    progress: Progress = silent,
    compared: Compared = (None, None),
) -> Windows:
    """Roll the model from every history that has `horizon` steps after it, and gather the windows.

    history: the model's. compared: of `LatentSpec`, None for all. Episodes must hold
    history - 1 + horizon actions or more.
    """
    rolled = roll_episodes(model, episodes, history, horizon, progress, compared)
    return gather_windows(episodes, rolled, history)


def gather_windows(
    episodes: Sequence[EncodedEpisode], rolled: Sequence[NDArray[np.float32]], history: int
) -> Windows:
    """Gather the rollouts that have an observed latent at every one of their steps."""
    horizon, tokens, dim = rolled[0].shape[1:]
    counts = [len(predicted) - horizon + 1 for predicted in rolled]
    total = sum(counts)

    def blank(*shape: int) -> NDArray[np.float32]:
        return empty((total, *shape), np.float32, SPLIT_BYTES).view(np.float32)

    windows = Windows(
        history=blank(history, *episodes[0].latents.shape[1:]),
        actions=blank(history - 1 + horizon, episodes[0].actions.shape[1]),
        predicted=blank(horizon, tokens, dim),
        observed=blank(horizon, tokens, dim),
        episode=np.repeat(np.arange(len(counts)), counts),
    )
    row = 0
    for episode, predicted, count in zip(episodes, rolled, counts, strict=True):
        rows, starts = slice(row, row + count), np.arange(count)[:, None]
        seen = episode.latents[:, :tokens, :dim]
        windows.history[rows] = episode.latents[starts + np.arange(history)]
        windows.actions[rows] = episode.actions[starts + np.arange(history - 1 + horizon)]
        windows.predicted[rows] = predicted[:count]
        windows.observed[rows] = seen[starts + history + np.arange(horizon)]
        row += count
    return windows
