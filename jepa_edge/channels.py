# SPDX-License-Identifier: Apache-2.0
"""The channels a monitor watches: vectorized, stateless, the same for streaming and calibration.

A channel is one number per step, mostly the logarithm of an energy. Its score is 0 in the middle
of what was recorded and 1 at what about one nominal episode in ten reaches at its worst step, so
that scores of all channels share one threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.flags import Reason
from jepa_edge.latent_variable import LatentVariable, Predictor, Transitions
from jepa_edge.mlp import MLP

LONG = 4
"""Steps of the longer prediction that is compared with what came."""

_DECAY = 0.8
"""Weight of the past in a running mean: it reacts within about 1 / (1 - 0.8) = 5 steps."""

_FLOOR = 1e-12
"""Energies below this count as this: the logarithm of a frozen camera's motion stays finite."""


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
    Channel(name="action", reason=Reason.INNOVATION, low_tail=False, mean=True),
    Channel(name="familiarity", reason=Reason.OUT_OF_DISTRIBUTION, low_tail=False, mean=True),
    Channel(name="spread", reason=Reason.PREDICTED_UNCERTAINTY, low_tail=False, mean=False),
    Channel(name="disagreement", reason=Reason.PREDICTED_UNCERTAINTY, low_tail=False, mean=False),
)
"""What is measured at every step, in the order of `Observer.measure`."""

CHANNELS = BASE_CHANNELS + tuple(
    Channel(name=f"{c.name}_mean", reason=c.reason, low_tail=c.low_tail, mean=False)
    for c in BASE_CHANNELS
    if c.mean
)
"""All channels: those measured, then the running means."""

_SMOOTHED = [index for index, channel in enumerate(BASE_CHANNELS) if channel.mean]
_LONG_INDEX = 1
_CLIP = 50.0  # a running mean recovers from one infinite energy


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitener:
    """Mahalanobis distance under a shrunk covariance. mean: (D,), whiten: (D, D), float32."""

    mean: NDArray[np.float32]
    whiten: NDArray[np.float32]

    def energy(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared distance per dimension of values (B, D): (B,), about 1 on average."""
        white = (values - self.mean) @ self.whiten
        return np.asarray(np.mean(white**2, axis=1), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """B steps to be judged. Arrays are float32.

    before, previous, observed: (B, N, D), the last three latents. action: (B, A), raw units, led
    from previous to observed. predicted: (B, N, D), one step ahead of previous. long_previous,
    long_predicted: (B, N, D), steps LONG - 1 and LONG of the rollout from LONG steps ago. young:
    (B,) bool, where the episode is too young for that rollout; what it holds is then not used.
    """

    before: NDArray[np.float32]
    previous: NDArray[np.float32]
    observed: NDArray[np.float32]
    action: NDArray[np.float32]
    predicted: NDArray[np.float32]
    long_previous: NDArray[np.float32]
    long_predicted: NDArray[np.float32]
    young: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Everything fitted that turns a step into channels.

    latent, motion: of the token-mean latent and of its change. inverse: maps (latent before, two
    changes of it) to the standardized action. action_mean, action_std: (A,) float32, raw units.
    action_whiten: whitens the inverse head's error.
    """

    latent_variable: LatentVariable
    latent: Whitener
    motion: Whitener
    inverse: MLP
    action_mean: NDArray[np.float32]
    action_std: NDArray[np.float32]
    action_whiten: Whitener

    def measure(self, steps: Steps) -> NDArray[np.float64]:
        """Return the base channels (B, 7) in the order of BASE_CHANNELS, NaN where too young.

        An energy that is not a number (the model's output broke) counts as infinite.
        """
        batch = len(steps.action)
        ahead = Transitions(
            previous=steps.previous,
            predicted=steps.predicted,
            action=steps.action,
            step=np.ones(batch, np.int64),
        )
        far = Transitions(
            previous=steps.long_previous,
            predicted=steps.long_predicted,
            action=steps.action,
            step=np.full(batch, LONG, np.int64),
        )
        variable = self.latent_variable
        moved = steps.observed.mean(axis=1) - steps.previous.mean(axis=1)
        energies = [
            variable.energy(ahead, steps.observed),
            variable.energy(far, steps.observed),
            self.motion.energy(moved),
            self.action_whiten.energy(self.inverse_error(steps)),
            self.latent.energy(steps.observed.mean(axis=1)),
            variable.spread(ahead),
            variable.disagreement(ahead),
        ]
        stacked = np.nan_to_num(np.stack(energies, axis=1).astype(np.float64), nan=np.inf)
        values = np.log(np.maximum(stacked, _FLOOR))
        values[steps.young, _LONG_INDEX] = np.nan
        return values

    def inverse_error(self, steps: Steps) -> NDArray[np.float32]:
        """Standardized action minus what the latents tell of it: (B, A)."""
        commanded = (steps.action - self.action_mean) / self.action_std
        return commanded - self.inverse(inverse_features(steps))

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name every array for storage, those of the latent variable among them."""
        arrays = {**self.latent_variable.to_arrays(), **self.inverse.to_arrays("inverse")}
        for name, whitener in (
            ("latent", self.latent),
            ("motion", self.motion),
            ("action", self.action_whiten),
        ):
            arrays[f"{name}.mean"], arrays[f"{name}.whiten"] = whitener.mean, whitener.whiten
        arrays["action_mean"], arrays["action_std"] = self.action_mean, self.action_std
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Observer:
        """Read back what `to_arrays` named. Raises KeyError when an array is missing."""

        def whitener(name: str) -> Whitener:
            return Whitener(mean=arrays[f"{name}.mean"], whiten=arrays[f"{name}.whiten"])

        return cls(
            latent_variable=LatentVariable.from_arrays(arrays),
            latent=whitener("latent"),
            motion=whitener("motion"),
            inverse=MLP.from_arrays(arrays, "inverse"),
            action_mean=arrays["action_mean"],
            action_std=arrays["action_std"],
            action_whiten=whitener("action"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardization:
    """Puts all channels on one scale. Arrays (C,) float64, in the order of CHANNELS.

    center: median. high, low: distance from it that counts as score 1, above and below; infinite
    where the low tail is not watched.
    """

    center: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]

    def score(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (..., C) of channel values (..., C); -inf where a value is not there yet."""
        deviation = values - self.center
        score = np.maximum(deviation / self.high, -deviation / self.low)
        return np.where(np.isnan(values), -np.inf, score)


def inverse_features(steps: Steps) -> NDArray[np.float32]:
    """Inputs (B, 3 D) of the inverse-dynamics head: latent before, last change, change before."""
    before, previous, observed = (
        latent.mean(axis=1) for latent in (steps.before, steps.previous, steps.observed)
    )
    return np.concatenate([previous, observed - previous, previous - before], axis=1)


def running_mean(
    centered: NDArray[np.float64], start: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Exponentially weighted means (T, M) of centered channels (T, M), NaN taken as 0.

    start: the means before the first row, (M,); zero when an episode begins, so that a young mean
    is drawn to the middle and does not alarm on one noisy step.
    """
    mean = np.zeros(centered.shape[1]) if start is None else start
    means = np.empty_like(centered)
    for index, row in enumerate(centered):
        finite = np.clip(np.nan_to_num(row, nan=0.0), -_CLIP, _CLIP)
        mean = _DECAY * mean + (1.0 - _DECAY) * finite
        means[index] = mean
    return means


def smoothed(
    values: NDArray[np.float64],
    center: NDArray[np.float64],
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Append the running means to base channels: (T, 7) -> (T, C). center: (7,) or longer."""
    index = _SMOOTHED
    means = running_mean(values[:, index] - center[index], start)
    return np.concatenate([values, means], axis=1)


def episode_steps(
    model: Predictor,
    latents: NDArray[np.float32],
    actions: NDArray[np.float32],
    history: int,
) -> Steps:
    """Gather all steps of an episode that can be judged, in time order.

    latents: (T + 1, N, D) float32. actions: (T, A) float32, raw units. history: the model's. The
    first step is the one that leads to latent max(history, 2); T + 1 must be larger than that.
    """
    first = first_step(history)
    total = len(actions)
    starts = np.arange(history - 1, total)
    window = np.stack([latents[starts - history + 1 + k] for k in range(history)], axis=1)
    last_two = [latents[starts], latents[starts]]
    one_ahead = np.empty_like(latents[starts])
    for step in range(LONG):
        # Rollouts that reach past the end of the episode go on with its last action, unused.
        at = np.minimum(starts[:, None] - history + 1 + np.arange(history) + step, total - 1)
        predicted = model.predict(window, np.ascontiguousarray(actions[at]))
        if step == 0:
            one_ahead = predicted
        last_two = [window[:, -1], predicted]
        window = np.concatenate([window[:, 1:], predicted[:, None]], axis=1)
    times = np.arange(first, total + 1)
    rows = times - LONG - (history - 1)
    long_previous, long_predicted = (rolled[np.maximum(rows, 0)] for rolled in last_two)
    return Steps(
        before=latents[times - 2],
        previous=latents[times - 1],
        observed=latents[times],
        action=actions[times - 1],
        predicted=one_ahead[times - 1 - (history - 1)],
        long_previous=long_previous,
        long_predicted=long_predicted,
        young=rows < 0,
    )


def first_step(history: int) -> int:
    """Index of the first latent that can be judged: it needs a full history and two changes."""
    return max(history, 2)
