// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "jepa_edge/engine.hpp"
#include "jepa_edge/objective.hpp"
#include "jepa_edge/planner.hpp"

namespace jepa_edge {

/// A user's own cost, called once per iteration on the planning thread.
class UserObjective {
 public:
  virtual ~UserObjective() = default;
  /// latents (S, M, H, N, D) as in `shape`, actions (S, H, A) raw units, energies (S) to be filled;
  /// the marks are Evaluator's. Latents of diverged futures are not finite; those candidates stay
  /// diverged whatever is written. A status other than kOk ends the plan.
  virtual Status evaluate(std::span<const float> latents, const LatentShape& shape,
                          std::span<const float> actions, std::span<float> energies) noexcept = 0;
};

/// Judges candidates by rolling them out. Goal energies are computed where a batch of candidates
/// has just been rolled out, by the engine's threads, while its latents are in cache. After
/// construction nothing allocates or throws. The engine must outlive it and be used by nobody else
/// while it plans.
class EngineEvaluator final : public Evaluator {
 public:
  /// Throws std::invalid_argument where the objective's sizes are not the engine's.
  EngineEvaluator(RolloutEngine& engine, Objective objective);
  ~EngineEvaluator() override;
  EngineEvaluator(const EngineEvaluator&) = delete;
  EngineEvaluator& operator=(const EngineEvaluator&) = delete;

  /// Before every plan: the observed past and what is wanted. goals (G, N, D) stay the caller's and
  /// must live until the plan ends; empty with a user's objective, which then takes the goal's
  /// place. noise: needed where the objective's shape has several samples.
  Status begin(const Context& context, std::span<const float> goals, StepNoise* noise = nullptr,
               UserObjective* user = nullptr) noexcept;

  Status evaluate(std::span<const float> actions, std::size_t candidates,
                  std::span<float> energies) noexcept override;

 private:
  struct Judge;
  RolloutEngine& engine_;
  Objective objective_;
  std::vector<float> latents_;
  std::vector<float> scratch_;
  std::vector<float> own_;  ///< what a user's objective is added to
  std::span<const float> goals_{};
  StepNoise* noise_ = nullptr;
  UserObjective* user_ = nullptr;
};

}  // namespace jepa_edge
