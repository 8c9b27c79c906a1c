// SPDX-License-Identifier: Apache-2.0
// The frames and actions that a predictor sees at a step of a rollout.
#pragma once

#include <cstddef>

#include "../portable.hpp"

namespace jepa_edge::cuda {

inline constexpr unsigned kWindowThreads = 256;

/// Sizes of a rollout and one of its steps. Row r is a future of candidate r / samples.
struct WindowView {
  std::size_t rows, samples, horizon, step;
  std::size_t window, latent, action_dim;  ///< W, N * D, A
};

/// out (rows, W, N * D): frames step to step + W - 1 of the context (W, N * D) and the latents
/// (rows, H, N * D) behind it. One thread per number.
[[maybe_unused]] static __global__ void gather_frames(WindowView v, const float* context,
                                                      const float* latents, float* out) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place >= v.rows * v.window * v.latent) {
    return;
  }
  const std::size_t i = place % v.latent;
  const std::size_t frame = v.step + place / v.latent % v.window;
  const std::size_t row = place / v.latent / v.window;
  out[place] = frame < v.window ? context[frame * v.latent + i]
                                : latents[(row * v.horizon + frame - v.window) * v.latent + i];
}

/// out (rows, W, A): the actions taken at those frames, of past (W - 1, A) and actions (S, H, A).
[[maybe_unused]] static __global__ void gather_actions(WindowView v, const float* past,
                                                       const float* actions, float* out) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place >= v.rows * v.window * v.action_dim) {
    return;
  }
  const std::size_t a = place % v.action_dim;
  const std::size_t taken = v.step + place / v.action_dim % v.window;
  const std::size_t candidate = place / v.action_dim / v.window / v.samples;
  out[place] = taken + 1 < v.window
                   ? past[taken * v.action_dim + a]
                   : actions[(candidate * v.horizon + taken + 1 - v.window) * v.action_dim + a];
}

/// Puts predictions (rows, N * D) where step `step` lies in the latents (rows, H, N * D).
[[maybe_unused]] static __global__ void scatter_step(WindowView v, const float* predicted,
                                                     float* latents) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place < v.rows * v.latent) {
    latents[(place / v.latent * v.horizon + v.step) * v.latent + place % v.latent] =
        predicted[place];
  }
}

}  // namespace jepa_edge::cuda
