// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/noise.cuh"
#include "launch.hpp"
#include "noise.hpp"

namespace jepa_edge::cuda {
namespace {

constexpr std::size_t kSharedBytes = 48U << 10U;
constexpr unsigned kRows = 8;

std::string name_of(std::size_t layer, const char* what) {
  return "scale_head." + std::to_string(layer) + "." + what;
}

/// The first layer's bias with the one-hot inputs of step 1 added: the noise is that of single
/// steps.
std::vector<float> folded_bias(const NamedArrays& arrays, std::size_t kept) {
  const auto center = arrays.find("scale_head.center")->second.values;
  const auto scale = arrays.find("scale_head.scale")->second.values;
  const auto weight = arrays.find(name_of(0, "weight"))->second.values;
  const auto bias = arrays.find(name_of(0, "bias"))->second.values;
  std::vector<float> folded;
  for (std::size_t o = 0; o < bias.size(); ++o) {
    auto sum = static_cast<double>(bias[o]);
    for (std::size_t i = kept; i < center.size(); ++i) {
      const float raw = ((i == kept ? 1.0F : 0.0F) - center[i]) / scale[i];
      sum += static_cast<double>(std::clamp(raw, -latent::kInputLimit, latent::kInputLimit)) *
             static_cast<double>(weight[i * bias.size() + o]);
    }
    folded.push_back(static_cast<float>(sum));
  }
  return folded;
}

}  // namespace

struct LatentNoise::Impl {
  Impl(const NamedArrays& arrays, std::size_t tokens_, const Limits& limits_)
      : sizes(LatentVariable(arrays).sizes()), tokens(tokens_), limits(limits_) {
    if (tokens == 0 || limits.candidates == 0 || limits.horizon == 0 || limits.samples == 0) {
      throw std::invalid_argument("a latent variable's noise needs sizes of 1 or more");
    }
    const auto values = [&](const std::string& name) { return arrays.find(name)->second.values; };
    const auto take = [&](std::span<const float> some) {
      const std::size_t begin = packed.size();
      packed.insert(packed.end(), some.begin(), some.end());
      return begin;
    };
    const std::size_t dim = sizes.latent_dim;
    const std::size_t kept = 2 * dim + sizes.action_dim;
    const std::size_t base = take(values("base"));
    const auto factor = values("factor");
    std::vector<float> transposed(factor.size());
    for (std::size_t d = 0; d < dim; ++d) {
      for (std::size_t r = 0; r < sizes.rank; ++r) {
        transposed[r * dim + d] = factor[d * sizes.rank + r];
      }
    }
    const std::size_t directions = take(transposed);
    const std::size_t center = take(values("scale_head.center").first(kept));
    const std::size_t scale = take(values("scale_head.scale").first(kept));
    std::vector<std::size_t> weights;
    std::vector<std::size_t> biases;
    std::size_t in = kept;
    head.width[0] = head.widest = static_cast<std::uint32_t>(kept);
    for (std::size_t layer = 0; arrays.contains(name_of(layer, "weight")); ++layer) {
      if (layer == kMostHeadLayers) {
        throw std::invalid_argument("scale_head has more than " + std::to_string(kMostHeadLayers) +
                                    " layers");
      }
      const auto bias = values(name_of(layer, "bias"));
      weights.push_back(take(values(name_of(layer, "weight")).first(in * bias.size())));
      biases.push_back(layer == 0 ? take(folded_bias(arrays, kept)) : take(bias));
      in = bias.size();
      head.width[layer + 1] = static_cast<std::uint32_t>(in);
      head.widest = std::max(head.widest, head.width[layer + 1]);
      head.layers = static_cast<std::uint32_t>(layer + 1);
    }
    gain.assign(values("gain").begin(), values("gain").end());
    memory = DeviceBuffer<float>(packed.size());
    memory.upload(packed);
    base_ = memory.data() + base;
    directions_ = memory.data() + directions;
    head.center = memory.data() + center;
    head.scale = memory.data() + scale;
    for (std::size_t layer = 0; layer < head.layers; ++layer) {
      head.weight[layer] = memory.data() + weights[layer];
      head.bias[layer] = memory.data() + biases[layer];
    }
    packed = {};
    rows = shared_bytes(kRows) <= kSharedBytes ? kRows : 1;
    if (shared_bytes(rows) > kSharedBytes) {
      throw std::invalid_argument("scale_head is " + std::to_string(head.widest) +
                                  " numbers wide, expected at most " +
                                  std::to_string(kSharedBytes / (2 * sizeof(float))));
    }
    z = DeviceBuffer<float>(limits.horizon * limits.samples * columns());
  }

  [[nodiscard]] std::size_t columns() const { return tokens * (sizes.latent_dim + sizes.rank); }
  [[nodiscard]] std::size_t shared_bytes(unsigned count) const {
    return 2 * count * head.widest * sizeof(float);
  }

  LatentVariableSizes sizes;
  std::size_t tokens;
  Limits limits;
  std::vector<float> packed;  ///< while loading
  std::vector<float> gain;    ///< (steps)
  DeviceBuffer<float> memory, z;
  HeadView head{};
  const float* base_ = nullptr;
  const float* directions_ = nullptr;
  unsigned rows = 1;
  std::size_t samples = 0;  ///< drawn
  std::size_t horizon = 0;
};

LatentNoise::LatentNoise(const NamedArrays& arrays, std::size_t tokens, const Limits& limits)
    : impl_(std::make_unique<Impl>(arrays, tokens, limits)) {}
LatentNoise::~LatentNoise() = default;

const LatentVariableSizes& LatentNoise::sizes() const noexcept { return impl_->sizes; }
std::size_t LatentNoise::tokens() const noexcept { return impl_->tokens; }

void LatentNoise::draw(std::uint64_t seed, std::size_t samples, std::size_t horizon) {
  Impl& m = *impl_;
  if (samples == 0 || samples > m.limits.samples || horizon == 0 || horizon > m.limits.horizon) {
    throw std::invalid_argument("got " + std::to_string(samples) + " samples over " +
                                std::to_string(horizon) + " steps, expected 1 to " +
                                std::to_string(m.limits.samples) + " over 1 to " +
                                std::to_string(m.limits.horizon));
  }
  const Stream stream;
  const std::size_t size = samples * m.columns();
  for (std::size_t step = 0; step < horizon; ++step) {
    float* drawn = m.z.data() + step * size;
    launch(draw_normals, {dim3(blocks_for((size + 3) / 4, kRandomThreads)), dim3(kRandomThreads)},
           stream.get(), seed, step, nullptr, drawn, size);
    if (samples > 1) {
      launch(standardize_drawn, {dim3(blocks_for(m.columns(), kNoiseThreads)), dim3(kNoiseThreads)},
             stream.get(), drawn, samples, m.columns());
    }
  }
  stream.wait();
  m.samples = samples;
  m.horizon = horizon;
}

void LatentNoise::enqueue(std::size_t step, std::size_t candidates, std::size_t samples,
                          float* latents, std::size_t stride, const float* before,
                          std::size_t before_stride, std::size_t before_divisor,
                          const float* actions, std::size_t action_stride, cudaStream_t stream) {
  Impl& m = *impl_;
  if (samples != m.samples || step >= m.horizon) {
    throw std::invalid_argument("step " + std::to_string(step) + " of " + std::to_string(samples) +
                                " samples was not drawn: " + std::to_string(m.horizon) +
                                " steps of " + std::to_string(m.samples) + " were");
  }
  NoiseView view{};
  view.tokens = static_cast<std::uint32_t>(m.tokens);
  view.dim = static_cast<std::uint32_t>(m.sizes.latent_dim);
  view.rank = static_cast<std::uint32_t>(m.sizes.rank);
  view.action_dim = static_cast<std::uint32_t>(m.sizes.action_dim);
  view.samples = static_cast<std::uint32_t>(samples);
  view.is_first = step == 0;
  view.items = candidates * (step == 0 ? 1 : samples) * m.tokens;
  view.gain = m.gain[std::min(step, m.sizes.horizon - 1)];
  view.base = m.base_;  // of step 1
  view.directions = m.directions_;
  view.drawn = m.z.data() + step * samples * m.columns();
  view.latents = latents;
  view.stride = stride;
  view.before = before;
  view.before_stride = before_stride;
  view.before_divisor = before_divisor;
  view.actions = actions;
  view.action_stride = action_stride;
  const Shape shape{dim3(blocks_for(view.items, m.rows)), dim3(kNoiseThreads),
                    m.shared_bytes(m.rows)};
  launch(m.rows == kRows ? add_noise<kRows> : add_noise<1>, shape, stream, view, m.head);
}

}  // namespace jepa_edge::cuda
