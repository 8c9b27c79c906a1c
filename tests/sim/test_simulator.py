# SPDX-License-Identifier: Apache-2.0
"""The wrapper that makes any simulator faulty, on one that keeps a diary."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from jepa_edge.faults import (
    FAULTS,
    ActionScale,
    ActuatorFilter,
    CameraFilter,
    FaultKind,
    parse_fault,
)
from jepa_edge.sim.simulator import WARM_UP_STEPS, FaultySimulator, Simulator, warm_up


class Diary:
    """A robot that adds up what it executes, shows noise of the moment, and writes all down."""

    name = "diary"
    rate_hz = 5.0
    size = 16
    block = 2
    action_dim = 4
    state_names = ("x", "y")
    action_low = (-1.0,) * 4
    action_high = (1.0,) * 4
    action_units = "m"
    action_names = ("x0", "y0", "x1", "y1")

    def __init__(self) -> None:
        self.executed: list[np.ndarray] = []
        self.worlds: list[tuple[float, float]] = []
        self.drawn = 0
        self.world = (1.0, 1.0)
        self.reset(0)

    @property
    def state(self) -> NDArray[np.float32]:
        return self._state.copy()

    @property
    def frame(self) -> NDArray[np.uint8]:
        self.drawn += 1
        rng = np.random.default_rng([self.seed, len(self.executed)])
        return rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)

    def reset(self, seed: int | None = None) -> NDArray[np.uint8]:
        self.seed = seed or 0
        self.executed.clear()
        self.worlds.clear()
        self._state = np.zeros(2, np.float32)
        return self.frame

    def step(self, action: ArrayLike) -> NDArray[np.uint8]:
        self.advance(action)
        return self.frame

    def advance(self, action: ArrayLike) -> None:
        self.executed.append(np.array(action, np.float32))
        self.worlds.append(self.world)
        self._state += self.executed[-1].reshape(2, 2).sum(0)

    def set_dynamics(self, friction: float = 1.0, mass: float = 1.0) -> None:
        self.world = (friction, mass)

    def policy(self, rng: np.random.Generator) -> Walker:
        return Walker(rng)


class Walker:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.asked = 0

    def act(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        self.asked += 1
        return self.rng.uniform(-1, 1, 4).astype(np.float32)


COMMANDS = np.random.default_rng(0).uniform(-1, 1, (12, 4)).astype(np.float32)


def _clean_frames(seed: int = 3) -> list[np.ndarray]:
    sim = Diary()
    return [sim.reset(seed), *(sim.step(command) for command in COMMANDS)]


def _of(kind: FaultKind) -> list[str]:
    return [fault.name for fault in FAULTS.values() if fault.kind is kind]


def test_the_diary_is_a_simulator() -> None:
    sim: Simulator = Diary()
    assert sim.frame.shape == (sim.size, sim.size, 3)


def test_without_a_fault_nothing_changes() -> None:
    sim = FaultySimulator(Diary())
    frames = [sim.reset(3), *(sim.step(command) for command in COMMANDS)]
    np.testing.assert_array_equal(frames, _clean_frames())
    np.testing.assert_array_equal(sim.simulator.executed, COMMANDS)
    assert not sim.fault_active


@pytest.mark.parametrize("onset", [0, 1, 5])
@pytest.mark.parametrize("name", _of(FaultKind.CAMERA))
def test_camera_faults_are_those_of_the_filter(name: str, onset: int) -> None:
    injection = parse_fault(f"{name}@{onset}")
    camera = CameraFilter(injection, 9)
    expected = [camera(frame, step) for step, frame in enumerate(_clean_frames())]
    sim = FaultySimulator(Diary(), injection, 9)
    frames = [sim.reset(3), *(sim.step(command) for command in COMMANDS)]
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(sim.simulator.executed, COMMANDS)
    # Asking only for the last frame must not change it.
    lazy = FaultySimulator(Diary(), injection, 9)
    lazy.reset(3)
    for command in COMMANDS:
        lazy.advance(command)
    np.testing.assert_array_equal(lazy.frame, expected[-1])
    np.testing.assert_array_equal(lazy.frame, expected[-1])


@pytest.mark.parametrize("onset", [0, 1, 5])
@pytest.mark.parametrize("name", _of(FaultKind.ACTUATOR))
def test_actuator_faults_are_those_of_the_filter(name: str, onset: int) -> None:
    injection = parse_fault(f"{name}@{onset}")
    scale = ActionScale.from_limits((-1.0,) * 4, (1.0,) * 4, 2)
    actuator = ActuatorFilter(injection, scale, 9)
    sim = FaultySimulator(Diary(), injection, 9)
    frames = [sim.reset(3), *(sim.step(command) for command in COMMANDS)]
    executed = [actuator(command, step) for step, command in enumerate(COMMANDS)]
    np.testing.assert_array_equal(sim.simulator.executed, executed)
    assert not np.array_equal(executed, COMMANDS)
    np.testing.assert_array_equal(frames, _clean_frames())  # the diary's camera knows no motion


@pytest.mark.parametrize(("text", "world"), [("friction:0.75@4", (0.25, 1)), ("mass:3@4", (1, 3))])
def test_dynamics_change_at_the_onset_and_a_reset_repairs(
    text: str, world: tuple[float, float]
) -> None:
    sim = FaultySimulator(Diary(), parse_fault(text))
    for _ in range(2):
        sim.reset(0)
        assert sim.simulator.world == (1.0, 1.0)
        for command in COMMANDS[:7]:
            sim.advance(command)
        assert sim.simulator.worlds == [(1.0, 1.0)] * 4 + [world] * 3


def test_the_warm_up_is_healthy_and_the_clock_starts_after_it() -> None:
    sim = FaultySimulator(Diary(), parse_fault("inverted@2"))
    sim.reset(0)
    policy = sim.warm_up(np.random.default_rng(4))
    assert isinstance(policy, Walker)
    assert policy.asked == WARM_UP_STEPS
    drawn = np.random.default_rng(4).uniform(-1, 1, (WARM_UP_STEPS, 4)).astype(np.float32)
    np.testing.assert_array_equal(sim.simulator.executed, drawn)
    assert sim.steps == 0
    for command in COMMANDS[:4]:
        sim.advance(command)
    expected = [*COMMANDS[:2], *-COMMANDS[2:4]]
    np.testing.assert_array_equal(sim.simulator.executed[WARM_UP_STEPS:], expected)
    plain = Diary()
    warm_up(plain, np.random.default_rng(4))
    np.testing.assert_array_equal(plain.executed, drawn)


def test_what_is_stuck_from_step_0_holds_the_warm_ups_last_command() -> None:
    sim = FaultySimulator(Diary(), parse_fault("stuck@0"))
    sim.reset(0)
    sim.warm_up(np.random.default_rng(4))
    sim.advance(COMMANDS[0])
    np.testing.assert_array_equal(
        sim.simulator.executed[-1], np.tile(sim.simulator.executed[-2][2:], 2)
    )


@pytest.mark.parametrize("name", _of(FaultKind.CAMERA))
def test_a_camera_fault_in_the_middle_comes_and_goes(name: str) -> None:
    sim, clean = FaultySimulator(Diary(), seed=9), _clean_frames()
    seen = [sim.reset(3)]
    for step, command in enumerate(COMMANDS):
        if step == 4:
            sim.inject(parse_fault(name))
            assert not sim.fault_active
        if step == 8:
            sim.inject(None)
        seen.append(sim.step(command))
    camera = CameraFilter(parse_fault(f"{name}@5"), 9)
    faulty = [camera(frame, step) for step, frame in enumerate(clean)]
    np.testing.assert_array_equal(seen[:5], clean[:5])
    np.testing.assert_array_equal(seen[5:9], faulty[5:9])
    np.testing.assert_array_equal(seen[9:], clean[9:])
    assert (np.array(seen[5:9]) != clean[5:9]).any((1, 2, 3)).all()


@pytest.mark.parametrize("name", _of(FaultKind.ACTUATOR))
def test_an_actuator_fault_in_the_middle_comes_and_goes(name: str) -> None:
    sim = FaultySimulator(Diary(), seed=9)
    sim.reset(3)
    for step, command in enumerate(COMMANDS):
        if step == 4:
            sim.inject(parse_fault(name))
        if step == 8:
            sim.inject(None)
        sim.advance(command)
    scale = ActionScale.from_limits((-1.0,) * 4, (1.0,) * 4, 2)
    actuator = ActuatorFilter(parse_fault(f"{name}@4"), scale, 9)
    expected = [actuator(command, step) for step, command in enumerate(COMMANDS)]
    expected[8:] = COMMANDS[8:]
    np.testing.assert_array_equal(sim.simulator.executed, expected)


def test_a_dynamics_fault_in_the_middle_comes_and_goes() -> None:
    sim = FaultySimulator(Diary())
    sim.reset(3)
    for step, command in enumerate(COMMANDS):
        if step == 4:
            sim.inject(parse_fault("mass:2@1"))  # one block later
        if step == 8:
            sim.inject(parse_fault("friction:0.5"))
        if step == 10:
            sim.inject(None)
        sim.advance(command)
    nominal = (1.0, 1.0)
    assert (
        sim.simulator.worlds == [nominal] * 5 + [(1.0, 2.0)] * 3 + [(0.5, 1.0)] * 2 + [nominal] * 2
    )


def test_frames_belong_to_the_caller_and_are_drawn_only_when_asked_for() -> None:
    sim = FaultySimulator(Diary(), parse_fault("blur@2"))
    sim.reset(3)
    before = sim.simulator.drawn
    for command in COMMANDS:
        sim.advance(command)
    assert sim.simulator.drawn == before
    sim.frame[:] = 0
    assert sim.frame.max() > 0
