// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string>

#include "jepa_edge/safetensors.hpp"
#include "numbers.hpp"
#include "predictor_reader.hpp"
#include "predictor_weights.hpp"

namespace jepa_edge::cuda {
namespace {

template <typename T>
DeviceBuffer<T> uploaded(std::span<const T> values) {
  DeviceBuffer<T> buffer(values.size());
  if (!values.empty()) buffer.upload(values);
  return buffer;
}

/// Rows of one part as operands.
template <Precision precision>
void pack_part(const LinearPart& part, std::size_t inputs, std::size_t padded_inputs,
               Operand<precision>* to, float* scales) {
  for (std::size_t o = 0; o < part.outputs; ++o) {
    const float* row = part.weight + o * inputs;
    float inverse = 1.0F;
    if constexpr (is_scaled(precision)) {
      float largest = 0.0F;
      for (std::size_t i = 0; i < inputs; ++i) largest = std::max(largest, std::fabs(row[i]));
      scales[o] = largest / kLargest<precision>;
      inverse = scales[o] > 0.0F ? 1.0F / scales[o] : 0.0F;
    }
    for (std::size_t i = 0; i < inputs; ++i) {
      to[o * padded_inputs + i] = operand<precision>(row[i] * inverse);
    }
  }
}

template <Precision precision>
void pack_all(DeviceLinear& to, std::span<const LinearPart> parts, std::size_t inputs) {
  std::vector<Operand<precision>> packed(to.outputs * to.inputs, operand<precision>(0.0F));
  std::vector<float> scales(is_scaled(precision) ? to.outputs : 0);
  std::size_t first = 0;
  for (const LinearPart& part : parts) {
    pack_part<precision>(part, inputs, to.inputs, packed.data() + first * to.inputs,
                         is_scaled(precision) ? scales.data() + first : nullptr);
    first += whole_sixteens(part.outputs);
  }
  to.weight = uploaded(std::as_bytes(std::span<const Operand<precision>>(packed)));
  to.column_scales = uploaded(std::span<const float>(scales));
}

class Loader {
 public:
  Loader(const PredictorReader& reader, PredictorWeights& to) : reader_(reader), to_(to) {}

  void run() {
    const PredictorSizes& s = to_.sizes;
    to_.action_mean = vector("action_mean", s.action_dim);
    to_.action_inv_std = vector("action_inv_std", s.action_dim);
    action_in();
    to_.condition = linear("condition", s.dim, s.action_hidden, to_.condition_precision);
    modulation();
    const std::size_t positions = s.window * s.tokens;
    to_.position = uploaded(
        std::span(reader_.tensor("position", {positions, s.latent_dim}), positions * s.latent_dim));
    if (s.latent_dim != s.dim) {
      to_.input = linear("input_proj", s.dim, s.latent_dim, to_.precision);
    }
    for (std::size_t i = 0; i < s.depth; ++i) to_.blocks.push_back(block(i));
    to_.norm_gain = vector("norm.weight", s.dim);
    to_.norm_offset = vector("norm.bias", s.dim);
    to_.head_fc1 = linear("head.fc1", s.head_hidden, s.dim, to_.precision);
    to_.head_fc2 = linear("head.fc2", s.latent_dim, s.head_hidden, to_.precision);
  }

 private:
  /// Raw actions and their statistics span orders of magnitude; this product is small: float32.
  void action_in() {
    const PredictorSizes& s = to_.sizes;
    const std::size_t width = whole_sixteens(s.action_hidden);
    const float* weight = reader_.tensor("action_in.weight", {s.action_hidden, s.action_dim});
    const float* bias = reader_.tensor("action_in.bias", {s.action_hidden});
    std::vector<float> transposed(s.action_dim * width);
    std::vector<float> padded(width);
    for (std::size_t o = 0; o < s.action_hidden; ++o) {
      padded[o] = bias[o];
      for (std::size_t a = 0; a < s.action_dim; ++a) {
        transposed[a * width + o] = weight[o * s.action_dim + a];
      }
    }
    to_.action_weight = uploaded(std::span<const float>(transposed));
    to_.action_bias = uploaded(std::span<const float>(padded));
  }

  void modulation() {
    const PredictorSizes& s = to_.sizes;
    const std::size_t count = s.depth * 6;
    const float* weight = reader_.tensor("modulation.weight", {count * s.dim, s.dim});
    const float* bias = reader_.tensor("modulation.bias", {count * s.dim});
    std::vector<LinearPart> parts;
    for (std::size_t i = 0; i < count; ++i) {
      parts.push_back({weight + i * s.dim * s.dim, bias + i * s.dim, s.dim});
    }
    to_.modulation = pack_linear(to_.precision, parts, s.dim);
  }

  DeviceBlock block(std::size_t index) {
    const PredictorSizes& s = to_.sizes;
    const std::string name = "blocks." + std::to_string(index) + ".";
    const std::size_t inner = s.heads * s.head_dim;
    const PredictorReader::Attention from = reader_.attention(index);
    DeviceBlock block;
    block.attention_gain = vector(name + "attention_norm.weight", s.dim);
    block.attention_offset = vector(name + "attention_norm.bias", s.dim);
    const LinearPart qkv[] = {
        {from.query, nullptr, inner}, {from.key, nullptr, inner}, {from.value, nullptr, inner}};
    block.qkv = pack_linear(to_.precision, qkv, s.dim);
    const LinearPart out[] = {{from.out, from.out_bias, s.dim}};
    block.out = pack_linear(to_.precision, out, inner);
    block.mlp_gain = vector(name + "mlp_norm.weight", s.dim);
    block.mlp_offset = vector(name + "mlp_norm.bias", s.dim);
    block.fc1 = linear(name + "fc1", s.mlp_dim, s.dim, to_.precision);
    block.fc2 = linear(name + "fc2", s.dim, s.mlp_dim, to_.precision);
    return block;
  }

  DeviceLinear linear(const std::string& name, std::size_t outputs, std::size_t inputs,
                      Precision precision) {
    const LinearPart parts[] = {{reader_.tensor(name + ".weight", {outputs, inputs}),
                                 reader_.tensor(name + ".bias", {outputs}), outputs}};
    return pack_linear(precision, parts, inputs);
  }
  DeviceBuffer<float> vector(const std::string& name, std::size_t count) {
    return uploaded(std::span(reader_.tensor(name, {count}), count));
  }

  const PredictorReader& reader_;
  PredictorWeights& to_;
};

void check_sizes(const PredictorSizes& s, const std::filesystem::path& path) {
  const auto check = [&](const char* what, std::size_t got, std::size_t most) {
    if (got <= most) return;
    throw FileError(path.string() + ": " + what + " is " + std::to_string(got) +
                    ", the GPU's kernels take at most " + std::to_string(most) +
                    "; plan with device \"cpu\"");
  };
  check("history", s.window, kMostWindow);
  check("heads", s.heads, kMostHeads);
  check("head_dim", s.head_dim, kMostHeadDim);
  check("the widest layer",
        std::max({s.dim, s.latent_dim, s.mlp_dim, s.head_hidden, s.action_hidden}), kMostWidth);
}

}  // namespace

DeviceLinear pack_linear(Precision precision, std::span<const LinearPart> parts,
                         std::size_t inputs) {
  DeviceLinear to;
  to.precision = precision;
  to.inputs = whole_sixteens(inputs);
  for (const LinearPart& part : parts) to.outputs += whole_sixteens(part.outputs);
  std::vector<float> bias(to.outputs);
  std::size_t first = 0;
  for (const LinearPart& part : parts) {
    if (part.bias != nullptr) std::copy_n(part.bias, part.outputs, bias.data() + first);
    first += whole_sixteens(part.outputs);
  }
  to.bias = uploaded(std::span<const float>(bias));
  with_precision(precision, [&](auto p) { pack_all<decltype(p)::value>(to, parts, inputs); });
  return to;
}

std::shared_ptr<const PredictorWeights> PredictorWeights::load(const std::filesystem::path& path,
                                                               Precision precision) {
  const DeviceInfo device = device_info();
  if (!is_supported(precision, device)) {
    throw CudaError(device.name + " (compute capability " + std::to_string(device.major) + "." +
                    std::to_string(device.minor) +
                    ") has no matrix units for this precision; choose float16");
  }
  const PredictorReader reader(path);
  check_sizes(reader.sizes(), path);
  auto weights = std::make_shared<PredictorWeights>();
  weights->sizes = reader.sizes();
  weights->precision = precision;
  weights->condition_precision = is_scaled(precision) ? Precision::kBFloat16 : precision;
  Loader(reader, *weights).run();
  return weights;
}

}  // namespace jepa_edge::cuda
