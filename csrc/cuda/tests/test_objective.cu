// SPDX-License-Identifier: Apache-2.0
// Energies on the device against the CPU core's, whose own tests are csrc/tests/test_objective.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "linear_rollout.cuh"
#include "objective.hpp"

using jepa_edge::Distance;
using jepa_edge::LatentShape;
using jepa_edge::ObjectiveData;
using jepa_edge::ObjectiveSettings;
using jepa_edge::Risk;
using jepa_edge::Status;
using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::Stream;
using jepa_edge::cuda::testing::downloaded;
using jepa_edge::cuda::testing::varied;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr LatentShape kShape{11, 5, 4, 3, 7};
constexpr std::size_t kLatent = kShape.tokens * kShape.dim;
constexpr std::size_t kFutures = kShape.samples * kShape.horizon * kLatent;

ObjectiveData data_for(const ObjectiveSettings& settings) {
  const std::size_t dim = settings.energy_dim == 0 ? kShape.dim : settings.energy_dim;
  // Spreads of `latents` are about 0.5 in their first steps: some exceed these, some do not.
  return {.radius = {0.45F, 0.5F, 0.45F, 0.5F},
          .world_mean = varied(dim, 0.3F),
          .world_whiten = varied(dim * dim, 0.5F)};
}

std::vector<float> latents() {
  std::vector<float> values(kShape.candidates * kFutures);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(std::sin(static_cast<double>(i * i % 1009)));
  }
  return values;
}

std::vector<float> on_device(const ObjectiveSettings& settings, const std::vector<float>& values,
                             const std::vector<float>& goals) {
  jepa_edge::cuda::Objective objective(settings, data_for(settings), kShape,
                                       goals.size() / kLatent);
  const Stream stream;
  DeviceBuffer<float> input(values.size());
  const DeviceBuffer<float> energies(kShape.candidates);
  input.upload(values);
  REQUIRE(objective.set_goals(goals, stream) == Status::kOk);
  objective.enqueue(input.data(), kShape.candidates, energies.data(), stream);
  stream.wait();
  return downloaded(energies.data(), kShape.candidates);
}

std::vector<float> on_cpu(const ObjectiveSettings& settings, const std::vector<float>& values,
                          const std::vector<float>& goals) {
  const jepa_edge::Objective objective(settings, data_for(settings), kShape);
  std::vector<float> scratch(objective.scratch_size());
  std::vector<float> energies;
  for (std::size_t c = 0; c < kShape.candidates; ++c) {
    energies.push_back(
        objective.energy(std::span(values).subspan(c * kFutures, kFutures), goals, scratch));
  }
  return energies;
}

void check_equal(const ObjectiveSettings& settings, const std::vector<float>& values,
                 std::size_t goal_count = 1) {
  const std::vector<float> goals = varied(goal_count * kLatent, 0.7F);
  const auto got = on_device(settings, values, goals);
  const auto expected = on_cpu(settings, values, goals);
  for (std::size_t c = 0; c < kShape.candidates; ++c) {
    CAPTURE(c);
    if (std::isfinite(expected[c])) {
      CHECK(got[c] == doctest::Approx(expected[c]).epsilon(1e-5));
    } else {
      CHECK(std::isnan(got[c]) == std::isnan(expected[c]));
      CHECK((got[c] == kInfinity) == (expected[c] == kInfinity));
    }
  }
}

}  // namespace

TEST_CASE("distances, compared parts, goals and goal steps") {
  const auto values = latents();
  for (const Distance distance : {Distance::kSquares, Distance::kAbsolute}) {
    for (const auto& [tokens, dim] : {std::pair<std::size_t, std::size_t>{0, 0}, {2, 0}, {2, 4}}) {
      for (const std::size_t goals : {1U, 3U}) {
        check_equal(
            {.goal_steps = goals, .distance = distance, .energy_tokens = tokens, .energy_dim = dim},
            values, goals);
      }
    }
  }
}

TEST_CASE("risk measures") {
  const auto values = latents();
  for (const Risk risk : {Risk::kMean, Risk::kMeanPlusStd, Risk::kCvar}) {
    for (const double alpha : {0.1, 0.4, 1.0}) {
      check_equal({.goal_steps = 2, .risk = risk, .kappa = 1.5, .alpha = alpha}, values);
    }
  }
}

TEST_CASE("the world's and the spread's terms, and the trusted horizon") {
  const auto values = latents();
  check_equal({.world_weight = 0.7}, values);
  check_equal({.world_weight = 0.7, .energy_tokens = 1, .energy_dim = 5}, values);
  check_equal({.spread_weight = 2.0, .spread_discount = 0.9}, values);
  ObjectiveSettings trusting{.goal_steps = 2, .risk = Risk::kCvar, .alpha = 0.5};
  trusting.world_weight = 0.5;
  trusting.spread_weight = 0.1;
  trusting.trust_horizon = true;
  check_equal(trusting, values);
  const auto energies = on_cpu(trusting, values, varied(kLatent, 0.7F));
  CHECK(std::count(energies.begin(), energies.end(), kInfinity) > 0);
  CHECK(std::count(energies.begin(), energies.end(), kInfinity) < 11);
}

TEST_CASE("what is not finite marks its own candidate") {
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    for (const Risk risk : {Risk::kMean, Risk::kCvar}) {
      auto values = latents();
      const std::size_t last = (kShape.horizon - 1) * kLatent;
      values[2 * kFutures + last] = bad;                // compared
      values[4 * kFutures + last + kLatent - 1] = bad;  // a token that is not
      values[6 * kFutures + last + 6] = bad;            // a channel that is not
      values[8 * kFutures] = bad;                       // a step that is not
      for (const auto& [tokens, dim] : {std::pair<std::size_t, std::size_t>{0, 0}, {2, 4}}) {
        const ObjectiveSettings settings{
            .risk = risk, .alpha = 0.2, .energy_tokens = tokens, .energy_dim = dim};
        check_equal(settings, values);
        const auto energies = on_device(settings, values, varied(kLatent, 0.7F));
        for (std::size_t c = 0; c < kShape.candidates; ++c) {
          CHECK(std::isnan(energies[c]) == (c == 2 || c == 4 || c == 6));
        }
      }
      check_equal({.risk = risk, .alpha = 0.2, .spread_weight = 1.0}, values);
      check_equal({.risk = risk, .alpha = 0.2, .world_weight = 1.0}, values);
    }
  }
}

TEST_CASE("goals beyond the memory, or that are not finite, are refused") {
  jepa_edge::cuda::Objective objective({}, {}, kShape, 1);
  const Stream stream;
  CHECK(objective.set_goals({}, stream) == Status::kBadShape);
  CHECK(objective.set_goals(varied(kLatent + 1, 1.0F), stream) == Status::kBadShape);
  CHECK(objective.set_goals(varied(2 * kLatent, 1.0F), stream) == Status::kBadShape);
  CHECK(objective.set_goals(std::vector<float>(kLatent, kNan), stream) == Status::kNonFiniteInput);
  objective.reserve_goals(2);
  CHECK(objective.goal_capacity() == 2);
  CHECK(objective.set_goals(varied(2 * kLatent, 1.0F), stream) == Status::kOk);
  stream.wait();
  CHECK_THROWS_AS(jepa_edge::cuda::Objective({.goal_steps = 9}, {}, kShape), std::invalid_argument);
}
