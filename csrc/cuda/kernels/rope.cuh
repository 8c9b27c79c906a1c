// SPDX-License-Identifier: Apache-2.0
// The product of queries, keys and values: biased, rotated by position, and laid out by head.
// Source: V-JEPA 2's 3-D RoPE, export/families/vjepa2_model.py.
#pragma once

#include <cstddef>

#include "ac_rows.cuh"

namespace jepa_edge::cuda {

/// What turns one pair of neighbouring channels: the two by different angles.
struct alignas(16) Turn {
  float cos_even, sin_even, cos_odd, sin_odd;
};

/// Where one frame's heads go: (rows, heads, tokens, padded head) each.
template <typename T>
struct SplitHeads {
  T* queries;  ///< null where nothing asks
  T* keys;
  T* values;
  const Turn* turns;  ///< of the frame's place in the window: (tokens, head_dim / 2)
  unsigned tokens;
  unsigned heads;
  unsigned head_dim;
  unsigned padded;
};

constexpr unsigned kPairs = kGroup / 2;

template <typename T>
struct alignas(kPairs * sizeof(T)) Four {
  T at[kPairs];
};

/// from: rows of 3 * heads * head_dim. Even channels first, then odd ones, in queries and keys
/// alike. One block per (token, row).
template <typename Result, typename T>
__global__ void split_heads(Products<Result> from, SplitHeads<T> to) {
  const unsigned token = blockIdx.x;
  const std::size_t row = blockIdx.y;
  const std::size_t line = row * to.tokens + token;
  const unsigned half = to.head_dim / 2;
  const unsigned dim = to.heads * to.head_dim;
  const auto place = [&](unsigned column) {
    return ((row * to.heads + column / to.head_dim) * to.tokens + token) * to.padded;
  };
  if (to.head_dim % kGroup == 0) {
    for (unsigned column = kGroup * threadIdx.x; column < dim; column += kGroup * blockDim.x) {
      const std::size_t at = place(column);
      const unsigned first = column % to.head_dim / 2;
      const Turn* const turns = to.turns + token * half + first;
      const auto rotate = [&](unsigned part, T* out) {
        const Eight<float> x = from.read(line, part * dim + column);
        Four<T> even, odd;
        for (unsigned i = 0; i < kPairs; ++i) {
          const Turn turn = turns[i];
          even.at[i] =
              static_cast<T>(x.at[2 * i] * turn.cos_even - x.at[2 * i + 1] * turn.sin_even);
          odd.at[i] = static_cast<T>(x.at[2 * i + 1] * turn.cos_odd + x.at[2 * i] * turn.sin_odd);
        }
        *reinterpret_cast<Four<T>*>(out + at + first) = even;
        *reinterpret_cast<Four<T>*>(out + at + half + first) = odd;
      };
      if (to.queries != nullptr) rotate(0, to.queries);
      rotate(1, to.keys);
      const Eight<float> x = from.read(line, 2 * dim + column);
      Eight<T> value;
      for (unsigned i = 0; i < kGroup; ++i) value.at[i] = static_cast<T>(x.at[i]);
      *reinterpret_cast<Eight<T>*>(to.values + at + 2 * first) = value;
    }
    return;
  }
  // Heads that no eight numbers fit, of small models.
  const auto read = [&](unsigned column) {
    const float scale =
        from.row_scales == nullptr ? 1.0F : from.row_scales[line] * from.column_scales[column];
    return number(from.results[line * from.width + column]) * scale + from.bias[column];
  };
  for (unsigned column = 2 * threadIdx.x; column < dim; column += 2 * blockDim.x) {
    const std::size_t at = place(column);
    const unsigned pair = column % to.head_dim / 2;
    const Turn turn = to.turns[token * half + pair];
    const auto rotate = [&](unsigned part, T* out) {
      const float even = read(part * dim + column);
      const float odd = read(part * dim + column + 1);
      out[at + pair] = static_cast<T>(even * turn.cos_even - odd * turn.sin_even);
      out[at + half + pair] = static_cast<T>(odd * turn.cos_odd + even * turn.sin_odd);
    };
    if (to.queries != nullptr) rotate(0, to.queries);
    rotate(1, to.keys);
    to.values[at + 2 * pair] = static_cast<T>(read(2 * dim + column));
    to.values[at + 2 * pair + 1] = static_cast<T>(read(2 * dim + column + 1));
  }
}

}  // namespace jepa_edge::cuda
