// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "jepa_edge/engine.hpp"
#include "jepa_edge/objective.hpp"
#include "jepa_edge/planner.hpp"
#include "rollout.hpp"

namespace jepa_edge::cuda {

/// jepa_edge::Planner with rollouts and search on the device: the same settings, seeds and numbers.
///
/// One iteration is one CUDA graph. Without a deadline all iterations are replayed one behind the
/// other and the host waits once, at the end; with one it waits after each. A user's own objective
/// runs on the CPU core only. Not for use from several threads at once.
class Planner {
 public:
  /// samples: futures per candidate; above 1 needs noise. rollout and noise must outlive this.
  /// goals: memory for so many; `reserve_goals` takes more.
  /// Throws std::invalid_argument for settings that contradict one another or exceed the rollout's
  /// limits, CudaError where the device refuses.
  Planner(PlannerSettings settings, const ObjectiveSettings& objective, const ObjectiveData& data,
          DeviceRollout& rollout, std::size_t samples = 1, DeviceNoise* noise = nullptr,
          std::size_t goals = 1);
  ~Planner();
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  [[nodiscard]] const PlannerSettings& settings() const noexcept;
  [[nodiscard]] std::size_t samples() const noexcept;
  [[nodiscard]] std::size_t goal_capacity() const noexcept;

  /// Takes memory for more goals, and drops the graphs.
  void reserve_goals(std::size_t goals);

  /// Captures the graphs of contexts of `frames` frames; the first plan() of such a context does it
  /// otherwise. Rolls out outside of a graph before each, for libraries that set themselves up.
  void prepare(std::size_t frames);

  /// context: one for all candidates. goals: (G, N, D), G at most the capacity. Both host memory.
  /// The result is as of jepa_edge::Planner; where context or goals are refused, kEvaluatorFailed.
  /// Its evaluate_s is the time for which the host had given the device work and waited.
  /// Throws CudaError where the device fails, and whatever the rollout throws at capture.
  PlanResult plan(const Context& context, std::span<const float> goals,
                  const PlanRequest& request = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace jepa_edge::cuda
