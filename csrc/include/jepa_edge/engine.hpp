// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "jepa_edge/predictor.hpp"
#include "jepa_edge/status.hpp"

namespace jepa_edge {

/// What is rolled out: one observed past for all candidates, or one for each.
struct Context {
  std::span<const float> history;       ///< (B, T, N, D) latents, oldest first, 1 <= T <= window
  std::span<const float> past_actions;  ///< (B, T - 1, A) raw units, between the history's latents
  std::size_t frames;                   ///< T
  std::size_t batch = 1;                ///< B: 1, or the number of candidates of the next rollouts
};

/// The latents of one finished step of some candidates, to be changed in place before the next
/// step sees them. Row r belongs to candidate `candidate + r / samples`, sample `r % samples`.
struct StepRows {
  std::size_t worker;         ///< below the engine's number of threads: for scratch memory
  std::size_t step;           ///< from 0
  std::size_t candidate;      ///< index of the first candidate
  std::size_t candidates;     ///< how many
  std::size_t samples;        ///< M, rows per candidate
  float* latents;             ///< in: the prediction, at step 0 the same for all samples of a
                              ///< candidate; out: what the next step starts from
  std::size_t stride;         ///< floats from one row's latent (N, D) to the next row's
  const float* before;        ///< latents that this step started from
  std::size_t before_stride;  ///< row r started from before + r / before_divisor * this
  std::size_t before_divisor;
  const float* actions;       ///< (A,) raw units taken in this step by the first candidate
  std::size_t action_stride;  ///< floats to the next candidate's
};

/// Adds noise (a latent variable) to predictions, called by the engine's workers. It must be made
/// for the predictor's own N, D and A: nothing here can check that.
class StepNoise {
 public:
  virtual ~StepNoise() = default;
  virtual void apply(const StepRows& rows) noexcept = 0;
};

/// Told when all steps of some candidates are done, while their latents are still in cache.
class RolloutSink {
 public:
  virtual ~RolloutSink() = default;
  /// latents (candidates, M, H, N, D), of candidates [first, first + candidates).
  virtual void finished(std::size_t first, std::size_t candidates,
                        const float* latents) noexcept = 0;
};

/// One batch of rollouts.
struct Request {
  std::span<const float> actions;  ///< (S, H, A) raw units
  std::size_t candidates;          ///< S
  std::size_t horizon;             ///< H
  std::size_t samples = 1;         ///< M futures per candidate; above 1 needs noise
  std::span<const float> start{};  ///< (S, N, D), replaces the newest history latent; or empty
  StepNoise* noise = nullptr;
  RolloutSink* sink = nullptr;
};

/// What memory is reserved for at construction; a larger request gives Status::kBadShape.
struct Limits {
  std::size_t candidates;
  std::size_t horizon;
  std::size_t samples = 1;
  std::size_t threads = 1;
};

/// Batched rollout of a packed predictor. After construction nothing allocates or throws. Results
/// do not depend on the number of threads, nor on which candidates share a batch. Not for use from
/// several threads at once: give each its own engine on one shared predictor.
class RolloutEngine {
 public:
  /// Throws std::bad_alloc or std::invalid_argument.
  RolloutEngine(std::shared_ptr<const Predictor> predictor, const Limits& limits);
  ~RolloutEngine();
  RolloutEngine(const RolloutEngine&) = delete;
  RolloutEngine& operator=(const RolloutEngine&) = delete;

  [[nodiscard]] const Predictor& predictor() const noexcept;
  [[nodiscard]] const Limits& limits() const noexcept;

  /// Copies the observed past; what all candidates share of it is computed once, when it is needed.
  Status set_context(const Context& context) noexcept;

  /// Rolls every candidate forward: latents (S, M, H, N, D). A diverged future holds non-finite
  /// numbers and the call returns kNonFiniteOutput; the other futures are valid.
  Status rollout(const Request& request, std::span<float> latents) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace jepa_edge
