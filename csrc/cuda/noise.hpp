// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "jepa_edge/latent_variable.hpp"
#include "rollout.hpp"

namespace jepa_edge::cuda {

/// jepa_edge::LatentNoise on the device, for planning: no noise-free future, no mean heads. All
/// candidates share one z, which is the CPU core's.
class LatentNoise final : public DeviceNoise {
 public:
  /// arrays: as of jepa_edge::LatentVariable; copied. tokens: N. limits: of the rollout.
  /// Throws std::invalid_argument for arrays that are no latent variable or have layers too wide
  /// for a block's shared memory, and CudaError.
  LatentNoise(const NamedArrays& arrays, std::size_t tokens, const Limits& limits);
  ~LatentNoise() override;

  [[nodiscard]] const LatentVariableSizes& sizes() const noexcept;
  [[nodiscard]] std::size_t tokens() const noexcept;

  /// Draws z for `samples` futures over `horizon` steps, as jepa_edge::LatentNoise::draw does, and
  /// waits. Throws std::invalid_argument beyond the limits.
  void draw(std::uint64_t seed, std::size_t samples, std::size_t horizon);

  /// Throws std::invalid_argument for other samples than drawn, or a later step.
  void enqueue(std::size_t step, std::size_t candidates, std::size_t samples, float* latents,
               std::size_t stride, const float* before, std::size_t before_stride,
               std::size_t before_divisor, const float* actions, std::size_t action_stride,
               cudaStream_t stream) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace jepa_edge::cuda
