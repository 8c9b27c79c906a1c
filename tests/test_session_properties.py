# SPDX-License-Identifier: Apache-2.0
"""Random sequences of faults and requests through a real session, with a count kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_edge.flags import Level
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Episode
from jepa_edge.session import Flag, Observation, Session, SessionConfig
from jepa_edge.state_machine import Event, Rules, State
from jepa_edge.world_model import WorldModel

from .flags_page import Oracle

PERIOD_S = 0.2
WARM_UP = 3  # the linear world's history
FAULTS = {
    "nan_frame": "non_finite",
    "nan_action": "non_finite",
    "wrong_shape": "input_mismatch",
    "no_action": "input_mismatch",
    "gap": "clock_jump",
    "back": "clock_jump",
    "repeat": "clock_jump",
    "future": "clock_jump",
    "late": "stale",
    "silence": "stale",
    "disarmed": "not_armed",
}
LOSES_FRAME = ("nan_frame", "nan_action", "wrong_shape", "late", "silence", "future")
FIRST_IS_FINE = ("gap", "back", "repeat")
STEPS = ["good"] * 12 + ["dark", "far_action", "drift", "reset", "begin", *FAULTS]
RULES = st.builds(
    Rules,
    warm_up=st.just(WARM_UP),
    fall_after=st.integers(1, 3),
    latch=st.sampled_from([None, Level.CAUTION, Level.REJECT]),
)


class Switched(Monitor):
    """A monitor whose arming and drift can be set."""

    armed = True
    drift_alarmed = False


@pytest.fixture(scope="module")
def model(calibrated_bundle: Path) -> WorldModel:
    return WorldModel.load(calibrated_bundle)


class Harness:
    """Feeds a session and counts beside it what docs/flags.md promises."""

    def __init__(self, model: WorldModel, episode: Episode, rules: Rules) -> None:
        self.now_s = self.stamp_s = 100.0
        self.monitor = Switched.load(model)
        config = SessionConfig(
            samples=0, fall_after=rules.fall_after, latch=rules.latch, max_latency_s=60.0
        )
        self.session = Session(model, self.monitor, config, clock=lambda: self.now_s)
        self.episode = episode
        self.oracle, self.state = Oracle(rules), State()
        self.valid = self.judged = self.flags = self.frame = 0
        self.empty = self.first = True  # no frame remembered; no stamp remembered
        self.away = False  # the last stamp lies a silence back

    def do(self, step: str) -> None:
        """Take one step and check everything that can be known."""
        if step == "reset":
            after = self.oracle.step(self.state, Event.RESET)
            answer = self.session.reset_latch()
            assert answer.accepted == (not after.latched)
            assert answer.reason
            self.state = after
        elif step == "begin":
            self.session.begin_episode()
            self.state = self.oracle.step(self.state, Event.INVALID)
            self.valid = self.judged = 0
            self.empty = self.first = True
            self.away = False
        else:
            self._check(step, self._publish(step))

    def _publish(self, step: str) -> Flag:
        if step == "silence":
            self.now_s += 50 * PERIOD_S
            flag = self.session.poll()
            assert flag is not None
            self.stamp_s = self.now_s  # the camera comes back right after
            return flag
        kept_s = self.stamp_s
        self.stamp_s += PERIOD_S * {"gap": 10.0, "back": -3.0, "repeat": 0.0}.get(step, 1.0)
        self.now_s = self.stamp_s + (5 * PERIOD_S if step == "late" else 0.01)
        index = self.frame % len(self.episode.actions)
        self.frame += 1
        changed: dict[str, Any] = {
            "nan_frame": {"frame": np.full((8, 8, 3), np.nan)},
            "dark": {"frame": np.zeros((8, 8, 3), np.uint8)},
            "wrong_shape": {"frame": np.zeros((8, 4, 3), np.uint8)},
            "nan_action": {"action": np.full(4, np.nan, np.float32)},
            "far_action": {"action": np.full(4, 1000.0, np.float32)},
            "no_action": {"action": None},
            "future": {"stamp_s": self.now_s + 1e6},
        }.get(step, {})
        self.monitor.armed = step != "disarmed"
        self.monitor.drift_alarmed = step == "drift"
        plain = {
            "stamp_s": self.stamp_s,
            "frame": self.episode.frames[index + 1],
            "action": self.episode.actions[index],
        }
        if step == "future":
            self.stamp_s = kept_s
        update = self.session.step(Observation(**{**plain, **changed}))
        assert (update.embedding is None) == (step in LOSES_FRAME)
        return update.flag

    def _check(self, step: str, flag: Flag) -> None:
        fault = FAULTS.get(step)
        if (step in FIRST_IS_FINE and self.first) or (step == "no_action" and self.empty):
            fault = None
        if self.away and not self.first and step != "silence":
            fault = "clock_jump"
        if fault is None:
            self.valid += 1
        else:
            assert fault in flag.reasons, step
            self.valid = 0
        known = self.valid > WARM_UP
        self.judged += known
        self.flags += 1
        assert (flag.level is not Level.UNKNOWN) == known
        assert (flag.raw_level is not Level.UNKNOWN) == known
        assert np.isfinite(flag.score) == np.isfinite(flag.confidence) == known
        assert ("warming_up" in flag.reasons) == (not known)
        if known:
            by_score = (
                1 + (flag.score > flag.caution_threshold) + (flag.score > flag.reject_threshold)
            )
            forced = {"drift": "drift", "far_action": "out_of_domain"}.get(step)
            assert flag.raw_level == max(by_score, 2 if forced else 1)
            assert forced is None or forced in flag.reasons
        event = Event.INVALID if fault else Event(int(flag.raw_level)) if known else Event.UNJUDGED
        self.state = self.oracle.step(self.state, event)
        assert flag.level is self.oracle.level(self.state)
        assert flag.latched == ("latched" in flag.reasons) == (self.state.latched > 0)
        assert (flag.seq, flag.episode_steps) == (self.flags - 1, self.judged)
        self.first = self.first and step in ("silence", "future")
        self.away = step == "silence" or (self.away and step == "future")
        self.empty = fault is not None and step in LOSES_FRAME


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=20, max_size=60), rules=RULES)
def test_any_sequence_keeps_the_promises_of_the_page(
    model: WorldModel,
    make_episode: Callable[[int], Episode],
    steps: list[str],
    rules: Rules,
) -> None:
    harness = Harness(model, make_episode(9500), rules)
    for step in steps:
        harness.do(step)
