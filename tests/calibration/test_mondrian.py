# SPDX-License-Identifier: Apache-2.0
"""Radii per action group: edges, ranks, look-up, refusal, storage."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from jepa_edge.calibration.conformal import grouped_conformal_quantile
from jepa_edge.calibration.dataset import Windows
from jepa_edge.calibration.mondrian import fit_edges, fit_group_radii, window_sizes
from jepa_edge.errors import CalibrationError
from jepa_edge.groups import ActionGroups, GroupRadius, action_sizes, group_of
from jepa_edge.manifest import ActionSpec

RADIUS = GroupRadius(alpha=0.1, energies=((1.0, 2.0), (3.0, 4.0)), episodes=((9, 9), (12, 10)))
GROUPS = ActionGroups(edges=((0.5,), (0.7,)), radii=(RADIUS,))


def test_sizes_are_the_root_mean_square_up_to_each_step() -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(0, 512, (5, 4, 3)).astype(np.float32)
    mean, std = np.array([200, 256, 300], np.float32), np.array([50, 100, 150], np.float32)
    sizes = action_sizes(actions, mean, std)
    for window in range(5):
        for step in range(1, 5):
            numbers = (actions[window, :step] - mean) / std
            assert sizes[window, step - 1] == pytest.approx(np.sqrt(np.mean(numbers**2)), rel=1e-5)


def test_window_sizes_take_the_actions_that_lie_ahead() -> None:
    history, horizon = 3, 2
    actions = np.zeros((1, history - 1 + horizon, 2), np.float32)
    actions[0, :2] = 100.0  # the history's own
    actions[0, 2], actions[0, 3] = 1.0, 7.0
    latents = np.zeros((1, horizon, 1, 4), np.float32)
    windows = Windows(
        history=np.zeros((1, history, 1, 4), np.float32),
        actions=actions,
        predicted=latents,
        observed=latents,
        episode=np.zeros(1, np.int64),
    )
    spec = ActionSpec(dim=2, block=1, mean=(0.0, 0.0), std=(1.0, 1.0))
    assert window_sizes(windows, spec)[0] == pytest.approx([1.0, 5.0])


def test_edges_part_the_windows_evenly_and_are_found_again() -> None:
    sizes = np.random.default_rng(1).gamma(3.0, size=(900, 4)) * [1.0, 2.0, 3.0, 4.0]
    edges = fit_edges(sizes, 3)
    groups = group_of(sizes, edges)
    for step in range(4):
        assert np.bincount(groups[:, step]).tolist() == [300, 300, 300]
        assert np.array_equal(groups[:, step], np.digitize(sizes[:, step], edges[step]))
    assert np.array_equal(group_of(sizes[:, :2], edges), groups[:, :2])
    with pytest.raises(CalibrationError, match="hardly differ in size"):
        fit_edges(np.ones((50, 2)), 3)
    with pytest.raises(CalibrationError, match="expected 2 or more"):
        fit_edges(sizes, 1)


def test_radii_are_the_grouped_quantiles_of_each_groups_episodes() -> None:
    rng = np.random.default_rng(2)
    episode = rng.permutation(np.repeat(np.arange(40), 6))
    sizes = rng.random((240, 2))
    energies = rng.gamma(2.0, size=(240, 2))
    edges = ((0.3, 0.8), (0.4, 0.7))
    groups = fit_group_radii(energies, episode, sizes, edges, (0.1, 0.05))
    for radius in groups.radii:
        for group in range(3):
            for step in range(2):
                low, high = (-np.inf, *edges[step], np.inf)[group : group + 2]
                inside = (sizes[:, step] >= low) & (sizes[:, step] < high)
                own = [energies[inside & (episode == e), step] for e in range(40)]
                own = [scores for scores in own if scores.size]
                assert radius.episodes[group][step] == len(own)
                expected = grouped_conformal_quantile(own, radius.alpha)
                assert radius.energies[group][step] == expected
    limits = groups.limits(sizes, 0.1)
    assert limits.shape == (240, 2)
    found = groups.radius(0.1).energies[int(np.digitize(sizes[7, 1], edges[1]))][1]
    assert limits[7, 1] == found
    assert msgspec.json.decode(msgspec.json.encode(groups), type=ActionGroups) == groups


def test_too_few_episodes_in_a_group_are_refused_with_the_number_needed() -> None:
    sizes = np.full((60, 1), 0.2)
    sizes[:18] = 0.9  # two windows in each of nine episodes ... of which one is taken away
    episode = np.repeat(np.arange(30), 2)
    energies = np.random.default_rng(3).random((60, 1))
    kept = fit_group_radii(energies, episode, sizes, ((0.5,),), (0.1, 0.05), required=0.1)
    assert [radius.alpha for radius in kept.radii] == [0.1]
    with pytest.raises(CalibrationError, match=r"alpha=0\.05 needs 19 episodes"):
        fit_group_radii(energies, episode, sizes, ((0.5,),), (0.1, 0.05), required=0.05)
    sizes[16:18] = 0.2
    message = (
        r"alpha=0.1 needs 9 episodes .* got 8 of 30 in group 2 of 2 at step 1: 1 more .*about 4 at"
    )
    with pytest.raises(CalibrationError, match=message):
        fit_group_radii(energies, episode, sizes, ((0.5,),), (0.1,))
    with pytest.raises(CalibrationError, match=r"got 0 of 30 in group 2 .*many at the present"):
        fit_group_radii(energies, episode, np.full((60, 1), 0.2), ((0.5,),), (0.1,))


def test_what_was_not_calibrated_is_refused() -> None:
    assert GROUPS.limits(np.array([0.5, 0.6]), 0.1).tolist() == [3.0, 2.0]
    assert GROUPS.limits(np.array([[0.4], [0.6]]), 0.1).tolist() == [[1.0], [3.0]]
    with pytest.raises(CalibrationError, match=r"alpha=0.05, this calibration has 0.1"):
        GROUPS.limits(np.zeros(2), 0.05)
    with pytest.raises(CalibrationError, match="3 steps are asked for, radii end at step 2"):
        GROUPS.limits(np.zeros(3), 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": ((0.5, 0.4), (0.1, 0.2))}, "must be finite and rise"),
        ({"edges": ((0.5,), (0.1, 0.2))}, "as many at every step"),
        ({"edges": ((float("nan"),), (0.7,))}, "must be finite"),
        ({"edges": ()}, "one or more numbers per step"),
        ({"edges": ((0.5,),)}, "2 groups of 1 steps"),
        ({"edges": ((0.5, 0.6), (0.7, 0.8))}, "3 groups of 2 steps"),
    ],
)
def test_groups_that_do_not_fit_their_radii_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ActionGroups(**{"edges": GROUPS.edges, "radii": GROUPS.radii, **change})


@pytest.mark.parametrize("bad", [-1.0, float("inf"), float("nan")])
def test_a_radius_that_is_no_radius_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="all finite, none negative"):
        GroupRadius(alpha=0.1, energies=((1.0, bad),), episodes=((9, 9),))
    with pytest.raises(ValueError, match="one count for each radius"):
        GroupRadius(alpha=0.1, energies=((1.0, 2.0),), episodes=((9,),))
