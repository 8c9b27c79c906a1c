// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>

#include "rollout.hpp"

namespace jepa_edge::cuda {

/// Enqueues somebody else's predictor on a stream, all pointers on the device, rows contiguous:
/// history (rows, W, N, D), oldest first, and actions (rows, W, A), raw, into out (rows, N, D).
/// May be captured: it must neither wait nor take memory.
using EnqueuePredictor = std::function<void(const float* history, const float* actions, float* out,
                                            std::size_t rows, cudaStream_t stream)>;

/// Rolls a predictor forward that always sees W frames (jepa_edge/rollout.py). Our kernels fill its
/// window before each step.
class CallbackRollout final : public DeviceRollout {
 public:
  /// Throws std::invalid_argument for a size of 0 or without a predictor, CudaError.
  CallbackRollout(const RolloutSizes& sizes, const Limits& limits, EnqueuePredictor predictor);

  [[nodiscard]] const RolloutSizes& sizes() const noexcept override { return sizes_; }
  [[nodiscard]] const Limits& limits() const noexcept override { return limits_; }

  /// kBadShape unless the context has W frames and is one for all candidates.
  Status set_context(const Context& context, const Stream& stream) override;

  /// Throws std::invalid_argument beyond the limits, and what the predictor throws.
  void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
               std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
               const Stream& stream) override;

 private:
  RolloutSizes sizes_;
  Limits limits_;
  EnqueuePredictor predictor_;
  DeviceBuffer<float> context_, past_;                ///< (W, N, D), (W - 1, A)
  DeviceBuffer<float> window_, actions_, predicted_;  ///< a row per future
  PinnedBuffer<float> staged_;
};

}  // namespace jepa_edge::cuda
