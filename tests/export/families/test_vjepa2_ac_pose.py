# SPDX-License-Identifier: Apache-2.0
"""Composed poses against scipy's rotations in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from jepa_edge.export.families.vjepa2_ac_pose import arctan2, compose_pose, euler_angles, rotation


def scipy_pose(pose: NDArray[np.float64], action: NDArray[np.float64]) -> NDArray[np.float64]:
    """What upstream computes, row by row."""
    turned = Rotation.from_euler("xyz", action[:, 3:6]) * Rotation.from_euler("xyz", pose[:, 3:6])
    gripper = np.clip(pose[:, 6:] + action[:, 6:], 0, 1)
    return np.concatenate([pose[:, :3] + action[:, :3], turned.as_euler("xyz"), gripper], axis=1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turn=st.sampled_from([0.01, 0.3, 3.0]))
def test_it_is_upstreams_composition(seed: int, turn: float) -> None:
    rng = np.random.default_rng(seed)
    pose, action = rng.normal(0.0, 1.0, (50, 7)), rng.normal(0.0, turn, (50, 7))
    exact = compose_pose(torch.from_numpy(pose), torch.from_numpy(action)).numpy()
    np.testing.assert_allclose(exact, scipy_pose(pose, action), atol=1e-9)
    pose32, action32 = pose.astype(np.float32), action.astype(np.float32)
    found = compose_pose(torch.from_numpy(pose32), torch.from_numpy(action32)).numpy()
    turned = Rotation.from_euler("xyz", found[:, 3:6].astype(np.float64))
    expected = scipy_pose(pose32.astype(np.float64), action32.astype(np.float64))
    apart = (turned * Rotation.from_euler("xyz", expected[:, 3:6]).inv()).magnitude()
    assert apart.max() < 2e-6
    np.testing.assert_allclose(found[:, [0, 1, 2, 6]], expected[:, [0, 1, 2, 6]], atol=1e-6)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:Gimbal lock detected")
def test_gimbal_lock_is_finite_and_the_same_rotation(pitch: float, dtype: torch.dtype) -> None:
    angles = np.array([[0.3, pitch, -0.8], [0.0, pitch, 0.0], [-2.9, pitch, 1.4]])
    matrix = rotation(torch.tensor(angles, dtype=dtype))
    found = euler_angles(matrix).double().numpy()
    assert np.isfinite(found).all()
    back = Rotation.from_euler("xyz", found).as_matrix()
    np.testing.assert_allclose(back, Rotation.from_euler("xyz", angles).as_matrix(), atol=1e-6)
    if dtype == torch.float64:
        expected = Rotation.from_matrix(matrix.numpy()).as_euler("xyz")
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_arctan2_everywhere() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(2, 1000))
    edges = np.array([0.0, 1.0, -1.0, 1e-20, -1e20])
    y = np.concatenate([y, np.repeat(edges, 5)])
    x = np.concatenate([x, np.tile(edges, 5)])
    found = arctan2(torch.from_numpy(y), torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, np.arctan2(y, x), atol=1e-12)
