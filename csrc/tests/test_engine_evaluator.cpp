// SPDX-License-Identifier: Apache-2.0
// Agreement with rollouts asked for one by one: tests/test_planner_engine.py.
#include <doctest/doctest.h>

#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "jepa_edge/engine_evaluator.hpp"
#include "jepa_edge/random.hpp"
#include "support/allocation_counter.hpp"
#include "support/plain_predictor.hpp"
#include "support/temporary_file.hpp"

namespace {

using jepa_edge::Context;
using jepa_edge::EngineEvaluator;
using jepa_edge::LatentShape;
using jepa_edge::Objective;
using jepa_edge::Planner;
using jepa_edge::PlanStatus;
using jepa_edge::Predictor;
using jepa_edge::RolloutEngine;
using jepa_edge::Status;

constexpr std::size_t kWindow = 3;
constexpr std::size_t kDim = 8;
constexpr std::size_t kActionDim = 2;
constexpr std::size_t kHorizon = 4;
constexpr std::size_t kCandidates = 40;

std::shared_ptr<const Predictor> drawn_predictor() {
  jepa_edge::PredictorSizes sizes{};
  sizes.window = kWindow;
  sizes.tokens = 1;
  sizes.latent_dim = sizes.dim = kDim;
  sizes.action_dim = kActionDim;
  sizes.action_hidden = 6;
  sizes.depth = 2;
  sizes.heads = 2;
  sizes.head_dim = 4;
  sizes.mlp_dim = 12;
  sizes.head_hidden = 10;
  sizes.adaln_norm_eps = 1e-6F;
  sizes.norm_eps = 1e-5F;
  const jepa_edge::testing::PlainPredictor drawn(sizes, 11);
  const jepa_edge::testing::TemporaryFile file(drawn.file());
  return Predictor::load(file.path(), jepa_edge::Precision::kFloat32);
}

LatentShape shape_of(std::size_t candidates = kCandidates) {
  return {.candidates = candidates, .samples = 1, .horizon = kHorizon, .tokens = 1, .dim = kDim};
}

jepa_edge::PlannerSettings settings_for(jepa_edge::Method method) {
  jepa_edge::PlannerSettings settings;
  settings.method = method;
  settings.horizon = kHorizon;
  settings.action_dim = kActionDim;
  settings.candidates = kCandidates;
  settings.elites = 8;
  settings.iterations = 6;
  settings.action_mean.assign(kActionDim, 0.0F);
  settings.action_std.assign(kActionDim, 1.0F);
  return settings;
}

struct Past {
  std::vector<float> history = std::vector<float>(kWindow * kDim);
  std::vector<float> past_actions = std::vector<float>((kWindow - 1) * kActionDim);
  std::vector<float> goal = std::vector<float>(kDim);

  Past() {
    jepa_edge::standard_normal(12, 0, history);
    jepa_edge::standard_normal(12, 1, past_actions);
    jepa_edge::standard_normal(12, 2, goal);
  }
  [[nodiscard]] Context context() const {
    return {.history = history, .past_actions = past_actions, .frames = kWindow};
  }
};

/// Prefers small actions.
class SmallActions final : public jepa_edge::UserObjective {
 public:
  Status answer = Status::kOk;
  std::size_t seen = 0;

  Status evaluate(std::span<const float> latents, const LatentShape& shape,
                  std::span<const float> actions, std::span<float> energies) noexcept override {
    seen += latents.size();
    const std::size_t each = actions.size() / shape.candidates;
    for (std::size_t c = 0; c < shape.candidates; ++c) {
      energies[c] = 0.0F;
      for (const float action : actions.subspan(c * each, each)) {
        energies[c] += action * action;
      }
    }
    return answer;
  }
};

}  // namespace

TEST_CASE("a plan on the engine allocates nothing and is the same at any number of threads") {
  const auto predictor = drawn_predictor();
  const Past past;
  for (const auto method :
       {jepa_edge::Method::kCem, jepa_edge::Method::kIcem, jepa_edge::Method::kMppi}) {
    std::vector<float> expected;
    for (const std::size_t threads : {std::size_t{1}, std::size_t{2}, std::size_t{4}}) {
      RolloutEngine engine(predictor, {kCandidates, kHorizon, 1, threads});
      EngineEvaluator evaluator(engine, Objective({.goal_steps = 2}, {}, shape_of()));
      Planner planner(settings_for(method));
      const jepa_edge::testing::AllocationCounter counter;
      const Status begun = evaluator.begin(past.context(), past.goal);
      const auto result = planner.plan(evaluator);
      const std::size_t allocations = counter.count();
      CHECK(allocations == 0);
      REQUIRE(begun == Status::kOk);
      REQUIRE(result.status == PlanStatus::kOk);
      CHECK(result.energies.back() < result.energies.front());
      const std::vector<float> actions(result.actions.begin(), result.actions.end());
      if (expected.empty()) {
        expected = actions;
      }
      CHECK(actions == expected);
    }
  }
}

TEST_CASE("a user's objective takes the goal's place") {
  const Past past;
  RolloutEngine engine(drawn_predictor(), {kCandidates, kHorizon, 1, 2});
  EngineEvaluator evaluator(engine, Objective({}, {}, shape_of()));
  Planner planner(settings_for(jepa_edge::Method::kCem));
  SmallActions small;
  REQUIRE(evaluator.begin(past.context(), {}, nullptr, &small) == Status::kOk);
  const auto result = planner.plan(evaluator);
  REQUIRE(result.status == PlanStatus::kOk);
  CHECK(small.seen == 6 * kCandidates * kHorizon * kDim);
  CHECK(result.best_energy == 0.0F);  // the first candidate is the mean, all zeros

  small.answer = Status::kFailed;
  const auto failed = planner.plan(evaluator);
  CHECK(failed.status == PlanStatus::kEvaluatorFailed);
  CHECK(failed.evaluator == Status::kFailed);
}

TEST_CASE("what does not fit is refused before the plan") {
  const Past past;
  RolloutEngine engine(drawn_predictor(), {kCandidates, kHorizon, 1, 1});
  CHECK_THROWS_AS(EngineEvaluator(engine, Objective({}, {}, shape_of(kCandidates + 1))),
                  std::invalid_argument);
  LatentShape other = shape_of();
  other.dim = kDim + 1;
  CHECK_THROWS_AS(EngineEvaluator(engine, Objective({}, {}, other)), std::invalid_argument);

  EngineEvaluator evaluator(engine, Objective({}, {}, shape_of()));
  CHECK(evaluator.begin(past.context(), {}) == Status::kBadShape);
  CHECK(evaluator.begin(past.context(), std::span(past.goal).first(kDim - 1)) == Status::kBadShape);
  std::vector<float> broken = past.goal;
  broken[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(evaluator.begin(past.context(), broken) == Status::kNonFiniteInput);
  Past lost;
  lost.history[0] = std::numeric_limits<float>::infinity();
  CHECK(evaluator.begin(lost.context(), past.goal) == Status::kNonFiniteInput);

  LatentShape several = shape_of();
  several.samples = 2;
  RolloutEngine wide(drawn_predictor(), {kCandidates, kHorizon, 2, 1});
  EngineEvaluator noiseless(wide, Objective({}, {}, several));
  CHECK(noiseless.begin(past.context(), past.goal) == Status::kBadShape);
}
