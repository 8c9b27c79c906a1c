// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "jepa_edge/planner.hpp"
#include "search.hpp"

namespace jepa_edge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double seconds_since(Clock::time_point start) noexcept {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Planner::Planner(PlannerSettings settings)
    : search_(std::make_unique<Search>(std::move(settings))) {}
Planner::~Planner() = default;

const PlannerSettings& Planner::settings() const noexcept { return search_->settings; }

PlanResult Planner::plan(Evaluator& evaluator, const PlanRequest& request) noexcept {
  const auto start = Clock::now();
  Search& s = *search_;
  PlanResult result;
  result.best_energy = kInfinity;
  const auto initial = request.initial;
  if (!initial.empty() && (initial.size() != s.size ||
                           !std::all_of(initial.begin(), initial.end(),
                                        [](float v) noexcept { return std::isfinite(v); }))) {
    result.status = PlanStatus::kBadRequest;
    return result;
  }
  s.reset(initial);
  const std::size_t wanted = s.settings.method == Method::kMppi ? 1 : s.settings.elites;
  double slowest_s = 0.0;
  double iteration_start_s = 0.0;
  for (std::size_t i = 0; i < s.settings.iterations; ++i) {
    if (i > 0 && request.deadline_s && iteration_start_s + slowest_s > *request.deadline_s) {
      result.deadline_hit = true;
      break;
    }
    s.draw(i);
    const std::size_t count = population(s.settings, i);
    const std::size_t known = s.settings.deterministic ? s.kept(i) : 0;
    const auto before = Clock::now();
    result.evaluator = evaluator.evaluate(
        std::span<const float>(s.raw).subspan(known * s.size, (count - known) * s.size),
        count - known, std::span(s.energies).subspan(known, count - known));
    result.evaluate_s += seconds_since(before);
    if (result.evaluator != Status::kOk && result.evaluator != Status::kNonFiniteOutput) {
      result.status = PlanStatus::kEvaluatorFailed;
      break;
    }
    result.evaluated += count - known;
    const std::size_t refused_before = result.refused;
    for (std::size_t c = known; c < count; ++c) {
      result.refused += s.energies[c] == kInfinity ? 1U : 0U;
      result.diverged += std::isnan(s.energies[c]) || s.energies[c] == -kInfinity ? 1U : 0U;
    }
    const std::size_t finite = s.select(count);
    if (finite > 0 && s.energies[s.order[0]] < result.best_energy) {
      result.best_energy = s.energies[s.order[0]];
      std::copy_n(s.raw.data() + s.order[0] * s.size, s.size, s.best_actions.data());
    }
    if (finite < wanted) {
      result.status = finite == 0 && result.refused > refused_before
                          ? PlanStatus::kNoTrustedCandidate
                          : PlanStatus::kTooFewFinite;
      break;
    }
    double total = 0.0;
    for (std::size_t k = 0; k < s.chosen; ++k) {
      total += static_cast<double>(s.energies[s.order[k]]);
    }
    s.iteration_energies[i] = static_cast<float>(total / static_cast<double>(s.chosen));
    s.summarize();
    s.refit();
    result.iterations = i + 1;
    const double now_s = seconds_since(start);
    slowest_s = std::max(slowest_s, now_s - iteration_start_s);
    iteration_start_s = now_s;
  }
  if (s.settings.returned == Returned::kMean) {
    s.to_raw(s.mean.data(), s.actions.data());
  } else {
    std::copy(s.best_actions.begin(), s.best_actions.end(), s.actions.begin());
  }
  result.actions = s.actions;
  result.best_actions = s.best_actions;
  result.energies = std::span<const float>(s.iteration_energies).first(result.iterations);
  result.spread = s.spread;
  result.time_s = seconds_since(start);
  return result;
}

void shift_plan(std::span<float> plan, std::size_t action_dim, std::size_t blocks,
                std::span<const float> fill) noexcept {
  if (plan.empty() || action_dim == 0) {
    return;
  }
  const std::size_t horizon = plan.size() / action_dim;
  const float* last = plan.data() + (horizon - 1) * action_dim;
  const std::size_t stay = horizon - std::min(blocks, horizon);
  // Forward copies: a block is read before it is written, the last one is written by itself.
  std::copy_n(plan.data() + (horizon - stay) * action_dim, stay * action_dim, plan.data());
  for (std::size_t h = stay; h < horizon; ++h) {
    std::copy_n(fill.empty() ? last : fill.data(), action_dim, plan.data() + h * action_dim);
  }
}

}  // namespace jepa_edge
