# SPDX-License-Identifier: Apache-2.0
"""The state that a plan starts from: the latents of late and the blocks between them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.manifest import Manifest
from jepa_edge.nodes.messages import stamp_ns

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """history: (T, N, D) float32, oldest first. past_actions: (T - 1, A) float32, raw units,
    between them. stamp, stamp_ns: of the newest latent, as a message and in nanoseconds.
    received_ns: steady time of its receipt."""

    history: NDArray[np.float32]
    past_actions: NDArray[np.float32]
    stamp: Any
    stamp_ns: int
    received_ns: int

    def age_ns(self, now_ns: int, clock_ns: int) -> int:
        """Its age by the steady clock or by the time base of the stamps, whichever is larger."""
        return max(now_ns - self.received_ns, clock_ns - self.stamp_ns)


class StateHistory:
    """Gathers StateEmbeddings. Methods may be called from any thread.

    A gap in the stamps, as the session counts it, an embedding without its action, or a new episode
    drops what came before: the model predicts from latents that are one period apart. None follows
    another before `gaps` is set: (least, largest) in periods, the session's own, of ModelInfo.
    """

    def __init__(self, manifest: Manifest, max_age_ns: int) -> None:
        """max_age_ns: an older latent is no state to plan from."""
        self._shape = (manifest.latent.tokens, manifest.latent.dim)
        self._width = manifest.require_action().dim
        self._steps = manifest.history
        self._period_ns = round(1e9 / manifest.observation.rate_hz)
        self.max_age_ns = max_age_ns
        self.gaps: tuple[float, float] | None = None
        self._latents: deque[NDArray[np.float32]] = deque(maxlen=manifest.history)
        self._actions: deque[NDArray[np.float32]] = deque(maxlen=max(manifest.history - 1, 0))
        self._newest: Any | None = None
        self._received_ns = 0
        self._changed = threading.Condition()

    def on_embedding(self, message: Any, received_ns: int) -> None:
        """Take in a StateEmbedding. received_ns: steady clock."""
        latent = np.array(message.latent, np.float32)
        action = np.array(message.action, np.float32)
        shape = (int(message.tokens), int(message.dim))
        if shape != self._shape or latent.size != shape[0] * shape[1]:
            logger.warning(
                "an embedding of %s with %d numbers was left out, expected %s: the planner and the "
                "world model need the same bundle",
                shape,
                latent.size,
                self._shape,
            )
            return
        with self._changed:
            if self._repeats(message):
                return
            if not np.isfinite(latent).all():
                self._newest = None
                return
            if not self._follows(message, action):
                self._latents.clear()
                self._actions.clear()
            if self._latents:
                self._actions.append(action)
            self._latents.append(latent.reshape(shape))
            self._newest, self._received_ns = message, received_ns
            self._changed.notify_all()

    def state(self, now_ns: int, clock_ns: int) -> tuple[State | None, str]:
        """Return the newest state, or None and why there is none that is fresh.

        now_ns: steady clock. clock_ns: the time base of the stamps; for `State.age_ns`.
        """
        with self._changed:
            if self._newest is None:
                return (
                    None,
                    "no embedding has come, or none that is finite; is the world model active?",
                )
            width = self._width
            past = np.stack(self._actions) if self._actions else np.empty((0, width), np.float32)
            state = State(
                history=np.stack(self._latents),
                past_actions=past,
                stamp=self._newest.header.stamp,
                stamp_ns=stamp_ns(self._newest.header),
                received_ns=self._received_ns,
            )
            age_ns = state.age_ns(now_ns, clock_ns)
            if age_ns > self.max_age_ns:
                return None, (
                    f"the newest embedding is {age_ns / 1e9:.3f} s old, expected "
                    f"{self.max_age_ns / 1e9:.3f} s at most"
                )
            if len(self._latents) < self._steps:
                return None, (
                    f"{len(self._latents)} latents have come since the last gap, expected "
                    f"{self._steps}"
                )
            return state, ""

    def wait_newer(self, than_ns: int, timeout_s: float) -> bool:
        """Wait until a latent of another stamp is there; return whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._newest is not None and stamp_ns(self._newest.header) != than_ns,
                timeout_s,
            )

    def _repeats(self, message: Any) -> bool:
        newest = self._newest
        return newest is not None and stamp_ns(newest.header) == stamp_ns(message.header)

    def _follows(self, message: Any, action: NDArray[np.float32]) -> bool:
        """Whether an embedding comes one period after the newest, with the block between them."""
        newest = self._newest
        if newest is None or self.gaps is None or newest.flag.episode != message.flag.episode:
            return False
        gap = (stamp_ns(message.header) - stamp_ns(newest.header)) / self._period_ns
        fits = self.gaps[0] <= gap <= self.gaps[1]
        return fits and action.shape == (self._width,) and bool(np.isfinite(action).all())
