# SPDX-License-Identifier: Apache-2.0
"""Times survive to the nanosecond; what does not fit into a field is held at its end."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.flags import Level
from jepa_edge.latent_variable import Futures
from jepa_edge.nodes.messages import (
    duration,
    embedding_message,
    flag_message,
    header,
    nanoseconds,
    prediction_message,
    seconds,
    stamp_ns,
)
from jepa_edge.session import Flag

from .bus import copied, make


def _flag(**changes: object) -> Flag:
    flag = Flag(
        seq=7,
        stamp_s=1.5,
        level=Level.NOMINAL,
        raw_level=Level.NOMINAL,
        latched=False,
        reasons=(),
        reason_bits=0,
        confidence=0.5,
        score=1.0,
        caution_threshold=2.0,
        reject_threshold=3.0,
        channels={},
        episode_steps=1,
        budget_period=1,
        episode=0,
        input_age_s=0.01,
        latency_s=0.002,
        valid_for_s=0.3,
    )
    return msgspec.structs.replace(flag, **changes)


@given(st.integers(-(2**31 - 1) * 10**9, (2**31 - 1) * 10**9))
def test_stamps_come_back_as_they_were(stamp: int) -> None:
    message = copied(header(make, stamp, "camera"), "std_msgs/msg/Header")
    assert stamp_ns(message) == stamp
    assert message.frame_id == "camera"
    assert 0 <= message.stamp.nanosec < 10**9


@given(st.integers(0, 2**62))
def test_seconds_are_the_nearest_float_and_lead_back_to_it(stamp: int) -> None:
    taken = seconds(stamp)
    assert abs(Fraction(taken) - Fraction(stamp, 10**9)) <= Fraction(math.ulp(taken)) / 2
    assert seconds(nanoseconds(taken)) == taken


@given(st.floats(-1e9, 1e9))
def test_durations_are_good_to_the_nanosecond(length: float) -> None:
    message = copied(duration(make, length), "builtin_interfaces/msg/Duration")
    told = Fraction(message.sec) + Fraction(message.nanosec, 10**9)
    assert abs(told - Fraction(length)) <= Fraction(1, 10**9) + abs(Fraction(length)) / 2**52
    assert 0 <= message.nanosec < 10**9


@pytest.mark.parametrize(
    ("length", "sec"),
    [(1e30, 2**31 - 1), (-1e30, -(2**31 - 1)), (math.inf, 2**31 - 1), (math.nan, 2**31 - 1)],
)
def test_what_no_duration_can_hold_is_the_longest(length: float, sec: int) -> None:
    message = copied(duration(make, length), "builtin_interfaces/msg/Duration")
    assert (message.sec, message.nanosec) == (sec, 0)


@pytest.mark.parametrize(("valid_s", "sec"), [(math.nan, 0), (math.inf, 2**31 - 1), (2.0, 2)])
def test_a_flag_whose_validity_is_no_number_holds_for_no_time(valid_s: float, sec: int) -> None:
    flag = _flag(valid_for_s=valid_s, input_age_s=math.nan)
    message = copied(flag_message(make, flag, header(make, 0, "")), "jepa_msgs/msg/ConfidenceFlag")
    assert (message.valid_for.sec, message.valid_for.nanosec) == (sec, 0)
    assert message.input_age.sec == 2**31 - 1


def test_stamps_beyond_2038_are_held_at_the_end() -> None:
    message = copied(header(make, 2**62, ""), "std_msgs/msg/Header")
    assert message.stamp.sec == 2**31 - 1


def test_scores_beyond_float32_are_infinite_and_nan_stays() -> None:
    huge = _flag(score=1e300, channels={"familiarity": -1e300}, confidence=math.nan)
    message = copied(flag_message(make, huge, header(make, 0, "")), "jepa_msgs/msg/ConfidenceFlag")
    assert message.score == math.inf
    assert message.ood_score == -math.inf
    assert math.isnan(message.innovation)
    assert math.isnan(message.confidence)


def _futures(spread: list[float], usual: list[float] | None) -> Futures:
    steps = len(spread)
    return Futures(
        latents=np.zeros((2, steps, 3, 4), np.float32),
        mean=np.arange(12.0 * steps, dtype=np.float32).reshape(steps, 3, 4),
        aleatoric=np.ones(steps, np.float32),
        epistemic=np.zeros(steps, np.float32),
        spread=np.array(spread, np.float32),
        usual=None if usual is None else np.array(usual, np.float32),
    )


@pytest.mark.parametrize(
    ("level", "usual", "expected"),
    [
        (Level.NOMINAL, [2.0, 2.0], [1, 2]),
        (Level.REJECT, [2.0, 2.0], [3, 3]),
        (Level.CAUTION, [9.0, 9.0], [2, 2]),
        (Level.NOMINAL, [1.0, 3.0], [1, 1]),  # as usual is not beyond it
        (Level.UNKNOWN, [0.1, 0.1], [0, 0]),
        (Level.NOMINAL, None, [0, 0]),
    ],
)
def test_steps_with_more_spread_than_usual_are_raised_to_caution(
    level: Level, usual: list[float] | None, expected: list[int]
) -> None:
    futures = _futures([1.0, 3.0], usual)
    actions = np.arange(4.0, dtype=np.float32).reshape(2, 2)
    message = prediction_message(
        make,
        futures,
        header(make, 0, ""),
        _flag(level=level),
        actions=actions,
        period_s=0.2,
    )
    message = copied(message, "jepa_msgs/msg/LatentPrediction")
    assert message.level.tolist() == expected
    assert (message.horizon, message.tokens, message.dim, message.action_dim) == (2, 3, 4, 2)
    np.testing.assert_array_equal(message.latent, np.arange(24.0))
    np.testing.assert_array_equal(message.actions, np.arange(4.0))
    assert message.bound.size == 0
    assert message.seq == 7


def test_embeddings_are_flat_and_empty_where_nothing_is_known() -> None:
    latent = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    stamped = header(make, 5, "camera")
    flag = flag_message(make, _flag(), stamped)
    message = copied(
        embedding_message(make, latent.T, stamped, flag, action=np.array([1e300])),
        "jepa_msgs/msg/StateEmbedding",
    )
    assert (message.tokens, message.dim) == (3, 2)
    assert message.latent.tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    assert message.action.tolist() == [math.inf]
    assert message.state.size == 0
