# SPDX-License-Identifier: Apache-2.0
"""Actuator faults: what is executed, computed a second time here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jepa_edge.errors import InputError
from jepa_edge.faults import FAULTS, ActionScale, ActuatorFilter, FaultKind, parse_fault
from jepa_edge.manifest import ActionSpec

ACTUATOR = [fault.name for fault in FAULTS.values() if fault.kind is FaultKind.ACTUATOR]
# Two axes of different range, three environment steps per block.
LOW, HIGH, BLOCK = (-1.0, 0.0) * 3, (1.0, 10.0) * 3, 3
SCALE = ActionScale.from_limits(LOW, HIGH, BLOCK)
COMMANDS = hnp.arrays(
    np.float32,
    (10, 6),
    elements=st.floats(0, 1, width=32),
).map(lambda unit: np.float32(LOW) + unit * np.float32(np.subtract(HIGH, LOW)))


def _executed(text: str, commands: np.ndarray, seed: int = 0) -> np.ndarray:
    actuator = ActuatorFilter(parse_fault(text), SCALE, seed)
    return np.stack([actuator(command, step) for step, command in enumerate(commands)])


@given(COMMANDS, st.floats(0.1, 4.0), st.integers(0, 9))
def test_gain_scales_about_the_center_within_the_limits(
    commands: np.ndarray, factor: float, onset: int
) -> None:
    center = np.array([0.0, 5.0] * 3)
    exact = np.clip(center + factor * (commands.astype(float) - center), LOW, HIGH)
    executed = _executed(f"gain:{factor!r}@{onset}", commands)
    np.testing.assert_array_equal(executed[:onset], commands[:onset])
    np.testing.assert_allclose(executed[onset:], exact[onset:], atol=2e-6)


@given(COMMANDS, st.floats(0.01, 3.0), st.integers(0, 9), st.integers(0, 50))
def test_bias_adds_the_same_to_every_step_of_the_block(
    commands: np.ndarray, degree: float, onset: int, seed: int
) -> None:
    executed = _executed(f"bias:{degree!r}@{onset}", commands, seed).astype(float)
    unit = np.array([2.0, 10.0]) / np.sqrt(12.0)  # of commands spread evenly
    possible = [
        np.clip(commands + np.tile(np.array(signs) * degree * unit, 3), LOW, HIGH)
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1))
    ]
    assert any(np.allclose(executed[onset:], one[onset:], atol=2e-6) for one in possible)
    np.testing.assert_array_equal(executed[:onset], commands[:onset])


def test_bias_draws_both_signs_on_both_axes() -> None:
    middle = np.tile(SCALE.center, (1, 1)).astype(np.float32)
    signs = {
        tuple(np.sign(_executed("bias:0.5", middle, seed)[0] - middle[0])[:2]) for seed in range(40)
    }
    assert len(signs) == 4


@given(COMMANDS, st.integers(0, 9))
def test_inversion_mirrors_and_twice_is_nothing(commands: np.ndarray, onset: int) -> None:
    executed = _executed(f"inverted@{onset}", commands)
    exact = np.where(np.arange(10)[:, None] < onset, commands, np.array([0.0, 10.0] * 3) - commands)
    np.testing.assert_allclose(executed, exact, atol=1e-6)
    np.testing.assert_allclose(_executed(f"inverted@{onset}", executed), commands, atol=1e-6)


@given(COMMANDS, st.integers(1, 12), st.integers(0, 9))
def test_delay_executes_earlier_commands_by_index(
    commands: np.ndarray, late: int, onset: int
) -> None:
    executed = _executed(f"delay:{late}@{onset}", commands)
    for step in range(10):
        index = step if step < onset else max(step - late, onset - 1, 0)
        np.testing.assert_array_equal(executed[step], commands[index])


@given(COMMANDS, st.integers(0, 9))
def test_stuck_holds_the_last_healthy_command(commands: np.ndarray, onset: int) -> None:
    executed = _executed(f"stuck@{onset}", commands)
    np.testing.assert_array_equal(executed[:onset], commands[:onset])
    held = commands[max(onset - 1, 0), 4:]
    for step in range(onset, 10):
        np.testing.assert_array_equal(executed[step].reshape(3, 2), np.stack([held] * 3))


@given(COMMANDS, st.integers(0, 9), st.integers(0, 30))
def test_a_dead_axis_holds_and_the_other_obeys(commands: np.ndarray, onset: int, seed: int) -> None:
    executed = _executed(f"dead_axis@{onset}", commands, seed).reshape(10, 3, 2)
    wanted = commands.reshape(10, 3, 2)
    held = wanted[max(onset - 1, 0), -1]

    def dead(axis: int) -> bool:
        return bool((executed[onset:, :, axis] == held[axis]).all())

    def obeys(axis: int) -> bool:
        return bool((executed[onset:, :, axis] == wanted[onset:, :, axis]).all())

    np.testing.assert_array_equal(executed[:onset], wanted[:onset])
    assert (dead(0) and obeys(1)) or (dead(1) and obeys(0))


def test_each_axis_can_die() -> None:
    commands = np.random.default_rng(0).uniform(LOW, HIGH, (4, 6)).astype(np.float32)
    moved = {
        tuple((_executed("dead_axis@1", commands, seed) == commands).all(0)[:2])
        for seed in range(20)
    }
    assert moved == {(True, False), (False, True)}


@pytest.mark.parametrize("name", ACTUATOR)
def test_every_fault_changes_what_is_executed_and_no_input(name: str) -> None:
    commands = np.random.default_rng(1).uniform(LOW, HIGH, (8, 6)).astype(np.float32)
    kept = commands.copy()
    executed = _executed(f"{name}@3", commands)
    np.testing.assert_array_equal(commands, kept)
    np.testing.assert_array_equal(executed[:3], kept[:3])
    assert (executed[3:] != kept[3:]).any(1).all()
    assert executed.dtype == np.float32
    np.testing.assert_array_equal(_executed(f"{name}@3", commands), executed)


def test_the_scale_of_a_model_comes_from_limits_or_else_from_its_statistics() -> None:
    limited = ActionSpec(
        dim=2, block=1, mean=(9.0, 9.0), std=(7.0, 7.0), low=(0.0, -2.0), high=(6.0, 2.0)
    )
    scale = ActionScale.from_spec(limited)
    np.testing.assert_allclose(scale.center, [3.0, 0.0])
    np.testing.assert_allclose(scale.unit, np.std(np.linspace([0, -2], [6, 2], 100_001), 0), 1e-4)
    free = ActionScale.from_spec(ActionSpec(dim=2, block=1, mean=(9.0, 8.0), std=(7.0, 6.0)))
    np.testing.assert_allclose(free.center, [9.0, 8.0])
    np.testing.assert_allclose(free.unit, [7.0, 6.0])
    assert free.low.tolist() == [-np.inf] * 2
    assert free.high.tolist() == [np.inf] * 2


def test_the_scale_of_recorded_actions_is_theirs() -> None:
    actions = np.random.default_rng(0).normal([3.0, -1.0] * 2, [2.0, 0.5] * 2, (500, 4))
    scale = ActionScale.from_actions(actions.astype(np.float32), 2)
    np.testing.assert_allclose(scale.center, [3.0, -1.0] * 2, atol=0.2)
    np.testing.assert_allclose(scale.unit, [2.0, 0.5] * 2, rtol=0.1)
    assert scale.axes == 2
    assert scale.high[0] == actions[:, [0, 2]].max().astype(np.float32)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="camera"):
        ActuatorFilter(parse_fault("blur"), SCALE)
    with pytest.raises(InputError, match="seed -3"):
        ActuatorFilter(parse_fault("bias"), SCALE, -3)
    with pytest.raises(InputError, match="multiple of the block"):
        ActionScale.from_limits((0.0,) * 3, (1.0,) * 3, 2)
    with pytest.raises(InputError, match="multiple of the block"):
        ActionScale.from_actions(np.zeros((5, 3), np.float32), 2)
    for low, high in (((0.0,), (0.0,)), ((-np.inf,), (1.0,)), ((0.0,), (np.nan,))):
        with pytest.raises(InputError, match="action limits"):
            ActionScale.from_limits(low, high, 1)
    actuator = ActuatorFilter(parse_fault("stuck@4"), SCALE)
    for action in (np.zeros(5), np.full(6, np.nan), np.zeros((1, 6))):
        with pytest.raises(InputError, match="expected 6 finite numbers"):
            actuator(action.astype(np.float32), 4)
    with pytest.raises(InputError, match="pass every action from step 3 on"):
        actuator(np.zeros(6, np.float32), 4)
