// SPDX-License-Identifier: Apache-2.0
// What a planner on the device asks of a predictor.
#pragma once

#include <cstddef>
#include <span>

#include "device.hpp"
#include "jepa_edge/engine.hpp"
#include "jepa_edge/status.hpp"

namespace jepa_edge::cuda {

struct RolloutSizes {
  std::size_t window;      ///< W, the most frames seen at once
  std::size_t tokens;      ///< N
  std::size_t latent_dim;  ///< D
  std::size_t action_dim;  ///< A
};

/// Adds noise to a finished step; all on the device. Called while a rollout is enqueued.
class DeviceNoise {
 public:
  virtual ~DeviceNoise() = default;
  /// latents: (candidates * samples, N, D) of this step, row r at latents + r * stride floats,
  /// changed in place. before: what the step started from, row r at before + r / before_divisor *
  /// before_stride. actions: (A) raw of this step, candidate c at actions + c * action_stride.
  virtual void enqueue(std::size_t step, std::size_t candidates, std::size_t samples,
                       float* latents, std::size_t stride, const float* before,
                       std::size_t before_stride, std::size_t before_divisor, const float* actions,
                       std::size_t action_stride, cudaStream_t stream) = 0;
};

/// A predictor on the device that rolls candidates forward. All memory is taken at construction.
class DeviceRollout {
 public:
  virtual ~DeviceRollout() = default;
  [[nodiscard]] virtual const RolloutSizes& sizes() const noexcept = 0;
  [[nodiscard]] virtual const Limits& limits() const noexcept = 0;

  /// Copies one observed past for all candidates (host memory) to the device, and computes what
  /// they share of it. Never captured. A graph captured for `frames` frames may be replayed with
  /// any context of as many frames. Throws CudaError; kBadShape, kNonFiniteInput.
  virtual Status set_context(const Context& context, const Stream& stream) = 0;

  /// Enqueues a whole rollout, for a context of `frames` frames. actions: device, (S, H, A) raw.
  /// latents: device, (S, M, H, N, D). May be captured, once it has run outside of a capture with
  /// the same sizes (cuBLASLt 13.3 chooses no algorithm in one): then nothing waits. noise: needed
  /// where samples > 1. Diverged futures hold non-finite numbers.
  virtual void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
                       std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
                       const Stream& stream) = 0;
};

}  // namespace jepa_edge::cuda
