// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "ac_rollout.hpp"
#include "jepa_edge/safetensors.hpp"
#include "plain_ac.hpp"

namespace {

using jepa_edge::Context;
using jepa_edge::Status;
using jepa_edge::testing::PlainAc;
using jepa_edge::testing::safetensors_bytes;
using jepa_edge::testing::TemporaryFile;
using namespace jepa_edge::cuda;

// Nothing is a multiple of 16, heads of 6 have channels that turn and those that do not.
const PlainAc& model() {
  static const PlainAc plain({3, 2, 20, 18, 2, 3, 36});
  return plain;
}

std::shared_ptr<const AcWeights> load(Precision precision) {
  const TemporaryFile file(safetensors_bytes(model().tensors(), model().metadata()));
  return AcWeights::load(file.path(), precision);
}

std::vector<float> drawn(std::uint64_t stream, std::size_t count, float spread) {
  std::vector<float> values(count);
  jepa_edge::standard_normal(9, stream, values);
  for (float& value : values) value *= spread;
  return values;
}

struct Asked {
  std::size_t frames, candidates, horizon, samples = 1;
  std::vector<float> history = drawn(1, frames* model().latent(), 1.0F);
  std::vector<float> past = drawn(2, (frames - 1) * 7, 0.3F);
  std::vector<float> actions = drawn(3, candidates* horizon * 7, 0.3F);
  [[nodiscard]] Context context() const { return {history, past, frames}; }
};

/// Latents (S, M, H, N, D), from a graph that was captured before its context was known.
std::vector<float> rolled(AcRollout& rollout, const Asked& asked, DeviceNoise* noise = nullptr) {
  const Stream stream;
  DeviceBuffer<float> actions(asked.actions.size());
  actions.upload(asked.actions);
  const DeviceBuffer<float> latents(asked.candidates * asked.samples * asked.horizon *
                                    model().latent());
  const auto enqueue = [&](DeviceNoise* added, std::size_t samples) {
    rollout.enqueue(asked.frames, actions.data(), asked.candidates, asked.horizon, samples, added,
                    latents.data(), stream);
  };
  enqueue(nullptr, 1);
  const Graph graph = Graph::capture(stream, [&] { enqueue(noise, asked.samples); });
  REQUIRE(rollout.set_context(asked.context(), stream) == Status::kOk);
  graph.replay(stream);
  stream.wait();
  std::vector<float> out(latents.size());
  check(cudaMemcpy(out.data(), latents.data(), out.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  return out;
}

/// Signal to noise in dB of what was rolled, and the largest error of a pose.
struct Match {
  double db;
  double pose;
};

Match match(const std::vector<float>& latents, const Asked& asked) {
  const std::size_t latent = model().latent(), dim = model().s.latent_dim;
  double signal = 0.0, noise = 0.0, pose = 0.0;
  for (std::size_t c = 0; c < asked.candidates; ++c) {
    std::vector<float> actions = asked.past;
    const auto first = asked.actions.begin() + static_cast<std::ptrdiff_t>(c * asked.horizon * 7);
    actions.insert(actions.end(), first, first + static_cast<std::ptrdiff_t>(asked.horizon * 7));
    const auto expected = model().rollout(asked.history, asked.frames, actions);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double error = latents[c * expected.size() + i] - expected[i];
      if (i % latent < latent - dim) {
        signal += expected[i] * expected[i];
        noise += error * error;
      } else {
        pose = std::isfinite(error) ? std::max(pose, std::fabs(error)) : INFINITY;
      }
    }
  }
  return {10.0 * std::log10(signal / noise), pose};
}

std::string message_of(const PlainAc& plain, const std::string& key, const std::string& value) {
  auto metadata = plain.metadata();
  metadata[key] = value;
  const TemporaryFile file(safetensors_bytes(plain.tensors(), metadata));
  try {
    (void)AcWeights::load(file.path(), Precision::kFloat32);
  } catch (const jepa_edge::FileError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a rollout of V-JEPA 2-AC is the model's, while the window grows and when it slides") {
  const auto weights = load(Precision::kFloat32);
  for (std::size_t frames = 1; frames <= 3; ++frames) {
    for (const std::size_t horizon : {1U, 3U, 4U}) {
      CAPTURE(frames);
      CAPTURE(horizon);
      const Asked asked{frames, 3, horizon};
      AcRollout rollout(weights, {3, 4, 1}, 2);
      const Match found = match(rolled(rollout, asked), asked);
      CHECK(found.db > 115.0);
      CHECK(found.pose < 1e-5);
    }
  }
}

TEST_CASE("V-JEPA 2-AC in every precision") {
  const std::map<Precision, double> least = {{Precision::kFloat16, 50.0},
                                             {Precision::kBFloat16, 34.0},
                                             {Precision::kInt8, 26.0},
                                             {Precision::kFloat8, 14.0}};
  for (const auto& [precision, db] : least) {
    CAPTURE(static_cast<int>(precision));
    if (!is_supported(precision, device_info())) continue;
    const Asked asked{2, 2, 2};
    AcRollout rollout(load(precision), {2, 2, 1}, 2);
    const Match found = match(rolled(rollout, asked), asked);
    CHECK(found.db > db);
    CHECK(found.db < 100.0);
    CHECK(found.pose < 1e-5);  // always float32
  }
}

TEST_CASE("chunks are shared out evenly, and change nothing") {
  const auto weights = load(Precision::kFloat32);
  const Asked asked{1, 5, 2};
  AcRollout whole(weights, {5, 2, 1}, 100);
  CHECK(whole.chunk() == 5);
  const auto expected = rolled(whole, asked);
  for (const std::size_t chunk : {1U, 4U}) {
    AcRollout parts(weights, {5, 2, 1}, chunk);
    CHECK(parts.chunk() == (chunk == 1 ? 1 : 3));
    CHECK(parts.workspace_bytes() < whole.workspace_bytes());
    const auto got = rolled(parts, asked);
    for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(std::fabs(got[i] - expected[i]) < 1e-5);
  }
}

TEST_CASE("one candidate that diverges leaves the others alone") {
  for (const Precision precision : {Precision::kFloat32, Precision::kInt8}) {
    Asked asked{1, 3, 2};
    AcRollout rollout(load(precision), {3, 2, 1}, 3);
    const auto expected = rolled(rollout, asked);
    asked.actions[2 * 7] = std::numeric_limits<float>::infinity();  // candidate 1
    const auto got = rolled(rollout, asked);
    const std::size_t future = 2 * model().latent();
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (i / future == 1) continue;
      REQUIRE(got[i] == expected[i]);
    }
    CHECK(std::isnan(got[future]));
    CHECK(std::isnan(got[future + model().latent()]));
  }
}

namespace {

/// Writes `value` into the first number of each future's latent, and remembers how it was called.
class Stamp final : public DeviceNoise {
 public:
  void enqueue(std::size_t step, std::size_t candidates, std::size_t samples, float* latents,
               std::size_t stride, const float* before, std::size_t before_stride, std::size_t,
               const float*, std::size_t action_stride, cudaStream_t stream) override {
    CHECK(step == calls);
    CHECK(candidates == 2);
    CHECK(samples == 2);
    CHECK(stride == 2 * model().latent());
    CHECK(before_stride == (step == 0 ? 0 : stride));
    if (step > 0) CHECK(before + model().latent() == latents);
    CHECK(action_stride == 14);
    // The same numbers on every future: 4 futures, one number each.
    for (std::size_t row = 0; row < 4; ++row) {
      check(cudaMemcpyAsync(latents + row * stride, value.data(), sizeof(float),
                            cudaMemcpyDeviceToDevice, stream),
            "cudaMemcpyAsync");
    }
    ++calls;
  }
  std::size_t calls = 0;
  DeviceBuffer<float> value{1};
};

}  // namespace

TEST_CASE("noise is added to all futures of a step before the next one starts") {
  const auto weights = load(Precision::kFloat32);
  Asked asked{1, 2, 2, 2};
  std::vector<std::vector<float>> outcomes;
  for (const std::size_t chunk : {4U, 1U}) {
    AcRollout rollout(weights, {2, 2, 2}, chunk);
    Stamp noise;
    const float value[] = {0.5F};
    noise.value.upload(value);
    outcomes.push_back(rolled(rollout, asked, &noise));
    CHECK(noise.calls == 2);
  }
  REQUIRE(outcomes[0].size() == outcomes[1].size());
  const std::size_t latent = model().latent();
  for (std::size_t i = 0; i < outcomes[0].size(); ++i) {
    REQUIRE(std::fabs(outcomes[0][i] - outcomes[1][i]) < 1e-5);
    if (i % latent == 0) REQUIRE(outcomes[0][i] == 0.5F);
  }
  // Step 1 starts from the changed latent of step 0.
  std::vector<float> changed(asked.history);
  changed.insert(changed.end(), outcomes[0].begin(),
                 outcomes[0].begin() + static_cast<std::ptrdiff_t>(latent));
  const std::vector<float> actions(asked.actions.begin(), asked.actions.begin() + 14);
  const auto expected = model().rollout(changed, 2, actions);
  for (std::size_t i = 1; i < latent; ++i) {
    REQUIRE(std::fabs(outcomes[0][latent + i] - expected[i]) < 1e-4);
  }
}

TEST_CASE("contexts and requests that do not fit are refused") {
  AcRollout rollout(load(Precision::kFloat32), {2, 2, 1}, 2);
  CHECK(rollout.sizes().window == 3);
  CHECK(rollout.sizes().tokens == 5);
  CHECK(rollout.sizes().action_dim == 7);
  const Stream stream;
  Asked asked{2, 2, 2};
  const Context good = asked.context();
  CHECK(rollout.set_context({good.history, good.past_actions, 3}, stream) == Status::kBadShape);
  CHECK(rollout.set_context({good.history, good.past_actions, 0}, stream) == Status::kBadShape);
  CHECK(rollout.set_context({good.history, good.past_actions, 2, 2}, stream) == Status::kBadShape);
  asked.history[3] = NAN;
  CHECK(rollout.set_context(asked.context(), stream) == Status::kNonFiniteInput);
  const DeviceBuffer<float> some(1);
  CHECK_THROWS_AS(rollout.enqueue(1, some.data(), 3, 2, 1, nullptr, some.data(), stream),
                  std::invalid_argument);
  CHECK_THROWS_AS(rollout.enqueue(1, some.data(), 2, 2, 2, nullptr, some.data(), stream),
                  std::invalid_argument);
  CHECK_THROWS_AS(AcRollout(load(Precision::kFloat32), {2, 2, 1}, 0), std::invalid_argument);
}

TEST_CASE("a file that is no AC predictor is refused with what it is") {
  const auto contains = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(contains(message_of(model(), "format", "lewm-predictor-1"),
                 "its format is \"lewm-predictor-1\", expected \"vjepa2-ac-predictor-1\"; export"));
  CHECK(contains(message_of(model(), "history", "9"), "expected a whole number from 1 to 8"));
  CHECK(contains(message_of(model(), "heads", "5"), "5 heads do not divide 18"));
  CHECK(contains(message_of(model(), "rope_theta", "-1"), "expected a number above 0"));
  CHECK(contains(message_of(model(), "dim", "48"), "shape"));
}
