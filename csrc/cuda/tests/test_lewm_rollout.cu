// SPDX-License-Identifier: Apache-2.0
// The rollout on the device against the CPU core, which tests/test_engine.cpp holds against plain
// float64 loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "jepa_edge/engine.hpp"
#include "jepa_edge/random.hpp"
#include "jepa_edge/safetensors.hpp"
#include "launch.hpp"
#include "lewm_rollout.hpp"
#include "support/plain_predictor.hpp"
#include "support/temporary_file.hpp"

using jepa_edge::Context;
using jepa_edge::Limits;
using jepa_edge::Predictor;
using jepa_edge::PredictorSizes;
using jepa_edge::RolloutEngine;
using jepa_edge::Status;
using jepa_edge::cuda::CudaError;
using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::Graph;
using jepa_edge::cuda::LewmRollout;
using jepa_edge::cuda::Precision;
using jepa_edge::cuda::PredictorWeights;
using jepa_edge::cuda::Stream;
using jepa_edge::testing::PlainPredictor;
using jepa_edge::testing::TemporaryFile;

namespace {

PredictorSizes sizes(std::size_t window, std::size_t tokens, std::size_t latent_dim,
                     std::size_t dim) {
  PredictorSizes s{};
  s.window = window;
  s.tokens = tokens;
  s.latent_dim = latent_dim;
  s.action_dim = 3;
  s.action_hidden = 21;
  s.dim = dim;
  s.depth = 2;
  s.heads = 3;
  s.head_dim = 18;
  s.mlp_dim = 75;
  s.head_hidden = 37;
  s.adaln_norm_eps = 1e-6F;
  s.norm_eps = 1e-5F;
  return s;
}

std::vector<float> drawn(std::size_t count, std::uint64_t stream) {
  std::vector<float> values(count);
  jepa_edge::standard_normal(31, stream, values);
  return values;
}

/// What is added to future r of a step, for the test: it also reads everything it is given.
constexpr float shift(std::size_t step, std::size_t sample, float before, float action) {
  return 0.1F * static_cast<float>(sample) + 0.01F * static_cast<float>(step) + 0.2F * before +
         0.3F * action;
}

class HostNoise final : public jepa_edge::StepNoise {
 public:
  explicit HostNoise(std::size_t latent) : latent_(latent) {}
  void apply(const jepa_edge::StepRows& rows) noexcept override {
    for (std::size_t r = 0; r < rows.candidates * rows.samples; ++r) {
      const float* before = rows.before + r / rows.before_divisor * rows.before_stride;
      const float action = rows.actions[r / rows.samples * rows.action_stride];
      for (std::size_t i = 0; i < latent_; ++i) {
        rows.latents[r * rows.stride + i] += shift(rows.step, r % rows.samples, before[i], action);
      }
    }
  }

 private:
  std::size_t latent_;
};

struct NoiseArguments {
  std::size_t step, rows, samples, latent, stride, before_stride, before_divisor, action_stride;
};

__global__ void add_noise(NoiseArguments a, float* latents, const float* before,
                          const float* actions) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place >= a.rows * a.latent) return;
  const std::size_t row = place / a.latent;
  const std::size_t i = place % a.latent;
  const float from = before[row / a.before_divisor * a.before_stride + i];
  const float action = actions[row / a.samples * a.action_stride];
  latents[row * a.stride + i] += 0.1F * static_cast<float>(row % a.samples) +
                                 0.01F * static_cast<float>(a.step) + 0.2F * from + 0.3F * action;
}

class TestNoise final : public jepa_edge::cuda::DeviceNoise {
 public:
  explicit TestNoise(std::size_t latent) : latent_(latent) {}
  void enqueue(std::size_t step, std::size_t candidates, std::size_t samples, float* latents,
               std::size_t stride, const float* before, std::size_t before_stride,
               std::size_t before_divisor, const float* actions, std::size_t action_stride,
               cudaStream_t stream) override {
    const std::size_t rows = candidates * samples;
    jepa_edge::cuda::launch(add_noise, {jepa_edge::cuda::blocks_for(rows * latent_, 128), 128},
                            stream,
                            NoiseArguments{step, rows, samples, latent_, stride, before_stride,
                                           before_divisor, action_stride},
                            latents, before, actions);
  }

 private:
  std::size_t latent_;
};

struct Problem {
  Problem(const PredictorSizes& s, std::size_t T, std::size_t S, std::size_t H, std::size_t M = 1,
          std::uint64_t seed = 0)
      : frames(T),
        candidates(S),
        horizon(H),
        samples(M),
        latent(s.tokens * s.latent_dim),
        history(drawn(T * latent, seed + 1)),
        past(drawn((T - 1) * s.action_dim, seed + 2)),
        actions(drawn(S * H * s.action_dim, seed + 3)) {}

  [[nodiscard]] Context context() const { return {history, past, frames}; }

  std::size_t frames, candidates, horizon, samples, latent;
  std::vector<float> history, past, actions;
};

std::vector<float> on_cpu(const TemporaryFile& file, const Problem& p) {
  RolloutEngine engine(Predictor::load(file.path(), jepa_edge::Precision::kFloat32),
                       {p.candidates, p.horizon, p.samples});
  std::vector<float> out(p.candidates * p.samples * p.horizon * p.latent);
  HostNoise noise(p.latent);
  jepa_edge::Request request{p.actions, p.candidates, p.horizon, p.samples};
  if (p.samples > 1) request.noise = &noise;
  REQUIRE(engine.set_context(p.context()) == Status::kOk);
  REQUIRE(engine.rollout(request, out) == Status::kOk);
  return out;
}

/// A rollout and the memory around it, captured once.
class OnDevice {
 public:
  OnDevice(LewmRollout& rollout, const Problem& p)
      : rollout_(rollout),
        noise_(p.latent),
        actions_(p.actions.size()),
        latents_(p.candidates * p.samples * p.horizon * p.latent) {
    const auto enqueue = [&] {
      rollout_.enqueue(p.frames, actions_.data(), p.candidates, p.horizon, p.samples,
                       p.samples > 1 ? &noise_ : nullptr, latents_.data(), stream_);
    };
    enqueue();
    graph_ = Graph::capture(stream_, enqueue);
    stream_.wait();
  }
  std::vector<float> operator()(const Problem& p) {
    actions_.upload(p.actions);
    REQUIRE(rollout_.set_context(p.context(), stream_) == Status::kOk);
    graph_.replay(stream_);
    stream_.wait();
    std::vector<float> out(latents_.size());
    jepa_edge::cuda::check(
        cudaMemcpy(out.data(), latents_.data(), out.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "copy");
    return out;
  }

 private:
  LewmRollout& rollout_;
  Stream stream_;
  TestNoise noise_;
  DeviceBuffer<float> actions_, latents_;
  Graph graph_;
};

/// Error of out, as a part of the expected numbers' own size.
double error(const std::vector<float>& expected, const std::vector<float>& out) {
  double noise = 0.0;
  double signal = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double off = static_cast<double>(out[i]) - expected[i];
    noise += off * off;
    signal += static_cast<double>(expected[i]) * expected[i];
  }
  return std::sqrt(noise / signal);
}

bool can(Precision precision) {
  return jepa_edge::cuda::is_supported(precision, jepa_edge::cuda::device_info());
}

}  // namespace

TEST_CASE("the rollout on the device is the CPU core's, in every precision") {
  struct Case {
    std::size_t window, tokens, latent_dim, dim, frames, candidates, horizon, samples;
  };
  for (const Case c : {Case{3, 1, 40, 40, 3, 17, 5, 1}, Case{3, 1, 40, 40, 1, 9, 5, 1},
                       Case{3, 1, 40, 40, 2, 5, 4, 3}, Case{4, 2, 24, 50, 2, 6, 5, 1},
                       Case{4, 2, 24, 50, 4, 3, 3, 2}, Case{1, 1, 40, 33, 1, 7, 3, 2},
                       Case{2, 3, 20, 20, 2, 4, 4, 1}, Case{5, 1, 9, 300, 3, 4, 6, 2}}) {
    CAPTURE(c.window);
    CAPTURE(c.tokens);
    CAPTURE(c.dim);
    CAPTURE(c.frames);
    CAPTURE(c.samples);
    const PlainPredictor plain(sizes(c.window, c.tokens, c.latent_dim, c.dim), 7);
    const TemporaryFile file(plain.file());
    const Problem problem(plain.sizes(), c.frames, c.candidates, c.horizon, c.samples);
    const std::vector<float> expected = on_cpu(file, problem);
    for (const auto& [precision, allowed] :
         {std::pair{Precision::kFloat32, 1e-5}, std::pair{Precision::kFloat16, 4e-3},
          std::pair{Precision::kBFloat16, 0.03}, std::pair{Precision::kInt8, 0.06},
          std::pair{Precision::kFloat8, 0.2}}) {
      if (!can(precision)) continue;
      CAPTURE(static_cast<int>(precision));
      LewmRollout rollout(PredictorWeights::load(file.path(), precision),
                          {c.candidates, c.horizon, c.samples});
      const double off = error(expected, OnDevice(rollout, problem)(problem));
      CHECK(off < allowed);
    }
  }
}

TEST_CASE("a captured rollout follows its context") {
  const PlainPredictor plain(sizes(3, 2, 24, 32), 8);
  const TemporaryFile file(plain.file());
  LewmRollout rollout(PredictorWeights::load(file.path(), Precision::kFloat32), {8, 4});
  for (const std::size_t frames : {1U, 3U}) {
    const Problem one(plain.sizes(), frames, 8, 4);
    const Problem two(plain.sizes(), frames, 8, 4, 1, 10);
    OnDevice device(rollout, one);
    const auto first = device(one);
    CHECK(error(on_cpu(file, one), first) < 1e-5);
    CHECK(error(on_cpu(file, two), device(two)) < 1e-5);
    CHECK(device(one) == first);
  }
}

TEST_CASE("candidates do not see each other, and one that diverges is alone in it") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 9);
  const TemporaryFile file(plain.file());
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat16, Precision::kInt8}) {
    CAPTURE(static_cast<int>(precision));
    LewmRollout rollout(PredictorWeights::load(file.path(), precision), {6, 3});
    const Problem whole(plain.sizes(), 2, 6, 3);
    OnDevice device(rollout, whole);
    const auto expected = device(whole);
    const std::size_t row = 3 * 40;
    const auto part = [&](const std::vector<float>& from, std::size_t candidate) {
      const auto begin = from.begin() + static_cast<std::ptrdiff_t>(candidate * row);
      return std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(row));
    };
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(), 3e38F, 0.5F}) {
      Problem changed = whole;
      changed.actions[2 * 3 * 3 + 3] = bad;  // second action of the third candidate
      const auto out = device(changed);
      for (std::size_t candidate = 0; candidate < 6; ++candidate) {
        if (candidate != 2) CHECK(part(out, candidate) == part(expected, candidate));
      }
      const auto third = part(out, 2);
      CHECK(std::equal(third.begin(), third.begin() + 40, part(expected, 2).begin()));
      if (bad != 0.5F) {
        CHECK(std::none_of(third.begin() + 40, third.end(),
                           [](float value) { return std::isfinite(value); }));
      } else {
        CHECK(third != part(expected, 2));
      }
    }
  }
}

TEST_CASE("a past that leaves float32's range does not come back as numbers") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 11);
  const TemporaryFile file(plain.file());
  LewmRollout rollout(PredictorWeights::load(file.path(), Precision::kFloat32), {2, 2});
  Problem problem(plain.sizes(), 1, 2, 2);
  problem.history[4] = 3e38F;
  for (const float value : OnDevice(rollout, problem)(problem)) CHECK_FALSE(std::isfinite(value));
}

TEST_CASE("what does not fit is refused") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 10);
  const TemporaryFile file(plain.file());
  const auto weights = PredictorWeights::load(file.path(), Precision::kFloat32);
  CHECK_THROWS_AS(LewmRollout(weights, {0, 1}), std::invalid_argument);
  CHECK_THROWS_AS(LewmRollout(weights, {1U << 20U, 1, 1U << 20U}), std::invalid_argument);
  LewmRollout rollout(weights, {4, 3});
  const Stream stream;
  Problem problem(plain.sizes(), 2, 4, 3);
  DeviceBuffer<float> actions(36);
  DeviceBuffer<float> latents(480);
  const auto enqueue = [&](std::size_t T, std::size_t S, std::size_t H, std::size_t M) {
    rollout.enqueue(T, actions.data(), S, H, M, nullptr, latents.data(), stream);
  };
  CHECK_THROWS_AS(enqueue(4, 4, 3, 1), std::invalid_argument);
  CHECK_THROWS_AS(enqueue(2, 5, 3, 1), std::invalid_argument);
  CHECK_THROWS_AS(enqueue(2, 4, 4, 1), std::invalid_argument);
  CHECK_THROWS_AS(enqueue(2, 4, 3, 2), std::invalid_argument);
  CHECK(rollout.set_context({problem.history, problem.past, 3}, stream) == Status::kBadShape);
  CHECK(rollout.set_context({problem.history, problem.past, 2, 2}, stream) == Status::kBadShape);
  problem.past[1] = std::numeric_limits<float>::quiet_NaN();
  CHECK(rollout.set_context(problem.context(), stream) == Status::kNonFiniteInput);

  const TemporaryFile other(jepa_edge::testing::safetensors_bytes({}, {{"format", "other"}}));
  CHECK_THROWS_AS(PredictorWeights::load(other.path(), Precision::kFloat32), jepa_edge::FileError);
  const PlainPredictor long_window(sizes(17, 1, 40, 40), 10);
  const TemporaryFile wide(long_window.file());
  CHECK_THROWS_AS(PredictorWeights::load(wide.path(), Precision::kFloat32), jepa_edge::FileError);
}
