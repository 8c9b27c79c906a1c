// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device.hpp"
#include "jepa_edge/objective.hpp"
#include "jepa_edge/status.hpp"

namespace jepa_edge::cuda {

/// jepa_edge::Objective on the device: the same terms, sums in double.
class Objective {
 public:
  /// goals: the most that one plan may have. Throws std::invalid_argument as jepa_edge::Objective
  /// does, and CudaError.
  Objective(const ObjectiveSettings& settings, const ObjectiveData& data, const LatentShape& shape,
            std::size_t goals = 1);

  [[nodiscard]] const ObjectiveSettings& settings() const noexcept { return settings_; }
  [[nodiscard]] const LatentShape& shape() const noexcept { return shape_; }
  [[nodiscard]] std::size_t goal_capacity() const noexcept { return goal_capacity_; }

  /// Takes memory for more goals. What was captured with `enqueue` before must not be replayed.
  void reserve_goals(std::size_t goals);

  /// Enqueues the copy of goals (G, N, D), host memory, to the device; the stream must be idle.
  /// kBadShape for none or more than the capacity, kNonFiniteInput.
  Status set_goals(std::span<const float> goals, const Stream& stream);

  /// Enqueues the energies (candidates) of latents (candidates, M, H, N, D), both on the device.
  /// The marks are Evaluator's. May be captured; a replay sees the goals set by then.
  void enqueue(const float* latents, std::size_t candidates, float* energies,
               const Stream& stream) const;

 private:
  ObjectiveSettings settings_;
  LatentShape shape_;
  ComparedPart part_{};
  std::size_t goal_capacity_ = 0;
  unsigned threads_ = 0;
  DeviceBuffer<float> radius_, world_mean_, world_whiten_, scratch_, goals_;
  DeviceBuffer<std::uint32_t> goal_count_;
  PinnedBuffer<float> staged_goals_;
  PinnedBuffer<std::uint32_t> staged_count_;
};

}  // namespace jepa_edge::cuda
