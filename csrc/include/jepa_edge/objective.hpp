// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "jepa_edge/status.hpp"

namespace jepa_edge {

/// Sizes of predicted latents (S, M, H, N, D).
struct LatentShape {
  std::size_t candidates;  ///< S
  std::size_t samples;     ///< M, futures per candidate
  std::size_t horizon;     ///< H
  std::size_t tokens;      ///< N
  std::size_t dim;         ///< D
};

/// How the goal energies of a candidate's futures become one number.
enum class Risk : std::uint8_t {
  kMean,
  kMeanPlusStd,  ///< mean + kappa * std, ddof 1
  kCvar,         ///< mean of the worst ceil(alpha * M)
};

/// How far a predicted latent is from a goal, over the numbers that are compared.
enum class Distance : std::uint8_t {
  kSquares,   ///< sum of squares
  kAbsolute,  ///< mean of absolute values
};

/// What a plan is judged by: E = risk(E_goal) + world_weight * E_world
///                               + spread_weight * sum_h spread_discount^h max(0, u_h - q_h).
///
/// E_goal: per future, `distance` of predicted minus goal over the first `energy_tokens` tokens and
/// `energy_dim` channels, averaged over the last `goal_steps` steps; of several goals the nearest
/// one counts. E_world: squared distance per dimension of the predicted latents, mean over their
/// tokens, from the recorded ones, mean over futures and steps. u_h: variance over the futures
/// (ddof 1), mean over a latent's numbers, at step h = 1 to H. q_h: its calibrated radius.
/// All terms see the same tokens and channels; the others must be finite in the latents that are
/// held against the goal, or the candidate diverged.
struct ObjectiveSettings {
  std::size_t goal_steps = 1;
  Risk risk = Risk::kMean;
  double kappa = 1.0;
  double alpha = 0.1;            ///< of CVaR, above 0, at most 1
  double world_weight = 0.0;     ///< lambda
  double spread_weight = 0.0;    ///< beta
  double spread_discount = 1.0;  ///< gamma
  /// The horizon ends before the first step with u_h > q_h: goal and world terms see the trusted
  /// steps only. A candidate whose first step is not trusted is refused: its energy is +Inf.
  bool trust_horizon = false;
  Distance distance = Distance::kSquares;
  std::size_t energy_tokens = 0;  ///< 0 for all
  std::size_t energy_dim = 0;     ///< C, 0 for all
};

/// Fitted numbers that the terms need; empty where a term is off.
struct ObjectiveData {
  std::vector<float> radius{};        ///< q (H)
  std::vector<float> world_mean{};    ///< (C)
  std::vector<float> world_whiten{};  ///< (C, C), maps a centred row vector to white noise
};

/// The numbers of a latent that count: `runs` runs of `length` numbers, which begin `stride` apart.
struct ComparedPart {
  std::size_t runs;
  std::size_t length;
  std::size_t stride;
};

/// Energies of predicted latents. Immutable after construction; scratch is the caller's, so that
/// threads may share one.
class Objective {
 public:
  /// Throws std::invalid_argument where settings, data and sizes disagree. shape: the largest S and
  /// M, and the H, N and D of every call.
  Objective(const ObjectiveSettings& settings, ObjectiveData data, const LatentShape& shape);

  [[nodiscard]] const ObjectiveSettings& settings() const noexcept { return settings_; }
  [[nodiscard]] const LatentShape& shape() const noexcept { return shape_; }

  /// Floats of scratch memory that one call needs.
  [[nodiscard]] std::size_t scratch_size() const noexcept;

  /// Energy of one candidate's futures. latents (M, H, N, D), M at most the shape's; goals
  /// (G, N, D). NaN where it is not finite, +Inf where the candidate is refused. No goals: no goal
  /// term. No allocation, no throw.
  [[nodiscard]] float energy(std::span<const float> latents, std::span<const float> goals,
                             std::span<float> scratch) const noexcept;

 private:
  [[nodiscard]] double goal_distance(const float* latent,
                                     std::span<const float> goals) const noexcept;
  [[nodiscard]] bool rest_is_finite(const float* latent) const noexcept;

  ObjectiveSettings settings_;
  ObjectiveData data_;
  LatentShape shape_;
  ComparedPart part_{};
};

/// One number for the energies of M futures; reorders them.
[[nodiscard]] double risk_of(std::span<float> energies, const ObjectiveSettings& settings) noexcept;

/// Variance over futures, mean over a latent's numbers that count, of one step.
/// latents (M, H, N * D).
[[nodiscard]] double step_spread(std::span<const float> latents, std::size_t samples,
                                 std::size_t horizon, std::size_t step,
                                 const ComparedPart& part) noexcept;

}  // namespace jepa_edge
