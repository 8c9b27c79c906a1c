// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "jepa_edge/status.hpp"

namespace jepa_edge {

/// Says how bad candidate action sequences are. The planners know nothing else of the world.
class Evaluator {
 public:
  virtual ~Evaluator() = default;
  /// actions (candidates, H, A) raw units; energies (candidates), lower is better. NaN marks a
  /// candidate that diverged, +Inf one that is refused; neither is ever an elite. A status other
  /// than kOk or kNonFiniteOutput ends the plan.
  virtual Status evaluate(std::span<const float> actions, std::size_t candidates,
                          std::span<float> energies) noexcept = 0;
};

enum class Method : std::uint8_t { kCem, kIcem, kMppi };

/// What a plan is: the mean of the last distribution, or the best candidate that was evaluated.
enum class Returned : std::uint8_t { kMean, kBest };

/// Settings of a search. Distributions live in z-scored actions, z = (raw - mean) / std.
struct PlannerSettings {
  Method method = Method::kCem;
  std::size_t horizon = 5;       ///< H, action blocks
  std::size_t action_dim = 0;    ///< A, numbers per block
  std::size_t candidates = 300;  ///< S
  std::size_t elites = 30;       ///< MPPI: the candidates that are weighted; S for all
  std::size_t iterations = 30;
  double init_std = 1.0;  ///< first standard deviation, z-scored; MPPI's throughout
  std::uint64_t seed = 0;
  Returned returned = Returned::kMean;
  std::vector<float> action_mean{};  ///< (A) of the z-scoring, raw units
  std::vector<float> action_std{};   ///< (A) above 0
  std::vector<float> low{};   ///< (A) raw units, or empty: unbounded. Candidates are clipped,
  std::vector<float> high{};  ///< and distributions refitted to the clipped ones

  // iCEM
  double noise_beta = 2.0;      ///< exponent of the noise's power spectrum over time; 0 is white
  std::size_t keep_elites = 5;  ///< carried from one iteration to the next
  /// CEM too: weight of the old mean and std; empty for 0 in CEM, 0.1 in iCEM.
  std::optional<double> momentum{};
  double population_decay = 1.0;  ///< gamma: iteration i has max(S gamma^-i, 2 elites) candidates
  bool deterministic = true;      ///< the same actions give the same energy: kept elites reuse it

  // MPPI
  double temperature = 0.5;  ///< of the softmax over energies, energy units
};

enum class PlanStatus : std::uint8_t {
  kOk = 0,
  kBadRequest = 1,          ///< initial has another size than (H, A), or is not finite
  kTooFewFinite = 2,        ///< fewer finite energies than elites (MPPI: none)
  kNoTrustedCandidate = 3,  ///< no finite energy, and at least one candidate was refused
  kEvaluatorFailed = 4,     ///< PlanResult::evaluator says why
};

struct PlanRequest {
  std::span<const float> initial{};    ///< (H, A) raw: first mean; empty: the mean action
  std::optional<double> deadline_s{};  ///< from the call on; at least one iteration always runs
};

/// What a search found. The spans look into the planner: valid until its next plan() or its end.
/// With a status other than kOk they hold what the iterations before it found.
struct PlanResult {
  PlanStatus status = PlanStatus::kOk;
  Status evaluator = Status::kOk;
  std::span<const float> actions{};       ///< (H, A) raw: the mean, or the best candidate
  std::span<const float> best_actions{};  ///< (H, A) raw; the first mean where none was finite
  float best_energy = 0.0F;               ///< +Inf where none was finite
  std::span<const float> energies{};      ///< (iterations) mean energy of each one's elites
  std::span<const float> spread{};        ///< (H) std of the last elites, z-scored, RMS over A
  std::size_t iterations = 0;             ///< done
  bool deadline_hit = false;              ///< stopped before an iteration that would not have fit
  std::size_t evaluated = 0;              ///< candidates, all iterations
  std::size_t diverged = 0;               ///< of those, NaN or -Inf
  std::size_t refused = 0;                ///< of those, +Inf
  double time_s = 0.0;                    ///< the whole search
  double evaluate_s = 0.0;                ///< of that, inside the evaluator
};

/// Searches action sequences of low energy by CEM, iCEM or MPPI.
///
/// CEM, iCEM and MPPI are stable-worldmodel 0.1.1's (`solver/{cem,icem,mppi}.py`), with action
/// limits. Candidates are a function of the seed alone, ties go to the lower index, sums have a
/// fixed order: a plan is reproducible bit for bit. After construction nothing allocates or throws.
/// Not for use from several threads at once.
/// Sources: Pinneri et al. 2020 (iCEM); Williams et al. 2017 (MPPI).
class Planner {
 public:
  /// Throws std::invalid_argument for settings that contradict one another, or std::bad_alloc.
  explicit Planner(PlannerSettings settings);
  ~Planner();
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  [[nodiscard]] const PlannerSettings& settings() const noexcept;

  PlanResult plan(Evaluator& evaluator, const PlanRequest& request = {}) noexcept;

 private:
  struct Search;  // src/planner/search.hpp
  std::unique_ptr<Search> search_;
};

/// Moves a plan `blocks` blocks ahead in place, to start the next search from. plan (H, A); the
/// freed blocks take `fill` (A), such as the mean action, or repeat the last block where it is
/// empty. No allocation, no throw.
void shift_plan(std::span<float> plan, std::size_t action_dim, std::size_t blocks,
                std::span<const float> fill = {}) noexcept;

}  // namespace jepa_edge
