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

    max_age_s: an older frame is stale; None stands for 1.5 periods. max_gap_periods: a longer gap
    between stamps, or a step back, is a clock jump. fall_after: calmer frames before the level
    falls. horizon, samples, seed: futures drawn per frame; samples 0 switches them off.
    """

    max_age_s: float | None = None
    max_gap_periods: float = 1.75
    fall_after: int = 3
    horizon: int = 5
    samples: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.samples < 0 or self.fall_after < 1:
            raise InputError(
                f"horizon {self.horizon}, samples {self.samples}, fall_after {self.fall_after}: "
                "expected at least 1, 0 and 1"
            )


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
        self._max_age_s = self.config.max_age_s or 1.5 * self._period_s
        self._hysteresis = Hysteresis(fall_after=self.config.fall_after)
        self._latents: deque[NDArray[np.float32]] = deque(maxlen=model.manifest.history)
        self._actions: deque[NDArray[np.float32]] = deque(maxlen=model.manifest.history - 1)
        self._last_stamp_s = -math.inf
        self._seq = 0

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
        action = observation.action if self._latents else None
        if action is None and self._latents:
            # Without the commanded action nothing that follows can be compared.
            self._forget()
            reason |= Reason.INPUT_MISMATCH
        scores = self._remember(latent, action)
        futures = self._imagine(observation)
        flag = self._flag(observation.stamp_s, start, reason, scores)
        return Update(flag=flag, embedding=latent, futures=futures)

    def poll(self) -> Flag | None:
        """Return a stale flag when no frame has come in time, else None. For a watchdog."""
        if self._clock is None or self._clock() - self._last_stamp_s <= self._max_age_s:
            return None
        self._forget()
        return self._flag(self._clock(), time.perf_counter(), Reason.STALE, None)

    def _check_time(self, stamp_s: float) -> Reason:
        reason = Reason(0)
        if not math.isfinite(stamp_s):
            return Reason.CLOCK_JUMP
        gap_s = stamp_s - self._last_stamp_s
        if gap_s <= 0.0 or (
            math.isfinite(self._last_stamp_s)
            and gap_s > self.config.max_gap_periods * self._period_s
        ):
            reason |= Reason.CLOCK_JUMP
        self._last_stamp_s = stamp_s
        age_s = self._age_s(stamp_s)
        if age_s > self._max_age_s:
            reason |= Reason.STALE
        elif age_s < -self._period_s:
            reason |= Reason.CLOCK_JUMP
        return reason

    def _age_s(self, stamp_s: float) -> float:
        return 0.0 if self._clock is None else self._clock() - stamp_s

    def _encode(self, observation: Observation) -> tuple[NDArray[np.float32] | None, Reason]:
        frame, action = observation.frame, observation.action
        if np.issubdtype(frame.dtype, np.floating) and not np.isfinite(frame).all():
            return None, Reason.NON_FINITE
        if action is not None and not np.isfinite(action).all():
            return None, Reason.NON_FINITE
        try:
            if action is not None and action.shape != (self.model.manifest.action.dim,):
                raise InputError(f"action has shape {action.shape}")
            self.model.manifest.observation.check_frames(frame[None])
            latent = self.model.encode(frame[None])[0]  # type: ignore[arg-type]
        except InputError as error:
            logger.warning("frame %d not used: %s", self._seq, error)
            return None, Reason.INPUT_MISMATCH
        if not np.isfinite(latent).all():
            return None, Reason.NON_FINITE
        return latent, Reason(0)

    def _remember(
        self, latent: NDArray[np.float32], action: NDArray[np.float32] | None
    ) -> ChannelScores | None:
        self._latents.append(latent)
        if action is not None:
            self._actions.append(np.asarray(action, np.float32))
        return self.monitor.update(latent, action) if self.monitor is not None else None

    def _imagine(self, observation: Observation) -> Futures | None:
        """Sample futures under the planned actions, or under the last action held."""
        if (
            self.monitor is None
            or self.config.samples == 0
            or len(self._latents) < self.model.manifest.history
        ):
            return None
        planned = observation.planned
        if planned is None:
            planned = np.repeat(self._actions[-1][None], self.config.horizon, axis=0)
        return self.monitor.sample_futures(
            np.stack(self._latents),
            np.concatenate([np.stack(self._actions), planned]),
            self.config.samples,
            self.config.seed,
        )

    def _flag(
        self, stamp_s: float, start: float, reason: Reason, scores: ChannelScores | None
    ) -> Flag:
        if self.monitor is None:
            reason |= Reason.UNCALIBRATED
        elif scores is None:
            reason |= Reason.WARMING_UP
        elif not math.isfinite(scores.score):
            reason |= Reason.NON_FINITE
            scores = None
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
