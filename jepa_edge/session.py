# SPDX-License-Identifier: Apache-2.0
"""The one loop: a frame comes in, is encoded, compared with what was predicted, and flagged."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.flags import Level, Reason
from jepa_edge.latent_variable import Futures
from jepa_edge.monitor import ChannelScores, Monitor
from jepa_edge.state_machine import Hysteresis
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One camera frame and the action that led to it.

    stamp_s: capture time, seconds. frame: (H, W, 3) uint8. action: (A,) float32, the block that
    was commanded between the previous frame and this one; None when there was none.
    planned: (H, A) float32, the blocks that the controller means to command next, if it knows them.
    """

    stamp_s: float
    frame: NDArray[np.generic]
    action: NDArray[np.float32] | None = None
    planned: NDArray[np.float32] | None = None


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer acts on. After stamp_s + valid_for_s it counts as UNKNOWN.

    confidence: conformal p-value of the score among the calibration's nominal episodes.
    score: largest standardized channel score; channels: each channel's. NaN, or empty, where the
    level is UNKNOWN. Times in seconds.
    """

    seq: int
    stamp_s: float
    level: Level
    reasons: tuple[str, ...]
    reason_bits: int
    confidence: float
    score: float
    caution_threshold: float
    reject_threshold: float
    channels: dict[str, float]
    input_age_s: float
    latency_s: float
    valid_for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Result of one step. embedding (N, D) and futures only when they are finite and fresh."""

    flag: Flag
    embedding: NDArray[np.float32] | None = None
    futures: Futures | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Limits of the loop. Times in seconds; periods are 1 / rate of the model's training data.

    max_age_s: an older frame is stale; None stands for 1.5 periods. min_gap_periods,
    max_gap_periods: stamps nearer together or farther apart than this, or a step back, are a clock
    jump. fall_after: calmer frames before the level falls. horizon, samples, seed: futures drawn
    per frame; samples 0 switches them off.
    Raises InputError when a number is out of range.
    """

    max_age_s: float | None = None
    min_gap_periods: float = 0.5
    max_gap_periods: float = 1.75
    fall_after: int = 3
    horizon: int = 5
    samples: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("max_age_s", self.max_age_s is None or 0.0 < self.max_age_s < math.inf, "above 0"),
            ("min_gap_periods", 0.0 <= self.min_gap_periods < 1.0, "0 to below 1"),
            ("max_gap_periods", 1.0 < self.max_gap_periods < math.inf, "above 1"),
            ("fall_after", self.fall_after >= 1, "1 or more"),
            ("horizon", 1 <= self.horizon <= 100, "1 to 100"),
            ("samples", self.samples == 0 or self.samples >= 2, "0, or 2 or more"),
            ("seed", 0 <= self.seed < 2**63, "0 to 2^63 - 1"),
        )
        for name, good, expected in checks:
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}, expected {expected}")


class Session:
    """Drives a world model frame by frame. Not thread-safe: one session per stream."""

    def __init__(
        self,
        model: WorldModel,
        monitor: Monitor | None,
        config: SessionConfig | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """monitor: None runs uncalibrated, and every flag says so.

        clock: current time on the time base of the stamps; None means that input is never late,
        as in a replay.
        """
        self.model = model
        self.monitor = monitor
        self.config = config or SessionConfig()
        self._clock = clock
        self._period_s = 1.0 / model.manifest.observation.rate_hz
        age_s = self.config.max_age_s
        self._max_age_s = 1.5 * self._period_s if age_s is None else age_s
        self._hysteresis = Hysteresis(fall_after=self.config.fall_after)
        self._latents: deque[NDArray[np.float32]] = deque(maxlen=model.manifest.history)
        self._actions: deque[NDArray[np.float32]] = deque(maxlen=model.manifest.history - 1)
        self._last_stamp_s = -math.inf
        self._seq = 0
        if monitor is not None and self.config.samples:
            self._warm_up(monitor)

    def step(self, observation: Observation) -> Update:
        """Process one frame. Bad input never raises: it gives an UNKNOWN flag with the reason."""
        start = time.perf_counter()
        reason = self._check_time(observation.stamp_s)
        if reason & (Reason.STALE | Reason.CLOCK_JUMP):
            self._forget()
        latent = None
        if not reason & Reason.STALE:
            latent, input_reason = self._encode(observation)
            reason |= input_reason
        if latent is None:
            self._forget()
            return Update(flag=self._flag(observation.stamp_s, start, reason, None))
        action = None
        if self._latents:
            if observation.action is None:
                # Without the commanded action nothing that follows can be compared.
                self._forget()
                reason |= Reason.INPUT_MISMATCH
            else:
                action = observation.action.astype(np.float32)
        scores = self._remember(latent, action)
        if scores is not None and not math.isfinite(scores.score):
            self._forget()
            return Update(
                flag=self._flag(observation.stamp_s, start, reason | Reason.NON_FINITE, None)
            )
        futures = self._imagine(observation.planned)
        flag = self._flag(observation.stamp_s, start, reason, scores)
        return Update(flag=flag, embedding=latent, futures=futures)

    def poll(self) -> Flag | None:
        """Return a stale flag when no frame has come in time, else None. For a watchdog."""
        if self._clock is None or self._clock() - self._last_stamp_s <= self._max_age_s:
            return None
        self._forget()
        return self._flag(self._clock(), time.perf_counter(), Reason.STALE, None)

    def _check_time(self, stamp_s: float) -> Reason:
        if not isinstance(stamp_s, (int, float)) or not math.isfinite(stamp_s):
            return Reason.CLOCK_JUMP
        age_s = self._age_s(stamp_s)
        if age_s < -self._period_s:
            # A stamp from the future is not kept: it would blind the watchdog until then.
            return Reason.CLOCK_JUMP
        reason = Reason(0)
        gap_periods = (stamp_s - self._last_stamp_s) / self._period_s
        lowest, highest = self.config.min_gap_periods, self.config.max_gap_periods
        first = not math.isfinite(self._last_stamp_s)
        if not first and not max(lowest, 1e-9) <= gap_periods <= highest:
            reason |= Reason.CLOCK_JUMP
        self._last_stamp_s = stamp_s
        if age_s > self._max_age_s:
            reason |= Reason.STALE
        return reason

    def _age_s(self, stamp_s: float) -> float:
        return 0.0 if self._clock is None else self._clock() - stamp_s

    def _encode(self, observation: Observation) -> tuple[NDArray[np.float32] | None, Reason]:
        try:
            self._check_action(observation.action)
            frame = _numeric(observation.frame, "frame")
            if not np.isfinite(frame).all():
                return None, Reason.NON_FINITE
            self.model.manifest.observation.check_frames(frame[None])
        except InputError as error:
            logger.warning("frame %d not used: %s", self._seq, error)
            return None, Reason.INPUT_MISMATCH
        action = observation.action
        if action is not None and not _finite_float32(action):
            return None, Reason.NON_FINITE
        latent = self.model.encode(np.ascontiguousarray(frame[None], np.uint8))[0]
        if not np.isfinite(latent).all():
            return None, Reason.NON_FINITE
        return latent, Reason(0)

    def _check_action(self, action: NDArray[np.float32] | None) -> None:
        expected = (self.model.manifest.action.dim,)
        if action is not None and _numeric(action, "action").shape != expected:
            raise InputError(
                f"action has shape {action.shape}, expected {expected}: one block, flattened"
            )

    def _remember(
        self, latent: NDArray[np.float32], action: NDArray[np.float32] | None
    ) -> ChannelScores | None:
        self._latents.append(latent)
        if action is not None:
            self._actions.append(action)
        if self.monitor is None:
            return None
        scores = self.monitor.update(latent, action)
        longest = self.monitor.calibration.domain.steps_max
        if self.monitor.steps == longest + 2:
            logger.warning(
                "the run is longer than the %d steps of the calibration's episodes; "
                "false alarms are bounded for runs as long as those",
                longest,
            )
        return scores

    def _warm_up(self, monitor: Monitor) -> None:
        """Load and reserve what sampled futures need, so that the first frame is not late."""
        manifest, config = self.model.manifest, self.config
        history = np.zeros(
            (manifest.history, manifest.latent.tokens, manifest.latent.dim), np.float32
        )
        mean = np.asarray(manifest.action.mean, np.float32)
        actions = np.tile(mean, (manifest.history - 1 + config.horizon, 1))
        monitor.sample_futures(history, actions, config.samples, config.seed)

    def _imagine(self, planned: NDArray[np.float32] | None) -> Futures | None:
        """Sample futures under the planned actions, or under the last action held."""
        if (
            self.monitor is None
            or self.config.samples == 0
            or len(self._latents) < self.model.manifest.history
        ):
            return None
        if planned is None:
            planned = np.repeat(self._actions[-1][None], self.config.horizon, axis=0)
        dim = self.model.manifest.action.dim
        if np.ndim(planned) != 2 or np.shape(planned)[1] != dim or not _finite_float32(planned):
            logger.warning("planned actions not used: expected finite numbers (H, %d)", dim)
            return None
        futures = self.monitor.sample_futures(
            np.stack(self._latents),
            np.concatenate([np.stack(self._actions), planned.astype(np.float32)]),
            self.config.samples,
            self.config.seed,
        )
        return futures if np.isfinite(futures.latents).all() else None

    def _flag(
        self, stamp_s: float, start: float, reason: Reason, scores: ChannelScores | None
    ) -> Flag:
        if self.monitor is None:
            reason |= Reason.UNCALIBRATED
        elif scores is None:
            reason |= Reason.WARMING_UP
        raw = Level.UNKNOWN
        if scores is not None and not reason:
            raw = scores.level
            reason |= scores.reasons
        level = self._hysteresis.update(raw)
        thresholds = None if self.monitor is None else self.monitor.calibration.thresholds
        self._seq += 1
        return Flag(
            seq=self._seq - 1,
            stamp_s=stamp_s,
            level=level,
            reasons=tuple(reason.labels),
            reason_bits=int(reason),
            confidence=math.nan if scores is None else scores.confidence,
            score=math.nan if scores is None else scores.score,
            caution_threshold=math.nan if thresholds is None else thresholds.caution,
            reject_threshold=math.nan if thresholds is None else thresholds.reject,
            channels={} if scores is None else scores.by_channel(),
            input_age_s=self._age_s(stamp_s),
            latency_s=time.perf_counter() - start,
            valid_for_s=self._max_age_s,
        )

    def _forget(self) -> None:
        self._latents.clear()
        self._actions.clear()
        if self.monitor is not None:
            self.monitor.reset()


def _numeric(values: object, name: str) -> NDArray[np.generic]:
    """Return values if they are an array of real numbers. Raises InputError otherwise."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values
    kind = f"array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
    raise InputError(f"{name} is {kind}, expected a numeric numpy array")


def _finite_float32(values: NDArray[np.generic]) -> bool:
    """Whether values is not empty and finite even as float32."""
    with np.errstate(over="ignore"):
        cast = np.asarray(values).astype(np.float32)
    return cast.size > 0 and bool(np.isfinite(cast).all())
