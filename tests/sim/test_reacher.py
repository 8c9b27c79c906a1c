# SPDX-License-Identifier: Apache-2.0
"""The Reacher wrapper against equations of motion and a camera model written down here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("dm_control", reason="the extra mujoco is not installed")

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.recording import Recording
from jepa_edge.sim import ReacherSim, Simulator, record, warm_up
from jepa_edge.sim.reacher import STATE_NAMES, WRIST_LIMIT_RAD
from jepa_edge.sim.reacher_policy import ReacherPolicy

try:
    _SHARED = ReacherSim()
except MissingDependencyError as error:
    pytest.skip(f"no EGL rendering here: {error}", allow_module_level=True)

UPPER_M = 0.12  # shoulder to wrist, and wrist to finger


@pytest.fixture
def sim() -> ReacherSim:
    """A nominal arm, at rest; building one takes long, so all tests share it."""
    _SHARED.set_dynamics()
    _SHARED.reset(0)
    return _SHARED


def _state(
    shoulder: float, wrist: float, shoulder_velocity: float = 0.0, wrist_velocity: float = 0.0
) -> NDArray[np.float64]:
    return np.array(
        [
            np.sin(shoulder),
            np.cos(shoulder),
            np.sin(wrist),
            np.cos(wrist),
            shoulder_velocity,
            wrist_velocity,
        ]
    )


def _capsule(length: float, radius: float = 0.01, density: float = 1000.0) -> tuple[float, float]:
    """Mass and moment of inertia about the axis through its middle, across its length."""
    rod = density * np.pi * radius**2 * length
    ball = density * 4.0 / 3.0 * np.pi * radius**3
    inertia = rod * (length**2 / 12 + radius**2 / 4)
    inertia += ball * (0.4 * radius**2 + 0.375 * radius * length + length**2 / 4)
    return rod + ball, inertia


def _two_link_arm(
    angle: NDArray[np.float64],
    torque: NDArray[np.float64],
    steps: int,
    *,
    friction: float = 1.0,
    mass: float = 1.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integrate the textbook two-link arm from rest: Euler, 0.02 s, damping taken implicitly.

    Returns joint angles and velocities, two numbers each, after `steps` control steps.
    """
    upper, upper_inertia = _capsule(0.12)
    hand, hand_inertia = _capsule(0.10)
    finger = 1000.0 * 4.0 / 3.0 * np.pi * 0.01**3
    outer = hand + finger
    center = (hand * 0.05 + finger * 0.12) / outer  # of hand and finger, from the wrist
    outer_inertia = (
        hand_inertia + hand * (0.05 - center) ** 2 + finger * (0.4 * 0.01**2 + (0.12 - center) ** 2)
    )
    damping, timestep = 0.01 * friction, 0.02
    q, v = np.array(angle), np.zeros(2)
    for _ in range(steps):
        coupling = outer * UPPER_M * center
        m22 = outer_inertia + outer * center**2
        m12 = m22 + coupling * np.cos(q[1])
        m11 = upper_inertia + upper * 0.06**2 + outer * UPPER_M**2 + m22
        m11 += 2 * coupling * np.cos(q[1])
        inertia = mass * np.array([[m11, m12], [m12, m22]])
        spin = mass * coupling * np.sin(q[1])
        coriolis = spin * np.array([-(2 * v[0] + v[1]) * v[1], v[0] ** 2])
        force = 0.05 * torque - coriolis - damping * v
        v = v + timestep * np.linalg.solve(inertia + timestep * damping * np.eye(2), force)
        q = q + timestep * v
    return q, v


@pytest.mark.parametrize(("friction", "mass"), [(1.0, 1.0), (3.0, 1.0), (1.0, 2.5), (0.3, 0.5)])
@pytest.mark.parametrize("torque", [(0.8, -0.3), (-0.5, 0.6)])
def test_moves_as_the_equations_of_motion_say(
    sim: ReacherSim, torque: tuple[float, float], friction: float, mass: float
) -> None:
    sim.set_dynamics(friction=friction, mass=mass)
    sim.reset(state=_state(0.4, -0.7))
    for _ in range(3):
        sim.advance(torque)
    q, v = _two_link_arm(np.array([0.4, -0.7]), np.array(torque), 15, friction=friction, mass=mass)
    expected = _state(q[0], q[1], v[0], v[1])
    np.testing.assert_allclose(sim.state, expected, rtol=0, atol=2e-3)


def test_constant_torque_ends_in_the_speed_that_friction_allows(sim: ReacherSim) -> None:
    """Torque 0.05 u against damping 0.01 v: 5 u rad/s, whatever the mass."""
    for friction, mass in ((1.0, 1.0), (1.0, 3.0), (2.0, 1.0)):
        sim.set_dynamics(friction=friction, mass=mass)
        sim.reset(state=_state(0.0, 0.0))
        for _ in range(60):
            sim.advance([0.6, 0.0])
        assert sim.state[4] == pytest.approx(3.0 / friction, rel=0.02)


def test_heavier_accelerates_less_and_more_friction_slows(sim: ReacherSim) -> None:
    speeds = {}
    for name, dynamics in {
        "nominal": {},
        "heavy": {"mass": 2.0},
        "rough": {"friction": 2.0},
        "light": {"mass": 0.5},
    }.items():
        sim.set_dynamics(**dynamics)
        sim.reset(state=_state(0.0, 0.0))
        sim.advance([1.0, 0.0])
        speeds[name] = float(sim.state[4])
    assert speeds["heavy"] < 0.8 * speeds["nominal"]
    assert speeds["rough"] < 0.9 * speeds["nominal"]
    assert speeds["light"] > 1.1 * speeds["nominal"]


def test_dynamics_can_be_repaired(sim: ReacherSim) -> None:
    start = sim.state
    sim.advance([0.5, -0.5])
    healthy = sim.state
    sim.set_dynamics(friction=5.0, mass=4.0)
    sim.reset(state=start)
    sim.advance([0.5, -0.5])
    assert np.abs(sim.state - healthy).max() > 0.1
    sim.set_dynamics()
    sim.reset(state=start)
    sim.advance([0.5, -0.5])
    np.testing.assert_allclose(sim.state, healthy, rtol=0, atol=1e-5)


def _run(seed: int, steps: int, **sizes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sim = ReacherSim(seed, **sizes)
    policy = sim.policy(np.random.default_rng(seed))
    actions, frames, states = [], [sim.frame], [sim.state]
    for _ in range(steps):
        actions.append(policy.act(sim.state))
        frames.append(sim.step(actions[-1]))
        states.append(sim.state)
    return np.stack(actions), np.stack(frames), np.stack(states)


def test_a_seed_fixes_everything() -> None:
    first, again, other = _run(5, 12), _run(5, 12), _run(6, 12)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_reset_forgets_the_past() -> None:
    sim = ReacherSim(1)
    for _ in range(5):
        sim.step([1.0, -1.0])
    frame = sim.reset(9)
    fresh = ReacherSim(9)
    np.testing.assert_array_equal(frame, fresh.frame)
    np.testing.assert_array_equal(sim.state, fresh.state)
    assert not sim.state[4:].any()


def test_is_a_simulator_and_says_what_its_actions_are() -> None:
    sim: Simulator = ReacherSim(block=3, size=32)
    assert sim.frame.shape == (32, 32, 3)
    assert sim.frame.dtype == np.uint8
    assert sim.rate_hz == pytest.approx(10 / 3)
    assert sim.action_dim == 6 == len(sim.action_names)
    assert sim.action_low == (-1.0,) * 6
    assert sim.action_high == (1.0,) * 6
    assert len(sim.state_names) == sim.state.size
    assert sim.policy(np.random.default_rng(0)).act(sim.state).shape == (6,)


def test_a_block_is_its_commands_one_after_the_other() -> None:
    start = _state(0.2, 0.9)
    single, double = ReacherSim(block=1), ReacherSim(block=2)
    single.reset(state=start)
    double.reset(state=start)
    single.advance([0.7, -0.2])
    single.advance([-0.4, 0.5])
    double.advance([0.7, -0.2, -0.4, 0.5])
    np.testing.assert_array_equal(single.state, double.state)


def test_torques_beyond_the_limits_do_what_the_limits_do(sim: ReacherSim) -> None:
    start = _state(0.0, 0.5)
    sim.reset(state=start)
    sim.advance([7.0, -3.0])
    beyond = sim.state
    sim.reset(state=start)
    sim.advance([1.0, -1.0])
    np.testing.assert_array_equal(beyond, sim.state)


def test_wrist_stops_at_its_limit(sim: ReacherSim) -> None:
    sim.reset(state=_state(0.0, 2.0))
    for _ in range(30):
        sim.advance([0.0, 1.0])
    wrist = np.arctan2(sim.state[2], sim.state[3])
    assert wrist == pytest.approx(WRIST_LIMIT_RAD, abs=0.2)
    sim.set_state(sim.state)  # every state that it reports can be set


def _finger_pixel(state: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Row and column at which a pinhole camera 0.74 m above the arm sees the finger."""
    shoulder = np.arctan2(state[0], state[1])
    hand = shoulder + np.arctan2(state[2], state[3])
    x = UPPER_M * (np.cos(shoulder) + np.cos(hand))
    y = UPPER_M * (np.sin(shoulder) + np.sin(hand))
    scale = size / 2 / (0.74 * np.tan(np.radians(20.0)))
    return np.array([size / 2 - y * scale, size / 2 + x * scale])


@pytest.mark.parametrize(
    ("shoulder", "wrist"), [(0.0, 0.0), (1.0, -1.5), (-2.5, 0.6), (3.0, 2.0), (0.5, -2.0)]
)
def test_frame_shows_the_arm_where_it_is(sim: ReacherSim, shoulder: float, wrist: float) -> None:
    state = _state(shoulder, wrist)
    frame = sim.reset(state=state).astype(np.float64)
    red, green, blue = np.moveaxis(frame, -1, 0)
    row, column = _finger_pixel(state, 64)
    # The finger is the orange dot on the yellow arm on the blue table.
    orange = np.argwhere((red > 120) & (green < 0.75 * red) & (blue < 0.75 * red)) + 0.5
    assert len(orange) >= 1
    np.testing.assert_allclose(orange.mean(0), [row, column], rtol=0, atol=1.5)
    arm = (red > 120) & (red > blue)
    assert 20 < arm.sum() < 400  # it can be seen, and nothing else is of its color


def test_frame_changes_when_the_arm_moves_and_only_then(sim: ReacherSim) -> None:
    before = sim.reset(state=_state(0.0, 0.5))
    still = sim.step([0.0, 0.0])
    np.testing.assert_array_equal(before, still)
    moved = sim.step([1.0, 0.0])
    assert (np.abs(moved.astype(int) - before).max(-1) > 30).sum() > 10


def test_target_is_not_drawn(sim: ReacherSim) -> None:
    """dm_control draws a new target with every seed; the same arm must look the same."""
    frames = [sim.reset(seed, state=_state(0.3, 1.0)) for seed in range(4)]
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame, frames[0])


@pytest.fixture(scope="module")
def policy_runs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States (E, T, 6) and actions (E, T, 2) after the warm-up."""
    sim = ReacherSim(size=8)
    states = np.empty((150, 160, 6), np.float32)
    actions = np.empty((150, 160, 2), np.float32)
    for run in range(len(states)):
        rng = np.random.default_rng([31, run])
        sim.reset(run)
        policy = warm_up(sim, rng)
        assert isinstance(policy, ReacherPolicy)
        for step in range(states.shape[1]):
            states[run, step] = sim.state
            actions[run, step] = policy.act(sim.state)
            sim.advance(actions[run, step])
    return states, actions


def test_policy_keeps_to_the_limits_and_stays_slow(
    policy_runs: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    states, actions = policy_runs
    assert np.abs(actions).max() <= 1.0
    assert np.abs(states[..., 4]).max() < 10.0
    assert np.abs(states[..., 5]).max() < 15.0


def test_policy_is_the_same_late_as_early(
    policy_runs: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """Mean magnitudes of the first and the last quarter agree within their standard errors."""
    states, actions = policy_runs
    # |torque|, |velocity|, and the wrist's |angle|: one number per run and quarter.
    wrist = np.arctan2(states[..., 2:3], states[..., 3:4])
    size = np.abs(np.concatenate([actions, states[..., 4:], wrist], axis=-1))
    early, late = size[:, :40].mean(1), size[:, -40:].mean(1)
    gap = late - early
    error = gap.std(0, ddof=1) / np.sqrt(len(gap))
    assert (np.abs(gap.mean(0)) < 3.5 * error).all()
    assert (error < 0.1 * early.mean(0)).all()  # and the comparison is sharp enough to fail


def test_policy_goes_everywhere(
    policy_runs: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    states, _ = policy_runs
    shoulder = np.arctan2(states[..., 0], states[..., 1]).ravel()
    wrist = np.arctan2(states[..., 2], states[..., 3]).ravel()
    counts, _, _ = np.histogram2d(
        shoulder, wrist, bins=(8, 8), range=((-np.pi, np.pi), (-WRIST_LIMIT_RAD, WRIST_LIMIT_RAD))
    )
    assert counts.min() > 0.15 * counts.mean()


def test_recording_is_repeatable_on_any_number_of_processes(tmp_path: Path) -> None:
    record("reacher", tmp_path / "one", 2, 5, 3, size=32)
    record("reacher", tmp_path / "two", 2, 5, 3, size=32, workers=2)
    one, two = Recording(tmp_path / "one"), Recording(tmp_path / "two")
    assert one.info == two.info
    assert one.info.state_names == STATE_NAMES
    assert one.info.rate_hz == pytest.approx(10.0)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.actions, b.actions)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(InputError, match="size=4"):
        ReacherSim(size=4)
    with pytest.raises(InputError, match="block=0"):
        ReacherSim(block=0)
    sim = ReacherSim(size=8)
    for action in ([0.0], [0.0, np.nan], [0.0] * 4):
        with pytest.raises(InputError, match="expected 2 finite numbers"):
            sim.step(action)
    with pytest.raises(InputError, match="expected 6 finite numbers"):
        sim.set_state([0.0, 1.0])
    with pytest.raises(InputError, match="at most 160"):
        sim.set_state(_state(0.0, np.pi))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="positive multiples"):
            sim.set_dynamics(mass=wrong)
        with pytest.raises(InputError, match="positive multiples"):
            sim.set_dynamics(friction=wrong)


def test_without_dm_control_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(MissingDependencyError, match=r"jepa-edge\[mujoco\]"):
        ReacherSim()
