// SPDX-License-Identifier: Apache-2.0
#include "packed.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace jepa_edge {
namespace {

std::uint32_t bf16(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
}

}  // namespace

PackedLinear pack_linear(Arena& arena, const kernels::Kernels& table, Precision precision,
                         const WeightBlock& block, const float* bias) {
  const std::size_t width = table.panel_width;
  const std::size_t panels = (block.outputs + width - 1) / width;
  const std::size_t depth = words(precision, block.inputs);
  auto* packed = arena.take<std::uint32_t>(panels * depth * width);
  auto* padded_bias = arena.take<float>(panels * width);
  if (bias != nullptr) std::copy_n(bias, block.outputs, padded_bias);

  PackedLinear linear;
  linear.precision = precision;
  linear.inputs = block.inputs;
  linear.outputs = block.outputs;
  linear.weights.words = packed;
  linear.weights.bias = padded_bias;
  linear.weights.depth = depth;
  linear.weights.panels = panels;

  float* scales = nullptr;
  float* sums = nullptr;
  std::int32_t* starts = nullptr;
  if (precision == Precision::kInt8) {
    linear.weights.scale = scales = arena.take<float>(panels * width);
    linear.weights.sum = sums = arena.take<float>(panels * width);
    linear.weights.start = starts = arena.take<std::int32_t>(panels * width);
  }
  for (std::size_t n = 0; n < block.outputs; ++n) {
    const float* row = block.weight + n * block.stride;
    std::uint32_t* to = packed + n / width * depth * width + n % width;
    if (precision == Precision::kFloat32) {
      for (std::size_t k = 0; k < block.inputs; ++k) {
        to[k * width] = std::bit_cast<std::uint32_t>(row[k]);
      }
    } else if (precision == Precision::kBFloat16) {
      for (std::size_t k = 0; k < block.inputs; ++k) {
        to[k / 2 * width] |= bf16(row[k]) << (k % 2 * 16);
      }
    } else {
      float largest = 0.0F;
      for (std::size_t k = 0; k < block.inputs; ++k) largest = std::max(largest, std::abs(row[k]));
      const float scale = largest / 127.0F;
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < block.inputs && scale > 0.0F; ++k) {
        const auto q = static_cast<std::int32_t>(std::lround(row[k] / scale));
        sum += q;
        to[k / 4 * width] |= (static_cast<std::uint32_t>(q) & 0xFFU) << (k % 4 * 8);
      }
      scales[n] = scale;
      sums[n] = scale * static_cast<float>(sum);
      starts[n] = table.unsigned_operands ? -128 * sum : 0;
    }
  }
  return linear;
}

}  // namespace jepa_edge
