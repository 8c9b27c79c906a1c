// SPDX-License-Identifier: Apache-2.0
// Attention over the few frames of a window: a warp per row and head, a block per row, so that the
// mixed row is written as the next product's operand at once.
#pragma once

#include <cstddef>

#include "norm.cuh"
#include "predictor_weights.hpp"

namespace jepa_edge::cuda {

/// Keys and values of one frame, and what makes numbers of them.
template <typename Result>
struct KeyFrame {
  const Result* keys;  ///< of its first row
  const Result* values;
  const float* row_scales;
  unsigned stride;  ///< from row to row
  unsigned share;   ///< items of one candidate; 0: one item for all candidates
};

/// Scales are null in precisions without them.
template <typename Result>
struct WindowAttention {
  const Result* queries;  ///< of row first_row
  const float* query_row_scales;
  unsigned query_stride;
  const float* query_scales;  ///< of the columns
  const float* key_scales;
  const float* value_scales;
  unsigned heads;
  unsigned head_dim;
  KeyFrame<Result> frames[kMostWindow];  ///< by position in the window
};

/// to = softmax(queries keys) values, of the pass's rows from first_row on. A row sees its own
/// frame and all older ones. Queries carry their 1 / sqrt(head_dim). heads * 32 threads; a lane
/// takes channels lane, lane + 32, ... One pass over the keys, with a running maximum.
template <Precision precision, unsigned kPerLane>
__global__ void attend_window(Pass pass, unsigned first_row,
                              const __grid_constant__ WindowAttention<Result<precision>> a,
                              Operands<Operand<precision>> to) {
  const Pass::Place place = pass.at(first_row + blockIdx.x);
  const unsigned lane = threadIdx.x % 32;
  const unsigned first = threadIdx.x / 32 * a.head_dim;
  const auto scale = [](const float* scales, std::size_t i) {
    return is_scaled(precision) ? scales[i] : 1.0F;
  };

  float query[kPerLane];
  float mixed[kPerLane] = {};
  const float of_row = scale(a.query_row_scales, blockIdx.x);
  for (unsigned i = 0; i < kPerLane; ++i) {
    const unsigned c = lane + 32 * i;
    query[i] = 0.0F;
    if (c < a.head_dim) {
      // The scale of a key's column goes to the query, once for all keys.
      query[i] = number(a.queries[std::size_t{blockIdx.x} * a.query_stride + first + c]) * of_row *
                 scale(a.query_scales, first + c) * scale(a.key_scales, first + c);
    }
  }
  float top = -INFINITY;
  float total = 0.0F;
  for (unsigned f = 0; f <= pass.position + place.frame; ++f) {
    const KeyFrame<Result<precision>>& frame = a.frames[f];
    const unsigned item = frame.share == 0 ? 0 : place.item / (place.share / frame.share);
    for (unsigned t = 0; t < pass.tokens; ++t) {
      const std::size_t row = std::size_t{item} * pass.tokens + t;
      const Result<precision>* key = frame.keys + row * frame.stride + first;
      const Result<precision>* value = frame.values + row * frame.stride + first;
      const float key_row = scale(frame.row_scales, row);
      float score = 0.0F;
      for (unsigned i = 0; i < kPerLane; ++i) {
        const unsigned c = lane + 32 * i;
        if (c < a.head_dim) score += query[i] * number(key[c]);
      }
      for (int by = 16; by > 0; by /= 2) score += __shfl_xor_sync(0xFFFFFFFFU, score, by);
      score *= key_row;
      const float higher = fmaxf(top, score);
      const float keep = expf(top - higher);
      const float weight = expf(score - higher);
      top = higher;
      total = total * keep + weight;
      for (unsigned i = 0; i < kPerLane; ++i) {
        const unsigned c = lane + 32 * i;
        if (c < a.head_dim) {
          mixed[i] = mixed[i] * keep + weight * key_row * number(value[c]);
        }
      }
    }
  }
  float inverse = 1.0F / total;
  float row_scale = 1.0F;
  if constexpr (is_scaled(precision)) {
    unsigned largest = 0;
    for (unsigned i = 0; i < kPerLane; ++i) {
      const unsigned c = lane + 32 * i;
      if (c < a.head_dim) mixed[i] *= inverse * a.value_scales[first + c];
      largest = max(largest, __float_as_uint(fabsf(mixed[i])));
    }
    largest = block_reduce(largest, Larger{});
    row_scale = __uint_as_float(largest) / kLargest<precision>;
    if (threadIdx.x == 0) to.row_scales[blockIdx.x] = row_scale;
    inverse = row_scale > 0.0F ? 1.0F / row_scale : 0.0F;
  }
  Operand<precision>* out = to.numbers + std::size_t{blockIdx.x} * to.width;
  for (unsigned i = 0; i < kPerLane; ++i) {
    const unsigned c = lane + 32 * i;
    if (c < a.head_dim) out[first + c] = operand<precision>(mixed[i] * inverse);
  }
  for (unsigned c = a.heads * a.head_dim + threadIdx.x; c < to.width; c += blockDim.x) {
    out[c] = operand<precision>(0.0F);
  }
}

}  // namespace jepa_edge::cuda
