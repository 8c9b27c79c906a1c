// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "ac_weights.hpp"
#include "jepa_edge/safetensors.hpp"
#include "kernels/flash.cuh"
#include "kernels/pose.cuh"
#include "numbers.hpp"

namespace jepa_edge::cuda {
namespace {

constexpr std::string_view kFormat = "vjepa2-ac-predictor-1";
constexpr std::size_t kLargestSize = 8192;  // a block of 1024 threads, eight numbers each
constexpr std::size_t kLargestHead = 128;

class Reader {
 public:
  Reader(const Safetensors& file, const std::filesystem::path& path) : file_(file), path_(path) {}

  [[nodiscard]] std::size_t size(std::string_view key, std::size_t most) const {
    const std::string& text = file_.metadata(key);
    std::size_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > most) {
      fail("metadata \"" + std::string(key) + "\" is \"" + text +
           "\", expected a whole number from 1 to " + std::to_string(most));
    }
    return value;
  }
  [[nodiscard]] double positive(std::string_view key) const {
    const std::string& text = file_.metadata(key);
    double value = 0.0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !(value > 0.0) ||
        !std::isfinite(value)) {
      fail("metadata \"" + std::string(key) + "\" is \"" + text + "\", expected a number above 0");
    }
    return value;
  }
  [[nodiscard]] std::span<const float> tensor(const std::string& name,
                                              std::initializer_list<std::size_t> shape) const {
    const auto values = file_.tensor(name, std::span(shape.begin(), shape.size()));
    if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
      fail("tensor \"" + name + "\" holds NaN or infinity");
    }
    return values;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw FileError(path_.string() + ": " + printable(what) + "; export the bundle again");
  }

 private:
  const Safetensors& file_;
  const std::filesystem::path& path_;
};

AcSizes read_sizes(const Reader& reader, const Safetensors& file) {
  if (!file.has_metadata("format") || file.metadata("format") != kFormat) {
    reader.fail("its format is \"" +
                (file.has_metadata("format") ? file.metadata("format") : std::string("none")) +
                "\", expected \"" + std::string(kFormat) + "\"");
  }
  AcSizes sizes{};
  sizes.window = reader.size("history", kMostFrames);
  sizes.grid = reader.size("grid", 256);
  sizes.latent_dim = reader.size("latent_dim", kLargestSize);
  sizes.dim = reader.size("dim", kLargestSize);
  sizes.depth = reader.size("depth", 1024);
  sizes.heads = reader.size("heads", sizes.dim);
  sizes.mlp_dim = reader.size("mlp_dim", kLargestSize);
  sizes.norm_eps = static_cast<float>(reader.positive("norm_eps"));
  sizes.target_eps = static_cast<float>(reader.positive("target_eps"));
  sizes.rope_theta = reader.positive("rope_theta");
  if (sizes.latent_dim < kPoseDim) {
    reader.fail("latent_dim is " + std::to_string(sizes.latent_dim) + ", expected 7 or more");
  }
  if (sizes.dim % (2 * sizes.heads) != 0 || sizes.head_dim() > kLargestHead) {
    reader.fail(std::to_string(sizes.heads) + " heads do not divide " + std::to_string(sizes.dim) +
                " into an even size of at most " + std::to_string(kLargestHead));
  }
  return sizes;
}

template <typename T>
DeviceBuffer<T> uploaded(std::span<const T> values, std::size_t count) {
  std::vector<T> whole(count);
  std::ranges::copy(values, whole.begin());
  DeviceBuffer<T> buffer(count);
  buffer.upload(whole);
  return buffer;
}

/// Each output's numbers are divided by a scale that takes the largest to the end of the range.
template <Precision precision>
void pack(AcLinear& to, std::span<const float> weight, std::size_t outputs, std::size_t inputs) {
  std::vector<Operand<precision>> packed(to.outputs * to.inputs, operand<precision>(0.0F));
  std::vector<float> scales(is_scaled(precision) ? to.outputs : 0, 1.0F);
  for (std::size_t o = 0; o < outputs; ++o) {
    const auto row = weight.subspan(o * inputs, inputs);
    float inverse = 1.0F;
    if constexpr (is_scaled(precision)) {
      float largest = 0.0F;
      for (const float value : row) largest = std::max(largest, std::fabs(value));
      scales[o] = largest / kLargest<precision>;
      inverse = largest > 0.0F ? 1.0F / scales[o] : 0.0F;
    }
    for (std::size_t i = 0; i < inputs; ++i) {
      packed[o * to.inputs + i] = operand<precision>(row[i] * inverse);
    }
  }
  to.weight = uploaded(std::as_bytes(std::span<const Operand<precision>>(packed)),
                       packed.size() * sizeof(packed[0]));
  to.column_scales = uploaded(std::span<const float>(scales), scales.size());
}

class Loader {
 public:
  Loader(const Reader& reader, AcWeights& to) : reader_(reader), to_(to) {}

  void run() {
    const AcSizes& s = to_.sizes;
    to_.embed = linear("predictor_embed", s.dim, s.latent_dim);
    to_.action_weight = plain("action_encoder.weight", {s.dim, kPoseDim});
    to_.action_bias = plain("action_encoder.bias", {s.dim});
    to_.pose_weight = plain("state_encoder.weight", {s.dim, kPoseDim});
    to_.pose_bias = plain("state_encoder.bias", {s.dim});
    for (std::size_t i = 0; i < s.depth; ++i) {
      const std::string name = "predictor_blocks." + std::to_string(i) + ".";
      to_.blocks.push_back({norm(name + "norm1"), linear(name + "attn.qkv", 3 * s.dim, s.dim),
                            linear(name + "attn.proj", s.dim, s.dim), norm(name + "norm2"),
                            linear(name + "mlp.fc1", s.mlp_dim, s.dim),
                            linear(name + "mlp.fc2", s.dim, s.mlp_dim)});
    }
    to_.norm = norm("predictor_norm");
    to_.head = linear("predictor_proj", s.latent_dim, s.dim);
  }

 private:
  AcLinear linear(const std::string& name, std::size_t outputs, std::size_t inputs) {
    const auto weight = reader_.tensor(name + ".weight", {outputs, inputs});
    AcLinear to;
    to.inputs = padded(inputs);
    to.outputs = padded(outputs);
    with_precision(to_.precision, [&](auto numbers) {
      pack<decltype(numbers)::value>(to, weight, outputs, inputs);
    });
    to.bias = uploaded(reader_.tensor(name + ".bias", {outputs}), to.outputs);
    to_.bytes += to.weight.size() + sizeof(float) * (to.column_scales.size() + to.bias.size());
    return to;
  }
  DeviceBuffer<float> plain(const std::string& name, std::initializer_list<std::size_t> shape) {
    const auto values = reader_.tensor(name, shape);
    to_.bytes += values.size_bytes();
    return uploaded(values, values.size());
  }
  AcNorm norm(const std::string& name) {
    const std::size_t dim = to_.sizes.dim;
    return {plain(name + ".weight", {dim}), plain(name + ".bias", {dim})};
  }

  const Reader& reader_;
  AcWeights& to_;
};

}  // namespace

std::shared_ptr<const AcWeights> AcWeights::load(const std::filesystem::path& path,
                                                 Precision precision) {
  const Safetensors file(path);
  const Reader reader(file, path);
  auto weights = std::make_shared<AcWeights>();
  weights->sizes = read_sizes(reader, file);
  weights->precision = precision;
  Loader(reader, *weights).run();
  return weights;
}

}  // namespace jepa_edge::cuda
