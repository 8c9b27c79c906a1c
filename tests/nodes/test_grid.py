# SPDX-License-Identifier: Apache-2.0
"""Cameras of any rate give the model's rate; wrong stamps pass, and change nothing after them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.nodes.grid import FrameGrid

PERIOD = 100_000_000
MIN_GAP, MAX_GAP, LONGEST = 0.5, 1.75, 1.42


def _camera(rate_hz: float, seconds: float, jitter_s: float = 0.0, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    count = int(seconds * rate_hz)
    noise = rng.uniform(-jitter_s, jitter_s, count)
    return [round(1e9 * (1_000.0 + i / rate_hz + noise[i])) for i in range(count)]


def _taken(grid: FrameGrid, stamps: list[int], late: int = 5_000_000) -> list[int]:
    return [stamp for stamp in stamps if grid.takes(stamp, stamp + late)]


@pytest.mark.parametrize("jitter_s", [0.0, 0.003])
@pytest.mark.parametrize("rate_hz", [15.0, 20.0, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0, 120.0])
def test_faster_cameras_give_the_models_rate_within_the_sessions_gaps(
    rate_hz: float, jitter_s: float
) -> None:
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST)
    taken = _taken(grid, _camera(rate_hz, 60.0, jitter_s))
    gaps = np.diff(taken) / PERIOD
    assert gaps.min() >= MIN_GAP
    assert gaps.max() <= LONGEST + 0.06  # two jitters
    # No drift in a minute; jitter may cost a camera of nearly the model's rate some of its phase.
    assert len(taken) == pytest.approx(600, abs=10 if jitter_s else 2)
    # The domain check holds the mean of 10 gaps to a tenth of the calibrated rate.
    windows = np.diff(taken)[: len(gaps) // 10 * 10].reshape(-1, 10).mean(axis=1) / PERIOD
    assert windows.min() > 1 / 1.1
    assert windows.max() < 1 / 0.9


def test_longer_gaps_are_made_where_flags_hold_longer_and_the_session_allows_them() -> None:
    grid = FrameGrid(PERIOD, MIN_GAP, 2.5, 1.92)
    taken = _taken(grid, _camera(12.0, 60.0))
    assert len(taken) == pytest.approx(600, abs=2)
    assert 1.5 * PERIOD < np.diff(taken).max() <= 1.92 * PERIOD


@pytest.mark.parametrize("rate_hz", [10.2, 10.5, 11.0, 11.5, 12.0, 14.0])
@pytest.mark.parametrize("longest", [LONGEST, 1.92, 50.0])
def test_leaving_frames_out_makes_no_clock_jump_of_a_cameras_jitter(
    rate_hz: float, longest: float
) -> None:
    """longest: however long flags hold, the session's longest gap stays."""
    rng = np.random.default_rng(round(10 * rate_hz))
    count = 6000
    stamps = np.arange(count) / rate_hz + rng.normal(0.0, 0.005, count) + 1_000.0
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, longest)
    gaps = np.diff(_taken(grid, [round(1e9 * stamp) for stamp in np.sort(stamps)])) / PERIOD
    assert gaps.min() >= MIN_GAP
    assert gaps.max() <= MAX_GAP


@pytest.mark.parametrize("rate_hz", [9.0, 9.9, 10.0, 10.1, 10.5, 12.0, 13.0])
def test_cameras_of_about_the_models_rate_lose_no_frame(rate_hz: float) -> None:
    stamps = _camera(rate_hz, 60.0, 0.005)
    assert _taken(FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST), stamps) == stamps


def test_the_frame_nearest_to_the_grid_is_taken() -> None:
    stamps = _camera(30.0, 20.0, 0.002)
    taken = _taken(FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST), stamps)
    all_stamps = np.array(stamps)
    for index, stamp in enumerate(taken[:-1]):
        due = stamps[0] + index * PERIOD
        assert abs(stamp - due) <= np.abs(all_stamps - due).min() + 3_000_000


@pytest.mark.parametrize("rate_hz", [10.0, 25.0, 30.0])
@pytest.mark.parametrize("wrong_s", [-500.0, -0.5, 0.0, 3.0, 1e6])
def test_a_wrong_stamp_passes_and_changes_nothing_after_it(rate_hz: float, wrong_s: float) -> None:
    stamps = _camera(rate_hz, 10.0)
    good = _taken(FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST), stamps)
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST)
    taken = []
    for index, stamp in enumerate(stamps):
        if index == 40:
            wrong = stamps[39] + round(1e9 * wrong_s)
            assert grid.takes(wrong, stamp), "the session has to see it"
        if grid.takes(stamp, stamp + 5_000_000):
            taken.append(stamp)
    assert taken == good


def test_a_clock_that_was_set_back_moves_the_grid() -> None:
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST)
    _taken(grid, _camera(30.0, 5.0))
    after = [round(1e9 * i / 30.0) for i in range(150)]
    taken = _taken(grid, after)
    assert len(taken) == pytest.approx(50, abs=2)
    assert np.diff(taken).min() >= MIN_GAP * PERIOD


def test_a_camera_whose_clock_runs_ahead_is_decimated_all_the_same() -> None:
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST)
    stamps = [stamp + 10**12 for stamp in _camera(30.0, 5.0)]
    assert len(_taken(grid, stamps, late=-(10**12))) == pytest.approx(51, abs=2)


def test_after_a_stop_the_next_frame_is_taken_at_once() -> None:
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST)
    first = _camera(30.0, 2.0)
    _taken(grid, first)
    again = [stamp + 7_654_321_000 for stamp in first]
    taken = _taken(grid, again)
    assert taken[0] == again[0]
    assert len(taken) == pytest.approx(20, abs=1)


def test_restart_takes_the_next_frame() -> None:
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST)
    stamps = _camera(30.0, 1.0)
    assert [grid.takes(stamp, stamp) for stamp in stamps[:3]] == [True, False, False]
    grid.restart()
    assert grid.takes(stamps[3] - 1, stamps[3])


@given(st.lists(st.integers(-(2**62), 2**62), max_size=40), st.integers(0, 2**61))
def test_no_stamps_break_it(stamps: list[int], received: int) -> None:
    grid = FrameGrid(PERIOD, MIN_GAP, MAX_GAP, LONGEST)
    for stamp in stamps:
        assert grid.takes(stamp, received) in (True, False)
    good = [received + 10**9 + i * PERIOD for i in range(5)]
    assert sum(grid.takes(stamp, stamp) for stamp in good) >= 4
