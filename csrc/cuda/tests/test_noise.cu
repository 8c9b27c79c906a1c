// SPDX-License-Identifier: Apache-2.0
// Noise on the device against the CPU core's, whose own tests are
// csrc/tests/test_latent_variable.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "linear_rollout.cuh"
#include "noise.hpp"

using jepa_edge::LatentVariable;
using jepa_edge::Limits;
using jepa_edge::NamedArrays;
using jepa_edge::Status;
using jepa_edge::StepRows;
using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::Stream;
using jepa_edge::cuda::testing::downloaded;
using jepa_edge::cuda::testing::varied;

namespace {

constexpr std::size_t kDim = 6;
constexpr std::size_t kRank = 2;
constexpr std::size_t kAction = 3;
constexpr std::size_t kFitted = 2;  ///< steps
constexpr std::size_t kTokens = 3;
constexpr std::size_t kLatent = kTokens * kDim;
constexpr std::size_t kInputs = 2 * kDim + kAction + kFitted;

/// A latent variable with heads that react, of two hidden layers or of none.
struct Arrays {
  std::map<std::string, std::vector<float>> values;
  NamedArrays named;

  explicit Arrays(std::size_t hidden) {
    add("base", {kFitted, kDim}, 0.3F, 1.0F);
    add("factor", {kDim, kRank}, 0.5F);
    add("gain", {kFitted}, 0.2F, 0.8F);
    add("scale_head.center", {kInputs}, 0.3F);
    add("scale_head.scale", {kInputs}, 0.2F, 0.5F);
    std::vector<std::size_t> widths{kInputs};
    if (hidden > 0) {
      widths.insert(widths.end(), {hidden, hidden / 2});
    }
    widths.push_back(kDim + kRank);
    for (std::size_t layer = 0; layer + 1 < widths.size(); ++layer) {
      const std::string name = "scale_head." + std::to_string(layer);
      const auto in = static_cast<float>(widths[layer]);
      add(name + ".weight", {widths[layer], widths[layer + 1]}, 2.0F / std::sqrt(in));
      add(name + ".bias", {widths[layer + 1]}, 0.2F);
    }
  }

  void add(const std::string& name, const std::vector<std::size_t>& shape, float size,
           float middle = 0.0F) {
    std::size_t count = 1;
    for (const std::size_t extent : shape) {
      count *= extent;
    }
    auto& place = values[name] = varied(count, size);
    for (float& value : place) {
      value += middle;
    }
    named[name] = {shape, place};
  }
};

/// One step of both backends on rows of `stride` floats apart.
void check_step(const Arrays& arrays, std::size_t candidates, std::size_t samples, std::size_t step,
                std::size_t horizon) {
  CAPTURE(candidates);
  CAPTURE(samples);
  CAPTURE(step);
  const Limits limits{candidates, horizon, samples};
  const std::size_t stride = horizon * kLatent;
  const std::size_t rows = candidates * samples;
  auto latents = varied(rows * stride, 1.0F);
  const auto history = varied(kLatent, 0.9F);
  const auto actions = varied(candidates * horizon * kAction, 1.3F);
  if (step == 0) {  // samples share the prediction
    for (std::size_t row = 0; row < rows; ++row) {
      std::copy_n(latents.begin() + static_cast<std::ptrdiff_t>(row / samples * samples * stride),
                  kLatent, latents.begin() + static_cast<std::ptrdiff_t>(row * stride));
    }
  }
  DeviceBuffer<float> on_device(latents.size());
  DeviceBuffer<float> seen(history.size());
  DeviceBuffer<float> taken(actions.size());
  on_device.upload(latents);
  seen.upload(history);
  taken.upload(actions);
  jepa_edge::cuda::LatentNoise noise(arrays.named, kTokens, limits);
  noise.draw(77, samples, horizon);
  const Stream stream;
  noise.enqueue(step, candidates, samples, on_device.data() + step * kLatent, stride,
                step == 0 ? seen.data() : on_device.data() + (step - 1) * kLatent,
                step == 0 ? 0 : stride, 1, taken.data() + step * kAction, horizon * kAction,
                stream.get());
  stream.wait();
  const auto got = downloaded(on_device.data(), latents.size());

  const auto before = latents;
  jepa_edge::LatentNoise core(std::make_shared<const LatentVariable>(arrays.named), kTokens,
                              limits);
  REQUIRE(core.draw(77, samples, horizon) == Status::kOk);
  StepRows given{};
  given.step = step;
  given.candidates = candidates;
  given.samples = samples;
  given.latents = latents.data() + step * kLatent;
  given.stride = stride;
  given.before = step == 0 ? history.data() : before.data() + (step - 1) * kLatent;
  given.before_stride = step == 0 ? 0 : stride;
  given.before_divisor = 1;
  given.actions = actions.data() + step * kAction;
  given.action_stride = horizon * kAction;
  core.apply(given);
  float moved = 0.0F;
  for (std::size_t i = 0; i < latents.size(); ++i) {
    REQUIRE(std::abs(got[i] - latents[i]) <= 1e-5F * (1.0F + std::abs(latents[i])));
    moved = std::max(moved, std::abs(latents[i] - before[i]));
  }
  CHECK(moved > 0.3F);
}

}  // namespace

TEST_CASE("it adds the core's noise") {
  for (const std::size_t hidden : {0U, 10U}) {
    const Arrays arrays(hidden);
    for (const std::size_t step : {0U, 1U, 3U}) {
      check_step(arrays, 5, 4, step, 4);
      check_step(arrays, 1, 1, step, 4);
      check_step(arrays, 3, 2, step, 4);
    }
  }
}

TEST_CASE("heads too wide for eight rows at a time take one, and wider ones are refused") {
  check_step(Arrays(900), 3, 2, 1, 2);
  CHECK_THROWS_AS(jepa_edge::cuda::LatentNoise(Arrays(7000).named, kTokens, {1, 1, 1}),
                  std::invalid_argument);
}

TEST_CASE("a future that diverged stays so, alone") {
  const Arrays arrays(10);
  jepa_edge::cuda::LatentNoise noise(arrays.named, kTokens, {3, 2, 2});
  noise.draw(1, 2, 2);
  auto latents = varied(3 * 2 * 2 * kLatent, 1.0F);
  latents[2 * kLatent] = std::numeric_limits<float>::quiet_NaN();  // row 1, what step 1 starts from
  DeviceBuffer<float> on_device(latents.size());
  DeviceBuffer<float> actions(3 * 2 * kAction);
  on_device.upload(latents);
  actions.upload(varied(3 * 2 * kAction, 1.0F));
  const Stream stream;
  noise.enqueue(1, 3, 2, on_device.data() + kLatent, 2 * kLatent, on_device.data(), 2 * kLatent, 1,
                actions.data() + kAction, 2 * kAction, stream.get());
  stream.wait();
  const auto got = downloaded(on_device.data(), latents.size());
  for (std::size_t row = 0; row < 6; ++row) {
    for (std::size_t i = 0; i < kLatent; ++i) {
      // The head of the row's first token saw it, and no other.
      CHECK(std::isnan(got[(2 * row + 1) * kLatent + i]) == (row == 1 && i < kDim));
    }
  }
}

TEST_CASE("what was not drawn, or is no latent variable, is refused") {
  Arrays arrays(10);
  jepa_edge::cuda::LatentNoise noise(arrays.named, kTokens, {2, 3, 4});
  CHECK(noise.sizes().rank == kRank);
  CHECK(noise.tokens() == kTokens);
  CHECK_THROWS_AS(noise.draw(0, 5, 3), std::invalid_argument);
  CHECK_THROWS_AS(noise.draw(0, 4, 4), std::invalid_argument);
  CHECK_THROWS_AS(noise.draw(0, 0, 1), std::invalid_argument);
  noise.draw(0, 4, 2);
  const DeviceBuffer<float> room(2 * 4 * kLatent);
  const Stream stream;
  const auto add = [&](std::size_t step, std::size_t samples) {
    noise.enqueue(step, 2, samples, room.data(), kLatent, room.data(), 0, 1, room.data(), 0,
                  stream.get());
  };
  CHECK_THROWS_AS(add(2, 4), std::invalid_argument);
  CHECK_THROWS_AS(add(0, 3), std::invalid_argument);
  arrays.named.erase("gain");
  CHECK_THROWS_AS(jepa_edge::cuda::LatentNoise(arrays.named, kTokens, {2, 3, 4}),
                  std::invalid_argument);
}
