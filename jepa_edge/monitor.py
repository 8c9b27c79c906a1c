# SPDX-License-Identifier: Apache-2.0
"""Watches a stream of latents and actions, step by step, against the calibrated thresholds."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from jepa_edge.arming import disarmed_reason
from jepa_edge.calibration_file import Calibration, ChannelScale, read_calibration
from jepa_edge.channels import (
    BASE_CHANNELS,
    CHANNELS,
    LAGS,
    LONG,
    Observer,
    Standardization,
    Steps,
    channels,
    episode_rollouts,
    episode_steps,
    first_step,
)
from jepa_edge.drift import DriftMonitor
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.flags import Level, Reason
from jepa_edge.futures import make_sampler
from jepa_edge.latent_variable import Futures, LatentVariable, Sampler
from jepa_edge.manifest import heads_name
from jepa_edge.passive import PassiveObserver
from jepa_edge.pooling import token_means
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)

_UNCHECKED = "not checked against this machine; get the monitor from Monitor.load"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelScores:
    """What a monitor says about one step.

    values, scores: (C,) float64 in the order of CHANNELS; a channel that is not there, or not yet,
    has NaN and -inf. score: the largest score. level: NOMINAL, CAUTION or REJECT by the thresholds.
    reasons: of all channels whose score exceeds the caution threshold. confidence: conformal
    p-value of the score among the worst steps of nominal episodes; near 1 for an ordinary step.
    """

    values: NDArray[np.float64]
    scores: NDArray[np.float64]
    score: float
    level: Level
    reasons: Reason
    confidence: float

    def by_channel(self) -> dict[str, float]:
        """Score per channel name, only those that are there."""
        return {
            channel.name: float(score)
            for channel, score in zip(CHANNELS, self.scores, strict=True)
            if np.isfinite(score)
        }


class Monitor:
    """Streams through one episode at a time; `reset` between episodes.

    `update` costs one predictor call with a batch of at most LONG, and none in a model that takes
    no actions. One that was not loaded from a bundle is not armed.
    """

    def __init__(
        self, model: WorldModel, observer: Observer | PassiveObserver, calibration: Calibration
    ) -> None:
        self.model = model
        self.observer = observer
        self.calibration = calibration
        self._disarmed_reason = _UNCHECKED
        self.standardization = standardization(calibration.channels)
        self._history = model.manifest.history
        self._compared = model.manifest.latent.compared
        self.drift = DriftMonitor(calibration.drift)
        self._sampler: Sampler | None = None
        self._seen = 0
        self.reset()

    @classmethod
    def load(cls, model: WorldModel, *, state: Path | None = None) -> Monitor:
        """Read the calibration of the model's own variant from its bundle.

        Under another runtime, or on another kind of machine, than it was calibrated on, the monitor
        is not armed unless `jepa-edge selftest` passed here. state: where its record lies; None for
        the user's state directory.
        Raises CalibrationError when there is none, it was made for other graphs, or its numbers
        do not fit the model's latents and actions.
        """
        calibration = read_calibration(model.bundle, model.variant)
        name = heads_name(model.variant)
        try:
            observer = _read_observer(model, model.bundle.file(name))
        except KeyError as error:
            raise CalibrationError(
                f"{model.bundle.path / name} lacks the array {error}, expected every head; "
                "run `jepa-edge calibrate` again"
            ) from error
        except (SafetensorError, ValueError) as error:
            raise CalibrationError(
                f"{model.bundle.path / name} does not fit the format ({error}); "
                "run `jepa-edge calibrate` again"
            ) from error
        numbers = len(calibration.domain.action_low)
        expected = 0 if model.manifest.action is None else model.manifest.action.dim
        if numbers != expected:
            raise CalibrationError(
                f"{model.bundle.path}: calibrated for {numbers} numbers per action, the model "
                f"takes {expected}; run `jepa-edge calibrate` again"
            )
        monitor = cls(model, observer, calibration)
        monitor._disarmed_reason = disarmed_reason(model, calibration.binding, state)
        if not monitor.armed:
            logger.info("not armed: %s", monitor.disarmed_reason)
        return monitor

    @property
    def latent_variable(self) -> LatentVariable:
        """The fitted latent variable, to sample futures from.

        Raises InputError for a model that takes no actions.
        """
        if isinstance(self.observer, PassiveObserver):
            self.model.manifest.require_action()
            raise InputError("the monitor was calibrated without actions; calibrate again")
        return self.observer.latent_variable

    @property
    def disarmed_reason(self) -> str:
        """Why the verdicts must not be acted on; empty when they may be. Only `load` clears it for
        a robot, and `arm_as` for a replay."""
        return self._disarmed_reason

    @property
    def armed(self) -> bool:
        """Whether the verdicts may be acted on; `disarmed_reason` says why not."""
        return not self.disarmed_reason

    def arm_as(self, disarmed_reason: str) -> None:
        """Take over whether another machine was armed, to make its flags again at a desk.

        disarmed_reason: why it was not; empty if it was. Nothing may act on verdicts after this.
        """
        self._disarmed_reason = disarmed_reason

    @property
    def drift_alarmed(self) -> bool:
        """Whether the scores have drifted away from the calibration's over many episodes."""
        return self.drift.alarmed

    def reset(self, *, new_episode: bool = True) -> None:
        """Forget the episode so far; what is known of drift stays.

        new_episode: False after a gap in an episode that goes on. Its drift block is dropped, and
        no other begins: blocks are exchangeable only where they start with their episode.
        """
        if new_episode:
            self.drift.start_episode()
        elif self._seen:
            self.drift.skip_episode()
        self._seen = 0
        self._means: NDArray[np.float64] | None = None
        self._latents: deque[NDArray[np.float32]] = deque(maxlen=first_step(self._history))
        self._actions: deque[NDArray[np.float32]] = deque(maxlen=first_step(self._history))
        # In-flight rollouts, youngest first; each is the model's window of latents so far.
        self._windows: list[NDArray[np.float32]] = []
        self._pooled: NDArray[np.float32] | None = None

    def update(
        self,
        latent: NDArray[np.float32],
        action: NDArray[np.float32] | None,
        masked: NDArray[np.float32] | None = None,
    ) -> ChannelScores | None:
        """Judge the newest latent; None while the model's history fills.

        latent: (N, D) float32. action: (A,) float32, raw units, the commanded block that led from
        the previous latent to this one; None for the first latent only, and always in a model that
        takes none. masked: (N,) float32, the frame's `WorldModel.masked_energy`, of a model without
        actions that has masks, and only then.
        Raises InputError on a wrong shape, a missing action, or a number that is not finite; the
        monitor is then as it was before, and the caller should `reset` before it goes on.
        """
        if isinstance(self.observer, PassiveObserver):
            return self._update_passive(self.observer, latent, action, masked)
        latent, action = self._checked(latent, action)
        scores = None
        if action is not None:
            self._actions.append(action)
            scores = self._judge(latent)
        self._latents.append(latent)
        self._seen += 1
        return scores

    def _update_passive(
        self,
        observer: PassiveObserver,
        latent: NDArray[np.float32],
        action: NDArray[np.float32] | None,
        masked: NDArray[np.float32] | None,
    ) -> ChannelScores | None:
        if action is not None:
            raise InputError("an action came, but the model takes none; pass None")
        self._check_latent(latent)
        _check_masked(observer, masked, ())
        previous, self._pooled = self._pooled, token_means(latent[None], self._compared, np.float32)
        self._seen += 1
        if previous is None or self._seen <= first_step(self._history):
            return None
        energies = None if masked is None else masked[None]
        return self._complete(observer.measure(previous, self._pooled, energies))

    def _judge(self, latent: NDArray[np.float32]) -> ChannelScores | None:
        assert isinstance(self.observer, Observer)
        if len(self._latents) < self._history or len(self._actions) < self._history:
            return None
        recent = list(self._latents)
        fresh = np.stack(recent[-self._history :])
        windows = np.stack([fresh, *self._windows][:LONG])
        actions = np.stack(list(self._actions))
        newest = actions[-self._history :]
        taken = np.ascontiguousarray(np.broadcast_to(newest, (len(windows), *newest.shape)))
        predicted = self.model.predict(windows, taken)
        self._windows = list(np.concatenate([windows[:, 1:], predicted[:, None]], axis=1))
        if len(recent) < first_step(self._history):
            return None
        steps = Steps(
            before=recent[-2][None],
            previous=recent[-1][None],
            observed=latent[None],
            actions=actions[None, : -2 - LAGS : -1],
            predicted=predicted[:1],
            long_previous=windows[-1:, -1],
            long_predicted=predicted[-1:],
            young=np.array([len(windows) < LONG]),
        )
        return self._complete(self.observer.measure(steps))

    def _complete(self, measured: NDArray[np.float64]) -> ChannelScores:
        """Score the base channels of the newest step, (1, 9)."""
        values = channels(measured, self.standardization.center, self._means)
        self._means = values[0, len(BASE_CHANNELS) :]
        scores = self.scores(values[0])
        if np.isfinite(scores.score):
            self.drift.add_step(scores.score)
        else:  # a broken step is no evidence of drift, nor is a block without it
            self.drift.skip_episode()
        return scores

    def scores(self, values: NDArray[np.float64]) -> ChannelScores:
        """Turn channel values (C,) into scores, a level and reasons."""
        scores = self.standardization.score(values)
        thresholds = self.calibration.thresholds
        score = float(scores.max())
        level = Level.NOMINAL
        if score > thresholds.caution:
            level = Level.REJECT if score > thresholds.reject else Level.CAUTION
        reasons = Reason(0)
        for channel, value in zip(CHANNELS, scores, strict=True):
            if value > thresholds.caution:
                reasons |= channel.reason
        return ChannelScores(
            values=values,
            scores=scores,
            score=score,
            level=level,
            reasons=reasons,
            confidence=thresholds.p_value(score),
        )

    def episode(
        self,
        latents: NDArray[np.float32],
        actions: NDArray[np.float32],
        masked: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """Score a whole episode at once: (T + 1, C), NaN while the history fills.

        latents: (T + 1, N, D) float32; of a model without actions (T + 1, 1, D), the token means,
        will do. actions: (T, A) float32, raw units; A is 0 there. masked: (T + 1, N) float32, as of
        `update`. Gives what that gives step by step, faster. Raises InputError on other shapes or
        numbers that are not finite.
        """
        scores = np.full((len(latents), len(CHANNELS)), np.nan)
        first = first_step(self._history)
        if isinstance(self.observer, PassiveObserver):
            _check_pooled(self.model, latents)
            _check_masked(self.observer, masked, (len(latents),))
            if len(latents) > first:
                pooled = token_means(latents, self._compared, np.float32)
                energies = None if masked is None else masked[first:]
                measured = self.observer.measure(pooled[first - 1 : -1], pooled[first:], energies)
                values = channels(measured, self.standardization.center)
                scores[first:] = self.standardization.score(values)
            return scores
        latents, actions = self._checked_episode(latents, actions)
        if len(latents) > first:
            rolled = episode_rollouts(
                self.model, latents, actions, self._history, LONG, self._compared
            )
            steps = episode_steps(rolled, latents, actions, self._history)
            values = channels(self.observer.measure(steps), self.standardization.center)
            scores[first:] = self.standardization.score(values)
        return scores

    def sample_futures(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        samples: int = 32,
        seed: int = 0,
    ) -> Futures:
        """Sample futures of the model; arguments as of `Sampler.sample`."""
        if self._sampler is None:
            self._sampler = make_sampler(self.model, self.latent_variable)
        return self._sampler.sample(history, actions, samples, seed)

    def _checked(
        self, latent: NDArray[np.float32], action: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        self._check_latent(latent)
        spec = self.model.manifest.require_action()
        if action is None:
            if self._seen:
                raise InputError(
                    "no action came with a latent that is not the first; pass the commanded "
                    "block that led to it, or reset the monitor"
                )
            return latent.astype(np.float32), None
        if not self._seen:
            raise InputError("an action came with the first latent; pass None, nothing led to it")
        if action.shape != (spec.dim,) or not np.isfinite(action).all():
            raise InputError(
                f"action has shape {action.shape}, expected ({spec.dim},) finite "
                f"numbers: a block of {spec.block} commands, flattened"
            )
        return latent.astype(np.float32), action.astype(np.float32)

    def _check_latent(self, latent: NDArray[np.float32]) -> None:
        manifest = self.model.manifest
        expected = (manifest.latent.tokens, manifest.latent.dim)
        if latent.shape != expected or not np.isfinite(latent).all():
            raise InputError(
                f"latent has shape {latent.shape}, expected {expected} finite numbers; "
                "check the frame it was encoded from"
            )

    def _checked_episode(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        manifest, steps = self.model.manifest, len(latents) - 1
        expected = (
            ("latents", latents, (steps + 1, manifest.latent.tokens, manifest.latent.dim)),
            ("actions", actions, (steps, manifest.require_action().dim)),
        )
        for name, values, shape in expected:
            if values.shape != shape or not np.isfinite(values).all():
                raise InputError(
                    f"{name} has shape {values.shape}, expected {shape} finite numbers: one "
                    "action between two latents"
                )
        return latents.astype(np.float32, copy=False), actions.astype(np.float32, copy=False)


def standardization(scales: tuple[ChannelScale, ...]) -> Standardization:
    """Turn the calibration file's records into arrays; channels that the model has not are NaN."""
    by_name = {scale.name: scale for scale in scales}
    nothing = ChannelScale(name="", center=0.0, high=1.0, low=None)
    ordered = [by_name.get(channel.name, nothing) for channel in CHANNELS]
    return Standardization(
        center=np.array([np.nan if scale is nothing else scale.center for scale in ordered]),
        high=np.array([scale.high for scale in ordered]),
        low=np.array([np.inf if scale.low is None else scale.low for scale in ordered]),
    )


def _read_observer(model: WorldModel, path: Path) -> Observer | PassiveObserver:
    """Read what was fitted. Raises KeyError or ValueError when it does not fit the model."""
    manifest, arrays = model.manifest, _read_heads(path)
    tokens, dim = manifest.latent.compared
    if manifest.action is None:
        passive = PassiveObserver.from_arrays(arrays)
        passive.check(dim, manifest.latent.tokens if manifest.masks is not None else None)
        return passive
    observer = Observer.from_arrays(arrays)
    observer.check(dim, manifest.action.dim)
    known = observer.latent_variable.tokens or manifest.latent.tokens
    if known != tokens:
        raise ValueError(f"it compares {known} tokens, the model {tokens}")
    return observer


def _check_masked(
    observer: PassiveObserver, masked: NDArray[np.float32] | None, batch: tuple[int, ...]
) -> None:
    """Raise InputError unless masked energies are there where they were calibrated, and fit."""
    wanted = None if observer.expected is None else (*batch, *observer.expected.shape)
    have = None if masked is None else masked.shape
    if have != wanted:
        raise InputError(
            f"masked energies have shape {have}, expected {wanted}; pass "
            "WorldModel.masked_energy of these frames where the model has masks, else None"
        )


def _check_pooled(model: WorldModel, latents: NDArray[np.float32]) -> None:
    """Raise InputError unless latents are (T + 1, N, D) or (T + 1, 1, D), and finite."""
    latent = model.manifest.latent
    shapes = ((latent.tokens, latent.dim), (1, latent.compared[1]))
    if latents.shape[1:] not in shapes or not np.isfinite(latents).all():
        raise InputError(
            f"latents have shape {latents.shape}, expected (T + 1, {latent.tokens}, {latent.dim}) "
            "finite numbers, or their token means"
        )


def _read_heads(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read all arrays of a safetensors file. Raises ValueError when one is not float32."""
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        for name in names:  # before reading: numpy has no type at all for some of them
            stored = file.get_slice(name).get_dtype()
            if stored != "F32":
                raise ValueError(f"{name} is {stored}, expected F32")
        return {name: file.get_tensor(name) for name in names}
