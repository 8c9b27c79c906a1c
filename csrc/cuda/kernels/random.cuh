// SPDX-License-Identifier: Apache-2.0
// Random numbers of the CPU core, drawn on the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../portable.hpp"
#include "philox.hpp"

namespace jepa_edge::cuda {

inline constexpr unsigned kRandomThreads = 128;

/// a + b * c in two roundings, as the CPU core computes it: a fused one would be another number.
__device__ inline float plus_product(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, __fmul_rn(b, c));
#else
  return a + b * c;
#endif
}
__device__ inline double plus_product(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, __dmul_rn(b, c));
#else
  return a + b * c;
#endif
}

/// out (count): a stream of standard normal numbers. shift: nullptr, or on the device what is added
/// to the stream's number. One thread per 4.
[[maybe_unused]] static __global__ void draw_normals(std::uint64_t seed, std::uint64_t stream,
                                                     const std::uint32_t* shift, float* out,
                                                     std::size_t count) {
  const std::size_t block = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (4 * block >= count) {
    return;
  }
  float normal[4];
  philox::normals(seed, stream + (shift == nullptr ? 0U : *shift), block, normal);
  for (std::size_t i = 0; i < 4 && 4 * block + i < count; ++i) {
    out[4 * block + i] = normal[i];
  }
}

/// Colours white noise (S, A, H) into (S, H, A): rows times matrix (H, H), scaled to unit
/// deviation. One thread per candidate and number of its action; rows: S * A. H >= 2.
[[maybe_unused]] static __global__ void color_noise(const float* white, const double* matrix,
                                                    std::size_t rows, std::size_t horizon,
                                                    std::size_t dim, float* out) {
  const std::size_t row = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= rows) {
    return;
  }
  const float* from = white + row * horizon;
  const auto colored = [&](std::size_t to) {
    double value = 0.0;
    for (std::size_t i = 0; i < horizon; ++i) {
      value = plus_product(value, matrix[to * horizon + i], static_cast<double>(from[i]));
    }
    return value;
  };
  const auto count = static_cast<double>(horizon);
  double total = 0.0;
  for (std::size_t to = 0; to < horizon; ++to) {
    total += colored(to);
  }
  double squares = 0.0;
  for (std::size_t to = 0; to < horizon; ++to) {
    const double apart = colored(to) - total / count;
    squares = plus_product(squares, apart, apart);
  }
  const double measured = sqrt(squares / (count - 1.0));
  const double deviation = measured < 1e-8 ? 1e-8 : measured;
  float* place = out + row / dim * horizon * dim + row % dim;
  for (std::size_t to = 0; to < horizon; ++to) {
    place[to * dim] = static_cast<float>(colored(to) / deviation);
  }
}

}  // namespace jepa_edge::cuda
