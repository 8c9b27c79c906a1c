# SPDX-License-Identifier: Apache-2.0
"""The channels a monitor watches: vectorized, stateless, the same for streaming and calibration.

A channel is one number per step, mostly the logarithm of an energy. Its score is 0 in the middle
of what was recorded and 1 at what about one nominal episode in ten reaches at its worst step, so
that scores of all channels share one threshold.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.density import FLOW_STEPS, Flow
from jepa_edge.flags import Reason
from jepa_edge.latent_variable import LOG_LIMIT, LatentVariable, Predictor, Transitions
from jepa_edge.manifest import Manifest
from jepa_edge.mlp import INPUT_LIMIT, MLP, require
from jepa_edge.rollout import roll
from jepa_edge.spread import FADING, RECENT

SCORING = 2
"""Number of the formulas from latents to scores and spreads: of this module, passive.py,
density.py, mlp.py, latent_variable.py and spread.py. Raise it whenever one of them changes what
comes out, and every calibration is refused; the constants count by themselves
(`scoring_sha256`)."""

LONG = 4
"""Steps of the longer prediction that is compared with what came."""

LAGS = 2
"""Action blocks by which a command may be late for the delay channel to see it."""

_DECAY = 0.8
"""Weight of the past in a channel's running mean: it reacts in about 1 / (1 - 0.8) = 5 steps."""

_FLOOR = 1e-12
"""Energies below this count as this: the logarithm of a frozen camera's motion stays finite."""

_TOP_SHARE = 0.1
"""Share of the tokens, those of the largest energy, that a local energy is the mean of."""

_ROLL_NUMBERS = 1 << 22
"""Numbers of the histories that are rolled at once, 16 MB of float32: a predictor of patches needs
hundreds of times as much within."""

_ACTION_FLOOR = 0.05
"""Added to both inverse-dynamics energies of the delay channel, about 1 if nominal: two commands
that explain the motion equally well differ by nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A name, why it alarms, whether its low tail does too, whether a running mean is kept."""

    name: str
    reason: Reason
    low_tail: bool
    mean: bool


BASE_CHANNELS = (
    Channel(name="innovation", reason=Reason.INNOVATION, low_tail=True, mean=True),
    Channel(name="innovation_long", reason=Reason.INNOVATION, low_tail=True, mean=True),
    Channel(name="motion", reason=Reason.INNOVATION, low_tail=True, mean=True),
    Channel(name="action", reason=Reason.ACTION_MISMATCH, low_tail=False, mean=True),
    Channel(name="delay", reason=Reason.DELAY, low_tail=False, mean=True),
    Channel(name="familiarity", reason=Reason.OUT_OF_DISTRIBUTION, low_tail=False, mean=True),
    Channel(name="spread", reason=Reason.PREDICTED_UNCERTAINTY, low_tail=False, mean=False),
    Channel(name="disagreement", reason=Reason.PREDICTED_UNCERTAINTY, low_tail=False, mean=False),
    Channel(name="innovation_local", reason=Reason.INNOVATION, low_tail=False, mean=True),
)
"""What is measured at every step, in this order.

innovation, innovation_long: energy of the innovation 1 and LONG steps ahead; a frozen scene is too
predictable, hence both tails. In a model without actions innovation is the masked energy: how badly
what is hidden is predicted from what is seen. motion: change of the latent; a frozen camera has
none. action: what the latents tell of the action against the command. delay: by how much a command
of 1 to LAGS blocks ago explains the motion better than the present one. familiarity: how unlike the
recorded latents this one is. spread: predicted aleatoric variance LONG steps ahead. disagreement:
epistemic variance of the prediction. innovation_local: innovation over the tenth of the tokens that
are worst, where there are several: a patch that is wrong must not be averaged away. `available`
says which of them a model has; the others are NaN throughout.
"""

CHANNELS = (
    *BASE_CHANNELS,
    *(
        Channel(name=f"{c.name}_mean", reason=c.reason, low_tail=c.low_tail, mean=False)
        for c in BASE_CHANNELS
        if c.mean
    ),
)
"""All channels: those measured, then their running means, which see weak but lasting faults."""


def available(manifest: Manifest) -> tuple[Channel, ...]:
    """Return the channels that a model has, in the order of CHANNELS.

    Without actions nothing is predicted ahead: familiarity and motion, and with masks innovation.
    """
    if manifest.action is not None:
        absent = set() if manifest.latent.compared[0] > 1 else {"innovation_local"}
        names = {channel.name for channel in BASE_CHANNELS} - absent
    else:
        masked = {"innovation", "innovation_local"} if manifest.masks is not None else set()
        names = {"motion", "familiarity"} | masked
    return tuple(c for c in CHANNELS if c.name.removesuffix("_mean") in names)


_SMOOTHED = [index for index, channel in enumerate(BASE_CHANNELS) if channel.mean]
_LOCAL = [c.name for c in BASE_CHANNELS].index("innovation_local")
_LONG_INDICES = np.array([c.name in ("innovation_long", "spread") for c in BASE_CHANNELS])
_CLIP = 50.0  # a running mean recovers from one infinite energy


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitener:
    """Mahalanobis distance under a shrunk covariance. mean: (D,), whiten: (D, D), float32."""

    mean: NDArray[np.float32]
    whiten: NDArray[np.float32]

    def score(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared distance per dimension of values (B, D): (B,), about 1 on average."""
        white = (values - self.mean) @ self.whiten
        return np.asarray(np.mean(white**2, axis=-1), np.float32)

    def check(self, name: str, dim: int) -> None:
        """Raise ValueError unless both arrays are float32, finite, and of dimension D = dim."""
        require(f"{name}.mean", self.mean, (dim,))
        require(f"{name}.whiten", self.whiten, (dim, dim))

    def to_arrays(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """Name both arrays for storage."""
        return {f"{prefix}.mean": self.mean, f"{prefix}.whiten": self.whiten}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]], prefix: str) -> Whitener:
        """Read back what `to_arrays` named. Raises KeyError when an array is missing."""
        return cls(mean=arrays[f"{prefix}.mean"], whiten=arrays[f"{prefix}.whiten"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """B steps to be judged. Arrays are float32.

    before, previous, observed: (B, N, D), the last three latents. actions: (B, 1 + LAGS, A), raw
    units, the newest first, which led from previous to observed. predicted: (B, N, D), one step
    ahead of previous. long_previous, long_predicted: (B, N, D), steps LONG - 1 and LONG of the
    rollout from LONG steps ago. young: (B,) bool, where the episode is too young for that rollout;
    what it holds is then not used.
    """

    before: NDArray[np.float32]
    previous: NDArray[np.float32]
    observed: NDArray[np.float32]
    actions: NDArray[np.float32]
    predicted: NDArray[np.float32]
    long_previous: NDArray[np.float32]
    long_predicted: NDArray[np.float32]
    young: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Everything fitted that turns a step into channels.

    recorded, motion: of the token-mean latent and of its change. flow: density of the token-mean
    latent; None where there were too few latents for one, and `recorded` stands in. inverse: maps
    (latent before, last change, change before) to the standardized action. action_mean,
    action_std: (A,) float32, raw units. action_whiten: whitens the inverse head's error.
    """

    latent_variable: LatentVariable
    recorded: Whitener
    flow: Flow | None
    motion: Whitener
    inverse: MLP
    action_mean: NDArray[np.float32]
    action_std: NDArray[np.float32]
    action_whiten: Whitener

    def measure(self, steps: Steps) -> NDArray[np.float64]:
        """Return BASE_CHANNELS of B steps, (B, 9), NaN where an episode is too young for one, or
        the model has it not.

        An energy that is not a number counts as infinite: the model broke.
        """
        variable = self.latent_variable
        steps = replace(
            steps,
            before=variable.compared(steps.before),
            previous=variable.compared(steps.previous),
            observed=variable.compared(steps.observed),
            predicted=variable.compared(steps.predicted),
            long_previous=variable.compared(steps.long_previous),
            long_predicted=variable.compared(steps.long_predicted),
        )
        batch = len(steps.actions)
        # One step ahead, then LONG steps ahead: one call of the heads for both.
        both = Transitions(
            previous=np.concatenate([steps.previous, steps.long_previous]),
            predicted=np.concatenate([steps.predicted, steps.long_predicted]),
            action=np.concatenate([steps.actions[:, 0]] * 2),
            step=np.repeat(np.array([1, LONG], np.int64), batch),
        )
        by_token, spread = variable.token_energies_and_spread(
            both, np.concatenate([steps.observed, steps.observed])
        )
        energy = by_token.mean(axis=1)
        several = by_token.shape[1] > 1
        ahead = Transitions(
            previous=steps.previous,
            predicted=steps.predicted,
            action=steps.actions[:, 0],
            step=both.step[:batch],
        )
        moved = steps.observed.mean(axis=1) - steps.previous.mean(axis=1)
        consistency = self.inverse_energies(steps)
        energies: list[NDArray[np.floating]] = [
            energy[:batch],
            energy[batch:],
            self.motion.score(moved),
            consistency[:, 0],
            (consistency[:, 0] + _ACTION_FLOOR) / (consistency[:, 1:].min(axis=1) + _ACTION_FLOOR),
            self.familiarity(steps.observed.mean(axis=1)),
            spread[batch:],
            variable.disagreement(ahead),
            local_energy(by_token[:batch]),
        ]
        values = log_energies(np.stack(energies, axis=1))
        values[np.ix_(steps.young, _LONG_INDICES)] = np.nan
        if not several:
            values[:, _LOCAL] = np.nan
        return values

    def familiarity(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """How unlike the recorded latents token-mean latents (B, D) are: (B,), about 1 if like."""
        return (self.recorded if self.flow is None else self.flow).score(latents)

    def inverse_energies(self, steps: Steps) -> NDArray[np.float32]:
        """Energy of every action minus what the latents tell of the newest: (B, 1 + LAGS)."""
        commanded = (steps.actions - self.action_mean) / self.action_std
        told = self.inverse(inverse_features(steps.before, steps.previous, steps.observed))
        return self.action_whiten.score(commanded - told[:, None])

    def check(self, dim: int, action: int) -> None:
        """Raise ValueError unless all arrays fit latents (N, D) and actions (A,), for any N.

        dim: D, of the part that energies compare. action: A. The heads work per token or on the
        token mean: none depends on N.
        """
        self.latent_variable.check(dim, action)
        self.recorded.check("recorded", dim)
        if self.flow is not None:
            self.flow.check("flow", dim)
        self.motion.check("motion", dim)
        self.inverse.check("inverse", 3 * dim, action)
        require("action_mean", self.action_mean, (action,))
        require("action_std", self.action_std, (action,), positive=True)
        self.action_whiten.check("action", action)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name every array for storage, those of the latent variable among them."""
        return {
            **self.latent_variable.to_arrays(),
            **self.inverse.to_arrays("inverse"),
            **self.recorded.to_arrays("recorded"),
            **({} if self.flow is None else self.flow.to_arrays("flow")),
            **self.motion.to_arrays("motion"),
            **self.action_whiten.to_arrays("action"),
            "action_mean": self.action_mean,
            "action_std": self.action_std,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Observer:
        """Read back what `to_arrays` named. Raises KeyError when an array is missing."""
        return cls(
            latent_variable=LatentVariable.from_arrays(arrays),
            recorded=Whitener.from_arrays(arrays, "recorded"),
            flow=Flow.from_arrays(arrays, "flow") if "flow.center" in arrays else None,
            motion=Whitener.from_arrays(arrays, "motion"),
            inverse=MLP.from_arrays(arrays, "inverse"),
            action_mean=arrays["action_mean"],
            action_std=arrays["action_std"],
            action_whiten=Whitener.from_arrays(arrays, "action"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardization:
    """Puts all channels on one scale. Arrays (C,) float64, in the order of CHANNELS.

    center: median. high, low: distance from it that counts as score 1, above and below; infinite
    where the low tail is not watched. A center is NaN where the model has not that channel.
    """

    center: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]

    def score(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (..., C) of channel values (..., C); -inf where one is not there, or not yet."""
        deviation = values - self.center
        with np.errstate(invalid="ignore"):  # an infinite value over an unwatched tail
            score = np.fmax(deviation / self.high, -deviation / self.low)
        return np.where(np.isnan(deviation), -np.inf, score)


def local_energy(energies: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean of the tenth of the tokens that have the largest energy, (B, N) -> (B,)."""
    tokens = energies.shape[1]
    top = math.ceil(_TOP_SHARE * tokens)
    return np.asarray(np.partition(energies, tokens - top, axis=1)[:, tokens - top :].mean(axis=1))


def log_energies(energies: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithm of energies, any shape; one that is not a number counts as infinite."""
    known = np.where(np.isnan(energies), np.inf, energies.astype(np.float64))
    return np.asarray(np.log(np.maximum(known, _FLOOR)), np.float64)


def inverse_features(
    before: NDArray[np.float32], previous: NDArray[np.float32], observed: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Inputs (B, 3 D) of the inverse-dynamics head from three successive latents (B, N, D)."""
    first, second, third = (latent.mean(axis=1) for latent in (before, previous, observed))
    return np.concatenate([second, third - second, second - first], axis=1)


def running_means(
    rows: NDArray[np.float64], start: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Exponentially weighted means (T, M) of rows (T, M); NaN counts as 0.

    start: the means before the first row, (M,); zero when an episode begins, so that a young mean
    is drawn to the middle and no single noisy step alarms.
    """
    mean = np.zeros(rows.shape[1]) if start is None else start
    means = np.empty_like(rows)
    finite = np.clip(np.nan_to_num(rows, nan=0.0), -_CLIP, _CLIP)
    for index, row in enumerate(finite):
        mean = _DECAY * mean + (1.0 - _DECAY) * row
        means[index] = mean
    return means


def channels(
    measured: NDArray[np.float64],
    center: NDArray[np.float64],
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Complete the channels of consecutive steps: (T, 9) -> (T, C), running means last.

    center: of the base channels, (9,) or longer, NaN for those that the model has not. start: the
    running means of the step before, the last columns of its row; None at the start of an episode.
    """
    means = running_means(measured[:, _SMOOTHED] - center[_SMOOTHED], start)
    means[:, np.isnan(center[_SMOOTHED])] = np.nan
    return np.concatenate([measured, means], axis=1)


def episode_rollouts(
    model: Predictor,
    latents: NDArray[np.float32],
    actions: NDArray[np.float32],
    history: int,
    horizon: int,
    compared: tuple[int | None, int | None] = (None, None),
) -> NDArray[np.float32]:
    """Roll the model from every full history in an episode: (T - history + 1, horizon, N, D).

    compared: how many tokens and channels of the predictions are kept; None for all.

    latents: (T + 1, N, D) float32. actions: (T, A) float32, raw units. history: the model's. Row s
    starts at latent s + history - 1. A rollout that reaches past the end of the episode goes on
    with its last action; that part has nothing to be compared with.
    """
    total = len(actions)
    first = np.arange(total - history + 1)[:, None]
    taken = np.minimum(first + np.arange(history - 1 + horizon), total - 1)
    size = max(1, _ROLL_NUMBERS // (history * latents[0].size))
    tokens, dim = compared
    parts = []
    for start in range(0, max(1, len(first)), size):
        rows = slice(start, start + size)
        past = latents[first[rows] + np.arange(history)]
        parts.append(roll(model.predict, past, actions[taken[rows]])[..., :tokens, :dim])
    return np.concatenate(parts)


def episode_steps(
    rolled: NDArray[np.float32],
    latents: NDArray[np.float32],
    actions: NDArray[np.float32],
    history: int,
) -> Steps:
    """Gather all steps of an episode that can be judged, in time order.

    rolled: from `episode_rollouts`, LONG or more steps. The first step is the one that leads to
    latent `first_step(history)`; the episode must be longer than that.
    """
    times = np.arange(first_step(history), len(latents))
    rows = times - LONG - (history - 1)
    long_rows = np.maximum(rows, 0)
    return Steps(
        before=latents[times - 2],
        previous=latents[times - 1],
        observed=latents[times],
        actions=actions[times[:, None] - 1 - np.arange(1 + LAGS)],
        predicted=rolled[times - history, 0],
        long_previous=rolled[long_rows, LONG - 2],
        long_predicted=rolled[long_rows, LONG - 1],
        young=rows < 0,
    )


def first_step(history: int) -> int:
    """Index of the first latent that can be judged: it needs a full history, and two changes and
    LAGS earlier actions."""
    return max(history, 2, 1 + LAGS)


def scoring_sha256() -> str:
    """Return the digest of all that turns latents into scores and is not in the heads file."""
    constants = {
        "scoring": SCORING,
        "channels": [(c.name, int(c.reason), c.low_tail, c.mean) for c in CHANNELS],
        "long": LONG,
        "lags": LAGS,
        "decay": _DECAY,
        "floor": _FLOOR,
        "action_floor": _ACTION_FLOOR,
        "top_share": _TOP_SHARE,
        "clip": _CLIP,
        "flow_steps": FLOW_STEPS,
        "log_limit": LOG_LIMIT,
        "input_limit": INPUT_LIMIT,
        "recent": RECENT,
        "fading": FADING,
    }
    return hashlib.sha256(msgspec.json.encode(constants, order="sorted")).hexdigest()
