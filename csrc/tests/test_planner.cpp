// SPDX-License-Identifier: Apache-2.0
// Agreement with stable-worldmodel's own solvers: tests/test_planner.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

#include "jepa_edge/planner.hpp"
#include "support/allocation_counter.hpp"

namespace {

using jepa_edge::Method;
using jepa_edge::Planner;
using jepa_edge::PlannerSettings;
using jepa_edge::PlanResult;
using jepa_edge::PlanStatus;
using jepa_edge::Status;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kHorizon = 4;
constexpr std::size_t kDim = 3;
constexpr std::size_t kSize = kHorizon * kDim;
constexpr auto kMethods = {Method::kCem, Method::kIcem, Method::kMppi};

PlannerSettings settings_for(Method method) {
  PlannerSettings settings;
  settings.method = method;
  settings.horizon = kHorizon;
  settings.action_dim = kDim;
  settings.candidates = 300;
  settings.elites = 30;
  settings.iterations = 40;
  settings.init_std = method == Method::kMppi ? 0.3 : 1.0;  // MPPI's does not shrink
  settings.action_mean = {10.0F, -5.0F, 0.0F};
  settings.action_std = {2.0F, 0.5F, 1.0F};
  settings.temperature = 0.05;
  settings.noise_beta = 0.5;
  return settings;
}

/// Where the energy below is least, raw units: within one standard deviation of the mean action.
float optimum(std::size_t i) {
  constexpr float kMean[] = {10.0F, -5.0F, 0.0F};
  constexpr float kStd[] = {2.0F, 0.5F, 1.0F};
  return kMean[i % kDim] + kStd[i % kDim] * 0.8F * std::sin(static_cast<float>(i));
}

/// Sum of squared z-scored distances to the optimum, unless a test says otherwise.
class Quadratic final : public jepa_edge::Evaluator {
 public:
  std::size_t calls = 0;
  std::size_t evaluated = 0;
  std::vector<float> first;  ///< actions of the first call
  bool record = false;
  std::function<float(std::size_t call, std::size_t candidate, float energy)> change;
  Status status = Status::kOk;
  std::chrono::milliseconds pause{0};

  Status evaluate(std::span<const float> actions, std::size_t candidates,
                  std::span<float> energies) noexcept override {
    constexpr float kStd[] = {2.0F, 0.5F, 1.0F};
    if (record && first.empty()) {
      first.assign(actions.begin(), actions.end());
    }
    for (std::size_t c = 0; c < candidates; ++c) {
      float total = 0.0F;
      for (std::size_t i = 0; i < kSize; ++i) {
        const float apart = (actions[c * kSize + i] - optimum(i)) / kStd[i % kDim];
        total += apart * apart;
      }
      energies[c] = change ? change(calls, c, total) : total;
    }
    if (pause.count() > 0) {
      std::this_thread::sleep_for(pause);
    }
    ++calls;
    evaluated += candidates;
    return status;
  }
};

std::vector<float> copied(std::span<const float> values) { return {values.begin(), values.end()}; }

}  // namespace

TEST_CASE("every method finds the optimum of a quadratic") {
  for (const Method method : kMethods) {
    CAPTURE(static_cast<int>(method));
    Planner planner(settings_for(method));
    Quadratic energy;
    const PlanResult result = planner.plan(energy);
    REQUIRE(result.status == PlanStatus::kOk);
    CHECK(result.iterations == 40);
    CHECK_FALSE(result.deadline_hit);
    CHECK(result.energies.size() == 40);
    CHECK(result.energies.back() < result.energies.front());
    const float tolerance = method == Method::kMppi ? 0.3F : 0.02F;
    for (std::size_t i = 0; i < kSize; ++i) {
      CHECK(std::abs(result.actions[i] - optimum(i)) < tolerance);
    }
    CHECK(result.evaluated == energy.evaluated);
    CHECK(result.evaluate_s <= result.time_s);
  }
}

TEST_CASE("the optimum outside of the limits is reached at the limits") {
  for (const Method method : {Method::kCem, Method::kIcem}) {
    PlannerSettings settings = settings_for(method);
    settings.low = {10.5F, -20.0F, -0.1F};
    settings.high = {12.0F, 20.0F, 0.1F};
    Planner planner(settings);
    Quadratic energy;
    energy.record = true;
    const PlanResult result = planner.plan(energy);
    REQUIRE(result.status == PlanStatus::kOk);
    for (std::size_t i = 0; i < kSize; ++i) {
      const float best = std::clamp(optimum(i), settings.low[i % kDim], settings.high[i % kDim]);
      CHECK(std::abs(result.actions[i] - best) < 0.02F);
    }
    for (std::size_t i = 0; i < energy.first.size(); ++i) {
      CHECK(energy.first[i] >= settings.low[i % kDim]);
      CHECK(energy.first[i] <= settings.high[i % kDim]);
    }
  }
}

TEST_CASE("candidate 0 is the mean, which starts where it is told") {
  PlannerSettings settings = settings_for(Method::kCem);
  settings.iterations = 1;
  Planner planner(settings);
  Quadratic cold;
  cold.record = true;
  planner.plan(cold);
  for (std::size_t i = 0; i < kSize; ++i) {
    CHECK(cold.first[i] == settings.action_mean[i % kDim]);
  }
  std::vector<float> initial(kSize);
  for (std::size_t i = 0; i < kSize; ++i) {
    initial[i] = optimum(i);
  }
  Quadratic warm;
  warm.record = true;
  const PlanResult result = planner.plan(warm, {.initial = initial, .deadline_s = {}});
  for (std::size_t i = 0; i < kSize; ++i) {
    CHECK(warm.first[i] == doctest::Approx(initial[i]).epsilon(1e-6));
  }
  CHECK(result.best_energy < 1e-10F);
}

TEST_CASE("ties go to the candidates of lower index") {
  PlannerSettings settings = settings_for(Method::kCem);
  settings.iterations = 1;
  Planner planner(settings);
  Quadratic flat;
  flat.record = true;
  flat.change = [](std::size_t, std::size_t, float) { return 7.0F; };
  const PlanResult result = planner.plan(flat);
  for (std::size_t i = 0; i < kSize; ++i) {
    double mean = 0.0;
    for (std::size_t k = 0; k < settings.elites; ++k) {
      mean += static_cast<double>(flat.first[k * kSize + i]);
    }
    mean /= static_cast<double>(settings.elites);
    CHECK(static_cast<double>(result.actions[i]) == doctest::Approx(mean).epsilon(1e-5));
  }
  CHECK(result.energies[0] == 7.0F);
}

TEST_CASE("diverged and refused candidates are never elites") {
  for (const Method method : kMethods) {
    CAPTURE(static_cast<int>(method));
    Planner planner(settings_for(method));
    Quadratic energy;
    energy.change = [](std::size_t, std::size_t candidate, float value) {
      constexpr float kMarks[] = {kNan, kInfinity, -kInfinity};
      return candidate % 4 == 1 ? kMarks[candidate / 4 % 3] : value;
    };
    const PlanResult result = planner.plan(energy);
    REQUIRE(result.status == PlanStatus::kOk);
    CHECK(std::all_of(result.energies.begin(), result.energies.end(),
                      [](float e) { return std::isfinite(e); }));
    CHECK(std::isfinite(result.best_energy));
    CHECK(result.refused > 0);
    CHECK(result.diverged > result.refused);
  }
}

TEST_CASE("too few finite energies end the plan with what came before") {
  PlannerSettings settings = settings_for(Method::kCem);
  Planner planner(settings);
  Quadratic energy;
  energy.change = [](std::size_t call, std::size_t candidate, float value) {
    return call == 3 && candidate >= 29 ? kNan : value;
  };
  const PlanResult result = planner.plan(energy);
  CHECK(result.status == PlanStatus::kTooFewFinite);
  CHECK(result.iterations == 3);
  CHECK(result.energies.size() == 3);
  CHECK(result.diverged == 271);
  settings.iterations = 3;
  Planner shorter(settings);
  Quadratic plain;
  CHECK(copied(result.actions) == copied(shorter.plan(plain).actions));
}

TEST_CASE("a plan of which every candidate is refused says so") {
  for (const Method method : kMethods) {
    Planner planner(settings_for(method));
    Quadratic energy;
    energy.change = [](std::size_t, std::size_t candidate, float) {
      return candidate == 5 ? kNan : kInfinity;
    };
    const PlanResult result = planner.plan(energy);
    CHECK(result.status == PlanStatus::kNoTrustedCandidate);
    CHECK(result.iterations == 0);
    CHECK(result.best_energy == kInfinity);
    CHECK(result.actions.size() == kSize);
  }
}

TEST_CASE("an evaluator that fails ends the plan, one with diverged futures does not") {
  Planner planner(settings_for(Method::kCem));
  Quadratic energy;
  energy.status = Status::kFailed;
  const PlanResult failed = planner.plan(energy);
  CHECK(failed.status == PlanStatus::kEvaluatorFailed);
  CHECK(failed.evaluator == Status::kFailed);
  CHECK(energy.calls == 1);
  energy.status = Status::kNonFiniteOutput;
  CHECK(planner.plan(energy).status == PlanStatus::kOk);
}

TEST_CASE("a deadline stops before an iteration that would not fit") {
  using std::chrono::milliseconds;
  Planner planner(settings_for(Method::kCem));
  Quadratic slow;
  slow.pause = milliseconds(10);
  const PlanResult result = planner.plan(slow, {.initial = {}, .deadline_s = 0.055});
  REQUIRE(result.status == PlanStatus::kOk);
  CHECK(result.deadline_hit);
  CHECK(result.iterations >= 1);
  CHECK(result.iterations <= 5);
  CHECK(result.energies.size() == result.iterations);

  // One iteration always runs.
  const PlanResult hurried = planner.plan(slow, {.initial = {}, .deadline_s = 0.0});
  CHECK(hurried.status == PlanStatus::kOk);
  CHECK(hurried.iterations == 1);
  CHECK(hurried.deadline_hit);

  Quadratic quick;
  CHECK_FALSE(planner.plan(quick, {.initial = {}, .deadline_s = 60.0}).deadline_hit);
}

TEST_CASE("a stopped plan is that of fewer iterations") {
  for (const Method method : kMethods) {
    PlannerSettings settings = settings_for(method);
    Planner planner(settings);
    Quadratic slow;
    slow.pause = std::chrono::milliseconds(5);
    const PlanResult stopped = planner.plan(slow, {.initial = {}, .deadline_s = 0.03});
    settings.iterations = stopped.iterations;
    Planner shorter(settings);
    Quadratic quick;
    CHECK(copied(shorter.plan(quick).actions) == copied(stopped.actions));
  }
}

TEST_CASE("planning allocates nothing") {
  for (const Method method : kMethods) {
    for (const std::size_t candidates : {std::size_t{300}, std::size_t{20000}}) {
      // The second has more noise than is stored.
      PlannerSettings settings = settings_for(method);
      settings.candidates = candidates;
      settings.low = {0.0F, -20.0F, -9.0F};
      settings.high = {20.0F, 20.0F, 9.0F};
      Planner planner(settings);
      Quadratic energy;
      const std::vector<float> initial(kSize, 1.0F);
      const jepa_edge::testing::AllocationCounter counter;
      const PlanResult result = planner.plan(energy, {.initial = initial, .deadline_s = 30.0});
      const std::size_t allocations = counter.count();
      CHECK(allocations == 0);
      CHECK(result.status == PlanStatus::kOk);
    }
  }
}

TEST_CASE("the seed decides the plan, bit for bit") {
  for (const Method method : kMethods) {
    PlannerSettings settings = settings_for(method);
    settings.iterations = 5;  // before they have converged to the same numbers
    Planner planner(settings);
    Planner same(settings);
    settings.seed = 1;
    Planner other(settings);
    Quadratic energy;
    const auto first = copied(planner.plan(energy).actions);
    CHECK(first == copied(planner.plan(energy).actions));
    CHECK(first == copied(same.plan(energy).actions));
    CHECK(first != copied(other.plan(energy).actions));
  }
}

TEST_CASE("noise drawn in every plan is the noise that is stored") {
  for (const Method method : kMethods) {
    PlannerSettings settings = settings_for(method);
    settings.candidates = 20000;  // 4 iterations fit into the store, 40 do not
    Planner drawing(settings);
    settings.iterations = 4;
    Planner storing(settings);
    Quadratic energy;
    const auto drawn = copied(drawing.plan(energy).energies);
    const auto stored = copied(storing.plan(energy).energies);
    CHECK(std::equal(stored.begin(), stored.end(), drawn.begin()));
  }
}

TEST_CASE("planners on several threads give the single-thread plan") {
  const PlannerSettings settings = settings_for(Method::kIcem);
  Planner planner(settings);
  Quadratic energy;
  const auto expected = copied(planner.plan(energy).actions);
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> threads;
  for (auto& plan : found) {
    threads.emplace_back([&plan, &settings] {
      Planner own(settings);
      Quadratic own_energy;
      plan = copied(own.plan(own_energy).actions);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const auto& plan : found) {
    CHECK(plan == expected);
  }
}

TEST_CASE("iCEM evaluates kept elites once and lets its population shrink") {
  PlannerSettings settings = settings_for(Method::kIcem);
  settings.iterations = 6;
  settings.population_decay = 1.25;
  Planner planner(settings);
  Quadratic energy;
  const PlanResult result = planner.plan(energy);
  std::size_t expected = 0;
  for (std::size_t i = 0; i < settings.iterations; ++i) {
    const auto shrunk = static_cast<std::size_t>(300.0 * std::pow(1.25, -static_cast<double>(i)));
    expected += std::max<std::size_t>(shrunk, 60) - (i > 0 ? settings.keep_elites : 0);
  }
  CHECK(energy.evaluated == expected);

  // Evaluating them again changes the cost of the plan, not the plan.
  settings.deterministic = false;
  Planner again(settings);
  Quadratic repeated;
  const PlanResult same = again.plan(repeated);
  CHECK(repeated.evaluated == expected + 5 * settings.keep_elites);
  CHECK(copied(result.actions) == copied(same.actions));
  CHECK(copied(result.energies) == copied(same.energies));
}

TEST_CASE("the best candidate is returned where asked for") {
  PlannerSettings settings = settings_for(Method::kCem);
  settings.returned = jepa_edge::Returned::kBest;
  settings.iterations = 3;
  Planner planner(settings);
  Quadratic energy;
  float least = kInfinity;
  energy.change = [&least](std::size_t, std::size_t, float value) {
    least = std::min(least, value);
    return value;
  };
  const PlanResult result = planner.plan(energy);
  CHECK(result.best_energy == least);
  CHECK(copied(result.actions) == copied(result.best_actions));
  Quadratic check;
  std::vector<float> once(1);
  check.evaluate(result.best_actions, 1, once);
  CHECK(once[0] == least);
}

TEST_CASE("spread is the elites' standard deviation per step") {
  PlannerSettings settings = settings_for(Method::kMppi);
  settings.iterations = 1;
  settings.elites = settings.candidates;
  Planner planner(settings);
  Quadratic energy;
  const PlanResult result = planner.plan(energy);
  REQUIRE(result.spread.size() == kHorizon);
  for (const float step : result.spread) {
    CHECK(step == doctest::Approx(0.3).epsilon(0.1));  // nothing was chosen yet
  }
}

TEST_CASE("a request that does not fit is refused") {
  Planner planner(settings_for(Method::kCem));
  Quadratic energy;
  const std::vector<float> shorter(kSize - 1);
  CHECK(planner.plan(energy, {.initial = shorter, .deadline_s = {}}).status ==
        PlanStatus::kBadRequest);
  const std::vector<float> broken(kSize, kNan);
  CHECK(planner.plan(energy, {.initial = broken, .deadline_s = {}}).status ==
        PlanStatus::kBadRequest);
  CHECK(energy.calls == 0);
}

TEST_CASE("contradicting settings are refused") {
  const auto refused = [](const std::function<void(PlannerSettings&)>& change,
                          Method method = Method::kCem) {
    PlannerSettings settings = settings_for(method);
    change(settings);
    CHECK_THROWS_AS(Planner{settings}, std::invalid_argument);
  };
  refused([](auto& s) { s.elites = 301; });
  refused([](auto& s) { s.elites = 1; });
  refused([](auto& s) { s.horizon = 0; });
  refused([](auto& s) { s.iterations = 0; });
  refused([](auto& s) { s.init_std = 0.0; });
  refused([](auto& s) { s.action_std[1] = 0.0F; });
  refused([](auto& s) { s.action_mean.pop_back(); });
  refused([](auto& s) { s.action_mean[0] = kNan; });
  refused([](auto& s) { s.low = {0.0F}; });
  refused([](auto& s) { s.low = s.high = {0.0F, 0.0F, 0.0F}; });
  refused([](auto& s) { s.keep_elites = 31; }, Method::kIcem);
  refused([](auto& s) { s.momentum = 1.0; }, Method::kIcem);
  refused([](auto& s) { s.population_decay = 0.9; }, Method::kIcem);
  refused([](auto& s) { s.noise_beta = std::nan(""); }, Method::kIcem);
  refused([](auto& s) { s.temperature = 0.0; }, Method::kMppi);
}

TEST_CASE("a plan moves ahead") {
  const std::vector<float> plan{1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F};
  const auto shifted = [&](std::size_t blocks, std::vector<float> fill = {}) {
    std::vector<float> moved = plan;
    jepa_edge::shift_plan(moved, 2, blocks, fill);
    return moved;
  };
  CHECK(shifted(0) == plan);
  CHECK(shifted(1) == std::vector<float>{3.0F, 4.0F, 5.0F, 6.0F, 5.0F, 6.0F});
  CHECK(shifted(2, {7.0F, 8.0F}) == std::vector<float>{5.0F, 6.0F, 7.0F, 8.0F, 7.0F, 8.0F});
  CHECK(shifted(9) == std::vector<float>{5.0F, 6.0F, 5.0F, 6.0F, 5.0F, 6.0F});
}
