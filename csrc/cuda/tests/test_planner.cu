// SPDX-License-Identifier: Apache-2.0
// The search on the device against the CPU core's, whose own tests are csrc/tests/test_planner.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "linear_rollout.cuh"
#include "planner.hpp"

using jepa_edge::Context;
using jepa_edge::LatentShape;
using jepa_edge::Method;
using jepa_edge::ObjectiveData;
using jepa_edge::ObjectiveSettings;
using jepa_edge::PlannerSettings;
using jepa_edge::PlanRequest;
using jepa_edge::PlanResult;
using jepa_edge::PlanStatus;
using jepa_edge::Returned;
using jepa_edge::Risk;
using jepa_edge::Status;
using jepa_edge::cuda::Planner;
using namespace jepa_edge::cuda::testing;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kHorizon = 4;
constexpr std::size_t kDim = 3;
constexpr std::size_t kFrames = 2;
constexpr auto kMethods = {Method::kCem, Method::kIcem, Method::kMppi};

PlannerSettings settings_for(Method method) {
  PlannerSettings settings;
  settings.method = method;
  settings.horizon = kHorizon;
  settings.action_dim = kDim;
  settings.candidates = 61;
  settings.elites = 8;
  settings.iterations = 6;
  settings.seed = 12345;
  settings.action_mean = {1.0F, -0.5F, 0.0F};
  settings.action_std = {2.0F, 0.5F, 1.0F};
  settings.temperature = 2.0;
  return settings;
}

/// The same problem for both sides.
struct Problem {
  PlannerSettings settings;
  LinearWorld world{};
  ObjectiveSettings objective{};
  ObjectiveData data{};
  std::size_t samples = 1;
  std::size_t goal_count = 1;

  [[nodiscard]] std::vector<float> history() const {
    return varied(kFrames * world.latent(), 1.0F);
  }
  [[nodiscard]] std::vector<float> goals() const {
    return varied(goal_count * world.latent(), 1.5F);
  }
};

/// What a plan found, apart from the planner.
struct Found {
  PlanResult told;
  std::vector<float> actions, best_actions, energies, spread, seen;

  Found(const PlanResult& result, std::vector<float> last_seen)
      : told(result),
        actions(result.actions.begin(), result.actions.end()),
        best_actions(result.best_actions.begin(), result.best_actions.end()),
        energies(result.energies.begin(), result.energies.end()),
        spread(result.spread.begin(), result.spread.end()),
        seen(std::move(last_seen)) {}
};

Found on_cpu(const Problem& problem, const PlanRequest& request = {}) {
  const PlannerSettings& s = problem.settings;
  jepa_edge::Planner planner(s);
  LinearEvaluator evaluator(problem.world,
                            jepa_edge::Objective(problem.objective, problem.data,
                                                 {s.candidates, problem.samples, s.horizon,
                                                  problem.world.tokens, problem.world.dim}),
                            problem.history(), problem.goals(), problem.samples > 1);
  const PlanResult result = planner.plan(evaluator, request);
  return {result, evaluator.seen};
}

/// A planner on the device and all that it stands on.
struct OnDevice {
  explicit OnDevice(const Problem& given)
      : problem(given),
        rollout(given.world, {given.settings.candidates, given.settings.horizon, given.samples}),
        noise(given.world),
        planner(given.settings, given.objective, given.data, rollout, given.samples,
                given.samples > 1 ? &noise : nullptr, given.goal_count) {}

  Found plan(const PlanRequest& request = {}, std::size_t frames = kFrames) {
    const std::vector<float> history = problem.history();
    const std::vector<float> past(kDim * (frames - 1), 0.0F);
    const auto shown = std::span(history).last(frames * problem.world.latent());
    const PlanResult result = planner.plan({shown, past, frames}, problem.goals(), request);
    return {result, downloaded(rollout.seen.data(), rollout.seen.size())};
  }

  Problem problem;
  LinearRollout rollout;
  LinearNoise noise;
  Planner planner;
};

void check_close(const std::vector<float>& got, const std::vector<float>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(got[i] - expected[i]) <= 1e-5F * (1.0F + std::abs(expected[i])));
  }
}

void check_same(const Found& got, const Found& expected) {
  CHECK(got.told.status == expected.told.status);
  CHECK(got.told.evaluator == expected.told.evaluator);
  CHECK(got.told.iterations == expected.told.iterations);
  CHECK(got.told.evaluated == expected.told.evaluated);
  CHECK(got.told.diverged == expected.told.diverged);
  CHECK(got.told.refused == expected.told.refused);
  if (std::isfinite(expected.told.best_energy)) {
    CHECK(got.told.best_energy == doctest::Approx(expected.told.best_energy).epsilon(1e-5));
  } else {
    CHECK(got.told.best_energy == expected.told.best_energy);
  }
  check_close(got.actions, expected.actions);
  check_close(got.best_actions, expected.best_actions);
  check_close(got.energies, expected.energies);
  check_close(got.spread, expected.spread);
}

void check_same(const Problem& problem, const PlanRequest& request = {}) {
  check_same(OnDevice(problem).plan(request), on_cpu(problem, request));
}

}  // namespace

TEST_CASE("the first candidates are the core's numbers") {
  for (const Method method : kMethods) {
    Problem problem{settings_for(method)};
    problem.settings.iterations = 1;
    problem.settings.low = {-1.0F, -0.8F, -1.5F};
    problem.settings.high = {3.0F, 0.4F, 1.5F};
    const Found expected = on_cpu(problem);
    const Found got = OnDevice(problem).plan();
    REQUIRE(got.seen.size() == expected.seen.size());
    for (std::size_t i = 0; i < got.seen.size(); ++i) {
#ifdef JEPA_EDGE_CUDA_EMULATE
      REQUIRE(got.seen[i] == expected.seen[i]);
#else
      REQUIRE(got.seen[i] == doctest::Approx(expected.seen[i]).epsilon(1e-6));
#endif
    }
  }
}

TEST_CASE("every method finds the core's plan") {
  for (const Method method : kMethods) {
    for (const Returned returned : {Returned::kMean, Returned::kBest}) {
      Problem problem{settings_for(method)};
      problem.settings.returned = returned;
      check_same(problem);
      const Found found = OnDevice(problem).plan();
      CHECK(found.energies.back() < found.energies.front());
    }
  }
}

TEST_CASE("limits, momentum, an initial plan and several goals") {
  const std::vector<float> initial = varied(kHorizon * kDim, 1.0F);
  for (const Method method : kMethods) {
    Problem problem{settings_for(method)};
    problem.settings.momentum = 0.3;
    problem.goal_count = 3;
    problem.objective.goal_steps = 2;
    check_same(problem, {.initial = initial});
    problem.settings.low = {0.5F, -0.2F, -0.1F};
    problem.settings.high = {3.0F, 0.2F, 0.1F};
    check_same(problem, {.initial = initial});
  }
}

TEST_CASE("iCEM: populations that decay, kept elites, and those judged again") {
  Problem problem{settings_for(Method::kIcem)};
  for (const double decay : {1.0, 1.5}) {
    for (const std::size_t keep : {0U, 5U, 8U}) {
      for (const bool deterministic : {true, false}) {
        problem.settings.population_decay = decay;
        problem.settings.keep_elites = keep;
        problem.settings.deterministic = deterministic;
        check_same(problem);
      }
    }
  }
  problem.settings.noise_beta = -1.0;
  check_same(problem);
  // A horizon of 1 has no spectrum.
  problem.settings.horizon = 1;
  check_same(problem);
}

TEST_CASE("any number of candidates, and as many elites") {
  for (const Method method : kMethods) {
    for (const std::size_t candidates : {2U, 7U, 64U, 129U}) {
      Problem problem{settings_for(method)};
      problem.settings.candidates = candidates;
      problem.settings.elites = method == Method::kMppi ? candidates : 2;
      problem.settings.keep_elites = 1;
      check_same(problem);
      problem.settings.elites = candidates;
      check_same(problem);
    }
  }
}

TEST_CASE("noise that is too much to store is drawn in every iteration") {
  for (const Method method : {Method::kCem, Method::kIcem}) {
    Problem problem{settings_for(method)};
    problem.settings.seed = ~std::uint64_t{0};
    problem.settings.population_decay = 1.2;
    OnDevice stored(problem);
    const Found expected = stored.plan({.deadline_s = 1e-9});
    REQUIRE(expected.told.iterations == 1);
    problem.settings.iterations = 200'000;  // times 61 * 12 floats are more than 16 MB
    OnDevice drawn(problem);
    const Found got = drawn.plan({.deadline_s = 1e-9});
    check_same(got, expected);
    CHECK(got.told.deadline_hit);
  }
}

TEST_CASE("risk, spread, trust and the world's term") {
  for (const Risk risk : {Risk::kMean, Risk::kMeanPlusStd, Risk::kCvar}) {
    Problem problem{settings_for(Method::kCem)};
    problem.world.spread = 0.1F;
    problem.samples = 6;
    problem.objective.risk = risk;
    problem.objective.alpha = 0.4;
    check_same(problem);
    problem.objective.world_weight = 0.5;
    problem.data.world_mean = varied(problem.world.dim, 0.2F);
    problem.data.world_whiten = varied(problem.world.dim * problem.world.dim, 0.4F);
    check_same(problem);
    problem.objective.spread_weight = 3.0;
    problem.objective.spread_discount = 0.9;
    problem.data.radius = {0.02F, 0.03F, 0.04F, 0.05F};
    check_same(problem);
    problem.objective.trust_horizon = true;
    problem.settings.candidates = 200;
    check_same(problem);
    CHECK(OnDevice(problem).plan().told.refused > 0);
  }
}

TEST_CASE("what diverges is counted and never an elite") {
  for (const Method method : kMethods) {
    Problem problem{settings_for(method)};
    problem.world.diverges_above = 2.0F;
    check_same(problem);
    const Found found = OnDevice(problem).plan();
    CHECK(found.told.diverged > 0);
    CHECK(found.told.status == PlanStatus::kOk);
    for (std::size_t h = 0; h < kHorizon; ++h) {
      CHECK(found.best_actions[h * kDim] <= 2.0F);
    }
  }
}

TEST_CASE("with too few finite energies nothing after that changes the result") {
  for (const Method method : kMethods) {
    // Around the mean, 1, about 1 in 8 is finite; and then none.
    for (const float limit : {1.5F, -1e6F}) {
      Problem problem{settings_for(method)};
      problem.settings.elites = 40;
      problem.settings.iterations = 4;
      problem.world.diverges_above = limit;
      check_same(problem);
      const auto status = OnDevice(problem).plan().told.status;
      CHECK((status == PlanStatus::kTooFewFinite) == (limit < 0.0F || method != Method::kMppi));
    }
  }
  // Enough of many candidates are finite, and then not enough of fewer.
  Problem later{settings_for(Method::kIcem)};
  later.settings.candidates = 200;
  later.settings.elites = 30;
  later.settings.population_decay = 3.0;
  later.settings.momentum = 0.9;
  later.settings.keep_elites = 2;
  later.world.diverges_above = 2.0F;
  check_same(later);
  const Found found = OnDevice(later).plan();
  CHECK(found.told.status == PlanStatus::kTooFewFinite);
  CHECK(found.told.iterations > 0);
  CHECK(found.told.iterations < 5);
  // All refused.
  Problem refused{settings_for(Method::kIcem)};
  refused.samples = 3;
  refused.world.spread = 1.0F;
  refused.objective.trust_horizon = true;
  refused.data.radius = std::vector<float>(kHorizon, 0.0F);
  check_same(refused);
  CHECK(OnDevice(refused).plan().told.status == PlanStatus::kNoTrustedCandidate);
}

TEST_CASE("a planner plans alike again, after failures and with other contexts") {
  Problem problem{settings_for(Method::kIcem)};
  problem.settings.population_decay = 1.3;
  OnDevice device(problem);
  const Found first = device.plan();
  const std::size_t captured = device.rollout.enqueued;
  // One graph per population, 61, 46, 36, 27, 21, 16, and a pass outside of it before.
  CHECK(captured == 2 * 6);
  const std::vector<float> bad(kHorizon * kDim, kNan);
  CHECK(device.plan({.initial = bad}).told.status == PlanStatus::kBadRequest);
  CHECK(device.plan({.initial = std::span(bad).first(2)}).told.status == PlanStatus::kBadRequest);
  const Found again = device.plan();
  CHECK(device.rollout.enqueued == captured);
  CHECK(again.actions == first.actions);
  CHECK(again.energies == first.energies);
  device.plan({}, 1);
  CHECK(device.rollout.enqueued == 2 * captured);
  CHECK(device.plan().actions == first.actions);
}

TEST_CASE("a deadline stops it after an iteration, with the result so far") {
  Problem problem{settings_for(Method::kCem)};
  OnDevice device(problem);
  const Found cut = device.plan({.deadline_s = 1e-9});
  CHECK(cut.told.deadline_hit);
  CHECK(cut.told.iterations == 1);
  const Found whole = device.plan({.deadline_s = 1e6});
  CHECK_FALSE(whole.told.deadline_hit);
  CHECK(whole.actions == device.plan().actions);
  problem.settings.iterations = 1;
  check_same(cut, on_cpu(problem));
  problem.world.diverges_above = -1e6F;
  check_same(problem, {.deadline_s = 1e6});
}

TEST_CASE("contexts and goals that do not fit end the plan before it starts") {
  const Problem problem{settings_for(Method::kCem)};
  OnDevice device(problem);
  const auto history = problem.history();
  const std::vector<float> past(kDim, 0.0F);
  const auto goals = problem.goals();
  const auto status = [&](const Context& context, std::span<const float> wanted) {
    const PlanResult result = device.planner.plan(context, wanted);
    CHECK(result.status == PlanStatus::kEvaluatorFailed);
    CHECK(result.iterations == 0);
    CHECK(result.actions.empty());
    return result.evaluator;
  };
  CHECK(status({history, past, kFrames}, {}) == Status::kBadShape);
  CHECK(status({history, past, kFrames}, varied(2 * goals.size(), 1.0F)) == Status::kBadShape);
  CHECK(status({history, past, kFrames, 2}, goals) == Status::kBadShape);
  CHECK(status({history, past, 9}, goals) == Status::kBadShape);
  CHECK(status({std::span(history).first(3), past, kFrames}, goals) == Status::kBadShape);
  const std::vector<float> bad(goals.size(), kNan);
  CHECK(status({history, past, kFrames}, bad) == Status::kNonFiniteInput);
  device.planner.reserve_goals(2);
  CHECK(device.planner.goal_capacity() == 2);
  Problem two = problem;
  two.goal_count = 2;
  device.problem = two;
  check_same(device.plan(), on_cpu(two));
}

TEST_CASE("actions beyond the largest number end the plan") {
  Problem problem{settings_for(Method::kCem)};
  problem.settings.init_std = 1e38;
  problem.settings.action_std = {1e38F, 1.0F, 1.0F};
  const Found found = OnDevice(problem).plan();
  CHECK(found.told.status == PlanStatus::kEvaluatorFailed);
  CHECK(found.told.evaluator == Status::kNonFiniteInput);
  CHECK(found.told.iterations == 0);
}

TEST_CASE("settings that contradict one another or the rollout are refused") {
  const Problem problem{settings_for(Method::kCem)};
  LinearRollout rollout(problem.world, {61, kHorizon, 1});
  const auto refused = [&](const PlannerSettings& settings, std::size_t samples = 1) {
    CHECK_THROWS_AS(Planner(settings, {}, {}, rollout, samples), std::invalid_argument);
  };
  for (const auto number : {&PlannerSettings::candidates, &PlannerSettings::horizon}) {
    PlannerSettings settings = problem.settings;
    settings.*number += 1;
    refused(settings);
  }
  PlannerSettings settings = problem.settings;
  settings.action_dim = 2;
  settings.action_mean = {0.0F, 0.0F};
  settings.action_std = {1.0F, 1.0F};
  refused(settings);
  settings = problem.settings;
  settings.elites = 1;
  refused(settings);
  refused(problem.settings, 2);
}
