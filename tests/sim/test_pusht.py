# SPDX-License-Identifier: Apache-2.0
"""The PushT wrapper: exact states, repeatable runs, and dynamics that do what they say."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pymunk")

from jepa_edge.errors import InputError
from jepa_edge.faults import parse_fault
from jepa_edge.sim import FaultySimulator, PushTSim, ScriptedPolicy, Simulator, goal_state

FAR = np.array([60.0, 60.0, 300.0, 300.0, 0.0, 1.0], np.float32)  # agent clear of the block


def _run(
    sim: PushTSim | FaultySimulator, seed: int, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _faulty(text: str) -> FaultySimulator:
    return FaultySimulator(PushTSim(4), parse_fault(text))


def test_occlusion_hides_the_center_from_its_start_on() -> None:
    _, frames, states = _run(_faulty("occlusion@5"), 1, 10)
    _, clean, clean_states = _run(PushTSim(4), 1, 10)
    np.testing.assert_array_equal(states, clean_states)
    np.testing.assert_array_equal(frames[:5], clean[:5])
    hidden = (frames[5:] != clean[5:]).any(-1).mean((1, 2))
    assert ((hidden > 0.15) & (hidden < 0.25)).all()
    assert frames[5:, 32, 32].max() < 40


def test_stuck_holds_the_agent_where_it_was_told_to_be() -> None:
    actions, _, states = _run(_faulty("stuck@5"), 1, 14)
    assert np.abs(np.diff(states[:6, :2], axis=0)).max() > 1.0
    held = np.broadcast_to(actions[4, 2:], (5, 2))
    np.testing.assert_allclose(states[10:, :2], held, atol=0.5)
    assert np.abs(actions[5:, :2] - states[5, :2]).max() > 20  # commands go on


PUSHES = [[x, y, x, y] for x, y in [(160, 290), (200, 290), (240, 300), (270, 310)]]


def _pushed(friction: float = 1.0, mass: float = 1.0) -> PushTSim:
    """A robot that has pushed the T off its center, and let go."""
    sim = PushTSim(0)
    sim.set_dynamics(friction, mass)
    sim.set_state([120, 285, 256, 285, 0, 1])
    for target in PUSHES:
        sim.advance(target)
    return sim


def test_lost_friction_lets_the_block_glide() -> None:
    def glide(friction: float) -> float:
        sim = _pushed(friction)
        start = sim.state[2:4]
        for _ in range(2):
            sim.advance([120, 300, 120, 300])
        return float(np.linalg.norm(sim.state[2:4] - start))

    assert glide(1.0) < 2.0
    assert glide(0.1) > 10.0
    assert glide(0.1) > glide(0.5) > glide(1.0)


def test_the_friction_faults_default_keeps_nine_tenths_of_the_velocity_per_second() -> None:
    sim = FaultySimulator(PushTSim(0), parse_fault("friction"))
    env = sim.simulator._env  # type: ignore[attr-defined]
    assert env.space.damping == 0.0
    sim.advance([120, 300, 120, 300])
    assert env.space.damping == 0.9


def test_a_heavy_center_turns_more_and_moves_less() -> None:
    light, nominal, heavy = (_pushed(mass=mass).state for mass in (0.3, 1.0, 3.0))
    start = np.array([256.0, 285.0])

    def moved(state: np.ndarray) -> float:
        # the center of gravity lies 45 pixels along the stem
        center = state[2:4] + 45.0 * np.array([-state[4], state[5]]) - (0.0, 45.0)
        return float(np.linalg.norm(center - start))

    def turned(state: np.ndarray) -> float:
        return abs(float(np.arctan2(state[4], state[5])))

    assert moved(light) > moved(nominal) > moved(heavy)
    assert turned(light) < turned(nominal) < turned(heavy)


def test_dynamics_outlive_a_reset_until_they_are_nominal_again() -> None:
    sim, well = PushTSim(4), PushTSim(4)
    sim.set_dynamics(friction=0.2, mass=3.0)
    sim.reset(4)
    _, _, changed = _run(sim, 1, 15)
    sim.set_dynamics()
    sim.reset(4)
    well.reset(4)
    _, _, repaired = _run(sim, 1, 15)
    _, _, healthy = _run(well, 1, 15)
    np.testing.assert_array_equal(repaired, healthy)
    assert np.abs(changed - healthy).max() > 1.0


def test_a_block_outside_the_walls_is_not_accepted() -> None:
    states = np.full((5, 6), 100.0, np.float32)
    sim = PushTSim(0)
    assert sim.accepts(states)
    states[3, 2] = 513.0
    assert not sim.accepts(states)


def test_it_describes_its_actions() -> None:
    sim: Simulator = PushTSim(0, block=2)
    assert sim.action_names == ("x0", "y0", "x1", "y1")
    assert sim.action_low == (0.0,) * 4
    assert sim.action_high == (512.0,) * 4
    assert sim.action_units == "px"
    assert sim.name == "pusht"


@pytest.mark.parametrize("action", [[1.0, 2.0], [np.nan] * 4, [[1, 2], [3, 4]]])
def test_bad_actions_are_refused(action: list[float]) -> None:
    with pytest.raises(InputError, match="PushT action"):
        PushTSim(0).step(action)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="PushT state"):
        PushTSim(0).set_state([1, 2, 3, 4, 5])
    with pytest.raises(InputError, match="size"):
        PushTSim(0, size=4)
    for bad in ({"friction": 1.5}, {"friction": -0.1}, {"mass": 0.0}, {"mass": float("nan")}):
        with pytest.raises(InputError, match="set_dynamics"):
            PushTSim(0).set_dynamics(**bad)
