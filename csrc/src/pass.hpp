// SPDX-License-Identifier: Apache-2.0
// One pass of some frames of the window through the transformer.
#pragma once

#include <cstddef>
#include <span>

#include "arena.hpp"
#include "kernels/kernels.hpp"
#include "packed.hpp"

namespace jepa_edge {

/// What one worker computes in. All rows of float buffers are `stride` apart.
struct Workspace {
  /// Takes memory for passes of up to `rows` rows over windows of up to `frames` frames.
  Workspace(Arena& arena, const Predictor::Packed& model, std::size_t rows);

  std::size_t stride;        ///< of x, normed and delta
  std::size_t group_stride;  ///< of queries, mixed, and every key and value
  std::size_t hidden_stride;
  float* x;  ///< the residual stream; the caller fills it in
  float* normed;
  float* delta;  ///< what a block adds to x; at the end, the predicted latents
  float* queries;
  float* mixed;
  float* hidden;
  float* scores;
  kernels::KeyFrame* keys;
  kernels::Packing packing;  ///< of normed
  kernels::Packing inner;    ///< of mixed and hidden
};

/// One frame of the window in a pass. Rows of a frame are its items times the model's tokens.
struct PassFrame {
  std::size_t position;  ///< in the window
  std::size_t items;
  std::size_t row;               ///< its first row in the workspace, where it is computed
  bool compute;                  ///< else only its keys and values are read
  bool keep;                     ///< a later pass reads its keys and values
  const float* modulation;       ///< first layer, first record
  std::size_t modulation_layer;  ///< floats from layer to layer
  std::size_t modulation_stride;
  std::size_t per_record;  ///< rows that share a record
  float* keys;             ///< first layer, first group of heads
  std::size_t values;      ///< floats from the keys to the values
  std::size_t keys_layer;  ///< floats from layer to layer; 0 where nothing is kept
  std::size_t keys_group;
};

/// Runs frames, oldest first, through all layers. The rows of computed frames lie one after the
/// other in `workspace.x`. With `predict`, the last frame is computed and its predicted latents are
/// left in `workspace.delta`, from its row on; without, only keys and values come out.
///
/// Exact savings: keys and values of frames that are not computed are reused; after the last
/// layer's keys and values only the last frame goes on; a token that sees only itself needs no
/// query, and its attention is one matrix, out * value.
void run_pass(const Predictor::Packed& model, Workspace& workspace,
              std::span<const PassFrame> frames, std::size_t rows, bool predict) noexcept;

/// rows as left operand of a product in the model's precision, through an activation.
kernels::Operand operand(const kernels::Kernels& table, Precision precision, float* rows,
                         std::size_t stride, std::size_t count, std::size_t columns,
                         kernels::Activation activation, const kernels::Packing& packing) noexcept;

/// The operand from one of its rows on.
kernels::Operand from_row(const kernels::Operand& operand, std::size_t row) noexcept;

/// out = operand * layer, or is added to.
void apply(const kernels::Kernels& table, const PackedLinear& layer,
           const kernels::Operand& operand, std::size_t rows, float* out, std::size_t stride,
           bool add = false) noexcept;

/// Columns rounded up to whole panels.
constexpr std::size_t padded(const kernels::Kernels& table, std::size_t columns) noexcept {
  return (columns + table.panel_width - 1) / table.panel_width * table.panel_width;
}

}  // namespace jepa_edge
