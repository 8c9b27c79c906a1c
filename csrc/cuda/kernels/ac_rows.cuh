// SPDX-License-Identifier: Apache-2.0
// What lies between the matrix products of predictors: a block per row, a thread per eight numbers,
// so that a row is read once and stays in registers. Rows are padded to whole sixteens with zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "launch.hpp"
#include "numbers.hpp"

namespace jepa_edge::cuda {

constexpr unsigned kGroup = 8;

/// is_scaled, for device code.
template <Precision precision>
inline constexpr bool kHasScales = is_scaled(precision);

/// Eight neighbouring numbers, moved 16 bytes at once.
template <typename T>
struct alignas(sizeof(T) * kGroup < 16 ? sizeof(T) * kGroup : 16) Eight {
  T at[kGroup];
};

/// What a product gave, and what makes numbers of it again: value = result * row * column + bias.
/// Both scales are null in precisions without them. width: numbers of a row, padded.
template <typename Result>
struct Products {
  const Result* results;
  const float* row_scales;
  const float* column_scales;
  const float* bias;
  unsigned width;

  __device__ Eight<float> read(std::size_t row, unsigned column) const {
    const Eight<Result> from =
        *reinterpret_cast<const Eight<Result>*>(results + row * width + column);
    const Eight<float> plus = *reinterpret_cast<const Eight<float>*>(bias + column);
    Eight<float> to;
    if (row_scales == nullptr) {
      for (unsigned i = 0; i < kGroup; ++i) to.at[i] = number(from.at[i]) + plus.at[i];
    } else {
      const Eight<float> times = *reinterpret_cast<const Eight<float>*>(column_scales + column);
      const float scale = row_scales[row];
      for (unsigned i = 0; i < kGroup; ++i) {
        to.at[i] = number(from.at[i]) * (scale * times.at[i]) + plus.at[i];
      }
    }
    return to;
  }
};

/// The left operand of a product: rows of `width` numbers, and a scale each where is_scaled.
template <typename Operand>
struct Operands {
  Operand* numbers;
  float* row_scales;
  unsigned width;
};

/// Combines one number of every thread of the block; all threads get the result.
template <typename T, typename Combine>
__device__ T block_reduce(T value, Combine combine) {
  __shared__ T of_warps[32];
  const unsigned warps = blockDim.x / 32;
  for (unsigned step = 16; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(0xFFFFFFFFU, value, static_cast<int>(step)));
  }
  __syncthreads();  // the former result has been read
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warps[0];
  for (unsigned i = 1; i < warps; ++i) value = combine(value, of_warps[i]);
  return value;
}

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Larger {
  __device__ unsigned operator()(unsigned a, unsigned b) const { return a < b ? b : a; }
};

/// Stores a row as an operand. Every thread of the block calls it; those beyond the row write
/// nothing. A row with NaN or infinity becomes NaN whole where rows have scales.
template <Precision precision>
__device__ void write_operands(const Operands<Operand<precision>>& to, std::size_t row,
                               unsigned column, const Eight<float>& values) {
  Eight<Operand<precision>> narrow;
  if constexpr (kHasScales<precision>) {
    // Sizes of floats are ordered as their bits are, and NaN lies above infinity.
    unsigned largest = 0;
    for (unsigned i = 0; i < kGroup; ++i) {
      const unsigned size = __float_as_uint(fabsf(values.at[i]));
      largest = size > largest ? size : largest;
    }
    largest = block_reduce(largest, Larger{});
    const float scale = __uint_as_float(largest) / kLargest<precision>;
    const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
    if (threadIdx.x == 0) to.row_scales[row] = scale;
    for (unsigned i = 0; i < kGroup; ++i) {
      narrow.at[i] = operand<precision>(values.at[i] * inverse);
    }
  } else {
    for (unsigned i = 0; i < kGroup; ++i) narrow.at[i] = operand<precision>(values.at[i]);
  }
  if (column < to.width) {
    *reinterpret_cast<Eight<Operand<precision>>*>(to.numbers + row * to.width + column) = narrow;
  }
}

/// Layer norm over the first `size` numbers of a row; the others become 0. gain null: without scale
/// and shift.
__device__ inline Eight<float> normalized(const Eight<float>& x, unsigned column, unsigned size,
                                          float eps, const float* gain, const float* offset) {
  const unsigned count = column >= size ? 0 : min(size - column, kGroup);
  float sum = 0.0F;
  for (unsigned i = 0; i < kGroup; ++i) sum += i < count ? x.at[i] : 0.0F;
  const float mean = block_reduce(sum, Add{}) / static_cast<float>(size);
  float squares = 0.0F;
  for (unsigned i = 0; i < kGroup; ++i) {
    const float off = i < count ? x.at[i] - mean : 0.0F;
    squares += off * off;
  }
  const float variance = block_reduce(squares, Add{}) / static_cast<float>(size);
  // A row too large for its squares must not pass as one of zeros: inf - inf is NaN.
  const float shrink = 1.0F / sqrtf(variance + eps) + (variance - variance);
  Eight<float> y;
  for (unsigned i = 0; i < kGroup; ++i) {
    float value = i < count ? (x.at[i] - mean) * shrink : 0.0F;
    if (gain != nullptr && i < count) value = value * gain[column + i] + offset[column + i];
    y.at[i] = value;
  }
  return y;
}

struct Norm {
  const float* gain;
  const float* offset;
  float eps;
  unsigned size;
};

/// residual += branch (none where its results are null); to = layer norm of the residual. One block
/// per row. residual (rows, to.width) float32.
template <Precision precision>
__global__ void add_and_norm(float* residual, Products<Result<precision>> branch, Norm norm,
                             Operands<Operand<precision>> to) {
  const std::size_t row = blockIdx.x;
  const unsigned column = kGroup * threadIdx.x;
  Eight<float> x{};
  if (column < to.width) {
    auto* const at = reinterpret_cast<Eight<float>*>(residual + row * to.width + column);
    x = *at;
    if (branch.results != nullptr) {
      const Eight<float> more = branch.read(row, column);
      for (unsigned i = 0; i < kGroup; ++i) x.at[i] += more.at[i];
      *at = x;
    }
  }
  write_operands<precision>(to, row, column,
                            normalized(x, column, norm.size, norm.eps, norm.gain, norm.offset));
}

/// to = GELU (of erf) of a product. One block per row.
template <Precision precision>
__global__ void gelu(Products<Result<precision>> from, Operands<Operand<precision>> to) {
  constexpr float kInverseRoot = 0.70710678118654752F;
  const std::size_t row = blockIdx.x;
  const unsigned column = kGroup * threadIdx.x;
  Eight<float> x{};
  if (column < to.width) x = from.read(row, column);
  for (unsigned i = 0; i < kGroup; ++i) {
    x.at[i] = 0.5F * x.at[i] * (1.0F + erff(x.at[i] * kInverseRoot));
  }
  write_operands<precision>(to, row, column, x);
}

/// Rows of numbers become operands. Row r begins at source + r / inner_rows * outer_stride +
/// r % inner_rows * inner_stride and holds `size` numbers, of any alignment. One block per row.
template <Precision precision, typename Source>
__global__ void to_operands(const Source* source, std::size_t outer_stride, unsigned inner_rows,
                            std::size_t inner_stride, unsigned size,
                            Operands<Operand<precision>> to) {
  const std::size_t row = blockIdx.x;
  const unsigned column = kGroup * threadIdx.x;
  const Source* const from =
      source + row / inner_rows * outer_stride + row % inner_rows * inner_stride;
  Eight<float> x{};
  for (unsigned i = 0; i < kGroup; ++i) {
    if (column + i < size) x.at[i] = number(from[column + i]);
  }
  write_operands<precision>(to, row, column, x);
}

}  // namespace jepa_edge::cuda
