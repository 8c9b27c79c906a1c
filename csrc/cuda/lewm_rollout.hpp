// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "predictor_weights.hpp"
#include "rollout.hpp"

namespace jepa_edge::cuda {

/// jepa_edge::RolloutEngine on the device. What candidates share of the past is computed in
/// set_context, keys and values are kept while the window grows, and modulations are made for all
/// candidates and steps at once. Bits may depend on the number of candidates, as the library
/// chooses its algorithm by shape; not on what the other candidates are.
class LewmRollout final : public DeviceRollout {
 public:
  /// Throws std::invalid_argument for limits of 0 or too large, CudaError. threads are not used.
  LewmRollout(std::shared_ptr<const PredictorWeights> weights, const Limits& limits);
  ~LewmRollout() override;

  [[nodiscard]] const PredictorWeights& weights() const noexcept { return *weights_; }
  [[nodiscard]] const RolloutSizes& sizes() const noexcept override { return sizes_; }
  [[nodiscard]] const Limits& limits() const noexcept override { return limits_; }

  /// One past for all candidates: kBadShape for a batch of contexts.
  Status set_context(const Context& context, const Stream& stream) override;
  /// Throws std::invalid_argument beyond the limits or for samples without noise.
  void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
               std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
               const Stream& stream) override;

  class Engine;

 private:
  std::shared_ptr<const PredictorWeights> weights_;
  RolloutSizes sizes_;
  Limits limits_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace jepa_edge::cuda
