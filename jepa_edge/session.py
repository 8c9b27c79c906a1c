# SPDX-License-Identifier: Apache-2.0
"""The one loop: a frame comes in, is encoded, compared with what was predicted, and flagged."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.binding import current_binding
from jepa_edge.channels import first_step
from jepa_edge.domain_check import DomainCheck, FalseAlarmBudget
from jepa_edge.errors import InputError
from jepa_edge.flags import FORCE_CAUTION, FORCE_UNKNOWN, Level, Reason
from jepa_edge.input_checks import TimeCheck, check_content, checked_plan, seconds
from jepa_edge.latent_variable import Futures
from jepa_edge.monitor import ChannelScores, Monitor
from jepa_edge.session_config import SessionConfig as SessionConfig
from jepa_edge.spread import RECENT
from jepa_edge.state_machine import Event, Phase, Rules, State, advance, refusal
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)

_LOG_EVERY = 100

_OVERLOAD_AFTER = 3
"""Slow steps in a row that make an overload: one alone is a page fault or a garbage collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One camera frame and the action that led to it.

    stamp_s: capture time, seconds. frame: (H, W, 3) uint8, or a clip (F, H, W, 3) whose newest
    frame has the stamp. action: (A,) float32, the block that was commanded between the previous
    frame and this one; None when there was none. planned: (H, A) float32, the blocks that the
    controller means to command next, if it knows them. state: (S,) float32, what the robot knows
    of itself at this frame, for a model that takes it. continues: False when camera frames were
    lost before this one; the stamps need not show it where the model sees clips. Then nothing is
    compared with what came before, as after a gap in the stamps.
    """

    stamp_s: float
    frame: NDArray[np.generic]
    action: NDArray[np.float32] | None = None
    planned: NDArray[np.float32] | None = None
    state: NDArray[np.float32] | None = None
    continues: bool = True


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer acts on. After stamp_s + valid_for_s it counts as UNKNOWN.

    raw_level: what this frame alone says; the level is never below it. latched: whether a level is
    latched, which it stays until `Session.reset_latch` is accepted. confidence: conformal p-value
    of the score among the calibration's nominal episodes. score: largest standardized channel
    score; channels: each channel's. NaN, or empty, where the level is UNKNOWN. episode_steps:
    judged frames since the episode began. budget_period: how many times the length of the
    calibration's longest episode has begun since; each spends alpha anew if all calibration
    episodes had one length. episode: how many `begin_episode` calls came before. input_age_s: when
    the frame's processing began; latency_s: from there to the flag. Times in seconds.
    """

    seq: int
    stamp_s: float
    level: Level
    raw_level: Level
    latched: bool
    reasons: tuple[str, ...]
    reason_bits: int
    confidence: float
    score: float
    caution_threshold: float
    reject_threshold: float
    channels: dict[str, float]
    episode_steps: int
    budget_period: int
    episode: int
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
class LatchReset:
    """Answer to `Session.reset_latch`; reason says why it was refused, or what was released."""

    accepted: bool
    reason: str


class Session:
    """Drives a world model frame by frame: one session per stream. config: the limits that hold.

    Not thread-safe, but for `stalled`.
    """

    def __init__(
        self,
        model: WorldModel,
        monitor: Monitor | None,
        config: SessionConfig | None = None,
        *,
        clock: Callable[[], float] | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """monitor: of this very model; None runs uncalibrated, and every flag says so.

        clock: current time on the time base of the stamps; None means that input is never late.
        timer: steady seconds that latency is measured in.
        Raises InputError when the monitor is another model's: its thresholds are not this one's.
        """
        if monitor is not None:
            _check_same(model, monitor.model)
            monitor.reset()
        self.model = model
        self.monitor = monitor
        self._clock = clock
        self._timer = timer
        manifest = model.manifest
        period_s = 1.0 / manifest.observation.rate_hz
        limits = (config or SessionConfig()).resolved(period_s, live=clock is not None)
        self.config = limits
        self._time = TimeCheck(
            period_s=period_s,
            max_age_s=cast(float, limits.max_age_s),
            min_gap_periods=limits.min_gap_periods,
            max_gap_periods=limits.max_gap_periods,
            clock=clock,
        )
        self._max_latency_s = math.inf if limits.max_latency_s is None else limits.max_latency_s
        self._slow_steps = 0
        warm_up = first_step(manifest.history)
        self._rules = Rules(warm_up=warm_up, fall_after=limits.fall_after, latch=limits.latch)
        self._state = State()
        self._domain: DomainCheck | None = None
        self._budget: FalseAlarmBudget | None = None
        # Beyond the model's history: how wrong it was of late sharpens the futures' spread.
        calibrated = (
            monitor is not None
            and model.takes_actions
            and monitor.latent_variable.calibration is not None
        )
        kept = manifest.history + (RECENT if calibrated else 0)
        self._latents: deque[NDArray[np.float32]] = deque(maxlen=kept)
        self._actions: deque[NDArray[np.float32]] = deque(maxlen=max(kept - 1, 1))
        self._last_reasons: tuple[str, ...] = ()
        self._warned: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards the next two
        self._seq = 0
        self._stalled = False
        self._episode = 0
        if monitor is not None:
            domain = monitor.calibration.domain
            self._domain = DomainCheck(domain, limits.domain_tolerance)
            self._budget = FalseAlarmBudget(domain, warm_up)
            if limits.samples and model.takes_actions:
                self._reserve(monitor)

    def step(self, observation: Observation) -> Update:
        """Process one frame. Bad input never raises: it gives an UNKNOWN flag with the reason.

        What else is raised (a runtime that fails) leaves a session that begins its warm-up anew.
        """
        try:
            return self._step(observation)
        except Exception:
            self._forget()  # the next frame must not be compared over this one
            raise

    def _step(self, observation: Observation) -> Update:
        start = self._timer()
        stamp_s = seconds(observation.stamp_s)
        reasons = self._time.check(stamp_s, observation.continues) | self._standing()
        if reasons & (Reason.STALE | Reason.CLOCK_JUMP | Reason.NOT_ARMED):
            self._forget()
        latent = None
        # A frame without a time of its own is no frame to compare the next one with.
        if self._time.kept and not reasons & Reason.STALE:
            latent, found = self._encode(observation)
            reasons |= found
        if latent is None:
            self._forget()
            return Update(flag=self._flag(stamp_s, start, reasons, None))
        action = None
        if self._latents and self.model.takes_actions:
            if observation.action is None:
                # Without the commanded action nothing that follows can be compared.
                self._forget()
                reasons |= Reason.INPUT_MISMATCH
            else:
                action = observation.action.astype(np.float32)
        if self._domain is not None and not reasons & Reason.CLOCK_JUMP:
            commanded = observation.action if self.model.takes_actions else None
            state = None if self.model.manifest.state is None else observation.state
            reasons |= self._domain.check(stamp_s, commanded, state)
        scores, found = self._judge(observation, latent, action)
        if found:
            self._forget()
            return Update(flag=self._flag(stamp_s, start, reasons | found, None))
        futures = None if reasons & Reason.NOT_ARMED else self._imagine(observation.planned)
        flag = self._flag(stamp_s, start, reasons, scores)
        if flag.reason_bits & Reason.STALE:  # too late, by a stall
            return Update(flag=flag)
        return Update(flag=flag, embedding=latent, futures=futures)

    def poll(self) -> Flag | None:
        """Return a stale flag when no frame has come in time, else None. For a watchdog."""
        now_s = self._time.overdue_s()
        if now_s is None:
            return None
        self._forget()
        self._time.input_age_s = 0.0
        reasons = Reason.STALE | self._standing()
        return self._flag(now_s, self._timer(), reasons, None)

    def stalled(self) -> Flag:
        """Return a stale flag while another thread is inside `step`. For a watchdog.

        The step under way, or the next, ends as stale and overload too, and the warm-up begins
        anew, so that no verdict outlives the gap that consumers saw.
        Raises InputError in a session without a clock, where nothing is ever late.
        """
        if self._clock is None:
            raise InputError("the session has no clock, expected one; pass clock= to watch it")
        reasons = Reason.STALE | Reason.OVERLOAD | self._standing()
        with self._lock:
            self._stalled = True
            if self._state.latched is not Level.UNKNOWN:
                reasons |= Reason.LATCHED
            return self._make_flag(seconds(self._clock()), reasons, None, Level.UNKNOWN, 0.0, 0.0)

    def begin_episode(self) -> None:
        """Begin a task: the false-alarm budget starts anew, and so does the warm-up.

        The next stamp may be any. A latched level stays.
        """
        self._episode += 1
        self._forget(new_episode=True)
        self._time.restart()
        self._state = advance(self._state, Event.INVALID, self._rules)
        if self._budget is not None:
            self._budget.restart()

    def reset_latch(self) -> LatchReset:
        """Release the latched level, unless its fault is present or nothing is judged now."""
        latched = self._state.latched
        why_not = refusal(self._state, self._rules)
        if latched is not Level.UNKNOWN and self._stalled:
            why_not = f"{latched.name} stays latched: no step has ended since one was stuck"
        if latched is not Level.UNKNOWN and self._time.overdue_s() is not None:
            why_not = f"{latched.name} stays latched: no frame has come in time"
        if why_not:
            last = ", ".join(self._last_reasons) or "none"
            logger.warning("reset refused: %s; last reasons: %s", why_not, last)
            return LatchReset(accepted=False, reason=f"{why_not}; last reasons: {last}")
        if latched is Level.UNKNOWN:
            return LatchReset(accepted=True, reason="nothing was latched")
        self._state = advance(self._state, Event.RESET, self._rules)
        logger.info("reset accepted: %s released", latched.name)
        return LatchReset(accepted=True, reason=f"{latched.name} released")

    def _standing(self) -> Reason:
        """Return what holds whatever the frame is."""
        if self.monitor is None:
            return Reason.UNCALIBRATED
        reasons = Reason.DRIFT if self.monitor.drift_alarmed else Reason(0)
        if self.monitor.armed:
            return reasons
        if "not_armed" not in self._last_reasons:
            logger.warning("not armed: %s", self.monitor.disarmed_reason)
        return reasons | Reason.NOT_ARMED

    def _warn(self, message: str, *about: object) -> None:
        """Log the first of a kind, and then every hundredth: a stream may be bad for hours."""
        self._warned[message] += 1
        if self._warned[message] % _LOG_EVERY == 1:
            logger.warning(message, *about)

    def _encode(self, observation: Observation) -> tuple[NDArray[np.float32] | None, Reason]:
        try:
            action = observation.action if self.model.takes_actions else None
            reason = check_content(
                observation.frame, action, self.model.manifest, observation.state
            )
        except InputError as error:
            self._warn("frame %d not used: %s", self._seq, error)
            return None, Reason.INPUT_MISMATCH
        if reason:
            return None, reason
        latent = self.model.encode(*self._fed(observation))[0]
        if not np.isfinite(latent).all():
            return None, Reason.NON_FINITE
        return latent, Reason(0)

    def _fed(
        self, observation: Observation
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """What the encoder gets of an observation that was checked: a batch of one."""
        state = None
        if self.model.manifest.state is not None and observation.state is not None:
            state = observation.state[None].astype(np.float32)
        return np.ascontiguousarray(observation.frame[None], np.uint8), state

    def _judge(
        self,
        observation: Observation,
        latent: NDArray[np.float32],
        action: NDArray[np.float32] | None,
    ) -> tuple[ChannelScores | None, Reason]:
        """Remember a frame and return its scores, if any, or why it cannot be judged."""
        self._latents.append(latent)
        if action is not None:
            self._actions.append(action)
        if self.monitor is None:
            return None, Reason(0)
        masked = None
        if self.model.has_masks and not self.model.takes_actions:
            frames, states = self._fed(observation)
            masked = self.model.masked_energy(frames, latent[None], states)[0]
        try:
            scores = self.monitor.update(latent, action, masked)
        except InputError as error:
            self._warn("frame %d not judged: %s", self._seq, error)
            return None, Reason.INPUT_MISMATCH
        if scores is not None and not math.isfinite(scores.score):
            self._warn("frame %d not judged: its score is %s", self._seq, scores.score)
            return None, Reason.NON_FINITE
        return scores, Reason(0)

    def _reserve(self, monitor: Monitor) -> None:
        """Load and reserve what sampled futures need, so that the first frame is not late."""
        manifest, config = self.model.manifest, self.config
        history = np.zeros(
            (manifest.history, manifest.latent.tokens, manifest.latent.dim), np.float32
        )
        mean = np.asarray(manifest.require_action().mean, np.float32)
        actions = np.tile(mean, (manifest.history - 1 + config.horizon, 1))
        monitor.sample_futures(history, actions, config.samples, config.seed)

    def _imagine(self, planned: NDArray[np.float32] | None) -> Futures | None:
        """Sample futures under the planned actions, or under the last action held.

        None while the history fills, for a plan that does not fit, and when a number is not finite.
        """
        if (
            self.monitor is None
            or not self.model.takes_actions
            or self.config.samples == 0
            or len(self._latents) < self.model.manifest.history
            or (planned is None and not self._actions)
        ):
            return None
        if planned is None:
            planned = np.repeat(self._actions[-1][None], self.config.horizon, axis=0)
        taken = len(self._latents) - 1
        past = [action[None] for action in self._actions][len(self._actions) - taken :]
        try:
            future = checked_plan(planned, self.model.manifest.require_action().dim)
            futures = self.monitor.sample_futures(
                np.stack(self._latents),
                np.concatenate([*past, future]),
                self.config.samples,
                self.config.seed,
            )
        except InputError as error:
            self._warn("frame %d without futures: %s", self._seq, error)
            return None
        return futures if _finite(futures) else None

    def _flag(
        self, stamp_s: float, start: float, reasons: Reason, scores: ChannelScores | None
    ) -> Flag:
        """Judge the frame, move the state machine, and say what to publish."""
        latency_s = self._timer() - start
        self._slow_steps = self._slow_steps + 1 if latency_s > self._max_latency_s else 0
        if self._slow_steps >= _OVERLOAD_AFTER:
            reasons |= Reason.OVERLOAD
        with self._lock:
            if self._stalled:
                reasons |= Reason.STALE | Reason.OVERLOAD
            if self._stalled or self._time.late(latency_s):
                reasons |= Reason.STALE
                self._forget()
            self._stalled = False
            self._state = advance(self._state, _event(reasons, scores), self._rules)
            raw = Level.UNKNOWN
            if self._state.phase is Phase.WARM_UP:
                scores = None
                reasons |= Reason(0) if self.monitor is None else Reason.WARMING_UP
            elif scores is not None:
                raw = _raw_level(reasons, scores)
                reasons |= scores.reasons
                if self._budget is not None:
                    self._budget.count()
            if self._state.latched is not Level.UNKNOWN:
                reasons |= Reason.LATCHED
            self._last_reasons = tuple(reasons.labels)
            age_s = self._time.input_age_s
            return self._make_flag(stamp_s, reasons, scores, raw, age_s, latency_s)

    def _make_flag(
        self,
        stamp_s: float,
        reasons: Reason,
        scores: ChannelScores | None,
        raw: Level,
        age_s: float,
        latency_s: float,
    ) -> Flag:
        """Put a flag together and count it; the lock is held."""
        thresholds = None if self.monitor is None else self.monitor.calibration.thresholds
        self._seq += 1
        return Flag(
            seq=self._seq - 1,
            stamp_s=stamp_s,
            level=Level.UNKNOWN if reasons & FORCE_UNKNOWN else self._state.level,
            raw_level=raw,
            latched=self._state.latched is not Level.UNKNOWN,
            reasons=tuple(reasons.labels),
            reason_bits=int(reasons),
            confidence=math.nan if scores is None else scores.confidence,
            score=math.nan if scores is None else scores.score,
            caution_threshold=math.nan if thresholds is None else thresholds.caution,
            reject_threshold=math.nan if thresholds is None else thresholds.reject,
            channels={} if scores is None else scores.by_channel(),
            episode_steps=0 if self._budget is None else self._budget.steps,
            budget_period=0 if self._budget is None else self._budget.period,
            episode=self._episode,
            input_age_s=age_s,
            latency_s=latency_s,
            valid_for_s=self._time.max_age_s,
        )

    def _forget(self, *, new_episode: bool = False) -> None:
        self._latents.clear()
        self._actions.clear()
        if self.monitor is not None:
            self.monitor.reset(new_episode=new_episode)
        if self._domain is not None:
            self._domain.restart()


def _check_same(model: WorldModel, monitored: WorldModel) -> None:
    """Raise InputError unless both are one model, or loaded alike from one bundle."""
    if monitored is model:
        return
    here, there = current_binding(model), current_binding(monitored)
    if here != there or model.manifest.sha256 != monitored.manifest.sha256:
        raise InputError(
            f"the monitor is of {monitored.bundle.path} {monitored.variant} "
            f"({there.engine_sha256[:12]}), expected the session's model {model.bundle.path} "
            f"{model.variant} ({here.engine_sha256[:12]}); pass Monitor.load(model)"
        )


def _finite(futures: Futures) -> bool:
    """Whether all that is published of sampled futures is finite."""
    published = (futures.latents, futures.mean, futures.spread, futures.bound)
    return all(part is None or bool(np.isfinite(part).all()) for part in published)


def _event(reasons: Reason, scores: ChannelScores | None) -> Event:
    """What a frame says to the state machine."""
    if reasons & FORCE_UNKNOWN:
        return Event.INVALID
    return Event.UNJUDGED if scores is None else Event(int(_raw_level(reasons, scores)))


def _raw_level(reasons: Reason, scores: ChannelScores) -> Level:
    """Level of a judged frame by itself."""
    return max(scores.level, Level.CAUTION) if reasons & FORCE_CAUTION else scores.level
