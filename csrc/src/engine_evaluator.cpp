// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/engine_evaluator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

namespace jepa_edge {
namespace {

bool all_finite(std::span<const float> values) noexcept {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

std::size_t latent_count(const LatentShape& shape) noexcept {
  return shape.samples * shape.horizon * shape.tokens * shape.dim;
}

}  // namespace

/// Called by the engine's threads, each time for other candidates: scratch is per candidate.
struct EngineEvaluator::Judge final : RolloutSink {
  const Objective& objective;
  std::span<const float> goals;
  std::span<float> scratch;
  std::span<float> energies;
  bool finite_needed;  ///< a user's objective is not to be trusted with futures that diverged

  Judge(const Objective& judged, std::span<const float> wanted, std::span<float> room,
        std::span<float> out, bool check)
      : objective(judged), goals(wanted), scratch(room), energies(out), finite_needed(check) {}

  void finished(std::size_t first, std::size_t candidates, const float* latents) noexcept override {
    const std::size_t count = latent_count(objective.shape());
    const std::size_t room = objective.scratch_size();
    for (std::size_t c = 0; c < candidates; ++c) {
      const std::span<const float> futures(latents + c * count, count);
      energies[first + c] =
          finite_needed && !all_finite(futures)
              ? std::numeric_limits<float>::quiet_NaN()
              : objective.energy(futures, goals, scratch.subspan((first + c) * room, room));
    }
  }
};

EngineEvaluator::EngineEvaluator(RolloutEngine& engine, Objective objective)
    : engine_(engine), objective_(std::move(objective)) {
  const LatentShape& shape = objective_.shape();
  const PredictorSizes& sizes = engine.predictor().sizes();
  const Limits& limits = engine.limits();
  if (shape.tokens != sizes.tokens || shape.dim != sizes.latent_dim) {
    throw std::invalid_argument("the objective's latents have another size than the predictor's");
  }
  if (shape.candidates > limits.candidates || shape.horizon > limits.horizon ||
      shape.samples > limits.samples) {
    throw std::invalid_argument(
        "the engine has no room for these candidates, horizon and samples: make it with larger "
        "limits");
  }
  latents_.resize(shape.candidates * latent_count(shape));
  scratch_.resize(shape.candidates * objective_.scratch_size());
  own_.resize(shape.candidates);
}

EngineEvaluator::~EngineEvaluator() = default;

Status EngineEvaluator::begin(const Context& context, std::span<const float> goals,
                              StepNoise* noise, UserObjective* user) noexcept {
  const LatentShape& shape = objective_.shape();
  if (goals.size() % (shape.tokens * shape.dim) != 0 || (goals.empty() && user == nullptr) ||
      (shape.samples > 1 && noise == nullptr)) {
    return Status::kBadShape;
  }
  if (!all_finite(goals)) {
    return Status::kNonFiniteInput;
  }
  goals_ = goals;
  noise_ = noise;
  user_ = user;
  return engine_.set_context(context);
}

Status EngineEvaluator::evaluate(std::span<const float> actions, std::size_t candidates,
                                 std::span<float> energies) noexcept {
  LatentShape shape = objective_.shape();
  if (candidates > shape.candidates || energies.size() != candidates) {
    return Status::kBadShape;
  }
  shape.candidates = candidates;
  const auto latents = std::span(latents_).first(candidates * latent_count(shape));
  const auto own = user_ == nullptr ? energies : std::span(own_).first(candidates);
  Judge judge(objective_, user_ == nullptr ? goals_ : std::span<const float>{}, scratch_, own,
              user_ != nullptr);
  Request request{.actions = actions,
                  .candidates = candidates,
                  .horizon = shape.horizon,
                  .samples = shape.samples};
  request.noise = noise_;
  request.sink = &judge;
  Status status = engine_.rollout(request, latents);
  if (user_ == nullptr || (status != Status::kOk && status != Status::kNonFiniteOutput)) {
    return status;
  }
  status = user_->evaluate(latents, shape, actions, energies);
  for (std::size_t c = 0; c < candidates; ++c) {
    energies[c] += own[c];
  }
  return status;
}

}  // namespace jepa_edge
