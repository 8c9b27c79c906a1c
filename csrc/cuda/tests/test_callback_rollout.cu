// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstddef>
#include <limits>
#include <stdexcept>
#include <vector>

#include "callback_rollout.hpp"
#include "linear_rollout.cuh"
#include "planner.hpp"

using jepa_edge::Context;
using jepa_edge::Limits;
using jepa_edge::Status;
using jepa_edge::cuda::blocks_for;
using jepa_edge::cuda::CallbackRollout;
using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::launch;
using jepa_edge::cuda::Stream;
using namespace jepa_edge::cuda::testing;

namespace {

constexpr std::size_t kWindow = 3;
constexpr std::size_t kTokens = 2;
constexpr std::size_t kDim = 4;
constexpr std::size_t kAction = 2;
constexpr std::size_t kLatent = kTokens * kDim;
constexpr jepa_edge::cuda::RolloutSizes kSizes{kWindow, kTokens, kDim, kAction};

/// Every frame and every action of the window counts differently.
__host__ __device__ float predicted(const float* history, const float* actions, std::size_t i) {
  float value = 0.0F;
  for (std::size_t t = 0; t < kWindow; ++t) {
    const auto weight = 0.25F * static_cast<float>(t + 1);
    value += weight * history[t * kLatent + i];
    for (std::size_t a = 0; a < kAction; ++a) {
      value += weight * static_cast<float>(a + 1) * actions[t * kAction + a];
    }
  }
  return value;
}

__global__ void predict_kernel(const float* history, const float* actions, float* out,
                               std::size_t rows) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place < rows * kLatent) {
    const std::size_t row = place / kLatent;
    out[place] = predicted(history + row * kWindow * kLatent, actions + row * kWindow * kAction,
                           place % kLatent);
  }
}

void predict(const float* history, const float* actions, float* out, std::size_t rows,
             cudaStream_t stream) {
  launch(predict_kernel, {dim3(blocks_for(rows * kLatent, 32)), dim3(32)}, stream, history, actions,
         out, rows);
}

/// jepa_edge/rollout.py's roll for one future, with a window that has its full length at once.
std::vector<float> rolled(std::vector<float> window, std::vector<float> actions,
                          const LinearWorld* noisy, std::size_t sample) {
  const std::size_t horizon = actions.size() / kAction - (kWindow - 1);
  std::vector<float> future;
  for (std::size_t step = 0; step < horizon; ++step) {
    const float* taken = actions.data() + step * kAction;
    std::vector<float> next(kLatent);
    for (std::size_t i = 0; i < kLatent; ++i) {
      next[i] = predicted(window.data(), taken, i);
      if (noisy != nullptr) {
        next[i] += noisy->noise(sample, i, taken + (kWindow - 1) * kAction);
      }
    }
    window.erase(window.begin(), window.begin() + kLatent);
    window.insert(window.end(), next.begin(), next.end());
    future.insert(future.end(), next.begin(), next.end());
  }
  return future;
}

}  // namespace

TEST_CASE("the window slides over context, predictions and actions as the reference's does") {
  constexpr std::size_t kCandidates = 5;
  constexpr std::size_t kHorizon = 6;
  LinearWorld world{.tokens = kTokens, .dim = kDim, .action_dim = kAction};
  world.spread = 0.1F;
  LinearNoise noise(world);
  const auto history = varied(kWindow * kLatent, 1.0F);
  const auto past = varied((kWindow - 1) * kAction, 0.5F);
  const auto actions = varied(kCandidates * kHorizon * kAction, 0.7F);
  for (const std::size_t samples : {1U, 3U}) {
    CallbackRollout rollout(kSizes, {kCandidates + 1, kHorizon + 1, samples}, predict);
    const Stream stream;
    REQUIRE(rollout.set_context({history, past, kWindow}, stream) == Status::kOk);
    DeviceBuffer<float> given(actions.size());
    given.upload(actions);
    const DeviceBuffer<float> latents(kCandidates * samples * kHorizon * kLatent);
    rollout.enqueue(kWindow, given.data(), kCandidates, kHorizon, samples,
                    samples > 1 ? &noise : nullptr, latents.data(), stream);
    stream.wait();
    const auto got = downloaded(latents.data(), latents.size());
    for (std::size_t row = 0; row < kCandidates * samples; ++row) {
      auto taken = past;
      const auto own =
          actions.begin() + static_cast<std::ptrdiff_t>(row / samples * kHorizon * kAction);
      taken.insert(taken.end(), own, own + kHorizon * kAction);
      const auto expected = rolled(history, taken, samples > 1 ? &world : nullptr, row % samples);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        CHECK(got[row * expected.size() + i] == doctest::Approx(expected[i]).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("a planner captures somebody else's predictor") {
  std::size_t calls = 0;
  jepa_edge::PlannerSettings settings;
  settings.horizon = 2;
  settings.action_dim = kAction;
  settings.candidates = 32;
  settings.elites = 6;
  settings.iterations = 5;
  settings.action_mean = {0.0F, 0.0F};
  settings.action_std = {1.0F, 1.0F};
  CallbackRollout rollout(kSizes, {32, 2}, [&](auto... arguments) {
    ++calls;
    predict(arguments...);
  });
  jepa_edge::cuda::Planner planner(settings, {}, {}, rollout);
  const auto history = varied(kWindow * kLatent, 1.0F);
  const auto past = varied((kWindow - 1) * kAction, 0.5F);
  std::vector<float> taken = past;
  const std::vector<float> wanted{0.4F, -0.6F, 0.3F, 0.8F};
  taken.insert(taken.end(), wanted.begin(), wanted.end());
  const auto future = rolled(history, taken, nullptr, 0);
  const std::vector<float> goal(future.end() - kLatent, future.end());
  const auto result = planner.plan({history, past, kWindow}, goal);
  REQUIRE(result.status == jepa_edge::PlanStatus::kOk);
  // One pass outside of a graph and one to capture, a call for each of the two steps.
  CHECK(calls == 4);
  CHECK(result.energies.back() < 0.1F * result.energies.front());
  std::vector<float> found = past;
  found.insert(found.end(), result.best_actions.begin(), result.best_actions.end());
  const auto reached = rolled(history, found, nullptr, 0);
  float energy = 0.0F;
  for (std::size_t i = 0; i < kLatent; ++i) {
    const float apart = reached[kLatent + i] - goal[i];
    energy += apart * apart;
  }
  CHECK(energy == doctest::Approx(result.best_energy).epsilon(1e-3));
  planner.plan({history, past, kWindow}, goal);
  CHECK(calls == 4);
}

TEST_CASE("what a predictor throws reaches the caller, who may plan again") {
  bool fails = true;
  jepa_edge::PlannerSettings settings;
  settings.horizon = 2;
  settings.action_dim = kAction;
  settings.candidates = 8;
  settings.elites = 2;
  settings.iterations = 2;
  settings.action_mean = {0.0F, 0.0F};
  settings.action_std = {1.0F, 1.0F};
  CallbackRollout rollout(kSizes, {8, 2}, [&](auto... arguments) {
    if (fails) {
      throw std::runtime_error("no engine");
    }
    predict(arguments...);
  });
  jepa_edge::cuda::Planner planner(settings, {}, {}, rollout);
  const auto history = varied(kWindow * kLatent, 1.0F);
  const auto past = varied((kWindow - 1) * kAction, 0.5F);
  const auto goal = varied(kLatent, 1.0F);
  CHECK_THROWS_WITH_AS(planner.plan({history, past, kWindow}, goal), "no engine",
                       std::runtime_error);
  fails = false;
  CHECK(planner.plan({history, past, kWindow}, goal).status == jepa_edge::PlanStatus::kOk);
}

TEST_CASE("contexts and sizes that do not fit are refused") {
  CallbackRollout rollout(kSizes, {2, 2}, predict);
  const Stream stream;
  const auto history = varied(kWindow * kLatent, 1.0F);
  const auto past = varied((kWindow - 1) * kAction, 0.5F);
  const auto shown = std::span(history);
  CHECK(rollout.set_context({shown.first(2 * kLatent), std::span(past).first(kAction), 2},
                            stream) == Status::kBadShape);
  CHECK(rollout.set_context({history, std::span(past).first(1), kWindow}, stream) ==
        Status::kBadShape);
  auto bad = past;
  bad[1] = std::numeric_limits<float>::infinity();
  CHECK(rollout.set_context({history, bad, kWindow}, stream) == Status::kNonFiniteInput);
  const DeviceBuffer<float> room(64);
  CHECK_THROWS_AS(rollout.enqueue(kWindow, room.data(), 3, 2, 1, nullptr, room.data(), stream),
                  std::invalid_argument);
  CHECK_THROWS_AS(rollout.enqueue(kWindow, room.data(), 1, 2, 2, nullptr, room.data(), stream),
                  std::invalid_argument);
  CHECK_THROWS_AS(rollout.enqueue(1, room.data(), 1, 2, 1, nullptr, room.data(), stream),
                  std::invalid_argument);
  CHECK_THROWS_AS(CallbackRollout(kSizes, {0, 2}, predict), std::invalid_argument);
  CHECK_THROWS_AS(CallbackRollout(kSizes, {1, 2}, nullptr), std::invalid_argument);
}
