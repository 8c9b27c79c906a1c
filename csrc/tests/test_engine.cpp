// SPDX-License-Identifier: Apache-2.0
// The engine on every instruction set of this processor, against plain float64 loops. Random sizes
// and more inputs: tests/test_engine.py. Here for the sanitizers and other processors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "jepa_edge/engine.hpp"
#include "jepa_edge/random.hpp"
#include "jepa_edge/safetensors.hpp"
#include "support/allocation_counter.hpp"
#include "support/plain_predictor.hpp"
#include "support/temporary_file.hpp"

using jepa_edge::Context;
using jepa_edge::Precision;
using jepa_edge::Predictor;
using jepa_edge::PredictorSizes;
using jepa_edge::Request;
using jepa_edge::RolloutEngine;
using jepa_edge::Status;
using jepa_edge::testing::AllocationCounter;
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
  s.mlp_dim = 275;
  s.head_hidden = 37;
  s.adaln_norm_eps = 1e-6F;
  s.norm_eps = 1e-5F;
  return s;
}

std::vector<float> drawn(std::size_t count, std::uint64_t stream) {
  std::vector<float> values(count);
  jepa_edge::standard_normal(99, stream, values);
  return values;
}

/// A rollout problem of S candidates over H steps from T frames.
struct Problem {
  Problem(const PredictorSizes& s, std::size_t T, std::size_t S, std::size_t H)
      : frames(T),
        candidates(S),
        horizon(H),
        latent(s.tokens * s.latent_dim),
        history(drawn(T * latent, 1)),
        past(drawn((T - 1) * s.action_dim, 2)),
        actions(drawn(S * H * s.action_dim, 3)),
        out(S * H * latent) {}

  Status run(RolloutEngine& engine) {
    const Status status = engine.set_context({history, past, frames});
    return status == Status::kOk ? engine.rollout({actions, candidates, horizon}, out) : status;
  }

  std::size_t frames, candidates, horizon, latent;
  std::vector<float> history, past, actions, out;
};

/// All candidates' futures by plain loops.
std::vector<double> plainly(const PlainPredictor& plain, const Problem& problem) {
  const std::size_t row = problem.horizon * plain.sizes().action_dim;
  std::vector<double> futures;
  for (std::size_t c = 0; c < problem.candidates; ++c) {
    std::vector<float> actions = problem.past;
    const auto first = problem.actions.begin() + static_cast<std::ptrdiff_t>(c * row);
    actions.insert(actions.end(), first, first + static_cast<std::ptrdiff_t>(row));
    const auto future = plain.rollout(problem.history, problem.frames, actions);
    futures.insert(futures.end(), future.begin(), future.end());
  }
  return futures;
}

/// Error of out against what is expected, as a part of the latter's own size.
double error(const std::vector<double>& expected, const std::vector<float>& out) {
  double noise = 0.0;
  double signal = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double got = out[i];
    noise += (got - expected[i]) * (got - expected[i]);
    signal += expected[i] * expected[i];
  }
  return std::sqrt(noise / signal);
}

}  // namespace

TEST_CASE("every instruction set and precision computes the model") {
  struct Case {
    std::size_t window, tokens, latent_dim, dim, frames;
  };
  for (const Case c : {Case{3, 1, 40, 40, 1}, Case{3, 1, 40, 40, 3}, Case{4, 2, 24, 50, 2},
                       Case{1, 1, 40, 33, 1}, Case{2, 3, 20, 20, 2}, Case{3, 1, 9, 560, 1}}) {
    const PlainPredictor plain(sizes(c.window, c.tokens, c.latent_dim, c.dim), 7);
    const TemporaryFile file(plain.file());
    Problem problem(plain.sizes(), c.frames, 17, 5);
    const std::vector<double> expected = plainly(plain, problem);
    for (const auto isa : jepa_edge::available_isas()) {
      for (const auto& [precision, allowed] :
           {std::pair{Precision::kFloat32, 1e-5}, std::pair{Precision::kBFloat16, 0.03},
            std::pair{Precision::kInt8, 0.08}}) {
        CAPTURE(c.window);
        CAPTURE(c.tokens);
        CAPTURE(c.dim);
        CAPTURE(c.frames);
        CAPTURE(std::string(isa));
        CAPTURE(static_cast<int>(precision));
        RolloutEngine engine(Predictor::load(file.path(), precision, isa), {17, 5});
        REQUIRE(problem.run(engine) == Status::kOk);
        CHECK(error(expected, problem.out) < allowed);
      }
    }
  }
}

TEST_CASE("threads and company do not change a bit") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 8);
  const TemporaryFile file(plain.file());
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16, Precision::kInt8}) {
    const auto predictor = Predictor::load(file.path(), precision);
    Problem whole(plain.sizes(), 2, 173, 4);
    RolloutEngine one(predictor, {173, 4, 1, 1});
    REQUIRE(whole.run(one) == Status::kOk);
    for (const std::size_t threads : {2U, 3U}) {
      Problem again(plain.sizes(), 2, 173, 4);
      RolloutEngine engine(predictor, {173, 4, 1, threads});
      REQUIRE(again.run(engine) == Status::kOk);
      CHECK(again.out == whole.out);
    }
    Problem few(plain.sizes(), 2, 5, 4);
    std::copy_n(whole.actions.begin() + 100 * 4 * 3, 5 * 4 * 3, few.actions.begin());
    REQUIRE(few.run(one) == Status::kOk);
    CHECK(std::equal(few.out.begin(), few.out.end(), whole.out.begin() + 100 * 4 * 40));
  }
}

TEST_CASE("nothing allocates once an engine is made") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 9);
  const TemporaryFile file(plain.file());
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16, Precision::kInt8}) {
    RolloutEngine engine(Predictor::load(file.path(), precision), {100, 6, 1, 2});
    Problem problem(plain.sizes(), 2, 100, 6);
    const AllocationCounter counter;
    const Status status = problem.run(engine);
    const std::size_t count = counter.count();
    CHECK(status == Status::kOk);
    CHECK(count == 0);
  }
}

TEST_CASE("inputs that are not finite, or do not fit, give a status") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 10);
  const TemporaryFile file(plain.file());
  RolloutEngine engine(Predictor::load(file.path(), Precision::kInt8), {4, 3});
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Problem problem(plain.sizes(), 3, 4, 3);
    problem.actions[7] = bad;
    CHECK(problem.run(engine) == Status::kNonFiniteInput);
    Problem history(plain.sizes(), 3, 4, 3);
    history.history.back() = bad;
    CHECK(history.run(engine) == Status::kNonFiniteInput);
    CHECK(history.run(engine) == Status::kNonFiniteInput);
    Problem past(plain.sizes(), 3, 4, 3);
    past.past[0] = bad;
    CHECK(past.run(engine) == Status::kNonFiniteInput);
  }
  Problem many(plain.sizes(), 3, 5, 3);
  CHECK(many.run(engine) == Status::kBadShape);
  Problem far(plain.sizes(), 3, 4, 4);
  CHECK(far.run(engine) == Status::kBadShape);
  Problem none(plain.sizes(), 1, 4, 3);
  none.history.clear();
  CHECK(none.run(engine) == Status::kBadShape);
  CHECK(engine.rollout({none.actions, 4, 3}, none.out) == Status::kBadShape);  // no context
}

TEST_CASE("a future that leaves float32's range is told, its neighbours are right") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 11);
  const TemporaryFile file(plain.file());
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16, Precision::kInt8}) {
    RolloutEngine engine(Predictor::load(file.path(), precision), {3, 2});
    Problem problem(plain.sizes(), 1, 3, 2);
    REQUIRE(problem.run(engine) == Status::kOk);
    const std::vector<float> right = problem.out;
    std::vector<float> start;
    for (int i = 0; i < 3; ++i) {
      start.insert(start.end(), problem.history.begin(), problem.history.end());
    }
    start[40] = 3e38F;
    Request request{problem.actions, 3, 2};
    request.start = start;
    CHECK(engine.rollout(request, problem.out) == Status::kNonFiniteOutput);
    CHECK(std::equal(right.begin(), right.begin() + 80, problem.out.begin()));
    CHECK(std::equal(right.begin() + 160, right.end(), problem.out.begin() + 160));
    CHECK_FALSE(std::isfinite(problem.out[80]));
  }
}

TEST_CASE("files of something else are refused by name") {
  const PlainPredictor plain(sizes(3, 1, 40, 40), 12);
  const TemporaryFile file(jepa_edge::testing::safetensors_bytes({}, {{"format", "other"}}));
  CHECK_THROWS_AS(Predictor::load(file.path(), Precision::kInt8), jepa_edge::FileError);
  const TemporaryFile good(plain.file());
  CHECK_THROWS_AS(Predictor::load(good.path(), Precision::kInt8, "mmx"), std::invalid_argument);
}
