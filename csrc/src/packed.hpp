// SPDX-License-Identifier: Apache-2.0
// A predictor's weights as the kernels read them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "arena.hpp"
#include "jepa_edge/predictor.hpp"
#include "kernels/kernels.hpp"

namespace jepa_edge {

/// A linear layer, packed. Rows that go in hold `inputs` numbers, rows that come out `outputs`
/// rounded up to whole panels.
struct PackedLinear {
  kernels::Weights weights;
  Precision precision = Precision::kFloat32;
  std::size_t inputs = 0;
  std::size_t outputs = 0;
};

/// A block of a weight matrix (out, in), row-major: rows and columns to be packed.
struct WeightBlock {
  const float* weight;
  std::size_t stride;  ///< columns of the whole matrix
  std::size_t outputs;
  std::size_t inputs;
};

/// Packs a block and a bias (`outputs` numbers, or none). int8 weights are symmetric, one scale per
/// output: w = scale * q, q in [-127, 127].
PackedLinear pack_linear(Arena& arena, const kernels::Kernels& table, Precision precision,
                         const WeightBlock& block, const float* bias);

/// Numbers per 32-bit word of an operand.
constexpr std::size_t per_word(Precision precision) noexcept {
  return std::size_t{1} << static_cast<std::size_t>(precision);
}
/// 32-bit words per row of an operand.
constexpr std::size_t words(Precision precision, std::size_t columns) noexcept {
  return (columns + per_word(precision) - 1) / per_word(precision);
}

/// Some heads of one layer's attention: what is computed together so that it stays in cache.
struct PackedHeads {
  PackedLinear query, key, value, out;
};

/// Some hidden units of an MLP: in, then out.
struct PackedHidden {
  PackedLinear in, out;
};

struct PackedBlock {
  PackedLinear modulation;  ///< shift, scale + 1, gate of the attention, then of the MLP
  const float* attention_gain;
  const float* attention_offset;
  std::vector<PackedHeads> heads;
  /// out * value: the whole attention of a token that sees only itself.
  PackedLinear alone;
  const float* mlp_gain;
  const float* mlp_offset;
  std::vector<PackedHidden> mlp;
};

struct Predictor::Packed {
  PredictorSizes sizes{};
  Precision precision = Precision::kFloat32;
  const kernels::Kernels* table = nullptr;
  Arena arena;

  std::size_t heads_together = 1;  ///< heads per PackedHeads
  const float* action_mean = nullptr;
  const float* action_inv_std = nullptr;
  PackedLinear action_in, condition;
  const float* position = nullptr;  ///< (W, N, D)
  PackedLinear input;               ///< only where latent_dim != dim
  std::vector<PackedBlock> blocks;
  const float* norm_gain = nullptr;
  const float* norm_offset = nullptr;
  std::vector<PackedHidden> head;
};

}  // namespace jepa_edge
