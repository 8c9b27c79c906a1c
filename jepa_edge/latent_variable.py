# SPDX-License-Identifier: Apache-2.0
"""The latent variable of a deterministic world model: how its next latent scatters, and by how much
its small correction heads disagree.

Aleatoric: the innovation of the h-step prediction is N(0, Sigma), Sigma = diag(variance) + F F^T,
given by a head on (latent, predicted latent, action, step). Epistemic: the disagreement of K heads
that each predict the mean of the innovation from their own bootstrap sample of the episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.errors import InputError
from jepa_edge.mlp import MLP, require
from jepa_edge.spread import SpreadCalibration

LOG_LIMIT = 3.0
"""The head may move a log variance this far from its average over the fitting data."""

_PART = 1 << 26
"""Numbers of the covariance's low-rank part that are held at once, 256 MB: patch latents of a whole
episode would fill the memory."""


class Predictor(Protocol):
    """What a latent variable needs of a model; `WorldModel` has it."""

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Predict (B, N, D) from history (B, T, N, D) and actions (B, T, A)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """B predictions whose scatter is asked for.

    previous: (B, N, D) float32, the latent that the last prediction step started from.
    predicted: (B, N, D) float32. action: (B, A) float32, raw units, of that last step.
    step: (B,) int, how many steps the prediction rolled since the last observed latent, from 1.
    """

    previous: NDArray[np.float32]
    predicted: NDArray[np.float32]
    action: NDArray[np.float32]
    step: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Futures:
    """S sampled futures of one history.

    latents: (S, H, N, D) float32. mean: (H, N, D) float32, the model's own prediction, z = 0.
    aleatoric: (H,) float32, variance over the samples of z. epistemic: (H,) float32, variance over
    the mean heads, or over dropout masks. Both are averages over the numbers of a latent that
    energies compare, in squared latent units; by the law of total variance their sum is the
    variance of the latent to come. spread: (H,) float32, the error to expect of `mean`, root mean
    square per latent number; calibrated per horizon by `CalibratedSampler`, else the root of that
    sum. bound: (H,) float32, which the realized error exceeds with probability alpha or less.
    usual: (H,) float32, which the spread of a nominal run exceeds with probability alpha or less.
    Both are None without a calibration for as many samples and older latents.
    """

    latents: NDArray[np.float32]
    mean: NDArray[np.float32]
    aleatoric: NDArray[np.float32]
    epistemic: NDArray[np.float32]
    spread: NDArray[np.float32]
    bound: NDArray[np.float32] | None = None
    usual: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        latents: NDArray[np.float32],
        mean: NDArray[np.float32],
        epistemic: NDArray[np.float32] | None = None,
        compared: tuple[int | None, int | None] = (None, None),
    ) -> Futures:
        """Put samples (S, H, N, D) and their center (H, N, D) together; the samples vary by z.

        epistemic: (H,), None for 0: nothing is known of the model's own ignorance. compared: how
        many tokens and channels energies compare (`LatentSpec.compared`); None for all.
        """
        tokens, dim = compared
        aleatoric = latents[..., :tokens, :dim].var(axis=0, ddof=1).mean(axis=(1, 2))
        if epistemic is None:
            epistemic = np.zeros_like(aleatoric)
        return cls(
            latents=latents,
            mean=mean,
            aleatoric=aleatoric,
            epistemic=epistemic,
            spread=np.sqrt(aleatoric + epistemic),
        )


class Sampler(Protocol):
    """Draws futures of one history: a fitted latent variable, a model's own z, dropout masks."""

    def sample(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample S futures.

        history: (T, N, D) float32, oldest first, T the model's history or more; older latents say
        how well the model did of late, and who does not ask that ignores them. actions:
        (T - 1 + H, A) float32, raw units: the T - 1 between the history's latents, then H future
        ones. samples: S, at least 2. seed: the same seed gives the same random numbers whatever
        the history and actions are.
        Raises InputError on any other shape or fewer than 2 samples.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentVariable:
    """A fitted latent variable; `jepa-edge calibrate` makes it.

    It knows the first `tokens` tokens and D channels of a latent; what lies behind is the robot's
    own state, which takes no noise. Latents are given and returned whole.

    base: (H, D) float32, root mean square of the innovation per step and channel, latent units.
    factor: (D, R) float32, directions of the common scatter, in units of base.
    scale_head: outputs (B, D + R), log variances relative to base. mean_heads: outputs (K, B, D),
    the innovation's mean in units of base. gain: (H,) float32, amplitude of the noise that is
    added at each step of a sampled rollout, so that its spread grows as the realized error does.
    calibration: of the spread that is published, per horizon; None before it was fitted. tokens:
    None for all.
    """

    base: NDArray[np.float32]
    factor: NDArray[np.float32]
    scale_head: MLP
    mean_heads: MLP
    gain: NDArray[np.float32]
    calibration: SpreadCalibration | None = None
    tokens: int | None = None

    def compared(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part of latents (..., N, D) that energies compare, a view."""
        return latents[..., : self.tokens, : self.base.shape[1]]

    @property
    def horizon(self) -> int:
        """H, the longest prediction that was fitted; longer ones use its scatter."""
        return len(self.base)

    @property
    def rank(self) -> int:
        """R, columns of the low-rank part of the covariance."""
        return int(self.factor.shape[1])

    def features(self, transitions: Transitions) -> NDArray[np.float32]:
        """Return the heads' inputs (B * N, 2 D + A + H): one row per token.

        Latent before, predicted change, action, step (one-hot).
        """
        previous = self.compared(transitions.previous)
        predicted = self.compared(transitions.predicted)
        tokens = predicted.shape[1]
        rows = [_rows(previous), _rows(predicted - previous)]
        rows.append(np.repeat(transitions.action, tokens, axis=0))
        one_hot = np.eye(self.horizon, dtype=np.float32)[self._index(transitions.step)]
        rows.append(np.repeat(one_hot, tokens, axis=0))
        return np.concatenate(rows, axis=1)

    def gaussian(self, transitions: Transitions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the covariance per token: variance (B * N, D), factor (B * N, D, R)."""
        dim = self.factor.shape[0]
        out = bounded(self.scale_head(self.features(transitions)))
        base = self._base(transitions)
        variance = base**2 * np.exp(out[:, :dim])
        factor = base[:, :, None] * self.factor * np.exp(0.5 * out[:, None, dim:])
        return variance, factor

    def energy(
        self, transitions: Transitions, observed: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Innovation energy r^T Sigma^-1 r / D, averaged over tokens: (B,), about 1 if nominal.

        observed: (B, N, D) float32, r = observed - predicted.
        Source: normalized innovation squared, Bar-Shalom et al. 2001, section 5.4.
        """
        return self.energy_and_spread(transitions, observed)[0]

    def energy_and_spread(
        self, transitions: Transitions, observed: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return `energy` and `spread`, (B,) each, at the price of one."""
        energies, spread = self.token_energies_and_spread(transitions, observed)
        return np.asarray(energies.mean(axis=1), np.float32), spread

    def token_energies_and_spread(
        self, transitions: Transitions, observed: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the innovation energy of every token (B, N), and `spread` (B,)."""
        energies, spreads = [], []
        for rows, part in self._parts(transitions):
            variance, factor = self.gaussian(part)
            seen = self.compared(observed[rows])
            residual = _rows(seen - self.compared(part.predicted))
            energy = _core.innovation_energy(
                np.ascontiguousarray(variance), np.ascontiguousarray(factor), residual
            )
            energies.append(energy.reshape(seen.shape[:2]))
            spreads.append(_mean_variance(variance, factor, len(seen)))
        return np.concatenate(energies), np.concatenate(spreads)

    def spread(self, transitions: Transitions) -> NDArray[np.float32]:
        """Mean predicted variance per latent number, trace(Sigma) / D: (B,) float32."""
        parts = []
        for _, part in self._parts(transitions):
            variance, factor = self.gaussian(part)
            parts.append(_mean_variance(variance, factor, len(part.step)))
        return np.concatenate(parts)

    def disagreement(self, transitions: Transitions) -> NDArray[np.float32]:
        """Mean variance of the mean heads per latent number: (B,) float32, epistemic."""
        parts = []
        for _, part in self._parts(transitions):
            means = self.mean_heads(self.features(part)) * self._base(part)
            variance = means.var(axis=0)
            parts.append(variance.reshape(len(part.step), -1).mean(axis=1))
        return np.asarray(np.concatenate(parts), np.float32)

    def rollout(
        self,
        model: Predictor,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> Futures:
        """Sample futures of one history with common random numbers.

        history: (T, N, D) float32. actions: (T - 1 + H, A) float32, raw units: the T - 1 actions
        between the history's latents, then H future ones. samples: S, at least 2. seed: the same
        seed gives the same z whatever the history and actions are.
        Raises InputError on any other shape or fewer than 2 samples.
        """
        latents, mean, epistemic = self.rollouts(model, history[None], actions[None], samples, seed)
        return Futures.of(latents[0], mean[0], epistemic[0], (self.tokens, self.base.shape[1]))

    def rollouts(
        self,
        model: Predictor,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int,
        seed: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Sample futures of B histories; every history gets the same z.

        history: (B, T, N, D) float32. actions: (B, T - 1 + H, A) float32, raw units.
        Returns latents (B, S, H, N, D), mean (B, H, N, D) and epistemic (B, H), all float32.
        Raises InputError as `rollout` does.
        """
        batch, steps, tokens, dim = history.shape
        horizon = actions.shape[1] - (steps - 1)
        if samples < 2 or horizon < 1 or len(actions) != batch:
            raise InputError(
                f"got {samples} samples and actions {actions.shape} for histories {history.shape}; "
                "expected 2 or more samples and T - 1 past actions plus one or more future ones"
            )
        # Row 0 of each history is its noise-free prediction, so that a step is one predictor call.
        rows = samples + 1
        window = np.repeat(history.astype(np.float32), rows, axis=0)
        commanded = np.repeat(actions.astype(np.float32), rows, axis=0)
        latents = np.empty((batch, rows, horizon, tokens, dim), np.float32)
        epistemic = np.empty((batch, horizon), np.float32)
        for index in range(horizon):
            taken = np.ascontiguousarray(commanded[:, index : index + steps])
            predicted = model.predict(window, taken)
            transitions = Transitions(
                previous=window[:, -1],
                predicted=predicted,
                action=taken[:, -1],
                step=np.ones(batch * rows, np.int64),
            )
            noise = self.noise(transitions, samples, seed, stream=index)
            noise *= self.gain[min(index, self.horizon - 1)]
            latent = predicted + noise
            epistemic[:, index] = self.disagreement(
                Transitions(
                    previous=window[::rows, -1],
                    predicted=predicted[::rows],
                    action=taken[::rows, -1],
                    step=np.full(batch, index + 1, np.int64),
                )
            )
            latents[:, :, index] = latent.reshape(batch, rows, tokens, dim)
            window = np.concatenate([window[:, 1:], latent[:, None]], axis=1)
        return latents[:, 1:], latents[:, 0], epistemic

    def noise(
        self, transitions: Transitions, samples: int, seed: int, stream: int
    ) -> NDArray[np.float32]:
        """Draw L z for rows in groups of samples + 1: (B, N, D), zero in each group's first row
        and in the part of a latent that energies do not compare.

        Every group gets the same z. stream: the step's number, so that steps are independent.
        Each number of z is shifted and scaled to mean 0 and variance 1 over its samples: of few
        samples that all share one z, chance would otherwise bias every spread alike.
        """
        rows, tokens, dim = self.compared(transitions.predicted).shape
        per_token = dim + self.rank
        z = np.zeros((samples + 1, tokens * per_token), np.float32)
        drawn = _core.standard_normal(seed, stream, samples * tokens * per_token)
        drawn = drawn.reshape(samples, -1)
        z[1:] = (drawn - drawn.mean(axis=0)) / drawn.std(axis=0, ddof=1)
        tiled = np.tile(z.reshape(-1, per_token), (rows // (samples + 1), 1))
        variance, factor = self.gaussian(transitions)
        noise = _core.sample(np.ascontiguousarray(variance), np.ascontiguousarray(factor), tiled)
        noise = np.asarray(noise, np.float32).reshape(rows, tokens, dim)
        if noise.shape == transitions.predicted.shape:
            return noise
        whole = np.zeros_like(transitions.predicted, np.float32)
        whole[:, :tokens, :dim] = noise
        return whole

    def check(self, dim: int, action: int) -> None:
        """Raise ValueError unless all arrays fit latents (N, D) and actions (A,), for any N.

        dim: D, of the part that energies compare. action: A.
        """
        horizon = len(self.base) if self.base.ndim else 0
        rank = self.factor.shape[-1] if self.factor.ndim else 0
        members = self.mean_heads.weights[0].shape[:1] if self.mean_heads.weights else ()
        if horizon < 1 or not 1 <= rank <= _core.MAX_RANK or members < (2,):
            raise ValueError(
                f"{horizon} steps, rank {rank} and {members[0] if members else 0} mean heads; "
                f"expected 1 or more, 1 to {_core.MAX_RANK} and 2 or more"
            )
        require("base", self.base, (horizon, dim), positive=True)
        require("factor", self.factor, (dim, rank))
        require("gain", self.gain, (horizon,))
        if (self.gain < 0.0).any():
            raise ValueError(f"gain is {self.gain.min():g} at least, expected 0 or more")
        inputs = 2 * dim + action + horizon
        self.scale_head.check("scale_head", inputs, dim + rank)
        self.mean_heads.check("mean_heads", inputs, dim, members)
        if self.calibration is not None:
            self.calibration.check()

    def _index(self, step: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.minimum(step, self.horizon) - 1

    def _base(self, transitions: Transitions) -> NDArray[np.float32]:
        """The scale of every row (B * N, D)."""
        tokens = self.compared(transitions.predicted).shape[1]
        return np.repeat(self.base[self._index(transitions.step)], tokens, axis=0)

    def _parts(self, transitions: Transitions) -> Iterator[tuple[slice, Transitions]]:
        """Part transitions so that what is computed for one part fits into memory."""
        tokens, dim = self.compared(transitions.predicted).shape[1:]
        size = max(1, _PART // (tokens * dim * self.rank))
        for start in range(0, max(1, len(transitions.step)), size):
            rows = slice(start, start + size)
            yield (
                rows,
                replace(
                    transitions,
                    previous=transitions.previous[rows],
                    predicted=transitions.predicted[rows],
                    action=transitions.action[rows],
                    step=transitions.step[rows],
                ),
            )

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name every array for storage."""
        return {
            "base": self.base,
            "factor": self.factor,
            "gain": self.gain,
            **self.scale_head.to_arrays("scale_head"),
            **self.mean_heads.to_arrays("mean_heads"),
            **({} if self.calibration is None else self.calibration.to_arrays()),
            **({} if self.tokens is None else {"tokens": np.array([self.tokens], np.float32)}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> LatentVariable:
        """Read back what `to_arrays` named. Raises KeyError when an array is missing."""
        return cls(
            base=arrays["base"],
            factor=arrays["factor"],
            gain=arrays["gain"],
            scale_head=MLP.from_arrays(arrays, "scale_head"),
            mean_heads=MLP.from_arrays(arrays, "mean_heads"),
            calibration=SpreadCalibration.from_arrays(arrays),
            tokens=_tokens(arrays),
        )


def _tokens(arrays: Mapping[str, NDArray[np.float32]]) -> int | None:
    """Read the number of tokens, None for all. Raises ValueError when it is none."""
    if "tokens" not in arrays:
        return None
    number = float(arrays["tokens"].item())  # ValueError unless it is one number
    if not 1.0 <= number <= 1e6:
        raise ValueError(f"tokens is {number:g}, expected 1 or more")
    return int(number)


def bounded(log_variance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep a log variance within +-3 of its average, smoothly: 3 tanh(x / 3)."""
    return np.asarray(LOG_LIMIT * np.tanh(log_variance / LOG_LIMIT), np.float32)


def _mean_variance(
    variance: NDArray[np.float32], factor: NDArray[np.float32], batch: int
) -> NDArray[np.float32]:
    """trace(Sigma) / D, averaged over tokens: (B,). variance: (B * N, D). factor: (B * N, D, R)."""
    total = variance.mean(axis=1) + np.einsum("bdr,bdr->b", factor, factor) / factor.shape[1]
    return np.asarray(total.reshape(batch, -1).mean(axis=1), np.float32)


def _rows(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flatten (B, N, D) to (B * N, D)."""
    return np.ascontiguousarray(latents.reshape(-1, latents.shape[-1]), dtype=np.float32)
