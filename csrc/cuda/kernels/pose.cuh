// SPDX-License-Identifier: Apache-2.0
// The pose after an action: x, y, z in m, angles about the fixed axes x, y, z in rad, the gripper
// from 0 (open) to 1. The same formulas as export/families/vjepa2_ac_pose.py.
#pragma once

#include <cstddef>

#include "launch.hpp"

namespace jepa_edge::cuda {

constexpr unsigned kPoseDim = 7;

namespace pose {

constexpr float kPi = 3.14159265358979323846F;
/// Sine of the angle from gimbal lock below which float32 cannot tell the outer angles apart.
constexpr float kLock = 1e-6F;

struct Rotation {
  float at[3][3];
};

__host__ __device__ inline Rotation rotation(const float* angles) {
  const float sx = sinf(angles[0]), cx = cosf(angles[0]);
  const float sy = sinf(angles[1]), cy = cosf(angles[1]);
  const float sz = sinf(angles[2]), cz = cosf(angles[2]);
  return {{{cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx},
           {sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx},
           {-sy, cy * sx, cy * cx}}};
}

/// Of the same comparisons as the exported graph's, so that both take the same side of pi; NaN
/// stays NaN.
__host__ __device__ inline float arctan2(float y, float x) {
  const float ay = fabsf(y), ax = fabsf(x);
  const float small = ay < ax ? ay : ax;
  const float large = ay < ax ? ax : ay;
  float angle = atanf(small / (large < 1e-30F ? 1e-30F : large));
  if (ay > ax) angle = kPi / 2.0F - angle;
  if (x < 0.0F) angle = kPi - angle;
  return y < 0.0F ? -angle : angle;
}

__host__ __device__ inline void euler_angles(const Rotation& m, float* angles) {
  const float cosine = sqrtf(m.at[2][1] * m.at[2][1] + m.at[2][2] * m.at[2][2]);
  const bool locked = cosine < kLock;
  angles[0] = locked ? arctan2(-m.at[1][2], m.at[1][1]) : arctan2(m.at[2][1], m.at[2][2]);
  angles[1] = arctan2(-m.at[2][0], cosine);
  angles[2] = locked ? 0.0F : arctan2(m.at[1][0], m.at[0][0]);
}

/// The action's rotation is applied in the fixed frame. NaN stays NaN, in the gripper too.
__host__ __device__ inline void compose(const float* before, const float* action, float* after) {
  const Rotation turn = rotation(action + 3);
  const Rotation turned = rotation(before + 3);
  Rotation product{};
  for (unsigned r = 0; r < 3; ++r) {
    for (unsigned c = 0; c < 3; ++c) {
      for (unsigned k = 0; k < 3; ++k) product.at[r][c] += turn.at[r][k] * turned.at[k][c];
    }
  }
  for (unsigned i = 0; i < 3; ++i) after[i] = before[i] + action[i];
  euler_angles(product, after + 3);
  const float gripper = before[6] + action[6];
  after[6] = gripper < 0.0F ? 0.0F : gripper > 1.0F ? 1.0F : gripper;
}

}  // namespace pose

/// Where the poses and actions of one frame of all rows are.
struct FrameInputs {
  const float* poses;  ///< row r's begins at poses + r * pose_stride
  std::size_t pose_stride;
  const float* actions;  ///< row r's begins at actions + (first_row + r) / samples * action_stride
  std::size_t action_stride;
  unsigned first_row;
  unsigned samples;

  __device__ const float* pose(unsigned row) const { return poses + row * pose_stride; }
  __device__ const float* action(unsigned row) const {
    return actions + (first_row + row) / samples * action_stride;
  }
};

/// Writes the pose token (latent_dim numbers, the pose first, then zeros) of every row to
/// tokens + row * stride. One block per row.
[[maybe_unused]] static __global__ void compose_poses(FrameInputs inputs, float* tokens,
                                                      std::size_t stride, unsigned latent_dim) {
  float* const token = tokens + blockIdx.x * stride;
  for (unsigned c = kPoseDim + threadIdx.x; c < latent_dim; c += blockDim.x) token[c] = 0.0F;
  if (threadIdx.x == 0) pose::compose(inputs.pose(blockIdx.x), inputs.action(blockIdx.x), token);
}

}  // namespace jepa_edge::cuda
