# SPDX-License-Identifier: Apache-2.0
"""The change gate: what counts as a change, what is saved, and what never is withheld."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge import change_gate
from jepa_edge.change_gate import ChangeGate, choose_threshold, distance, standardized
from jepa_edge.errors import InputError
from jepa_edge.flags import Level
from jepa_edge.selective import Selective
from jepa_edge.session import Flag, Update


def _latent(seed: int, tokens: int = 5, dim: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(tokens, dim)).astype(np.float32)


def _between(a: np.ndarray, b: np.ndarray) -> float:
    return distance(standardized(a), standardized(b))


def _flag(seq: int, stamp_s: float) -> Flag:
    fields = dict.fromkeys(Flag.__struct_fields__, 0)
    fields |= {"seq": seq, "stamp_s": stamp_s, "level": Level.REJECT, "raw_level": Level.REJECT}
    return Flag(**{**fields, "reasons": (), "channels": {}})


def test_the_distance_is_the_root_of_one_minus_correlation() -> None:
    a, b = _latent(0), _latent(1)
    correlations = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    assert _between(a, b) == pytest.approx(math.sqrt(1.0 - np.mean(correlations)), rel=1e-5)
    assert _between(a, a) == 0.0
    assert _between(a, -a) == pytest.approx(math.sqrt(2.0), rel=1e-5)
    assert _between(_latent(2, 1, 4096), _latent(3, 1, 4096)) == pytest.approx(1.0, abs=0.05)


@given(st.floats(1e-3, 1e3), st.floats(-100.0, 100.0))
def test_the_distance_knows_no_scale(factor: float, offset: float) -> None:
    a, b = _latent(0), _latent(1)
    moved = (b * factor + offset).astype(np.float32)
    assert _between(a, moved) == pytest.approx(_between(a, b), abs=2e-2)
    assert np.isfinite(standardized(np.full((2, 3), offset, np.float32))).all()


def test_a_change_of_few_tokens_counts_as_the_root_of_their_share() -> None:
    a, b = _latent(0, tokens=64), _latent(1, tokens=64)
    part = a.copy()
    part[:4] = b[:4]
    share = _between(part[:4], a[:4])
    assert _between(part, a) == pytest.approx(share * math.sqrt(4 / 64), rel=1e-5)


def test_one_or_two_channels_are_compared_by_their_relative_distance() -> None:
    """They have no correlation: the gate would stay shut, or see a sign alone."""
    for a, b in (
        ([[2.0]], [[2.2]]),
        ([[3.0, 4.0]], [[3.0, 4.5]]),
        ([[1.0], [5.0]], [[1.5], [5.0]]),
    ):
        first, second = np.array(a, np.float32), np.array(b, np.float32)
        exact = np.square(first.astype(float) - second).sum(-1) / (
            np.square(first.astype(float)).sum(-1) + np.square(second.astype(float)).sum(-1)
        )
        assert _between(first, second) == pytest.approx(math.sqrt(exact.mean()), rel=1e-6)
        assert _between(3e4 * first, 3e4 * second) == pytest.approx(_between(first, second))
        assert _between(first, -first) == pytest.approx(math.sqrt(2.0))
    assert _between(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32)) == 0.0
    gate = ChangeGate(0.05, compared=(1, 1))
    latents = [np.array([[value, 9.0]], np.float32) for value in (2.0, 2.01, 2.5, -2.5)]
    assert [gate.opens(0.1 * k, x) for k, x in enumerate(latents)] == [True, False, True, True]


def test_tokens_that_are_constant_over_channels_can_change() -> None:
    level = np.ones((2, 8), np.float32)
    gate = ChangeGate(0.1)
    assert gate.opens(0.0, level)
    assert not gate.opens(0.1, 1.01 * level)
    assert gate.opens(0.2, 2.0 * level)
    assert gate.opens(0.3, _latent(0, 2, 8))  # a pattern that was not there
    assert _between(level, 2.0 * level) == pytest.approx(math.sqrt(1 / 5))
    # Channels that differ by rounding alone are equal.
    third = np.full((1, 8), 1e4 / 3, np.float32)
    third[0, 0] = np.nextafter(third[0, 0], np.float32(0))
    assert _between(third, third[:, ::-1]) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e25, 3e37])
def test_the_squares_of_latents_may_leave_float32(scale: float) -> None:
    a, b = _latent(0), _latent(1)
    for first, second in ((a, b), (a[:, :1], b[:, :1])):
        large = [(x.astype(float) * scale).astype(np.float32) for x in (first, second)]
        assert _between(large[0], large[1]) == pytest.approx(_between(first, second), rel=1e-5)
        gate = ChangeGate(0.1)
        assert [gate.opens(0.0, large[0]), gate.opens(0.1, large[1])] == [True, True]


def test_large_latents_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _latent(0, tokens=21), _latent(1, tokens=21)
    whole = _between(a, b)
    monkeypatch.setattr(change_gate, "_BLOCK", 4 * 64 + 1)
    assert _between(a, b) == pytest.approx(whole, rel=1e-12)


def test_only_what_is_compared_counts() -> None:
    a = _latent(0)
    moved = a.copy()
    moved[-1], moved[:, -8:] = 7.0, 0.5  # the robot's own state
    gate = ChangeGate(0.01, compared=(4, 56))
    assert gate.opens(0.0, a)
    assert not gate.opens(1.0, moved)
    assert ChangeGate(0.01).opens(0.0, a)


def test_a_still_scene_is_saved_and_a_moving_one_is_not() -> None:
    rng = np.random.default_rng(4)
    start, end = _latent(0), _latent(1)
    still, moving = ChangeGate(0.1), ChangeGate(0.1)
    for step in range(200):
        noise = rng.normal(0.0, 0.01, start.shape).astype(np.float32)
        still.opens(0.01 * step, start + noise)
        share = step / 200
        moving.opens(0.01 * step, (1 - share) * start + share * end + noise)
    assert still.passed == 1
    assert still.saved_share == 199 / 200
    assert 5 < moving.passed < 60


def test_slow_drift_is_caught() -> None:
    """The last published latent is the measure, not the last seen."""
    start, end = _latent(0), _latent(1)
    gate = ChangeGate(0.3)
    assert gate.opens(0.0, start)
    opened = [gate.opens(0.001 * s, start + s / 1000 * (end - start)) for s in range(1, 1000)]
    assert sum(opened) >= 2


def test_keepalive_and_clocks() -> None:
    latent = _latent(0)
    gate = ChangeGate(0.5, keepalive_s=1.0)
    stamps = (10.0, 10.4, 10.99, 11.0, 11.5, 9.0, 9.1)
    opened = [gate.opens(stamp_s, latent) for stamp_s in stamps]
    assert opened == [True, False, False, True, False, True, False]
    gate.reset()
    assert gate.opens(9.2, latent)
    assert (gate.seen, gate.passed) == (8, 4)
    never = ChangeGate(0.5, keepalive_s=math.inf)
    assert [never.opens(s, latent) for s in (0.0, 1e9)] == [True, False]


def test_what_is_no_threshold_is_refused() -> None:
    for threshold in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(InputError, match="change threshold"):
            ChangeGate(threshold)
    for keepalive_s in (0.0, math.nan):
        with pytest.raises(InputError, match="keepalive"):
            ChangeGate(0.1, keepalive_s=keepalive_s)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_threshold_for_a_wanted_share(share: float) -> None:
    rng = np.random.default_rng(5)
    runs = [
        np.cumsum(rng.normal(0, 0.2, (120, 1, 32)), axis=0).astype(np.float32) for _ in range(4)
    ]
    threshold = choose_threshold(runs, share)

    def saved(threshold: float) -> float:
        seen = passed = 0
        for run in runs:
            gate = ChangeGate(threshold, keepalive_s=math.inf)
            passed += sum(gate.opens(0.1 * t, latent) for t, latent in enumerate(run))
            seen += len(run)
        return 1.0 - passed / seen

    assert saved(threshold) == pytest.approx(share, abs=0.02)
    assert saved(threshold) >= share
    assert saved(0.97 * threshold) < share + 0.01


def test_a_share_that_cannot_be_saved_is_refused() -> None:
    run = _latent(0)[None]
    for runs, share in (([run, run], 0.5), ([], 0.5), ([np.repeat(run, 9, axis=0)], 1.0)):
        with pytest.raises(InputError, match="cannot save"):
            choose_threshold(runs, share)


def test_no_flag_is_ever_withheld() -> None:
    publish = Selective(ChangeGate(1.0, keepalive_s=math.inf))
    latent = _latent(0)
    updates = [
        publish(Update(flag=_flag(seq, 0.1 * seq), embedding=None if seq == 5 else latent))
        for seq in range(10)
    ]
    assert [update.flag.seq for update in updates] == list(range(10))
    assert all(update.flag.level is Level.REJECT for update in updates)
    # The first, and the first after a frame without an embedding.
    assert [u.flag.seq for u in updates if u.embedding is not None] == [0, 6]
    assert [u.flag.seq for u in updates if u.changed] == [0, 6]
    assert publish.told() == "published 2 of 9 embeddings, 78 % saved"
    assert Selective().told() == ""
