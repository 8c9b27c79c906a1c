# SPDX-License-Identifier: Apache-2.0
"""The PushT wrapper: exact states, repeatable runs, and faults that do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymunk")

from jepa_edge.errors import InputError
from jepa_edge.recording import Recording
from jepa_edge.sim import FaultKind, PushTSim, ScriptedPolicy, goal_state, record_pusht, warm_up
from jepa_edge.sim.pusht import STATE_NAMES

FAR = np.array([60.0, 60.0, 300.0, 300.0, 0.0, 1.0], np.float32)  # agent clear of the block


def _run(sim: PushTSim, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    policy = ScriptedPolicy(np.random.default_rng(seed), block=sim.block)
    actions, frames, states = [], [sim.frame], [sim.state]
    for _ in range(steps):
        actions.append(policy.act(sim.state))
        frames.append(sim.step(actions[-1]))
        states.append(sim.state)
    return np.stack(actions), np.stack(frames), np.stack(states)


@pytest.mark.parametrize("angle", [-3.0, -0.4, 0.0, 1.2, 3.1])
def test_set_state_is_exact(angle: float) -> None:
    state = np.array([81.5, 402.25, 300.125, 200.5, np.sin(angle), np.cos(angle)], np.float32)
    sim = PushTSim(3)
    sim.set_state(state)
    np.testing.assert_allclose(sim.state, state, rtol=0, atol=3e-7 * 512)
    before = sim.state
    sim.step([81.5, 402.25] * 2)  # told to stay: nothing moves
    np.testing.assert_allclose(sim.state, before, rtol=0, atol=1e-3)


def test_reset_to_a_state_shows_that_state() -> None:
    sim = PushTSim(0)
    frame = sim.reset(state=FAR)
    np.testing.assert_allclose(sim.state, FAR, atol=1e-4)
    assert sim.steps == 0
    # the agent is blue: its pixels average to its position
    blue = (frame[..., 2] > 200) & (frame[..., 0] < 120)
    row, column = (np.argwhere(blue) + 0.5).mean(0) * 512 / 64
    assert abs(column - 60) < 6
    assert abs(row - 60) < 6


def test_goal_state_covers_the_goal() -> None:
    sim = PushTSim(1)
    assert sim.coverage < 0.9
    sim.set_state(goal_state())
    assert sim.coverage > 0.999
    assert sim.block_distance < 1e-3


def test_same_seed_same_run_and_another_seed_another() -> None:
    first = _run(PushTSim(5), 7, 15)
    again = _run(PushTSim(5), 7, 15)
    other = _run(PushTSim(6), 7, 15)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[2], other[2])


def test_frames_are_rgb_bytes_that_the_caller_owns() -> None:
    sim = PushTSim(2)
    frame = sim.frame
    assert frame.shape == (64, 64, 3)
    assert frame.dtype == np.uint8
    frame[:] = 0
    assert sim.frame.max() > 200
    # light green goal: PushT's LightGreen is (144, 238, 144)
    sim.set_state([60, 60, 440, 60, 0, 1])
    assert np.abs(sim.frame.astype(int) - (144, 238, 144)).sum(-1).min() < 6


def test_a_block_is_two_environment_steps() -> None:
    fine, coarse = PushTSim(0, block=1), PushTSim(0, block=2)
    fine.set_state(FAR)
    coarse.set_state(FAR)
    fine.step([80, 60])
    fine.step([100, 90])
    coarse.step([80, 60, 100, 90])
    np.testing.assert_array_equal(fine.state, coarse.state)
    assert coarse.rate_hz == 5.0
    assert coarse.action_dim == 4


def test_occlusion_hides_the_center_from_its_start_on() -> None:
    sick, well = PushTSim(4, fault=FaultKind.OCCLUSION, fault_start=5), PushTSim(4)
    _, frames, states = _run(sick, 1, 10)
    _, clean, clean_states = _run(well, 1, 10)
    np.testing.assert_array_equal(states, clean_states)
    np.testing.assert_array_equal(frames[:5], clean[:5])
    hidden = (frames[5:] != clean[5:]).any(-1).mean((1, 2))
    assert ((hidden > 0.15) & (hidden < 0.25)).all()
    assert frames[5:, 32, 32].max() < 40


def test_frozen_repeats_the_last_good_frame() -> None:
    _, frames, states = _run(PushTSim(4, fault=FaultKind.FROZEN, fault_start=5), 1, 10)
    _, clean, clean_states = _run(PushTSim(4), 1, 10)
    np.testing.assert_array_equal(states, clean_states)
    np.testing.assert_array_equal(frames[:5], clean[:5])
    assert (frames[5:] == clean[4]).all()


def test_stuck_holds_the_agent_where_it_was() -> None:
    sim = PushTSim(4, fault=FaultKind.STUCK, fault_start=5)
    actions, _, states = _run(sim, 1, 12)
    assert np.abs(np.diff(states[:6, :2], axis=0)).max() > 1.0
    np.testing.assert_allclose(states[6:, :2], np.broadcast_to(states[5, :2], (7, 2)), atol=0.5)
    assert np.abs(actions[5:, :2] - states[5, :2]).max() > 20  # commands go on


def test_friction_lets_the_block_glide() -> None:
    def push(fault: FaultKind | None) -> np.ndarray:
        sim = PushTSim(0, fault=fault)
        sim.set_state([120, 300, 256, 285, 0, 1])
        for x in (160, 200, 240, 240):
            sim.step([x, 300, x, 300])
        start = sim.state[2:4]
        sim.step([120, 300, 120, 300])  # let go
        sim.step([120, 300, 120, 300])
        return sim.state[2:4] - start

    assert np.abs(push(None)).max() < 2.0
    assert push(FaultKind.FRICTION)[0] > 10.0


def test_fault_start_counts_from_the_restarted_clock() -> None:
    sim = PushTSim(4, fault=FaultKind.STUCK, fault_start=3)
    warm_up(sim, np.random.default_rng(0))
    assert sim.steps == 0
    assert not sim.fault_active
    assert sim.fault is FaultKind.STUCK


def test_recording_reads_back_and_repeats(tmp_path: Path) -> None:
    done: list[int] = []
    record_pusht(tmp_path / "a", 2, 6, seed=9, on_progress=done.append)
    record_pusht(tmp_path / "b", 2, 6, seed=9)
    record_pusht(tmp_path / "c", 2, 6, seed=10)
    assert done == [1, 2]
    a, b, c = (Recording(tmp_path / name) for name in "abc")
    assert a.info.action_dim == 4
    assert a.info.rate_hz == 5.0
    assert a.info.state_names == STATE_NAMES
    for left, right, other in zip(a, b, c, strict=True):
        assert left.frames.shape == (7, 64, 64, 3)
        assert left.actions.shape == (6, 4)
        assert left.state is not None
        assert left.state.shape == (7, 6)
        np.testing.assert_allclose(np.diff(left.stamps_s), 0.2)
        assert left.actions.min() >= 0
        assert left.actions.max() <= 512
        np.testing.assert_array_equal(left.frames, right.frames)
        np.testing.assert_array_equal(left.actions, right.actions)
        assert not np.array_equal(left.actions, other.actions)


def test_recorded_action_is_the_commanded_one(tmp_path: Path) -> None:
    record_pusht(tmp_path / "r", 1, 8, seed=2, fault=FaultKind.STUCK, fault_start=4)
    episode = Recording(tmp_path / "r").load(0)
    assert episode.state is not None
    np.testing.assert_allclose(episode.state[5:, :2], episode.state[4:5, :2].repeat(4, 0), atol=0.5)
    assert np.ptp(episode.actions[4:], axis=0).max() > 1.0


@pytest.mark.parametrize("action", [[1.0, 2.0], [np.nan] * 4, [[1, 2], [3, 4]]])
def test_bad_actions_are_refused(action: list[float]) -> None:
    with pytest.raises(InputError, match="PushT action"):
        PushTSim(0).step(action)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PushT state"):
        PushTSim(0).set_state([1, 2, 3, 4, 5])
    with pytest.raises(InputError, match="size"):
        PushTSim(0, size=4)
    with pytest.raises(InputError, match="episodes=0"):
        record_pusht(tmp_path / "x", 0, 5)
    with pytest.raises(InputError, match="fault starts at step 9"):
        record_pusht(tmp_path / "x", 1, 5, fault=FaultKind.FROZEN, fault_start=9)
    assert not (tmp_path / "x").exists()
