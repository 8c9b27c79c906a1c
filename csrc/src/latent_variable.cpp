// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/latent_variable.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <utility>

#include "jepa_edge/gaussian.hpp"
#include "jepa_edge/random.hpp"
#include "jepa_edge/safetensors.hpp"
#include "kernels/dispatch.hpp"
#include "latent_heads.hpp"

namespace jepa_edge {
namespace {

using latent::copy;
using latent::find;
using latent::HeadStack;
using latent::kLogLimit;
using latent::require;
using latent::Shape;
using latent::text;

constexpr std::size_t kMostLayers = 16;

/// The file's arrays by name, as far as they are a latent variable's.
NamedArrays named(const Safetensors& file) {
  NamedArrays arrays;
  const auto take = [&](const std::string& name) {
    if (file.contains(name)) {
      const auto shape = file.shape(name);
      arrays[name] = {Shape(shape.begin(), shape.end()), file.tensor(name, shape)};
    }
  };
  for (const char* name : {"base", "factor", "gain"}) {
    take(name);
  }
  for (const std::string head : {"scale_head", "mean_heads"}) {
    take(head + ".center");
    take(head + ".scale");
    for (std::size_t layer = 0; layer < kMostLayers; ++layer) {
      take(head + "." + std::to_string(layer) + ".weight");
      take(head + "." + std::to_string(layer) + ".bias");
    }
  }
  return arrays;
}

/// Tokens whose heads are computed together.
constexpr std::size_t kChunk = 16;

/// e^x for x in [-87, 87], relative error below 3e-7, written so that the compiler vectorizes it.
float exponential(float x) noexcept {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to the nearest integer
  const float shifted = x * std::numbers::log2e_v<float> + kMagic;
  const float n = shifted - kMagic;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  const float p =
      1.0F +
      r * (1.0F + r * (0.5F + r * (1.0F / 6 + r * (1.0F / 24 + r * (1.0F / 120 + r / 720)))));
  return p * std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23U) + 0x3F800000U);
}

/// exp(l / 2) of each bounded log variance l = limit * tanh(raw / limit), in place.
void to_amplitudes(std::span<float> raw) noexcept {
  for (float& value : raw) {
    const float x = std::min(std::max(value * (2.0F / kLogLimit), -40.0F), 40.0F);
    const float tanh = 1.0F - 2.0F / (exponential(x) + 1.0F);
    value = exponential(0.5F * kLogLimit * tanh);
  }
}

/// Shifts and scales each column of z (samples, columns) to mean 0 and variance 1, samples >= 2.
/// mean, square: scratch (columns).
void standardize_samples(std::span<float> z, std::size_t samples, std::span<double> mean,
                         std::span<double> square) noexcept {
  const std::size_t columns = mean.size();
  const auto count = static_cast<double>(samples);
  std::fill(mean.begin(), mean.end(), 0.0);
  std::fill(square.begin(), square.end(), 0.0);
  for (std::size_t s = 0; s < samples; ++s) {
    for (std::size_t i = 0; i < columns; ++i) {
      mean[i] += static_cast<double>(z[s * columns + i]);
    }
  }
  for (double& value : mean) {
    value /= count;
  }
  for (std::size_t s = 0; s < samples; ++s) {
    for (std::size_t i = 0; i < columns; ++i) {
      const double deviation = static_cast<double>(z[s * columns + i]) - mean[i];
      square[i] += deviation * deviation;
    }
  }
  for (std::size_t s = 0; s < samples; ++s) {
    for (std::size_t i = 0; i < columns; ++i) {
      const double deviation = static_cast<double>(z[s * columns + i]) - mean[i];
      z[s * columns + i] = static_cast<float>(deviation / std::sqrt(square[i] / (count - 1.0)));
    }
  }
}

}  // namespace

struct LatentVariable::Heads {
  LatentVariableSizes sizes;
  std::vector<float> base;               // (H, D)
  std::vector<float> directions;         // (R, D), the factor transposed
  std::vector<float> gain;               // (H)
  std::vector<latent::HeadStack> scale;  // one
  std::vector<latent::HeadStack> mean;   // one, or none
};

LatentVariable::LatentVariable(const NamedArrays& arrays, std::string_view isa) {
  const kernels::Kernels& table = kernels::require(isa);
  const Shape base = find(arrays, "base").shape;
  const Shape factor = find(arrays, "factor").shape;
  const Shape center = find(arrays, "scale_head.center").shape;
  if (base.size() != 2 || base[0] == 0 || base[1] == 0) {
    throw std::invalid_argument("base has shape " + text(base) + ", expected (steps, latent dim)");
  }
  const std::size_t horizon = base[0];
  const std::size_t dim = base[1];
  if (factor.size() != 2 || factor[1] < 1 || factor[1] > kMaxRank) {
    throw std::invalid_argument("factor has shape " + text(factor) + ", expected (" +
                                std::to_string(dim) + ", 1 to " + std::to_string(kMaxRank) + ")");
  }
  const std::size_t rank = factor[1];
  if (center.size() != 1 || center[0] <= 2 * dim + horizon) {
    throw std::invalid_argument("scale_head.center has shape " + text(center) +
                                ", expected more than 2 * latent dim + steps = " +
                                std::to_string(2 * dim + horizon) + " numbers");
  }
  const std::size_t inputs = center[0];
  auto heads = std::make_unique<Heads>();
  heads->sizes = {horizon, dim, rank, inputs - 2 * dim - horizon, 0};
  heads->base = copy(require(arrays, "base", base, true));
  heads->gain = copy(require(arrays, "gain", {horizon}));
  const auto columns = require(arrays, "factor", {dim, rank});
  heads->directions.resize(dim * rank);
  for (std::size_t d = 0; d < dim; ++d) {
    for (std::size_t r = 0; r < rank; ++r) {
      heads->directions[r * dim + d] = columns[d * rank + r];
    }
  }
  heads->scale.emplace_back(table, arrays, "scale_head", inputs, horizon, dim + rank, false);
  const auto mean = arrays.lower_bound("mean_heads.");
  if (mean != arrays.end() && mean->first.starts_with("mean_heads.")) {
    heads->mean.emplace_back(table, arrays, "mean_heads", inputs, horizon, dim, true);
    heads->sizes.members = heads->mean.front().members();
  }
  heads_ = std::move(heads);
}

LatentVariable::~LatentVariable() = default;

std::shared_ptr<const LatentVariable> LatentVariable::load(const std::filesystem::path& path,
                                                           std::string_view isa) {
  const Safetensors file(path);
  try {
    return std::make_shared<const LatentVariable>(named(file), isa);
  } catch (const std::invalid_argument& error) {
    throw FileError(path.string() + ": " + error.what());
  }
}

const LatentVariableSizes& LatentVariable::sizes() const noexcept { return heads_->sizes; }

struct LatentNoise::Impl {
  /// One token whose heads are asked: the row and the token within it.
  struct Item {
    std::size_t row;
    std::size_t candidate;
    std::size_t token;
  };
  struct Scratch {
    std::vector<float> features;  // (kChunk, inputs)
    std::vector<float> hidden;    // of the heads
    std::vector<float> out;       // (kChunk, D + R padded)
    std::vector<float> means;     // (K, kChunk, D padded)
    std::vector<float> sum;       // (D)
    std::array<Item, kChunk> items;
  };

  Impl(std::shared_ptr<const LatentVariable> given, std::size_t tokens_, const Limits& limits_);

  [[nodiscard]] std::size_t columns() const noexcept {
    return tokens * (sizes.latent_dim + sizes.rank);
  }
  [[nodiscard]] bool takes_disagreement() const noexcept {
    return noise_free_first && !heads.mean.empty();
  }

  bool fits(const StepRows& rows) const noexcept;
  void add_noise(const StepRows& rows) noexcept;
  void take_disagreement(const StepRows& rows) noexcept;
  void gather(const StepRows& rows, const HeadStack& head, std::size_t count,
              Scratch& scratch) const noexcept;
  void scatter(const StepRows& rows, std::size_t count, Scratch& scratch) const noexcept;

  std::shared_ptr<const LatentVariable> variable;
  const LatentVariable::Heads& heads;
  const LatentVariableSizes& sizes;
  std::size_t tokens;
  Limits limits;

  std::uint64_t seed = 0;
  std::size_t samples = 0;  // as drawn, the noise-free one included; 0: nothing drawn
  std::size_t horizon = 0;
  bool noise_free_first = false;
  std::vector<float> z;  // (horizon, noisy samples, N, D + R)
  std::vector<double> mean;
  std::vector<double> square;
  std::vector<float> disagreement;  // (limits.candidates, horizon)
  std::vector<Scratch> scratch;     // per worker
};

LatentNoise::Impl::Impl(std::shared_ptr<const LatentVariable> given, std::size_t tokens_,
                        const Limits& limits_)
    : variable(std::move(given)),
      heads(variable->heads()),
      sizes(heads.sizes),
      tokens(tokens_),
      limits(limits_),
      z(limits.horizon * limits.samples * columns()),
      mean(columns()),
      square(columns()),
      scratch(limits.threads) {
  std::size_t room = heads.scale.front().scratch();
  std::size_t means = 0;
  if (!heads.mean.empty()) {
    disagreement.resize(limits.candidates * limits.horizon);
    room = std::max(room, heads.mean.front().scratch());
    means = sizes.members * heads.mean.front().stride();
  }
  for (Scratch& s : scratch) {
    s.features.resize(kChunk * heads.scale.front().inputs());
    s.hidden.resize(kChunk * room);
    s.out.resize(kChunk * heads.scale.front().stride());
    s.sum.resize(sizes.latent_dim);
    s.means.resize(kChunk * means);
  }
}

bool LatentNoise::Impl::fits(const StepRows& rows) const noexcept {
  return rows.samples == samples && rows.step < horizon && rows.worker < scratch.size() &&
         rows.candidate + rows.candidates <= limits.candidates;
}

/// Writes the standardized features of the chunk's items.
void LatentNoise::Impl::gather(const StepRows& rows, const HeadStack& head, std::size_t count,
                               Scratch& work) const noexcept {
  const std::size_t dim = sizes.latent_dim;
  for (std::size_t i = 0; i < count; ++i) {
    const Item& item = work.items[i];
    const float* before =
        rows.before + item.row / rows.before_divisor * rows.before_stride + item.token * dim;
    const float* predicted = rows.latents + item.row * rows.stride + item.token * dim;
    const float* action = rows.actions + item.candidate * rows.action_stride;
    float* features = work.features.data() + i * head.inputs();
    for (std::size_t d = 0; d < dim; ++d) {
      features[d] = before[d];
      features[dim + d] = predicted[d] - before[d];
    }
    std::copy_n(action, sizes.action_dim, features + 2 * dim);
    head.standardize(features);
  }
}

/// Adds gain * L z to every noisy sample of the chunk's items: to those of the item's candidate at
/// step 0, where they share one covariance, later to the item's own row.
void LatentNoise::Impl::scatter(const StepRows& rows, std::size_t count,
                                Scratch& work) const noexcept {
  const std::size_t dim = sizes.latent_dim;
  const std::size_t rank = sizes.rank;
  const std::size_t first = noise_free_first ? 1 : 0;
  const float gain = heads.gain[std::min(rows.step, sizes.horizon - 1)];
  const float* base = heads.base.data();  // of step 1: the noise is that of single steps
  const float* drawn = z.data() + rows.step * (samples - first) * columns();
  for (std::size_t i = 0; i < count; ++i) {
    const Item& item = work.items[i];
    float* out = work.out.data() + i * heads.scale.front().stride();
    to_amplitudes({out, dim + rank});
    const std::size_t own = item.row % samples;
    const std::size_t begin = rows.step == 0 ? first : own;
    const std::size_t end = rows.step == 0 ? samples : own + 1;
    for (std::size_t sample = begin; sample < end; ++sample) {
      const float* noise = drawn + (sample - first) * columns() + item.token * (dim + rank);
      float* latent =
          rows.latents + (item.candidate * samples + sample) * rows.stride + item.token * dim;
      for (std::size_t d = 0; d < dim; ++d) {
        work.sum[d] = out[d] * noise[d];
      }
      for (std::size_t r = 0; r < rank; ++r) {
        const float common = out[dim + r] * noise[dim + r];
        const float* direction = heads.directions.data() + r * dim;
        for (std::size_t d = 0; d < dim; ++d) {
          work.sum[d] += direction[d] * common;
        }
      }
      for (std::size_t d = 0; d < dim; ++d) {
        latent[d] += gain * (base[d] * work.sum[d]);
      }
    }
  }
}

void LatentNoise::Impl::add_noise(const StepRows& rows) noexcept {
  Scratch& work = scratch[rows.worker];
  const HeadStack& head = heads.scale.front();
  const std::size_t first = noise_free_first ? 1 : 0;
  // All samples of a candidate share the prediction of step 0, so its head is asked once.
  const std::size_t asked =
      rows.step == 0 ? std::min<std::size_t>(1, samples - first) : samples - first;
  const std::size_t total = rows.candidates * asked * tokens;
  for (std::size_t begin = 0; begin < total; begin += kChunk) {
    const std::size_t count = std::min(kChunk, total - begin);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t index = begin + i;
      const std::size_t candidate = index / (asked * tokens);
      const std::size_t sample = rows.step == 0 ? 0 : first + index / tokens % asked;
      work.items[i] = {candidate * samples + sample, candidate, index % tokens};
    }
    gather(rows, head, count, work);
    head.apply(0, 0, work.features.data(), count, work.hidden.data(), work.out.data());
    scatter(rows, count, work);
  }
}

void LatentNoise::Impl::take_disagreement(const StepRows& rows) noexcept {
  Scratch& work = scratch[rows.worker];
  const HeadStack& head = heads.mean.front();
  const std::size_t dim = sizes.latent_dim;
  const std::size_t step = std::min(rows.step, sizes.horizon - 1);
  const float* base = heads.base.data() + step * dim;
  const auto members = static_cast<double>(sizes.members);
  const auto slot = [&](std::size_t candidate) -> float& {
    return disagreement[(rows.candidate + candidate) * horizon + rows.step];
  };
  for (std::size_t candidate = 0; candidate < rows.candidates; ++candidate) {
    slot(candidate) = 0.0F;
  }
  const std::size_t total = rows.candidates * tokens;
  for (std::size_t begin = 0; begin < total; begin += kChunk) {
    const std::size_t count = std::min(kChunk, total - begin);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t candidate = (begin + i) / tokens;
      work.items[i] = {candidate * samples, candidate, (begin + i) % tokens};
    }
    gather(rows, head, count, work);
    const std::size_t stride = count * head.stride();
    for (std::size_t k = 0; k < sizes.members; ++k) {
      head.apply(k, step, work.features.data(), count, work.hidden.data(),
                 work.means.data() + k * stride);
    }
    for (std::size_t i = 0; i < count; ++i) {
      double total_variance = 0.0;
      for (std::size_t d = 0; d < dim; ++d) {
        const float* values = work.means.data() + i * head.stride() + d;
        double mean_of_heads = 0.0;
        for (std::size_t k = 0; k < sizes.members; ++k) {
          mean_of_heads += static_cast<double>(values[k * stride]) / members;
        }
        double variance = 0.0;
        for (std::size_t k = 0; k < sizes.members; ++k) {
          const double deviation = static_cast<double>(values[k * stride]) - mean_of_heads;
          variance += deviation * deviation / members;
        }
        total_variance += variance * static_cast<double>(base[d]) * static_cast<double>(base[d]);
      }
      slot(work.items[i].candidate) +=
          static_cast<float>(total_variance / static_cast<double>(dim * tokens));
    }
  }
}

LatentNoise::LatentNoise(std::shared_ptr<const LatentVariable> variable, std::size_t tokens,
                         const Limits& limits) {
  if (!variable || tokens == 0 || limits.candidates == 0 || limits.horizon == 0 ||
      limits.samples == 0 || limits.threads == 0) {
    throw std::invalid_argument(
        "a latent variable's noise needs a variable and sizes of 1 or more, got " +
        std::to_string(tokens) + " tokens, " + std::to_string(limits.candidates) + " candidates, " +
        std::to_string(limits.horizon) + " steps, " + std::to_string(limits.samples) +
        " samples and " + std::to_string(limits.threads) + " threads");
  }
  impl_ = std::make_unique<Impl>(std::move(variable), tokens, limits);
}

LatentNoise::~LatentNoise() = default;

Status LatentNoise::draw(std::uint64_t seed, std::size_t samples, std::size_t horizon,
                         bool noise_free_first) noexcept {
  Impl& m = *impl_;
  const std::size_t noisy = samples - (noise_free_first && samples > 0 ? 1 : 0);
  if (samples == 0 || samples > m.limits.samples || horizon == 0 || horizon > m.limits.horizon ||
      (noisy == 0 && m.heads.mean.empty())) {
    return Status::kBadShape;
  }
  if (m.seed == seed && m.samples == samples && m.noise_free_first == noise_free_first &&
      m.horizon == horizon) {
    return Status::kOk;
  }
  m.seed = seed;
  m.samples = samples;
  m.horizon = horizon;
  m.noise_free_first = noise_free_first;
  const std::size_t size = noisy * m.columns();
  for (std::size_t step = 0; step < horizon; ++step) {
    const auto drawn = std::span(m.z).subspan(step * size, size);
    standard_normal(seed, step, drawn);
    if (noisy > 1) {
      standardize_samples(drawn, noisy, m.mean, m.square);
    }
  }
  return Status::kOk;
}

void LatentNoise::apply(const StepRows& rows) noexcept {
  Impl& m = *impl_;
  if (!m.fits(rows)) {
    for (std::size_t row = 0; row < rows.candidates * rows.samples; ++row) {
      std::fill_n(rows.latents + row * rows.stride, m.tokens * m.sizes.latent_dim,
                  std::numeric_limits<float>::quiet_NaN());
    }
    return;
  }
  if (m.takes_disagreement()) {
    m.take_disagreement(rows);  // first: it wants the prediction without noise
  }
  m.add_noise(rows);
}

std::span<const float> LatentNoise::disagreement() const noexcept {
  if (!impl_->takes_disagreement()) {
    return {};
  }
  return std::span(impl_->disagreement).first(impl_->limits.candidates * impl_->horizon);
}

const Limits& LatentNoise::limits() const noexcept { return impl_->limits; }
std::size_t LatentNoise::tokens() const noexcept { return impl_->tokens; }
const LatentVariable& LatentNoise::variable() const noexcept { return *impl_->variable; }

}  // namespace jepa_edge
