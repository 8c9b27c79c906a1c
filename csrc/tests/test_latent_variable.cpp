// SPDX-License-Identifier: Apache-2.0
// Against the Python class that defines it: tests/test_latent_noise.py. Here: closed forms, memory
// and threads, for the sanitizers and for other processors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "jepa_edge/latent_variable.hpp"
#include "jepa_edge/random.hpp"
#include "jepa_edge/safetensors.hpp"
#include "jepa_edge/thread_pool.hpp"
#include "support/allocation_counter.hpp"
#include "support/temporary_file.hpp"

using jepa_edge::LatentNoise;
using jepa_edge::LatentVariable;
using jepa_edge::Limits;
using jepa_edge::Status;
using jepa_edge::StepRows;

namespace {

constexpr std::size_t kDim = 3;
constexpr std::size_t kRank = 2;
constexpr std::size_t kAction = 2;
constexpr std::size_t kSteps = 2;
constexpr std::size_t kInputs = 2 * kDim + kAction + kSteps;
constexpr std::size_t kHidden = 5;
constexpr std::size_t kMembers = 3;
constexpr std::size_t kTokens = 2;

using Tensors = std::vector<jepa_edge::testing::NamedTensor>;

/// Numbers that differ, times `size`.
std::vector<float> varied(std::size_t count, float size) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = size * std::sin(1.0F + 2.0F * static_cast<float>(i));
  }
  return values;
}

/// weight: size of the heads' weights; 0 makes every log variance 0.
Tensors tensors(float weight) {
  const std::vector<float> zeros(kInputs, 0.0F);
  const std::vector<float> ones(kInputs, 1.0F);
  const auto w = [&](std::size_t count) { return varied(count, weight); };
  return {
      {"base", {kSteps, kDim}, {1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F}},
      {"factor", {kDim, kRank}, {1.0F, 0.0F, 0.0F, 0.5F, 0.25F, 0.0F}},
      {"gain", {kSteps}, {1.0F, 0.5F}},
      {"scale_head.center", {kInputs}, zeros},
      {"scale_head.scale", {kInputs}, ones},
      {"scale_head.0.weight", {kInputs, kHidden}, w(kInputs * kHidden)},
      {"scale_head.0.bias", {kHidden}, w(kHidden)},
      {"scale_head.1.weight", {kHidden, kDim + kRank}, w(kHidden * (kDim + kRank))},
      {"scale_head.1.bias", {kDim + kRank}, w(kDim + kRank)},
      {"mean_heads.center", {kInputs}, zeros},
      {"mean_heads.scale", {kInputs}, ones},
      {"mean_heads.0.weight", {kMembers, kInputs, kDim}, w(kMembers * kInputs * kDim)},
      {"mean_heads.0.bias", {kMembers, 1, kDim}, varied(kMembers * kDim, 1.0F)},
  };
}

std::shared_ptr<const LatentVariable> variable(const Tensors& given) {
  jepa_edge::NamedArrays arrays;
  for (const auto& tensor : given) {
    arrays[tensor.name] = {tensor.shape, tensor.values};
  }
  return std::make_shared<const LatentVariable>(arrays);
}

/// A batch of rows, ready to be handed to `apply` in pieces.
struct Batch {
  std::size_t candidates, samples;
  std::vector<float> before, actions, latents;

  Batch(std::size_t candidates_, std::size_t samples_)
      : candidates(candidates_),
        samples(samples_),
        before(varied(candidates * samples * kTokens * kDim, 1.0F)),
        actions(varied(candidates * kAction, 2.0F)),
        latents(varied(candidates * samples * kTokens * kDim, 3.0F)) {}

  StepRows rows(std::size_t first, std::size_t count, std::size_t step, std::size_t worker = 0) {
    constexpr std::size_t kLatent = kTokens * kDim;
    StepRows rows{};
    rows.worker = worker;
    rows.step = step;
    rows.candidate = first;
    rows.candidates = count;
    rows.samples = samples;
    rows.latents = latents.data() + first * samples * kLatent;
    rows.stride = kLatent;
    rows.before = before.data() + first * samples * kLatent;
    rows.before_stride = kLatent;
    rows.before_divisor = 1;
    rows.actions = actions.data() + first * kAction;
    rows.action_stride = kAction;
    return rows;
  }
};

}  // namespace

TEST_CASE("with constant heads the noise is gain * base * (z + factor z'), z as documented") {
  LatentNoise noise(variable(tensors(0.0F)), kTokens, {2, kSteps, 3});
  REQUIRE(noise.draw(7, 3, kSteps) == Status::kOk);
  constexpr std::size_t kColumns = kTokens * (kDim + kRank);
  for (std::size_t step = 0; step < kSteps; ++step) {
    std::vector<float> z(3 * kColumns);
    jepa_edge::standard_normal(7, step, z);
    for (std::size_t c = 0; c < kColumns; ++c) {
      double mean = 0.0;
      double square = 0.0;
      for (std::size_t s = 0; s < 3; ++s) mean += static_cast<double>(z[s * kColumns + c]) / 3.0;
      for (std::size_t s = 0; s < 3; ++s) {
        square += std::pow(static_cast<double>(z[s * kColumns + c]) - mean, 2.0) / 2.0;
      }
      for (std::size_t s = 0; s < 3; ++s) {
        float& value = z[s * kColumns + c];
        value = static_cast<float>((static_cast<double>(value) - mean) / std::sqrt(square));
      }
    }
    Batch batch(2, 3);
    const std::vector<float> predicted = batch.latents;
    noise.apply(batch.rows(0, 2, step));
    const float gain = step == 0 ? 1.0F : 0.5F;
    for (std::size_t row = 0; row < 6; ++row) {
      for (std::size_t token = 0; token < kTokens; ++token) {
        const float* own = z.data() + row % 3 * kColumns + token * (kDim + kRank);
        const float drawn[kDim] = {own[0] + own[3], own[1] + 0.5F * own[4],
                                   own[2] + 0.25F * own[3]};
        for (std::size_t d = 0; d < kDim; ++d) {
          const std::size_t at = (row * kTokens + token) * kDim + d;
          const float expected = gain * static_cast<float>(d + 1) * drawn[d];
          CHECK(batch.latents[at] - predicted[at] == doctest::Approx(expected).epsilon(1e-4));
        }
      }
    }
  }
}

TEST_CASE("neither draw nor apply allocates") {
  LatentNoise noise(variable(tensors(1.0F)), kTokens, {5, 4, 4});
  Batch batch(5, 4);
  const jepa_edge::testing::AllocationCounter counter;
  bool drawn = true;
  for (std::size_t step = 0; step < 4; ++step) {
    drawn = drawn && noise.draw(step, 4, 4, step % 2 == 0) == Status::kOk;
    noise.apply(batch.rows(0, 5, step));
  }
  const std::size_t allocations = counter.count();
  CHECK(allocations == 0);
  CHECK(drawn);
}

TEST_CASE("pieces on several workers give what one piece gives") {
  constexpr std::size_t kCandidates = 37;
  constexpr std::size_t kWorkers = 3;
  const auto shared = variable(tensors(1.0F));
  LatentNoise whole(shared, kTokens, {kCandidates, kSteps, 4});
  LatentNoise pieces(shared, kTokens, {kCandidates, kSteps, 4, kWorkers});
  jepa_edge::ThreadPool pool(kWorkers);
  REQUIRE(whole.draw(1, 4, kSteps, true) == Status::kOk);
  REQUIRE(pieces.draw(1, 4, kSteps, true) == Status::kOk);
  Batch expected(kCandidates, 4);
  Batch got(kCandidates, 4);
  for (std::size_t step = 0; step < kSteps; ++step) {
    whole.apply(expected.rows(0, kCandidates, step));
    pool.run((kCandidates + 4) / 5, [&](std::size_t worker, std::size_t index) noexcept {
      const std::size_t first = 5 * index;
      pieces.apply(got.rows(first, std::min<std::size_t>(5, kCandidates - first), step, worker));
    });
  }
  CHECK(got.latents == expected.latents);
  const auto one = whole.disagreement();
  const auto many = pieces.disagreement();
  CHECK(one.size() == kCandidates * kSteps);
  CHECK(std::vector(one.begin(), one.end()) == std::vector(many.begin(), many.end()));
  CHECK(one.front() > 0.0F);
}

TEST_CASE("a worker, step or batch that was not provided for gives NaN, not garbage") {
  LatentNoise noise(variable(tensors(1.0F)), kTokens, {2, 2, 3});
  const auto spoils = [&](Batch& batch, const StepRows& rows) {
    noise.apply(rows);
    return std::isnan(batch.latents.front()) && std::isnan(batch.latents.back());
  };
  Batch batch(2, 3);
  CHECK(spoils(batch, batch.rows(0, 2, 0)));  // nothing drawn
  REQUIRE(noise.draw(0, 3, 2) == Status::kOk);
  Batch late(2, 3);
  CHECK(spoils(late, late.rows(0, 2, 2)));
  Batch foreign(2, 3);
  CHECK(spoils(foreign, foreign.rows(0, 2, 0, 1)));
  Batch large(3, 3);
  CHECK(spoils(large, large.rows(0, 3, 0)));
  Batch other(2, 2);
  CHECK(spoils(other, other.rows(0, 2, 0)));
  CHECK(noise.draw(0, 4, 2) == Status::kBadShape);
  CHECK(noise.draw(0, 3, 3) == Status::kBadShape);
  CHECK(noise.draw(0, 0, 2) == Status::kBadShape);
}

TEST_CASE("a file is read whole, and a damaged one named") {
  Tensors given = tensors(1.0F);
  const jepa_edge::testing::TemporaryFile file(jepa_edge::testing::safetensors_bytes(given));
  const auto loaded = LatentVariable::load(file.path());
  const auto& sizes = loaded->sizes();
  CHECK(sizes.horizon == kSteps);
  CHECK(sizes.latent_dim == kDim);
  CHECK(sizes.rank == kRank);
  CHECK(sizes.action_dim == kAction);
  CHECK(sizes.members == kMembers);
  given[2].values[1] = std::nanf("");
  file.rewrite(jepa_edge::testing::safetensors_bytes(given));
  CHECK_THROWS_WITH_AS(LatentVariable::load(file.path()), doctest::Contains("gain"),
                       jepa_edge::FileError);
}
