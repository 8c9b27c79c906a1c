// SPDX-License-Identifier: Apache-2.0
// Both ends of V-JEPA 2-AC's predictor: a frame's tokens before the first layer, and the patches
// that come out.
#pragma once

#include <cstddef>

#include "ac_rows.cuh"
#include "pose.cuh"

namespace jepa_edge::cuda {

constexpr unsigned kConditionTokens = 2;  ///< before a frame's patches: its action, then its pose

/// A small linear layer in float32: meters, radians and the gripper would share one scale.
struct PoseLayer {
  const float* weight;  ///< (outputs, 7)
  const float* bias;
};

/// residual (rows, 2 + patches, width): action, pose and embedded patches of a frame.
/// embedded_rows: rows of the product from one row's patches to the next's; 0 where all share the
/// frame. One block per (token, row), a thread per eight numbers.
template <Precision precision>
__global__ void gather_tokens(FrameInputs inputs, PoseLayer action_layer, PoseLayer pose_layer,
                              Products<Result<precision>> embedded, std::size_t embedded_rows,
                              unsigned dim, float* residual) {
  const unsigned token = blockIdx.x;
  const unsigned row = blockIdx.y;
  const unsigned column = kGroup * threadIdx.x;
  if (column >= embedded.width) return;
  Eight<float> x{};
  if (token >= kConditionTokens) {
    x = embedded.read(row * embedded_rows + token - kConditionTokens, column);
  } else {
    const PoseLayer layer = token == 0 ? action_layer : pose_layer;
    const float* const from = token == 0 ? inputs.action(row) : inputs.pose(row);
    for (unsigned i = 0; i < kGroup && column + i < dim; ++i) {
      float sum = layer.bias[column + i];
      for (unsigned k = 0; k < kPoseDim; ++k) {
        sum += layer.weight[(column + i) * kPoseDim + k] * from[k];
      }
      x.at[i] = sum;
    }
  }
  const std::size_t line = std::size_t{row} * gridDim.x + token;
  *reinterpret_cast<Eight<float>*>(residual + line * embedded.width + column) = x;
}

/// Layer norm without scale and shift of the product's patches; row r's go to latents + r * stride,
/// (patches, latent_dim). One block per (patch, row), a thread per eight numbers.
template <Precision precision>
__global__ void write_patches(Products<Result<precision>> from, unsigned latent_dim, float eps,
                              float* latents, std::size_t stride) {
  const unsigned patch = blockIdx.x;
  const std::size_t row = blockIdx.y;
  const unsigned column = kGroup * threadIdx.x;
  const std::size_t line = row * (gridDim.x + kConditionTokens) + kConditionTokens + patch;
  Eight<float> x{};
  if (column < from.width) x = from.read(line, column);
  const Eight<float> y = normalized(x, column, latent_dim, eps, nullptr, nullptr);
  float* const to = latents + row * stride + std::size_t{patch} * latent_dim;
  for (unsigned i = 0; i < kGroup; ++i) {
    if (column + i < latent_dim) to[column + i] = y.at[i];
  }
}

}  // namespace jepa_edge::cuda
