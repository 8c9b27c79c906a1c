// SPDX-License-Identifier: Apache-2.0
// Agreement with numpy in float64: tests/test_planner.py.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include "jepa_edge/objective.hpp"
#include "support/allocation_counter.hpp"

namespace {

using jepa_edge::Distance;
using jepa_edge::LatentShape;
using jepa_edge::Objective;
using jepa_edge::ObjectiveData;
using jepa_edge::ObjectiveSettings;
using jepa_edge::Risk;

constexpr LatentShape kShape{.candidates = 1, .samples = 2, .horizon = 3, .tokens = 1, .dim = 2};
const std::vector<float> kGoal{0.0F, 0.0F};

/// Two futures of three steps: the second one strays from the first by 0, 2 and 4.
const std::vector<float> kLatents{1.0F, 0.0F, 2.0F, 0.0F, 3.0F, 0.0F,
                                  1.0F, 0.0F, 4.0F, 0.0F, 7.0F, 0.0F};

float energy_of(const ObjectiveSettings& settings, ObjectiveData data = {},
                const std::vector<float>& latents = kLatents,
                const std::vector<float>& goals = kGoal) {
  const Objective objective(settings, std::move(data), kShape);
  std::vector<float> scratch(objective.scratch_size());
  return objective.energy(latents, goals, scratch);
}

}  // namespace

TEST_CASE("the goal energy is averaged over the last steps and the futures") {
  CHECK(energy_of({}) == (9.0F + 49.0F) / 2.0F);
  CHECK(energy_of({.goal_steps = 2}) == doctest::Approx((9.0 + 4.0 + 49.0 + 16.0) / 4.0));
}

TEST_CASE("of several goals the nearest one counts") {
  CHECK(energy_of({}, {}, kLatents, {0.0F, 0.0F, 7.0F, 0.0F}) == (9.0F + 0.0F) / 2.0F);
}

TEST_CASE("absolute distances are averaged over what is compared") {
  constexpr LatentShape kPatches{
      .candidates = 1, .samples = 1, .horizon = 1, .tokens = 3, .dim = 2};
  const std::vector<float> latents{1.0F, -2.0F, 3.0F, -4.0F, 100.0F, 100.0F};
  const std::vector<float> goals(6, 0.0F);
  const auto of = [&](const ObjectiveSettings& settings) {
    const Objective objective(settings, {}, kPatches);
    std::vector<float> scratch(objective.scratch_size());
    return objective.energy(latents, goals, scratch);
  };
  CHECK(of({.distance = Distance::kAbsolute}) == doctest::Approx(210.0 / 6.0));
  CHECK(of({.distance = Distance::kAbsolute, .energy_tokens = 2}) == 2.5F);
  CHECK(of({.distance = Distance::kAbsolute, .energy_tokens = 2, .energy_dim = 1}) == 2.0F);
  CHECK(of({.energy_tokens = 2}) == 30.0F);
  CHECK(of({.energy_tokens = 2, .energy_dim = 1}) == 10.0F);
}

TEST_CASE("risk measures") {
  CHECK(energy_of({.risk = Risk::kCvar, .alpha = 0.5}) == 49.0F);
  CHECK(energy_of({.risk = Risk::kCvar, .alpha = 0.51}) == 29.0F);
  CHECK(energy_of({.risk = Risk::kMeanPlusStd, .kappa = 2.0}) ==
        doctest::Approx(29.0 + 2.0 * std::sqrt(800.0)));
  std::vector<float> thirty(30, 1.0F);
  thirty[3] = 4.0F;
  // 0.1 * 30 counts three futures, although it is a little above 3 in floating point.
  CHECK(jepa_edge::risk_of(thirty, {.risk = Risk::kCvar, .alpha = 0.1}) == 2.0);
}

TEST_CASE("the spread is the variance over futures per latent number that counts") {
  constexpr jepa_edge::ComparedPart kWhole{.runs = 1, .length = 2, .stride = 2};
  CHECK(jepa_edge::step_spread(kLatents, 2, 3, 0, kWhole) == 0.0);
  CHECK(jepa_edge::step_spread(kLatents, 2, 3, 1, kWhole) == doctest::Approx(1.0));
  CHECK(jepa_edge::step_spread(kLatents, 2, 3, 2, kWhole) == doctest::Approx(4.0));
  CHECK(jepa_edge::step_spread(kLatents, 1, 3, 2, kWhole) == 0.0);
  constexpr jepa_edge::ComparedPart kFirst{.runs = 1, .length = 1, .stride = 2};
  CHECK(jepa_edge::step_spread(kLatents, 2, 3, 2, kFirst) == doctest::Approx(8.0));
}

namespace {

/// Two futures of one step, 3 tokens of 3 channels; the last of each is the robot's own state,
/// which energies leave out.
constexpr LatentShape kState{.candidates = 1, .samples = 2, .horizon = 1, .tokens = 3, .dim = 3};
constexpr ObjectiveSettings kPart{.energy_tokens = 2, .energy_dim = 2};
const std::vector<float> kStates{1.0F, 0.0F, 900.0F, 3.0F, 0.0F, -7.0F, 500.0F, 600.0F, 1.0F,
                                 1.0F, 2.0F, -80.0F, 5.0F, 2.0F, 70.0F, -50.0F, 8.0F,   9.0F};

float energy_of_states(ObjectiveSettings settings, ObjectiveData data = {},
                       const std::vector<float>& latents = kStates) {
  settings.energy_tokens = kPart.energy_tokens;
  settings.energy_dim = kPart.energy_dim;
  const Objective objective(settings, std::move(data), kState);
  std::vector<float> scratch(objective.scratch_size());
  return objective.energy(latents, std::vector<float>(9, 0.0F), scratch);
}

}  // namespace

TEST_CASE("the world energy and the spread leave the robot's own state out") {
  const float goal = energy_of_states({});
  CHECK(goal == (10.0F + 34.0F) / 2.0F);
  ObjectiveData data{
      .radius = {}, .world_mean = {1.0F, 0.0F}, .world_whiten = {2.0F, 0.0F, 0.0F, 1.0F}};
  // Token means (2, 0) and (3, 2): ((2 (2 - 1))^2 + 0 + (2 (3 - 1))^2 + 2^2) / (2 futures * 2).
  CHECK(energy_of_states({.world_weight = 1.0}, data) == doctest::Approx(22.0 + 24.0 / 4.0));
  // Variances 0, 2, 2, 2 of the four numbers that count.
  CHECK(energy_of_states({.spread_weight = 1.0}, {.radius = {0.5F}}) ==
        doctest::Approx(22.0 + 1.0));
  CHECK(std::isfinite(energy_of_states({.trust_horizon = true}, {.radius = {1.5F}})));
}

TEST_CASE(
    "a state that is not a number makes the candidate diverge, though energies leave it out") {
  for (const std::size_t at : {2U, 6U, 8U, 14U, 17U}) {
    for (const float mark :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> latents = kStates;
      latents[at] = mark;
      CHECK(std::isnan(energy_of_states({}, {}, latents)));
      CHECK(std::isnan(energy_of_states({.risk = Risk::kCvar}, {}, latents)));
    }
  }
}

TEST_CASE("spread above the radius is charged, later steps less") {
  const ObjectiveSettings settings{.spread_weight = 10.0, .spread_discount = 0.5};
  CHECK(energy_of(settings, {.radius = {0.0F, 0.5F, 5.0F}}) ==
        doctest::Approx(29.0 + 10.0 * 0.25 * 0.5));
}

TEST_CASE("the horizon ends before the first step that is not trusted") {
  const ObjectiveSettings settings{.trust_horizon = true};
  CHECK(energy_of(settings, {.radius = {0.0F, 1.0F, 4.0F}}) == 29.0F);
  CHECK(energy_of(settings, {.radius = {0.0F, 1.0F, 3.9F}}) == (4.0F + 16.0F) / 2.0F);
  CHECK(energy_of(settings, {.radius = {0.0F, 0.9F, 9.0F}}) == 1.0F);
  CHECK(energy_of(settings, {.radius = {-1.0F, 9.0F, 9.0F}}) ==
        std::numeric_limits<float>::infinity());
  // Fewer trusted steps than goal_steps: as many as there are.
  CHECK(energy_of({.goal_steps = 3, .trust_horizon = true}, {.radius = {0.0F, 0.9F, 9.0F}}) ==
        1.0F);
}

TEST_CASE("the world energy is a whitened distance per dimension") {
  ObjectiveData data{
      .radius = {}, .world_mean = {1.0F, 0.0F}, .world_whiten = {2.0F, 0.0F, 0.0F, 1.0F}};
  // (2 * (x - 1))^2 / 2 of x = 1, 2, 3 and 1, 4, 7.
  const double world = (0.0 + 2.0 + 8.0 + 0.0 + 18.0 + 72.0) / 6.0;
  CHECK(energy_of({.world_weight = 0.5}, data) == doctest::Approx(29.0 + 0.5 * world));
  CHECK(energy_of({.world_weight = 0.5}, data, kLatents, {}) == doctest::Approx(0.5 * world));
}

TEST_CASE("a future that diverged makes the candidate diverge, never trusted or refused") {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity()};
  for (const float mark : bad) {
    std::vector<float> latents = kLatents;
    latents[4] = latents[2] = mark;
    CHECK(std::isnan(energy_of({}, {}, latents)));
    CHECK(std::isnan(energy_of({.risk = Risk::kCvar, .alpha = 0.5}, {}, latents)));
    CHECK(std::isnan(energy_of({.trust_horizon = true}, {.radius = {9.0F, 9.0F, 9.0F}}, latents)));
    CHECK(std::isnan(energy_of({.trust_horizon = true}, {.radius = {-1.0F, 9.0F, 9.0F}}, latents)));
    CHECK(std::isnan(energy_of({}, {}, latents, {0.0F, 0.0F, 1.0F, 1.0F})));
  }
  std::vector<float> huge = kLatents;
  huge[4] = 1e30F;  // its square is no float
  CHECK(std::isnan(energy_of({}, {}, huge)));
}

TEST_CASE("energies are computed without allocation") {
  ObjectiveSettings settings{.risk = Risk::kCvar,
                             .alpha = 0.5,
                             .world_weight = 1.0,
                             .spread_weight = 1.0,
                             .trust_horizon = true};
  const Objective objective(settings,
                            {.radius = {9.0F, 9.0F, 9.0F},
                             .world_mean = {0.0F, 0.0F},
                             .world_whiten = {1.0F, 0.0F, 0.0F, 1.0F}},
                            kShape);
  std::vector<float> scratch(objective.scratch_size());
  const jepa_edge::testing::AllocationCounter counter;
  const float energy = objective.energy(kLatents, kGoal, scratch);
  const std::size_t allocations = counter.count();
  CHECK(allocations == 0);
  CHECK(std::isfinite(energy));
}

TEST_CASE("objectives that lack their numbers are refused") {
  const auto refused = [](const ObjectiveSettings& settings, const ObjectiveData& data = {},
                          LatentShape shape = kShape) {
    CHECK_THROWS_AS(Objective(settings, data, shape), std::invalid_argument);
  };
  refused({.goal_steps = 0});
  refused({.goal_steps = 4});
  refused({.energy_tokens = 2});
  refused({.energy_dim = 3});
  refused({.alpha = 0.0});
  refused({.alpha = 1.1});
  refused({.kappa = -1.0});
  refused({.world_weight = 1.0});
  refused({.world_weight = 1.0, .energy_dim = 1},
          {.radius = {}, .world_mean = {0.0F, 0.0F}, .world_whiten = {1.0F, 0.0F, 0.0F, 1.0F}});
  refused({.spread_weight = 1.0});
  refused({.spread_discount = 0.0});
  refused({.trust_horizon = true}, {.radius = {1.0F, 1.0F}});
  LatentShape single = kShape;
  single.samples = 1;
  refused({.trust_horizon = true}, {.radius = {1.0F, 1.0F, 1.0F}}, single);
  single.dim = 0;
  refused({}, {}, single);
}
