// SPDX-License-Identifier: Apache-2.0
// Planning with the LeWM predictor and its latent variable on the device, against the CPU core.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "jepa_edge/engine_evaluator.hpp"
#include "lewm_rollout.hpp"
#include "linear_rollout.cuh"
#include "noise.hpp"
#include "planner.hpp"
#include "support/plain_predictor.hpp"
#include "support/temporary_file.hpp"

using namespace jepa_edge;
using jepa_edge::cuda::testing::varied;

namespace {

constexpr PredictorSizes kSizes{.window = 2,
                                .tokens = 1,
                                .latent_dim = 8,
                                .action_dim = 2,
                                .action_hidden = 8,
                                .dim = 16,
                                .depth = 1,
                                .heads = 2,
                                .head_dim = 8,
                                .mlp_dim = 16,
                                .head_hidden = 16,
                                .adaln_norm_eps = 1e-6F,
                                .norm_eps = 1e-5F};
constexpr std::size_t kHorizon = 3;
constexpr std::size_t kRank = 1;

/// A latent variable whose head is one layer.
struct Variable {
  std::map<std::string, std::vector<float>> values;
  NamedArrays named;

  Variable() {
    constexpr std::size_t kDim = kSizes.latent_dim;
    constexpr std::size_t kInputs = 2 * kDim + kSizes.action_dim + 1;
    add("base", {1, kDim}, 0.02F, 0.1F);
    add("factor", {kDim, kRank}, 0.5F, 0.0F);
    add("gain", {1}, 0.0F, 1.0F);
    add("scale_head.center", {kInputs}, 0.1F, 0.0F);
    add("scale_head.scale", {kInputs}, 0.1F, 1.0F);
    add("scale_head.0.weight", {kInputs, kDim + kRank}, 0.2F, 0.0F);
    add("scale_head.0.bias", {kDim + kRank}, 0.1F, 0.0F);
  }
  void add(const std::string& name, const std::vector<std::size_t>& shape, float size,
           float middle) {
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

}  // namespace

TEST_CASE("LeWM's plan on the device is the core's, with one future and with several") {
  const jepa_edge::testing::PlainPredictor drawn(kSizes, 5);
  const jepa_edge::testing::TemporaryFile file(drawn.file());
  const Variable variable;
  for (const std::size_t samples : {1U, 3U}) {
    PlannerSettings settings;
    settings.method = Method::kIcem;
    settings.horizon = kHorizon;
    settings.action_dim = kSizes.action_dim;
    settings.candidates = 21;
    settings.elites = 5;
    settings.keep_elites = 2;
    settings.iterations = 3;
    settings.population_decay = 1.3;
    settings.action_mean = {0.0F, 0.0F};
    settings.action_std = {1.0F, 1.0F};
    const Limits limits{settings.candidates, kHorizon, samples};
    const LatentShape shape{settings.candidates, samples, kHorizon, 1, kSizes.latent_dim};
    const std::vector<float> history = varied(2 * kSizes.latent_dim, 1.0F);
    const std::vector<float> past = varied(kSizes.action_dim, 0.5F);
    const std::vector<float> goal = varied(kSizes.latent_dim, 0.8F);
    const Context context{history, past, 2};

    RolloutEngine engine(Predictor::load(file.path(), jepa_edge::Precision::kFloat32), limits);
    LatentNoise noise(std::make_shared<const LatentVariable>(variable.named), 1, limits);
    REQUIRE(noise.draw(~settings.seed, samples, kHorizon) == Status::kOk);
    EngineEvaluator evaluator(engine, Objective({}, {}, shape));
    REQUIRE(evaluator.begin(context, goal, samples > 1 ? &noise : nullptr) == Status::kOk);
    jepa_edge::Planner core(settings);
    const PlanResult expected = core.plan(evaluator);

    cuda::LewmRollout rollout(cuda::PredictorWeights::load(file.path(), cuda::Precision::kFloat32),
                              limits);
    cuda::LatentNoise device_noise(variable.named, 1, limits);
    device_noise.draw(~settings.seed, samples, kHorizon);
    cuda::Planner planner(settings, {}, {}, rollout, samples,
                          samples > 1 ? &device_noise : nullptr);
    const PlanResult got = planner.plan(context, goal);
    REQUIRE(got.status == expected.status);
    REQUIRE(got.status == PlanStatus::kOk);
    CHECK(got.evaluated == expected.evaluated);
    CHECK(got.best_energy == doctest::Approx(expected.best_energy).epsilon(1e-4));
    for (std::size_t i = 0; i < expected.actions.size(); ++i) {
      CHECK(std::abs(got.actions[i] - expected.actions[i]) < 1e-5F);
      CHECK(std::abs(got.best_actions[i] - expected.best_actions[i]) < 1e-5F);
    }
  }
}
