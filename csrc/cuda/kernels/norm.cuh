// SPDX-License-Identifier: Apache-2.0
// What lies between an AdaLN predictor's matrix products: one block per row, a thread per eight
// numbers, as in ac_rows.cuh. The residual stream x is float32, rows of whole sixteens.
#pragma once

#include <cstddef>

#include "ac_rows.cuh"

namespace jepa_edge::cuda {

/// Frames of one window that go through the layers together. Rows lie frame by frame, item by item,
/// token by token; an item is a candidate, or one of its futures.
struct Pass {
  unsigned tokens;
  unsigned first_items;    ///< of the first frame
  unsigned items;          ///< of each later one
  unsigned first_share;    ///< items of one candidate in the first frame
  unsigned share;          ///< and in each later one
  unsigned position;       ///< of the first frame in the window
  unsigned record;         ///< modulation of the first candidate in the first frame
  unsigned record_stride;  ///< from candidate to candidate; frames follow one another

  struct Place {
    unsigned frame, item, token, share;
  };
  __host__ __device__ Place at(unsigned row) const {
    const unsigned item = row / tokens;
    const unsigned token = row % tokens;
    if (item < first_items) return {0, item, token, first_share};
    const unsigned later = item - first_items;
    return {1 + later / items, later % items, token, share};
  }
  __device__ std::size_t record_of(const Place& place) const {
    return record + place.frame + std::size_t{place.item / place.share} * record_stride;
  }
};

/// Where the latents of a pass lie: item i of the first frame at first + i * first_stride, and of
/// later frame f at later + (f - 1) * frame + i * later_stride. An item is (N, D) floats.
struct LatentRows {
  const float* first;
  std::size_t first_stride;
  const float* later;
  std::size_t later_stride;
  std::size_t frame;
  const float* positions;  ///< (W, N, D)
  unsigned size;           ///< D

  __device__ Eight<float> read(const Pass& pass, const Pass::Place& place, unsigned column) const {
    const float* item = place.frame == 0
                            ? first + place.item * first_stride
                            : later + (place.frame - 1) * frame + place.item * later_stride;
    const float* from = item + std::size_t{place.token} * size;
    const float* shift =
        positions + (std::size_t{pass.position + place.frame} * pass.tokens + place.token) * size;
    Eight<float> x{};
    for (unsigned i = 0; i < kGroup; ++i) {
      if (column + i < size) x.at[i] = from[column + i] + shift[column + i];
    }
    return x;
  }
};

/// One of a layer's two modulations: shift, scale (1 already added) and gate follow one another
/// from `column` on in the rows of `records`.
template <typename Result>
struct Modulation {
  Products<Result> records;
  unsigned column;
};

/// LN(LN(x) * scale + shift) * gain + offset, the inner one without gain and offset.
template <typename Result>
struct AdaNorm {
  Modulation<Result> modulation;
  float inner_eps;
  Norm norm;
  unsigned width;

  __device__ Eight<float> of(const Eight<float>& x, unsigned column, std::size_t record) const {
    Eight<float> y = normalized(x, column, norm.size, inner_eps, nullptr, nullptr);
    if (column < width) {
      const Eight<float> shift = modulation.records.read(record, modulation.column + column);
      const Eight<float> scale =
          modulation.records.read(record, modulation.column + width + column);
      for (unsigned i = 0; i < kGroup; ++i) y.at[i] = y.at[i] * scale.at[i] + shift.at[i];
    }
    return normalized(y, column, norm.size, norm.eps, norm.gain, norm.offset);
  }
};

/// to = rows of latents with their positions, for a product.
template <Precision precision>
__global__ void latents_to_operands(Pass pass, LatentRows from, Operands<Operand<precision>> to) {
  const unsigned column = kGroup * threadIdx.x;
  write_operands<precision>(to, blockIdx.x, column, from.read(pass, pass.at(blockIdx.x), column));
}

/// x = latents with their positions; to = AdaNorm of x.
template <Precision precision>
__global__ void begin_from_latents(Pass pass, LatentRows from, float* x,
                                   AdaNorm<Result<precision>> norm,
                                   Operands<Operand<precision>> to) {
  const Pass::Place place = pass.at(blockIdx.x);
  const unsigned column = kGroup * threadIdx.x;
  const Eight<float> row = from.read(pass, place, column);
  if (column < to.width) {
    *reinterpret_cast<Eight<float>*>(x + std::size_t{blockIdx.x} * to.width + column) = row;
  }
  write_operands<precision>(to, blockIdx.x, column, norm.of(row, column, pass.record_of(place)));
}

/// x = a product; to = AdaNorm of x.
template <Precision precision>
__global__ void begin_from_product(Pass pass, Products<Result<precision>> from, float* x,
                                   AdaNorm<Result<precision>> norm,
                                   Operands<Operand<precision>> to) {
  const unsigned column = kGroup * threadIdx.x;
  Eight<float> row{};
  if (column < to.width) {
    row = from.read(blockIdx.x, column);
    *reinterpret_cast<Eight<float>*>(x + std::size_t{blockIdx.x} * to.width + column) = row;
  }
  write_operands<precision>(to, blockIdx.x, column,
                            norm.of(row, column, pass.record_of(pass.at(blockIdx.x))));
}

/// x + gate * branch, written back. x and branch begin at the pass's row first_row.
template <typename Result>
__device__ Eight<float> add_gated(float* x, unsigned width, std::size_t record,
                                  const Products<Result>& branch,
                                  const Modulation<Result>& modulation) {
  const unsigned column = kGroup * threadIdx.x;
  if (column >= width) return {};
  auto* const at = reinterpret_cast<Eight<float>*>(x + std::size_t{blockIdx.x} * width + column);
  Eight<float> row = *at;
  const Eight<float> more = branch.read(blockIdx.x, column);
  const Eight<float> gate = modulation.records.read(record, modulation.column + 2 * width + column);
  for (unsigned i = 0; i < kGroup; ++i) row.at[i] += gate.at[i] * more.at[i];
  *at = row;
  return row;
}

/// x += gate * branch; to = AdaNorm of x. `modulation` holds the gate.
template <Precision precision>
__global__ void add_and_modulate(Pass pass, unsigned first_row, float* x,
                                 Products<Result<precision>> branch,
                                 Modulation<Result<precision>> modulation,
                                 AdaNorm<Result<precision>> norm, Operands<Operand<precision>> to) {
  const std::size_t record = pass.record_of(pass.at(first_row + blockIdx.x));
  const Eight<float> row = add_gated(x, to.width, record, branch, modulation);
  const unsigned column = kGroup * threadIdx.x;
  write_operands<precision>(to, blockIdx.x, column, norm.of(row, column, record));
}

/// x += gate * branch; to = LN(x) * gain + offset: behind the last layer.
template <Precision precision>
__global__ void add_and_end(Pass pass, unsigned first_row, float* x,
                            Products<Result<precision>> branch,
                            Modulation<Result<precision>> modulation, Norm norm,
                            Operands<Operand<precision>> to) {
  const std::size_t record = pass.record_of(pass.at(first_row + blockIdx.x));
  const Eight<float> row = add_gated(x, to.width, record, branch, modulation);
  const unsigned column = kGroup * threadIdx.x;
  write_operands<precision>(to, blockIdx.x, column,
                            normalized(row, column, norm.size, norm.eps, norm.gain, norm.offset));
}

/// Predictions (items * N, D) become latents of a step, for every one of an item's `copies`
/// futures: future r of N * D floats at latents + r * stride.
template <typename Result>
__global__ void write_latents(Products<Result> from, unsigned tokens, unsigned size,
                              unsigned copies, float* latents, std::size_t stride) {
  const unsigned column = kGroup * threadIdx.x;
  if (column >= size) return;
  const Eight<float> row = from.read(blockIdx.x, column);
  const std::size_t item = blockIdx.x / tokens;
  float* to = latents + item * copies * stride + std::size_t{blockIdx.x % tokens} * size;
  for (unsigned copy = 0; copy < copies; ++copy, to += stride) {
    for (unsigned i = 0; i < kGroup; ++i) {
      if (column + i < size) to[column + i] = row.at[i];
    }
  }
}

}  // namespace jepa_edge::cuda
