# SPDX-License-Identifier: Apache-2.0
"""The pose after an action, as V-JEPA 2-AC composes it, in torch operators that every ONNX has.

A pose is x, y, z in m, extrinsic xyz Euler angles in rad, and the gripper from 0 (open) to 1.
Source: compute_new_pose of facebookresearch/vjepa2, notebooks/utils/mpc_utils.py, there with scipy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

POSE_DIM = 7
# Sine of the angle from gimbal lock below which float32 no longer tells the two outer angles apart.
_LOCK = 1e-6


def compose_pose(pose: Tensor, action: Tensor) -> Tensor:
    """Return the pose that follows: the action's rotation is applied in the fixed frame.

    pose, action: (..., 7) float. At gimbal lock the third angle is 0, as scipy has it.
    """
    turned = euler_angles(rotation(action[..., 3:6]) @ rotation(pose[..., 3:6]))
    gripper = (pose[..., 6:7] + action[..., 6:7]).clamp(0.0, 1.0)
    return torch.cat([pose[..., :3] + action[..., :3], turned, gripper], dim=-1)


def rotation(angles: Tensor) -> Tensor:
    """angles: (..., 3) rad about the fixed axes x, y, z in this order. Returns (..., 3, 3)."""
    (sx, sy, sz), (cx, cy, cz) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def euler_angles(matrix: Tensor) -> Tensor:
    """matrix: (..., 3, 3). Returns its angles about the fixed axes x, y, z, (..., 3) rad."""
    m = [[matrix[..., row, column] for column in range(3)] for row in range(3)]
    cosine = (m[2][1] * m[2][1] + m[2][2] * m[2][2]).sqrt()
    locked = cosine < _LOCK
    x = torch.where(locked, arctan2(-m[1][2], m[1][1]), arctan2(m[2][1], m[2][2]))
    y = arctan2(-m[2][0], cosine)
    z = torch.where(locked, torch.zeros_like(y), arctan2(m[1][0], m[0][0]))
    return torch.stack([x, y, z], dim=-1)


def arctan2(y: Tensor, x: Tensor) -> Tensor:
    """Angle of (x, y) in rad, finite everywhere; ONNX has no such operator."""
    small, large = torch.minimum(y.abs(), x.abs()), torch.maximum(y.abs(), x.abs())
    angle = (small / large.clamp(min=1e-30)).atan()
    angle = torch.where(y.abs() > x.abs(), math.pi / 2 - angle, angle)
    angle = torch.where(x < 0, math.pi - angle, angle)
    return torch.where(y < 0, -angle, angle)
