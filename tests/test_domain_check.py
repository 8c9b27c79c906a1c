# SPDX-License-Identifier: Apache-2.0
"""The robot's own state against the calibrated domain."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_edge.calibration_file import Domain
from jepa_edge.domain_check import DomainCheck, StillState
from jepa_edge.flags import Reason

DOMAIN = Domain(
    rate_hz=5.0,
    steps_min=10,
    steps_max=10,
    action_low=(0.0, -1.0),
    action_high=(10.0, 1.0),
    state_low=(-2.0, 5.0, 3.0),
    state_high=(2.0, 6.0, 3.0),
    state_still_steps=4,
)
GOOD = np.array([0.0, 5.5, 3.0], np.float32)


def _said(state: list[float], tolerance: float = 0.1) -> Reason:
    return DomainCheck(DOMAIN, tolerance).check(0.0, None, np.array(state, np.float32))


@pytest.mark.parametrize(
    ("state", "outside"),
    [
        ([0.0, 5.5, 3.0], False),
        ([2.39, 5.5, 3.0], False),  # within a tenth of the range
        ([2.41, 5.5, 3.0], True),
        ([0.0, 4.89, 3.0], True),
        ([0.0, 5.5, 3.1], True),  # it never varied
        ([0.0, 550.0, 3.0], True),
        ([1e30, 5.5, 3.0], True),
    ],
)
def test_a_states_range_is_widened_by_the_tolerance(state: list[float], outside: bool) -> None:
    assert _said(state) == (Reason.OUT_OF_DOMAIN if outside else Reason(0))


def test_a_state_stands_only_while_the_command_changes() -> None:
    still = StillState((0.0, -1.0), (10.0, 1.0))
    one = np.array([5.0, 0.0], np.float32)
    assert [still.count(GOOD, one) for _ in range(9)] == [0] * 9  # told to stand
    small, other = one + np.array([0.05, 0.01], np.float32), one + np.array([0.0, 0.5], np.float32)
    assert still.count(GOOD, small) == 0  # within a hundredth of the ranges
    assert [still.count(GOOD, a) for a in (other, one, other, other)] == [1, 2, 3, 3]
    assert still.count(np.nextafter(GOOD, np.float32(9.0)), one) == 0


def test_a_state_that_stands_longer_than_nominal_is_out_of_domain() -> None:
    """Twice the 4 steps of the calibration, or 5 more than them if that is more: 9."""
    check = DomainCheck(DOMAIN, 0.1)
    rng = np.random.default_rng(0)
    said = [check.check(0.2 * k, rng.uniform(0.0, 1.0, 2) * [10.0, 1.0], GOOD) for k in range(14)]
    assert said == [Reason(0)] * 10 + [Reason.OUT_OF_DOMAIN] * 4
    check.restart()
    assert check.check(3.0, None, GOOD) == Reason(0)


def test_without_commands_or_states_nothing_stands() -> None:
    passive = Domain(
        rate_hz=5.0,
        steps_min=1,
        steps_max=1,
        action_low=(),
        action_high=(),
        state_low=(0.0,) * 3,
        state_high=(9.0,) * 3,
    )
    for state in (GOOD, None):
        check = DomainCheck(passive, 0.1)
        assert [check.check(0.2 * k, None, state) for k in range(30)] == [Reason(0)] * 30
