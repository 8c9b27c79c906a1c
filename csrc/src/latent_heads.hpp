// SPDX-License-Identifier: Apache-2.0
// The small fully connected heads of a latent variable, packed for rows in blocks.
// For latent_variable.cpp alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "arena.hpp"
#include "jepa_edge/latent_variable.hpp"
#include "kernels/kernels.hpp"
#include "latent_limits.hpp"
#include "packed.hpp"

namespace jepa_edge::latent {

using Shape = std::vector<std::size_t>;

inline std::string text(const Shape& shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return out + ")";
}

inline const NamedArray& find(const NamedArrays& arrays, const std::string& name) {
  const auto found = arrays.find(name);
  if (found == arrays.end()) {
    throw std::invalid_argument(name + " is missing; run `jepa-edge calibrate` again");
  }
  return found->second;
}

inline std::span<const float> require(const NamedArrays& arrays, const std::string& name,
                                      const Shape& shape, bool positive = false) {
  const NamedArray& array = find(arrays, name);
  std::size_t count = 1;
  for (const std::size_t size : shape) {
    count *= size;
  }
  if (array.shape != shape || array.values.size() != count) {
    throw std::invalid_argument(name + " has shape " + text(array.shape) + ", expected " +
                                text(shape) + "; run `jepa-edge calibrate` again");
  }
  for (const float value : array.values) {
    if (!std::isfinite(value) || (positive && !(value > 0.0F))) {
      throw std::invalid_argument(name + " holds numbers that are not " +
                                  (positive ? "positive and finite" : "finite") +
                                  "; run `jepa-edge calibrate` again");
    }
  }
  return array.values;
}

inline std::vector<float> copy(std::span<const float> values) {
  return {values.begin(), values.end()};
}

/// K networks on the same inputs: standardize, then linear layers with ReLU between them. The
/// inputs end with the step, one-hot, which is folded into the first layer's bias.
class HeadStack {
 public:
  /// Reads prefix.center, .scale, .<layer>.weight and .bias. inputs: I, with the H of the one-hot
  /// step. stacked: whether weights have a leading axis K. Throws std::invalid_argument.
  HeadStack(const kernels::Kernels& table, const NamedArrays& arrays, const std::string& prefix,
            std::size_t inputs, std::size_t steps, std::size_t outputs, bool stacked);

  [[nodiscard]] std::size_t members() const noexcept { return members_.size(); }
  [[nodiscard]] std::size_t inputs() const noexcept { return center_.size(); }
  /// Floats from one row of outputs to the next: whole panels.
  [[nodiscard]] std::size_t stride() const noexcept { return stride_; }
  /// Floats per row of scratch.
  [[nodiscard]] std::size_t scratch() const noexcept { return 2 * widest_; }

  /// Center, scale and cut features (inputs()), the step left out, in place.
  void standardize(float* features) const noexcept;

  /// features (rows, inputs()) standardized, out (rows, stride()), room (rows, scratch()).
  void apply(std::size_t member, std::size_t step, const float* features, std::size_t rows,
             float* room, float* out) const noexcept;

 private:
  struct Member {
    std::vector<PackedLinear> layers;
    std::vector<kernels::Weights> first;  // the first layer, with the bias of each step
  };
  [[nodiscard]] std::size_t padded(const PackedLinear& layer) const noexcept {
    return layer.weights.panels * table_->panel_width;
  }

  const kernels::Kernels* table_;
  Arena arena_;
  std::vector<float> center_;
  std::vector<float> scale_;
  std::vector<Member> members_;
  std::size_t stride_ = 0;
  std::size_t widest_ = 0;
};

inline HeadStack::HeadStack(const kernels::Kernels& table, const NamedArrays& arrays,
                            const std::string& prefix, std::size_t inputs, std::size_t steps,
                            std::size_t outputs, bool stacked)
    : table_(&table) {
  const std::size_t kept = inputs - steps;
  const auto center = require(arrays, prefix + ".center", {inputs});
  const auto scale = require(arrays, prefix + ".scale", {inputs}, true);
  center_ = copy(center.first(kept));
  scale_ = copy(scale.first(kept));
  const auto name = [&](std::size_t layer, const char* what) {
    return prefix + "." + std::to_string(layer) + "." + what;
  };
  const Shape first = find(arrays, name(0, "weight")).shape;
  if (first.size() != (stacked ? 3U : 2U) || first[0] == 0) {
    throw std::invalid_argument(name(0, "weight") + " has shape " + text(first) + ", expected (" +
                                (stacked ? "K, " : "") + std::to_string(inputs) +
                                ", width); run `jepa-edge calibrate` again");
  }
  const std::size_t members = stacked ? first[0] : 1;
  if (stacked && members < 2) {
    throw std::invalid_argument(prefix + " holds 1 head, expected 2 or more to disagree");
  }
  std::size_t layers = 1;
  while (arrays.contains(name(layers, "weight"))) {
    ++layers;
  }
  members_.resize(members);
  std::size_t width = inputs;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const Shape& given = find(arrays, name(layer, "weight")).shape;
    const std::size_t out = layer + 1 == layers || given.empty() ? outputs : given.back();
    const Shape weight_shape = stacked ? Shape{members, width, out} : Shape{width, out};
    const Shape bias_shape = stacked ? Shape{members, 1, out} : Shape{out};
    const auto weights = require(arrays, name(layer, "weight"), weight_shape);
    const auto biases = require(arrays, name(layer, "bias"), bias_shape);
    for (std::size_t k = 0; k < members; ++k) {
      Member& member = members_[k];
      const auto weight = weights.subspan(k * width * out, width * out);
      const auto bias = biases.subspan(k * out, out);
      // Packing wants (outputs, inputs), and the first layer without the step.
      const std::size_t used = layer == 0 ? kept : width;
      std::vector<float> transposed(out * used);
      for (std::size_t i = 0; i < used; ++i) {
        for (std::size_t o = 0; o < out; ++o) {
          transposed[o * used + i] = weight[i * out + o];
        }
      }
      const WeightBlock block{transposed.data(), used, out, used};
      member.layers.push_back(pack_linear(arena_, table, Precision::kFloat32, block, bias.data()));
      const PackedLinear& packed = member.layers.back();
      widest_ = std::max(widest_, padded(packed));
      stride_ = padded(packed);
      for (std::size_t step = 0; layer == 0 && step < steps; ++step) {
        auto* folded = arena_.take<float>(padded(packed));
        for (std::size_t o = 0; o < out; ++o) {
          double sum = static_cast<double>(bias[o]);
          for (std::size_t i = kept; i < inputs; ++i) {
            const float raw = ((i - kept == step ? 1.0F : 0.0F) - center[i]) / scale[i];
            sum += static_cast<double>(std::clamp(raw, -kInputLimit, kInputLimit)) *
                   static_cast<double>(weight[i * out + o]);
          }
          folded[o] = static_cast<float>(sum);
        }
        member.first.push_back(packed.weights);
        member.first.back().bias = folded;
      }
    }
    width = out;
  }
  const auto own = static_cast<std::size_t>(std::ranges::count_if(
      arrays, [&](const auto& entry) { return entry.first.starts_with(prefix + "."); }));
  if (own != 2 + 2 * layers) {
    throw std::invalid_argument(prefix + " has " + std::to_string(own) + " arrays, expected " +
                                std::to_string(2 + 2 * layers) + " for the " +
                                std::to_string(layers) +
                                " layers that follow one another from 0; "
                                "run `jepa-edge calibrate` again");
  }
}

inline void HeadStack::standardize(float* features) const noexcept {
  for (std::size_t i = 0; i < center_.size(); ++i) {
    // In this order of arguments a NaN stays one.
    features[i] =
        std::min(std::max((features[i] - center_[i]) / scale_[i], -kInputLimit), kInputLimit);
  }
}

inline void HeadStack::apply(std::size_t member, std::size_t step, const float* features,
                             std::size_t rows, float* room, float* out) const noexcept {
  const Member& m = members_[member];
  const std::size_t last = m.layers.size() - 1;
  const float* from = features;
  std::size_t from_stride = inputs();
  for (std::size_t layer = 0; layer <= last; ++layer) {
    const kernels::Weights& weights = layer == 0 ? m.first[step] : m.layers[layer].weights;
    float* to = layer == last ? out : room + layer % 2 * rows * widest_;
    const std::size_t to_stride = padded(m.layers[layer]);
    // A float32 operand is the rows themselves.
    const kernels::Operand operand{reinterpret_cast<const std::uint32_t*>(from), from_stride,
                                   nullptr, nullptr};
    table_->gemm[static_cast<std::size_t>(Precision::kFloat32)](operand, rows, weights, to,
                                                                to_stride, false);
    for (std::size_t i = 0; layer < last && i < rows * to_stride; ++i) {
      to[i] = to[i] < 0.0F ? 0.0F : to[i];  // a NaN stays one
    }
    from = to;
    from_stride = to_stride;
  }
}

}  // namespace jepa_edge::latent
